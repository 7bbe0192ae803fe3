//! What came of a run: how much longer jobs took than they would have alone.

use serde::Serialize;

use crate::clock::{Nanos, seconds};
use crate::job::Job;
use crate::workload::{Arrival, Shape};

/// Shorter jobs count as this long for the bounded slowdown (Feitelson and Rudolph, 1998, had 10 s for batch jobs).
const BOUND_S: f64 = 0.1;

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ratios {
    /// Mean over all jobs of the time in system by the time alone on a CPU of speed 1.
    pub mean_slowdown: f64,
    /// The same, shorter jobs counted as 0.1 s.
    pub bounded_slowdown: f64,
    /// Time in system of all jobs by their time alone.
    pub total_time_over_work: f64,
    /// The slowdown that 1 % of the jobs exceed.
    pub p99_slowdown: f64,
    /// Moves of running jobs.
    pub moves_per_1000_jobs: f64,
    /// Jobs that started on another node than where they were submitted.
    pub starts_elsewhere_per_1000_jobs: f64,
    /// Time for which jobs stood still to be moved, by the work of all.
    pub frozen_share: f64,
    /// The time until all was done, by the least possible.
    pub makespan_over_bound: f64,
}

impl Ratios {
    /// Each with its name, in the order of the table.
    #[must_use]
    pub fn named(&self) -> [(&'static str, f64); 8] {
        [
            ("mean slowdown", self.mean_slowdown),
            ("bounded", self.bounded_slowdown),
            ("time/work", self.total_time_over_work),
            ("p99", self.p99_slowdown),
            ("moves/1000", self.moves_per_1000_jobs),
            ("elsewhere/1000", self.starts_elsewhere_per_1000_jobs),
            ("frozen", self.frozen_share),
            ("makespan/bound", self.makespan_over_bound),
        ]
    }

    /// Each of them computed from those of all `runs`.
    #[must_use]
    pub fn each(runs: &[Self], of: impl Fn(&[f64]) -> f64) -> Self {
        let of = |ratio: fn(&Self) -> f64| of(&runs.iter().map(ratio).collect::<Vec<f64>>());
        Self {
            mean_slowdown: of(|it| it.mean_slowdown),
            bounded_slowdown: of(|it| it.bounded_slowdown),
            total_time_over_work: of(|it| it.total_time_over_work),
            p99_slowdown: of(|it| it.p99_slowdown),
            moves_per_1000_jobs: of(|it| it.moves_per_1000_jobs),
            starts_elsewhere_per_1000_jobs: of(|it| it.starts_elsewhere_per_1000_jobs),
            frozen_share: of(|it| it.frozen_share),
            makespan_over_bound: of(|it| it.makespan_over_bound),
        }
    }
}

/// The mean; 0 of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The standard deviation of a sample; 0 of less than two.
#[must_use]
pub fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len().max(2) - 1) as f64).sqrt()
}

/// The figures of one run, or of several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// How much longer things took than they must.
    #[serde(flatten)]
    pub ratios: Ratios,
    /// Jobs that ended.
    pub jobs: u64,
    /// Jobs that died with a node.
    pub lost: u64,
    /// Times that an invariant was broken; each is also told.
    pub violations: u64,
}

/// Adds up jobs as they end.
#[derive(Clone, Debug, Default)]
pub struct Measure {
    slowdowns: Vec<f32>,
    slowdown: f64,
    bounded: f64,
    time_s: f64,
    alone_s: f64,
    work_s: f64,
    moves: u64,
    elsewhere: u64,
    frozen_s: f64,
    end: Nanos,
    /// Jobs that died with a node.
    pub lost: u64,
    /// Times that an invariant was broken.
    pub violations: u64,
}

impl Measure {
    /// A job has ended.
    pub fn ended(&mut self, now: Nanos, job: &Job) {
        let time_s = seconds(now - job.arrival.at);
        let alone_s = job.arrival.alone_s();
        let slowdown = time_s / alone_s;
        #[expect(clippy::cast_possible_truncation, reason = "seven digits of a slowdown are enough")]
        self.slowdowns.push(slowdown as f32);
        self.slowdown += slowdown;
        self.bounded += (time_s / alone_s.max(BOUND_S)).max(1.0);
        self.time_s += time_s;
        self.alone_s += alone_s;
        self.work_s += job.arrival.work_s;
        self.moves += u64::from(job.moves);
        self.frozen_s += seconds(job.frozen);
        self.end = now;
    }

    /// A job starts on another node than its own.
    pub fn started_elsewhere(&mut self) {
        self.elsewhere += 1;
    }

    /// The figures of all jobs that ended.
    #[must_use]
    pub fn figures(mut self, workload: &[Arrival], nodes: &[Shape]) -> Figures {
        let jobs = self.slowdowns.len().max(1) as f64;
        self.slowdowns.sort_unstable_by(f32::total_cmp);
        let p99 = self.slowdowns.len() * 99 / 100;
        let ratios = Ratios {
            mean_slowdown: self.slowdown / jobs,
            bounded_slowdown: self.bounded / jobs,
            total_time_over_work: self.time_s / self.alone_s.max(f64::MIN_POSITIVE),
            p99_slowdown: self.slowdowns.get(p99).copied().map_or(0.0, f64::from),
            moves_per_1000_jobs: self.moves as f64 * 1000.0 / jobs,
            starts_elsewhere_per_1000_jobs: self.elsewhere as f64 * 1000.0 / jobs,
            frozen_share: self.frozen_s / self.work_s.max(f64::MIN_POSITIVE),
            makespan_over_bound: seconds(self.end) / makespan_bound_s(workload, nodes),
        };
        Figures { ratios, jobs: self.slowdowns.len() as u64, lost: self.lost, violations: self.violations }
    }
}

/// No schedule is done earlier: a job takes its time on the fastest CPU, and what has come after a moment takes all
/// CPUs' time from then on.
fn makespan_bound_s(workload: &[Arrival], nodes: &[Shape]) -> f64 {
    let fastest = nodes.iter().map(|node| node.speed).fold(f64::MIN_POSITIVE, f64::max);
    let capacity: f64 = nodes.iter().map(|node| f64::from(node.cpus) * node.speed).sum();
    let mut later_s = 0.0;
    let mut bound_s = f64::MIN_POSITIVE;
    for job in workload.iter().rev() {
        later_s += job.work_s;
        let at_s = seconds(job.at);
        bound_s = bound_s.max(at_s + job.alone_at_s(fastest)).max(at_s + later_s / capacity.max(1e-9));
    }
    bound_s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_a_sample() {
        assert_eq!((mean(&[1.0, 2.0, 3.0]), deviation(&[1.0, 2.0, 3.0])), (2.0, 1.0));
        assert_eq!((mean(&[]), deviation(&[5.0])), (0.0, 0.0));
    }

    #[test]
    fn no_schedule_beats_the_bound() {
        let nodes = [Shape { cpus: 2, speed: 2.0, memory_bytes: 0 }; 2];
        let job = |at, work_s| Arrival { at, node: 0, work_s, threads: 1, rss_bytes: 0, rhythm: None };
        // One long job on one fast CPU, and then more work than all four CPUs do at once.
        assert_eq!(makespan_bound_s(&[job(0, 20.0)], &nodes), 10.0);
        let jobs: Vec<Arrival> = std::iter::repeat_n(job(1_000_000_000, 4.0), 10).collect();
        assert_eq!(makespan_bound_s(&jobs, &nodes), 6.0);
    }
}
