//! What a policy is, and the list of those that can be chosen by name.
//!
//! A policy looks at a [`View`] and proposes moves, each with a reason. It sends nothing, asks nobody, keeps no
//! clock, and what it proposes is looked at again by the guard. It is asked once a round and once more, on the fresh
//! figures of the node that it chose, before anything moves.

mod cost;
mod lifetime;
mod mosix;
mod none;
#[cfg(test)]
mod scene;
mod spread;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

pub use cost::{Cost, CostSettings};
pub use lifetime::Lifetime;
pub use mosix::Mosix;
pub use none::Nothing;
pub use spread::{Spread, SpreadSettings};

use crate::Time;
use crate::figures::Figures;
use crate::random::Random;
use crate::start::NewJob;
use crate::view::{Here, Job, Target, View, Weighing};

/// A move that a policy would make.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// The job's entry in the om files.
    pub pid: u32,
    /// The node it should go to.
    pub to: IpAddr,
    /// Why, in plain words; it is logged and shown by `om why`.
    pub reason: String,
    /// The figures, if the policy computes with them.
    pub weighing: Option<Weighing>,
}

/// What happened since the policy was last asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// A job that was sent has arrived.
    Moved {
        /// The job.
        pid: u32,
        /// Where it went.
        to: IpAddr,
        /// Its resident memory.
        rss_bytes: u64,
        /// For how long it stood still; `None` if that was not told.
        downtime: Option<Duration>,
    },
    /// A job that should have moved did not.
    Failed {
        /// The job.
        pid: u32,
        /// Where it should have gone.
        to: IpAddr,
        /// Why it did not.
        reason: &'a str,
    },
}

/// Decides what moves where. See [`crate::main`] for a binary with a policy of its own.
pub trait Policy {
    /// Hears what happened. The default learns nothing.
    fn observe(&mut self, _now: Time, _event: &Event<'_>) {}

    /// How many of `nodes` nodes it wants to see at a time, chosen at random; those that have spoken up themselves and
    /// the homes of guests come on top. The default wants all.
    fn wants(&self, nodes: usize) -> usize {
        nodes
    }

    /// Whether any node at all could be worth a move of one of `jobs`, if none is faster than `fastest`. A round without
    /// hope is over before the nodes are looked at, which is most of its work. The default always hopes.
    fn has_hope(&self, _here: &Here, _jobs: &[Job], _fastest: f64) -> bool {
        true
    }

    /// Proposes moves, the best first. More than `view.free_slots` of them are of no use, nor are two for one job
    /// or two to one node.
    fn decide(&mut self, now: Time, view: &View, random: &mut Random) -> Vec<Proposal>;

    /// Looks again at its proposal, on a view that holds that one job and that one node with the figures which the
    /// node gave a moment ago. The default still wants the move.
    ///
    /// # Errors
    /// Why the move is not wanted any more, in plain words.
    fn confirm(&mut self, _now: Time, _view: &View, proposal: &Proposal) -> Result<Proposal, String> {
        Ok(proposal.clone())
    }

    /// Chooses where a new job starts: one of `there`, which would take it, by its position, or here. How long it will
    /// run nobody knows, so the default takes the node where it and all others lose least, if that is better than here
    /// by more than a twentieth.
    fn start(&mut self, job: &NewJob, here: &Figures, there: &[Target]) -> Option<usize> {
        let tasks = job.tasks;
        let best = there
            .iter()
            .enumerate()
            .map(|(index, target)| (index, target.figures.burden(tasks)))
            .min_by(|one, other| one.1.total_cmp(&other.1))?;
        (best.1 < 0.95 * here.burden(tasks)).then_some(best.0)
    }

    /// What it computes for a job and a node, for people who ask why; `None` if it does not compute.
    fn weigh(&self, _view: &View, _job: &Job, _target: &Target) -> Option<Weighing> {
        None
    }
}

/// Why a policy could not be had. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// No policy has that name.
    #[error("unknown policy '{name}'; there are: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// Its settings make no sense.
    #[error("[policies.{name}]: {message}")]
    Settings {
        /// The policy.
        name: String,
        /// What is wrong with them.
        message: String,
    },
}

/// Makes a policy from its own table of the configuration; the error is a message for people.
pub type Maker = Box<dyn Fn(toml::Table) -> Result<Box<dyn Policy>, String>>;

/// The policies that a scheduler binary offers, by name.
#[derive(Default)]
pub struct Registry {
    makers: BTreeMap<String, Maker>,
}

impl Registry {
    /// A registry without any policy.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The stock policies.
    #[must_use]
    pub fn stock() -> Self {
        Self::empty()
            .with("cost", |settings| Ok(Box::new(Cost::new(parse::<CostSettings>(settings)?)?)))
            .with("lifetime", |settings| {
                parse::<NoSettings>(settings)?;
                Ok(Box::new(Lifetime))
            })
            .with("mosix", |settings| {
                parse::<NoSettings>(settings)?;
                Ok(Box::new(Mosix::default()))
            })
            .with("spread", |settings| Ok(Box::new(Spread::new(parse::<SpreadSettings>(settings)?)?)))
            .with("none", |settings| {
                parse::<NoSettings>(settings)?;
                Ok(Box::new(Nothing))
            })
    }

    /// Adds a policy; a second one of the same name replaces the first.
    #[must_use]
    pub fn with(
        mut self,
        name: &str,
        maker: impl Fn(toml::Table) -> Result<Box<dyn Policy>, String> + 'static,
    ) -> Self {
        self.makers.insert(name.to_owned(), Box::new(maker));
        self
    }

    /// All names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.makers.keys().map(String::as_str)
    }

    /// Makes the policy called `name` from its `settings`.
    ///
    /// # Errors
    /// An unknown name, or settings that the policy refuses.
    pub fn make(&self, name: &str, settings: toml::Table) -> Result<Box<dyn Policy>, PolicyError> {
        let Some(maker) = self.makers.get(name) else {
            let known = self.names().collect::<Vec<_>>().join(", ");
            return Err(PolicyError::Unknown { name: name.to_owned(), known });
        };
        maker(settings).map_err(|message| PolicyError::Settings { name: name.to_owned(), message })
    }
}

/// Reads a policy's settings from its table, with a message for people if that fails.
///
/// # Errors
/// What is wrong with the table.
pub fn parse<T: serde::de::DeserializeOwned>(settings: toml::Table) -> Result<T, String> {
    settings.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoSettings {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = Registry::stock().make("mosxi", toml::Table::new()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "unknown policy 'mosxi'; there are: cost, lifetime, mosix, none, spread"
        );
    }

    #[test]
    fn settings_that_a_policy_does_not_know_are_refused() {
        for name in ["cost", "lifetime", "mosix", "none", "spread"] {
            let settings = toml::toml! { speed-limit = 3 };
            let error = Registry::stock().make(name, settings).err().unwrap().to_string();
            assert!(error.starts_with(&format!("[policies.{name}]: unknown field `speed-limit`")), "{error}");
        }
    }
}
