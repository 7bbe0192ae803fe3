//! The rule of MOSIX as Linux kernels had it (2.4, and Kerrighed's after it): compare loads, send the second heaviest.
//!
//! The target is the node with the least `load + 1.30 · the job's load`, if that is less than the load here. To keep
//! from sending a node's only job around, the second heaviest of the jobs goes. One move a second. Loads are
//! per CPU and by speed. The original moved without a question; here everybody asks.

use std::time::Duration;

use super::{Policy, Proposal};
use crate::Time;
use crate::figures::Figures;
use crate::random::Random;
use crate::view::{Job, Target, View};

/// What a guest weighs more where it is not at home.
const GUEST_WEIGHT: f64 = 1.30;
/// One decision in this time.
const DECIDE_EVERY: Duration = Duration::from_secs(1);
/// Jobs that have used less CPU time are left alone.
const LEAST_CPU_S: f64 = 1.0;

/// The policy; it remembers when it last decided.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mosix {
    decided: Option<Time>,
}

impl Policy for Mosix {
    fn decide(&mut self, now: Time, view: &View, random: &mut Random) -> Vec<Proposal> {
        if self.decided.is_some_and(|decided| now.saturating_sub(decided) < DECIDE_EVERY) {
            return Vec::new();
        }
        let mut jobs: Vec<&Job> = view.jobs.iter().filter(|job| job.cpu_s >= LEAST_CPU_S).collect();
        jobs.sort_by(|one, other| other.tasks.total_cmp(&one.tasks).then(one.pid.cmp(&other.pid)));
        let Some(job) = jobs.get(1).or(jobs.first()) else { return Vec::new() };
        let mut targets: Vec<&Target> =
            view.targets.iter().filter(|target| view.allows(job, target).is_ok()).collect();
        random.shuffle(&mut targets);
        let cost = |target: &Target| load(&target.figures, GUEST_WEIGHT * job.tasks);
        let Some(best) = targets.into_iter().min_by(|one, other| cost(one).total_cmp(&cost(other))) else {
            return Vec::new();
        };
        let here = load(&view.here.figures, 0.0);
        if cost(best) >= here {
            return Vec::new();
        }
        self.decided = Some(now);
        vec![Proposal {
            pid: job.pid,
            to: best.address,
            reason: format!("load {:.2} there with it, {here:.2} here", cost(best)),
            weighing: None,
        }]
    }

    fn confirm(&mut self, _now: Time, view: &View, proposal: &Proposal) -> Result<Proposal, String> {
        let (Some(job), Some(target)) = (view.jobs.first(), view.targets.first()) else {
            return Err("the job or the node has gone".to_owned());
        };
        if load(&target.figures, GUEST_WEIGHT * job.tasks) < load(&view.here.figures, 0.0) {
            Ok(proposal.clone())
        } else {
            Err("on its fresh figures the node is loaded as well".to_owned())
        }
    }
}

/// Tasks by CPU of the reference speed, with so many more.
fn load(figures: &Figures, more: f64) -> f64 {
    (figures.load() + more) / (figures.cpus * figures.speed)
}

#[cfg(test)]
mod tests {
    use super::super::scene::{job, target, view};
    use super::*;

    #[test]
    fn the_second_heaviest_goes_to_the_least_loaded_and_only_one_a_second() {
        let mut policy = Mosix::default();
        let view = view(vec![job(1, 5.0), job(2, 5.0), job(3, 5.0)], vec![target(2, 1.0), target(3, 0.0)]);
        let proposals = policy.decide(Time::from_secs(5), &view, &mut Random::from_seed(1));
        assert_eq!((proposals[0].pid, proposals[0].to), (2, view.targets[1].address));
        assert_eq!(policy.decide(Time::from_millis(5900), &view, &mut Random::from_seed(1)), vec![]);
        assert_eq!(policy.decide(Time::from_secs(6), &view, &mut Random::from_seed(1)).len(), 1);
    }

    #[test]
    fn a_job_alone_stays() {
        let view = view(vec![job(1, 5.0)], vec![target(2, 0.0)]);
        assert_eq!(Mosix::default().decide(Time::ZERO, &view, &mut Random::from_seed(1)), vec![]);
    }
}
