//! The yardstick for moves: one who sees every node as it is at this moment and knows what every job still needs.
//!
//! Every 20 ms it takes, as long as there is one, the move with the greatest gain / cost, by the same formulas as
//! the default policy but with the truth in place of estimates. Moves cost it as much as everybody else. It is greedy:
//! not the best that could be done, but what estimates and messages cost shows against it.

use om_sched::figures::Figures;

use crate::agenda::Event;
use crate::clock::Nanos;
use crate::job::State;
use crate::workload::Arrival;
use crate::world::{World, index};

const LOOK_EVERY: Nanos = 20_000_000;
/// Of the other nodes only so many, the least loaded ones, are weighed.
const TARGETS: usize = 8;

impl World<'_> {
    fn figures(&self, node: usize) -> Figures {
        let shape = self.nodes[node].host.shape();
        let threads = self.nodes[node].host.threads() + self.nodes[node].inbound;
        Figures { movable: threads.into(), background: 0.0, cpus: shape.cpus.into(), speed: shape.speed }
    }

    fn could_take(&self, node: usize, rss_bytes: u64) -> bool {
        let node = &self.nodes[node];
        node.is_alive && node.memory_used_bytes + 2 * rss_bytes <= node.host.shape().memory_bytes
    }

    /// Where everybody loses least if a job starts there; its own node unless another is better.
    pub(crate) fn best_start(&self, arrival: Arrival) -> Option<u32> {
        let threads = f64::from(arrival.threads);
        let mut best = (self.figures(arrival.node as usize).burden(threads), None);
        for node in 0..self.nodes.len() {
            let burden = self.figures(node).burden(threads);
            if burden < best.0 && self.could_take(node, arrival.rss_bytes) {
                best = (burden, Some(index(node)));
            }
        }
        best.1
    }

    /// Makes all moves that are worth it now.
    pub(crate) fn look(&mut self) {
        self.agenda.enter(self.now + LOOK_EVERY, Event::Look);
        let now = self.now;
        for node in &mut self.nodes {
            node.host.advance(now);
        }
        while let Some((job, to)) = self.best_move() {
            let from = self.job(job).map_or(0, |job| job.node);
            self.freeze(job, to, from);
        }
    }

    fn best_move(&self) -> Option<(u32, u32)> {
        let mut targets: Vec<(f64, usize)> = (0..self.nodes.len())
            .filter(|node| self.nodes[*node].is_alive)
            .map(|node| (self.figures(node).burden(1.0), node))
            .collect();
        let few = TARGETS.min(targets.len());
        if few < targets.len() {
            targets.select_nth_unstable_by(few, |one, other| {
                one.0.total_cmp(&other.0).then(one.1.cmp(&other.1))
            });
            targets.truncate(few);
        }
        targets.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        let least = targets.first()?.0;
        let mut best: Option<(f64, u32, u32)> = None;
        for from in 0..self.nodes.len() {
            let here = self.figures(from);
            // Whoever leaves saves no more than this.
            if here.relief(1.0) <= least && here.cpus <= 1.0 {
                continue;
            }
            let host = &self.nodes[from].host;
            for pid in host.jobs() {
                let Some(job) = self.job(pid) else { continue };
                if !matches!(job.state, State::Running { .. }) {
                    continue;
                }
                let threads = f64::from(job.arrival.threads);
                let relief = here.relief(threads);
                let left_s = job.left_s(host.served_s(), host.shape().speed) / threads;
                let cost_s =
                    self.setup.move_fixed_s + job.arrival.rss_bytes as f64 / self.setup.link_bytes_per_s;
                for (_, to) in &targets {
                    if *to == from {
                        continue;
                    }
                    let gain_s = left_s * (relief - self.figures(*to).burden(threads)) - cost_s;
                    let score = gain_s / cost_s;
                    if gain_s > 0.0
                        && best.is_none_or(|(known, _, _)| score > known)
                        && self.could_take(*to, job.arrival.rss_bytes)
                    {
                        best = Some((score, pid, index(*to)));
                    }
                }
            }
        }
        best.map(|(_, pid, to)| (pid, to))
    }
}
