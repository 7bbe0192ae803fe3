//! Rules in the configuration file around the default policy:
//!
//! ```toml
//! policy = "rules"
//!
//! [[policies.rules.rule]]        # Jobs of this user never leave.
//! user = 1000
//! nodes = []
//!
//! [[policies.rules.rule]]        # Big jobs go to big nodes only.
//! memory-above-mib = 4096
//! nodes-with-mib = 65536
//!
//! [[policies.rules.rule]]        # Compilers stay in this room.
//! command = "cc"
//! nodes = ["10.0.0.1", "10.0.0.2"]
//! ```
//!
//! The first rule that fits a job says where it may go; a job that no rule fits may go anywhere. What is best among
//! that is decided as ever.

use std::net::IpAddr;

use om_sched::Time;
use om_sched::figures::Figures;
use om_sched::policy::{Cost, CostSettings, Policy, Proposal, Registry, parse};
use om_sched::random::Random;
use om_sched::start::NewJob;
use om_sched::view::{Job, Target, View, Weighing};
use serde::Deserialize;

/// Which jobs, and where they may go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// Only jobs of this user id.
    user: Option<u32>,
    /// Only jobs whose command begins with this.
    command: Option<String>,
    /// Only jobs with more resident memory.
    memory_above_mib: Option<u64>,
    /// They may go to these nodes; left out: to any.
    nodes: Option<Vec<IpAddr>>,
    /// They may go to nodes with at least so much memory.
    nodes_with_mib: Option<u64>,
}

impl Rule {
    fn fits(&self, job: &Job) -> bool {
        self.user.is_none_or(|user| user == job.uid)
            && self.command.as_ref().is_none_or(|command| job.command.starts_with(command))
            && self.memory_above_mib.is_none_or(|mib| job.rss_bytes > mib << 20)
    }

    /// A job that is about to start has no memory yet.
    fn fits_new(&self, job: &NewJob) -> bool {
        self.user.is_none_or(|user| user == job.uid)
            && self.command.as_ref().is_none_or(|command| job.command.starts_with(command))
            && self.memory_above_mib.is_none()
    }

    fn allows(&self, target: &Target) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.contains(&target.address))
            && self.nodes_with_mib.is_none_or(|mib| target.memory_total_bytes.unwrap_or(0) >= mib << 20)
    }
}

/// `[policies.rules]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The rules, the first that fits counts.
    rule: Vec<Rule>,
    /// The default policy's settings.
    cost: CostSettings,
}

/// The default policy within rules.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    cost: Cost,
}

impl Rules {
    /// A policy with these settings.
    ///
    /// # Errors
    /// A message for people if they make no sense.
    pub fn new(settings: Settings) -> Result<Self, String> {
        Ok(Self { rules: settings.rule, cost: Cost::new(settings.cost)? })
    }

    fn allows(&self, job: &Job, target: &Target) -> bool {
        self.rules.iter().find(|rule| rule.fits(job)).is_none_or(|rule| rule.allows(target))
    }
}

impl Policy for Rules {
    fn decide(&mut self, now: Time, view: &View, random: &mut Random) -> Vec<Proposal> {
        // Each job is shown the nodes where it may go, one job at a time; the best of what is proposed comes first.
        let mut proposals: Vec<Proposal> = Vec::new();
        for job in &view.jobs {
            let targets = view.targets.iter().copied().filter(|target| self.allows(job, target)).collect();
            let only = View { jobs: vec![job.clone()], targets, ..view.clone() };
            proposals.extend(self.cost.decide(now, &only, random));
        }
        let gain = |it: &Proposal| it.weighing.map_or(0.0, |weighing| weighing.gain_s / weighing.cost_s);
        proposals.sort_by(|one, other| gain(other).total_cmp(&gain(one)));
        // Each was weighed as if it were the only one, so only the best is sure.
        proposals.truncate(1);
        proposals
    }

    fn confirm(&mut self, now: Time, view: &View, proposal: &Proposal) -> Result<Proposal, String> {
        self.cost.confirm(now, view, proposal)
    }

    fn start(&mut self, job: &NewJob, here: &Figures, there: &[Target]) -> Option<usize> {
        let rule = self.rules.iter().find(|rule| rule.fits_new(job));
        let is_allowed = |target: &Target| rule.is_none_or(|rule| rule.allows(target));
        let (positions, allowed): (Vec<usize>, Vec<Target>) =
            there.iter().copied().enumerate().filter(|(_, target)| is_allowed(target)).unzip();
        self.cost.start(job, here, &allowed).map(|chosen| positions[chosen])
    }

    fn weigh(&self, view: &View, job: &Job, target: &Target) -> Option<Weighing> {
        if self.allows(job, target) { self.cost.weigh(view, job, target) } else { None }
    }
}

/// The stock policies and this one.
#[must_use]
pub fn registry() -> Registry {
    Registry::stock().with("rules", |settings| Ok(Box::new(Rules::new(parse::<Settings>(settings)?)?)))
}
