//! What happens to nodes: they die and come back, and their administrators block them for a while.

use crate::agenda::Event;
use crate::chance;
use crate::clock::nanos;
use crate::job::{Job, State};
use crate::world::{World, index};

/// A dead node is back after this long.
const REPAIR_S: f64 = 60.0;
/// A blocked node takes guests again after this long.
const BLOCKED_S: f64 = 60.0;

impl World<'_> {
    /// When the next node dies.
    pub(crate) fn plan_failure(&mut self) {
        self.plan(self.setup.failures_per_node_hour, Event::Fail);
    }

    /// When the next node is blocked.
    pub(crate) fn plan_block(&mut self) {
        self.plan(self.setup.blocks_per_node_hour, Event::Block);
    }

    fn plan(&mut self, per_node_hour: f64, event: Event) {
        if per_node_hour > 0.0 {
            let between_s = 3600.0 / (per_node_hour * self.nodes.len() as f64);
            let at = self.now + nanos(chance::exponential(&mut self.random, between_s));
            self.agenda.enter(at, event);
        }
    }

    /// A node's administrator wants no guests for a while.
    pub(crate) fn block(&mut self) {
        self.plan_block();
        let blocked = index(self.random.below(self.nodes.len()));
        let node = &mut self.nodes[blocked as usize];
        if node.blocked.is_none() {
            node.blocked = Some(self.now);
            self.agenda.enter(self.now + nanos(BLOCKED_S), Event::Unblock(blocked));
        }
    }

    /// A dead node is back, empty.
    pub(crate) fn repair(&mut self, node: u32) {
        self.nodes[node as usize].is_alive = true;
        self.boot(node);
    }

    /// A node dies, with the jobs that it runs and those whose home it is.
    pub(crate) fn fail(&mut self) {
        self.plan_failure();
        let dead = index(self.random.below(self.nodes.len()));
        if !self.nodes[dead as usize].is_alive {
            return;
        }
        self.nodes[dead as usize].is_alive = false;
        self.nodes[dead as usize].scheduler = None;
        let dying = |job: &Job| job.node == dead || job.arrival.node == dead;
        let lost: Vec<u32> =
            (0..index(self.jobs.len())).filter(|pid| self.job(*pid).is_some_and(dying)).collect();
        for pid in lost {
            self.lose(pid);
        }
        self.agenda.enter(self.now + nanos(REPAIR_S), Event::Repair(dead));
    }

    fn lose(&mut self, pid: u32) {
        self.pause(pid, false);
        let Some(job) = self.job(pid) else { return };
        let (state, threads, rss_bytes, home) =
            (job.state, job.arrival.threads, job.arrival.rss_bytes, job.arrival.node);
        match state {
            // If it is about to begin somewhere, its `Begin` finds nothing.
            State::Starting => {}
            State::Moving { to, .. } => {
                self.links.remove(self.now, pid);
                self.plan_transfers();
                let target = &mut self.nodes[to as usize];
                target.inbound -= threads;
                target.memory_used_bytes = target.memory_used_bytes.saturating_sub(rss_bytes);
                if to != home {
                    target.guests -= 1;
                }
            }
            State::Running { .. } | State::Sleeping { .. } => {}
        }
        self.take_out(pid);
        self.measure.lost += 1;
    }
}
