//! Sends jobs away in turn, one to each node, while more run here than there are CPUs. A policy to copy from: it is
//! all there is to write.

use om_sched::Time;
use om_sched::policy::{Policy, Proposal, Registry};
use om_sched::random::Random;
use om_sched::view::View;

/// Remembers whose turn it was.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: usize,
}

impl Policy for RoundRobin {
    fn decide(&mut self, _now: Time, view: &View, _random: &mut Random) -> Vec<Proposal> {
        let here = view.here.figures;
        if here.load() <= here.cpus || view.targets.is_empty() {
            return Vec::new();
        }
        let target = &view.targets[self.turn % view.targets.len()];
        let Some(job) = view.jobs.iter().find(|job| view.allows(job, target).is_ok()) else {
            return Vec::new();
        };
        self.turn = self.turn.wrapping_add(1);
        let reason = "it is that node's turn".to_owned();
        vec![Proposal { pid: job.pid, to: target.address, reason, weighing: None }]
    }
}

/// The stock policies and this one.
#[must_use]
pub fn registry() -> Registry {
    Registry::stock().with("round-robin", |_settings| Ok(Box::new(RoundRobin::default())))
}
