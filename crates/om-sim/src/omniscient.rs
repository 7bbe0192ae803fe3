//! The yardsticks for moves: those who see every node as it is at this moment, for nothing.
//!
//! Every 20 ms they make, as long as there is one, the best move of their rule. Moves cost them as much as everybody else,
//! so what estimates and messages cost shows against them. `greedy` also knows what every job still needs, and
//! starts jobs where it hurts least of all nodes; it takes what is best at the moment, not what is best in the end.
//! `lifetime` goes by age, as the rule of that name, and starts jobs as the schedulers do, but knows the answers.

use std::cmp::Ordering;

use om_sched::figures::Figures;

use crate::agenda::Event;
use crate::clock::Nanos;
use crate::job::{Job, State};
use crate::setup::{Brain, Rule};
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
        let memory_bytes = node.host.shape().memory_bytes;
        node.is_alive && node.blocked.is_none() && node.memory_used_bytes + 2 * rss_bytes <= memory_bytes
    }

    fn move_cost_s(&self, rss_bytes: u64) -> f64 {
        self.setup.move_fixed_s + rss_bytes as f64 / self.setup.link_bytes_per_s
    }

    /// Where a job starts; its own node unless another is better.
    pub(crate) fn best_start(&mut self, arrival: Arrival, rule: Rule) -> Option<u32> {
        match rule {
            Rule::Greedy => self.best_of_all(arrival),
            Rule::Lifetime => self.best_of_some(arrival),
        }
    }

    fn best_of_all(&self, arrival: Arrival) -> Option<u32> {
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

    /// As the core's `starting` does it, without having to ask.
    fn best_of_some(&mut self, arrival: Arrival) -> Option<u32> {
        let threads = f64::from(arrival.threads);
        let settings = &self.setup.settings;
        let here = self.figures(arrival.node as usize);
        let has_room = |figures: &Figures| figures.load() + threads <= figures.cpus;
        let mut best: Option<(f64, usize)> = None;
        for round in 0..if has_room(&here) { 0 } else { settings.start_rounds } {
            for _ in 0..settings.asked_in_round(round) {
                let node = self.random.below(self.nodes.len());
                let burden = self.figures(node).burden(threads);
                if best.is_none_or(|(least, _)| burden < least) && self.could_take(node, arrival.rss_bytes) {
                    best = Some((burden, node));
                }
            }
            if best.is_some_and(|(_, node)| has_room(&self.figures(node))) {
                break;
            }
        }
        best.filter(|(burden, _)| *burden < 0.95 * here.burden(threads)).map(|(_, node)| index(node))
    }

    /// Makes all moves that are worth it now.
    pub(crate) fn look(&mut self) {
        let Brain::Omniscient { rule, .. } = self.brain else { return };
        self.agenda.enter(self.now + LOOK_EVERY, Event::Look);
        let now = self.now;
        for node in &mut self.nodes {
            node.host.advance(now);
        }
        let best = |world: &Self| match rule {
            Rule::Greedy => world.greediest(),
            Rule::Lifetime => world.oldest(),
        };
        while let Some((job, to)) = best(self) {
            let from = self.job(job).map_or(0, |job| job.node);
            self.freeze(job, to, from);
        }
    }

    /// The least loaded nodes that are up, the least loaded first.
    fn least_loaded(&self) -> Vec<(f64, usize)> {
        let by = |one: &(f64, usize), other: &(f64, usize)| -> Ordering {
            one.0.total_cmp(&other.0).then(one.1.cmp(&other.1))
        };
        let mut targets: Vec<(f64, usize)> = (0..self.nodes.len())
            .filter(|node| self.could_take(*node, 0))
            .map(|node| (self.figures(node).burden(1.0), node))
            .collect();
        let few = TARGETS.min(targets.len());
        if few < targets.len() {
            targets.select_nth_unstable_by(few, by);
            targets.truncate(few);
        }
        targets.sort_by(by);
        targets
    }

    /// The jobs that run on a node.
    fn running(&self, node: usize) -> impl Iterator<Item = (u32, &Job)> {
        let jobs = self.nodes[node].host.jobs().filter_map(|pid| Some((pid, self.job(pid)?)));
        jobs.filter(|(_, job)| matches!(job.state, State::Running { .. }))
    }

    /// The move with the greatest gain / cost, by the formulas of the default policy with the truth in place of estimates.
    fn greediest(&self) -> Option<(u32, u32)> {
        let targets = self.least_loaded();
        let least = targets.first()?.0;
        let mut best: Option<(f64, u32, u32)> = None;
        for from in 0..self.nodes.len() {
            let here = self.figures(from);
            // Whoever leaves saves no more than this.
            if here.relief(1.0) <= least && here.cpus <= 1.0 {
                continue;
            }
            let host = &self.nodes[from].host;
            for (pid, job) in self.running(from) {
                let threads = f64::from(job.arrival.threads);
                let relief = here.relief(threads);
                let left_s = job.left_s(host.served_s(), host.shape().speed) / threads;
                let cost_s = self.move_cost_s(job.arrival.rss_bytes);
                for (_, to) in targets.iter().filter(|(_, to)| *to != from) {
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

    /// The job whose age exceeds its cost most, if its age > C / (n − m), the job itself counted in m: Harchol-Balter and
    /// Downey, 1997.
    fn oldest(&self) -> Option<(u32, u32)> {
        let per_cpu = |figures: Figures| figures.load() / figures.cpus / figures.speed;
        let targets: Vec<(f64, usize)> =
            self.least_loaded().into_iter().map(|(_, node)| (per_cpu(self.figures(node)), node)).collect();
        let least = targets.first()?.0;
        let mut best: Option<(f64, u32, u32)> = None;
        for from in 0..self.nodes.len() {
            let here = per_cpu(self.figures(from));
            if here - least < 2.0 {
                continue;
            }
            let served_s = self.nodes[from].host.served_s();
            for (pid, job) in self.running(from) {
                let age_s = job.used_s(served_s);
                let cost_s = self.move_cost_s(job.arrival.rss_bytes);
                let score = age_s / cost_s;
                let fits =
                    |(_, to): &&(f64, usize)| *to != from && self.could_take(*to, job.arrival.rss_bytes);
                let Some((there, to)) = targets.iter().find(fits) else { continue };
                let difference = here - there - f64::from(job.arrival.threads);
                if difference >= 1.0
                    && age_s > cost_s / difference
                    && best.is_none_or(|(known, _, _)| score > known)
                {
                    best = Some((score, pid, index(*to)));
                }
            }
        }
        best.map(|(_, pid, to)| (pid, to))
    }
}
