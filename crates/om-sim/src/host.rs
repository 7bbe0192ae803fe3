//! One simulated node's CPUs: processor sharing.
//!
//! With x runnable threads on c CPUs each thread gets min(1, c/x) of a CPU. All threads of a node get the same, so
//! it is enough to follow how much CPU time one thread that was always there would have got (`served_s`): a job is
//! done when that has grown by what each of its threads still needs.

use std::collections::BTreeSet;

use crate::clock::{Nanos, nanos, seconds};
use crate::workload::Shape;

/// What is due within this much CPU time counts as done: floating point leaves crumbs.
const CRUMB_S: f64 = 1e-10;

/// The CPUs of one node and what runs on them.
#[derive(Clone, Debug)]
pub struct Host {
    shape: Shape,
    threads: u32,
    served_s: f64,
    at: Nanos,
    /// The running jobs by the `served_s` at which they are done. It is positive, so its bits sort as it does.
    due: BTreeSet<(u64, u32)>,
}

impl Host {
    /// An idle node.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self { shape, threads: 0, served_s: 0.0, at: 0, due: BTreeSet::new() }
    }

    /// What the node is like.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Runnable threads.
    #[must_use]
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// CPU seconds that each thread has got so far, after [`Self::advance`].
    #[must_use]
    pub fn served_s(&self) -> f64 {
        self.served_s
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Nanos) {
        self.served_s += self.rate() * seconds(now - self.at);
        self.at = now;
    }

    /// A job starts to run that still needs `left_s` reference CPU seconds. What `served_s` will be at its end.
    pub fn add(&mut self, now: Nanos, job: u32, threads: u32, left_s: f64) -> f64 {
        self.advance(now);
        self.threads += threads;
        let due_s = self.served_s + left_s / f64::from(threads) / self.shape.speed;
        self.due.insert((due_s.to_bits(), job));
        due_s
    }

    /// A job does not run here any more.
    pub fn remove(&mut self, now: Nanos, job: u32, threads: u32, due_s: f64) {
        self.advance(now);
        if self.due.remove(&(due_s.to_bits(), job)) {
            self.threads -= threads;
        }
    }

    /// A job that is done by now.
    #[must_use]
    pub fn done(&self) -> Option<u32> {
        let (due, job) = self.due.first()?;
        (f64::from_bits(*due) <= self.served_s + CRUMB_S).then_some(*job)
    }

    /// When the next job will be done if nothing changes.
    #[must_use]
    pub fn next_done(&self) -> Option<Nanos> {
        let (due, _) = self.due.first()?;
        let left_s = (f64::from_bits(*due) - self.served_s).max(0.0);
        Some(self.at + nanos(left_s / self.rate()))
    }

    /// The jobs that run, by when they will be done.
    pub fn jobs(&self) -> impl Iterator<Item = u32> {
        self.due.iter().map(|(_, job)| *job)
    }

    /// CPU seconds a second for each thread.
    fn rate(&self) -> f64 {
        (f64::from(self.shape.cpus) / f64::from(self.threads.max(1))).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(cpus: u32, speed: f64) -> Host {
        Host::new(Shape { cpus, speed, memory_bytes: 1 << 30 })
    }

    #[test]
    fn jobs_share_the_cpus() {
        let mut host = host(1, 1.0);
        host.add(0, 1, 1, 1.0);
        host.add(0, 2, 1, 2.0);
        assert_eq!(host.next_done(), Some(2_000_000_000));
        host.advance(2_000_000_000);
        assert_eq!(host.done(), Some(1));
        host.remove(2_000_000_000, 1, 1, 1.0);
        assert_eq!(host.next_done(), Some(3_000_000_000));
    }

    #[test]
    fn a_fast_node_with_free_cpus_is_done_early() {
        let mut host = host(4, 2.0);
        host.add(0, 1, 1, 1.0);
        host.add(0, 2, 2, 8.0);
        assert_eq!(host.next_done(), Some(500_000_000));
    }
}
