//! Even out: while this node's load is above the mean of all by more than a share of their standard deviation, its largest
//! job goes to the least loaded node. So balancers of virtual machines work.
//!
//! It knows neither ages nor costs, which is what it is good for: to compare with.

use serde::{Deserialize, Serialize};

use super::{Policy, Proposal};
use crate::Time;
use crate::figures::Figures;
use crate::random::Random;
use crate::view::{Job, Target, View};

/// `[policies.spread]` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SpreadSettings {
    /// How many standard deviations above the mean this node's load has to be, 0 to 10.
    pub deviations: f64,
    /// By how many tasks a CPU it has to be above the mean in any case, 0 to 100: a calm cluster is even enough.
    pub least: f64,
}

impl Default for SpreadSettings {
    fn default() -> Self {
        Self { deviations: 1.0, least: 0.5 }
    }
}

/// The policy; it keeps nothing between rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    settings: SpreadSettings,
}

impl Spread {
    /// A policy with these settings.
    ///
    /// # Errors
    /// A message for people if they make no sense.
    pub fn new(settings: SpreadSettings) -> Result<Self, String> {
        if !(0.0..=10.0).contains(&settings.deviations) {
            return Err(format!("deviations = {}: must be 0 to 10", settings.deviations));
        }
        if !(0.0..=100.0).contains(&settings.least) {
            return Err(format!("least = {}: must be 0 to 100", settings.least));
        }
        Ok(Self { settings })
    }
}

impl Policy for Spread {
    fn decide(&mut self, _now: Time, view: &View, random: &mut Random) -> Vec<Proposal> {
        let here = load(&view.here.figures);
        let loads = || view.targets.iter().map(|target| load(&target.figures)).chain([here]);
        let count = (view.targets.len() + 1) as f64;
        let mean = loads().sum::<f64>() / count;
        let deviation = (loads().map(|load| (load - mean) * (load - mean)).sum::<f64>() / count).sqrt();
        if here - mean < (self.settings.deviations * deviation).max(self.settings.least) {
            return Vec::new();
        }
        let mut targets: Vec<&Target> = view.targets.iter().collect();
        random.shuffle(&mut targets);
        let largest =
            |one: &&Job, other: &&Job| one.tasks.total_cmp(&other.tasks).then(other.pid.cmp(&one.pid));
        let Some(job) = view.jobs.iter().max_by(largest) else { return Vec::new() };
        let target = targets
            .into_iter()
            .filter(|target| view.allows(job, target).is_ok())
            .min_by(|one, other| load(&one.figures).total_cmp(&load(&other.figures)));
        let Some(target) = target.filter(|target| helps(&view.here.figures, target, job)) else {
            return Vec::new();
        };
        vec![Proposal {
            pid: job.pid,
            to: target.address,
            reason: format!("load {here:.2} here, {mean:.2} ± {deviation:.2} everywhere"),
            weighing: None,
        }]
    }

    fn confirm(&mut self, _now: Time, view: &View, proposal: &Proposal) -> Result<Proposal, String> {
        match (view.jobs.first(), view.targets.first()) {
            (Some(job), Some(target)) if helps(&view.here.figures, target, job) => Ok(proposal.clone()),
            _ => Err("on its fresh figures the node is loaded as well".to_owned()),
        }
    }
}

fn helps(here: &Figures, target: &Target, job: &Job) -> bool {
    let there = Figures { movable: target.figures.movable + job.tasks, ..target.figures };
    load(&there) < load(here)
}

/// Tasks by CPU of the reference speed.
fn load(figures: &Figures) -> f64 {
    figures.load() / figures.cpus / figures.speed
}

#[cfg(test)]
mod tests {
    use super::super::scene::{job, target, view};
    use super::*;

    #[test]
    fn a_node_far_above_the_mean_sends_a_job_to_the_least_loaded() {
        let jobs = (1..=4).map(|pid| job(pid, 1.0)).collect();
        let view = view(jobs, vec![target(2, 1.0), target(3, 0.0), target(4, 1.0)]);
        let proposals = Spread::default().decide(Time::ZERO, &view, &mut Random::from_seed(1));
        assert_eq!(proposals[0].to, view.targets[1].address);
    }

    #[test]
    fn a_job_alone_and_an_even_cluster_are_left_alone() {
        let alone = view(vec![job(1, 1.0)], vec![target(2, 0.0), target(3, 0.0), target(4, 0.0)]);
        assert_eq!(Spread::default().decide(Time::ZERO, &alone, &mut Random::from_seed(1)), vec![]);
        let even = view(vec![job(1, 1.0), job(2, 1.0)], vec![target(2, 2.0), target(3, 2.0)]);
        assert_eq!(Spread::default().decide(Time::ZERO, &even, &mut Random::from_seed(1)), vec![]);
    }
}
