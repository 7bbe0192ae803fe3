//! Move what has lived long enough: the rule of Harchol-Balter and Downey (*Exploiting Process Lifetime Distributions for
//! Dynamic Load Balancing*, 1997), the strongest that needs no knob.
//!
//! With n jobs here and m there, a job moves if its age > C / (n − m), for n − m of at least 2; of those
//! for which that holds the one whose age exceeds its cost most. Age is CPU time used, as in the paper.

use super::{Policy, Proposal};
use crate::Time;
use crate::figures::Figures;
use crate::random::Random;
use crate::view::{Job, Target, View};

/// The policy; it keeps nothing between rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifetime;

impl Policy for Lifetime {
    fn decide(&mut self, _now: Time, view: &View, random: &mut Random) -> Vec<Proposal> {
        let mut targets: Vec<&Target> = view.targets.iter().collect();
        random.shuffle(&mut targets);
        targets.sort_by(|one, other| load(&one.figures).total_cmp(&load(&other.figures)));
        let pairs = view.jobs.iter().filter_map(|job| {
            let target = targets.iter().find(|target| view.allows(job, target).is_ok())?;
            is_worth_it(view, job, target).then_some((job, *target))
        });
        let ratio = |job: &Job| job.cpu_s / job.move_cost_s;
        let best = pairs.max_by(|one, other| ratio(one.0).total_cmp(&ratio(other.0)));
        best.map(|(job, target)| Proposal {
            pid: job.pid,
            to: target.address,
            reason: format!(
                "has used {:.2} s, a move costs {:.2} s, {:.1} jobs here and {:.1} there",
                job.cpu_s,
                job.move_cost_s,
                load(&view.here.figures),
                load(&target.figures)
            ),
            weighing: None,
        })
        .into_iter()
        .collect()
    }

    fn confirm(&mut self, _now: Time, view: &View, proposal: &Proposal) -> Result<Proposal, String> {
        match (view.jobs.first(), view.targets.first()) {
            (Some(job), Some(target)) if is_worth_it(view, job, target) => Ok(proposal.clone()),
            _ => Err("on the node's fresh figures it has not lived long enough".to_owned()),
        }
    }
}

fn is_worth_it(view: &View, job: &Job, target: &Target) -> bool {
    // The rule is one for processes; a job of several tasks brings them all along.
    let own = job.tasks.max(1.0);
    let difference = load(&view.here.figures) - load(&target.figures) - own;
    difference >= 0.5 && job.cpu_s > job.move_cost_s / difference.max(1.0)
}

fn load(figures: &Figures) -> f64 {
    figures.load() / figures.cpus / figures.speed
}

#[cfg(test)]
mod tests {
    use super::super::scene::{job, target, view};
    use super::*;

    #[test]
    fn the_oldest_goes_once_it_has_lived_for_its_cost() {
        let young = view(vec![job(1, 0.1), job(2, 0.15)], vec![target(2, 0.0)]);
        assert_eq!(Lifetime.decide(Time::ZERO, &young, &mut Random::from_seed(1)), vec![]);
        let old = view(vec![job(1, 0.3), job(2, 0.5)], vec![target(2, 0.0)]);
        assert_eq!(Lifetime.decide(Time::ZERO, &old, &mut Random::from_seed(1))[0].pid, 2);
    }

    #[test]
    fn tasks_that_would_only_change_places_are_no_reason() {
        let four = Job { tasks: 4.0, ..job(1, 9.0) };
        let alone = view(vec![four.clone()], vec![target(2, 0.0)]);
        assert_eq!(Lifetime.decide(Time::ZERO, &alone, &mut Random::from_seed(1)), vec![]);
        let crowded = view(vec![four, Job { tasks: 2.0, ..job(2, 0.1) }], vec![target(2, 0.0)]);
        assert_eq!(Lifetime.decide(Time::ZERO, &crowded, &mut Random::from_seed(1))[0].pid, 1);
    }

    #[test]
    fn one_more_here_than_there_is_no_reason() {
        let view = view(vec![job(1, 9.0), job(2, 9.0)], vec![target(2, 1.0)]);
        assert_eq!(Lifetime.decide(Time::ZERO, &view, &mut Random::from_seed(1)), vec![]);
    }
}
