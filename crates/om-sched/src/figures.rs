//! How long work takes on a node: the formulas that decisions are priced with.
//!
//! ```text
//! φ(x) = max(1, x / c) / s        wall seconds for one reference CPU second with x runnable tasks
//! H(L) = L · φ(L + b)             the same, summed over the L tasks that can move
//! ```
//!
//! c is the number of effective CPUs, s the speed (1 is the reference), L the runnable tasks of movable jobs with
//! the promised ones, b the load of everything else. Loads are averages and therefore not whole numbers.

use om_proto::offer::Answer;
use serde::Serialize;

/// What a node's time is worth at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// L: runnable tasks of jobs that could move, and of promised ones.
    pub movable: f64,
    /// b: load of everything else, in tasks.
    pub background: f64,
    /// c: effective CPUs, more than 0.
    pub cpus: f64,
    /// s: measured speed of a CPU, more than 0; 1 is the reference.
    pub speed: f64,
}

impl Figures {
    /// φ(x): wall seconds that one reference CPU second takes among `tasks` runnable ones.
    #[must_use]
    pub fn slowdown(&self, tasks: f64) -> f64 {
        (tasks / self.cpus).max(1.0) / self.speed
    }

    /// The CPUs that `tasks` new tasks get among those that are there: CPU seconds a second.
    #[must_use]
    pub fn share(&self, tasks: f64) -> f64 {
        tasks * (self.cpus / (self.load() + tasks)).min(1.0)
    }

    /// L + b: all runnable tasks.
    #[must_use]
    pub fn load(&self) -> f64 {
        self.movable + self.background
    }

    /// H(L): the slowdown summed over `movable` tasks.
    #[must_use]
    pub fn time_in_system(&self, movable: f64) -> f64 {
        movable * self.slowdown(movable + self.background)
    }

    /// H(L) − H(L − n): what the node's own jobs win if `tasks` of them leave.
    #[must_use]
    pub fn relief(&self, tasks: f64) -> f64 {
        self.time_in_system(self.movable) - self.time_in_system((self.movable - tasks).max(0.0))
    }

    /// H(L + n) − H(L): what it costs the node's jobs, the new ones counted, if `tasks` arrive.
    #[must_use]
    pub fn burden(&self, tasks: f64) -> f64 {
        self.time_in_system(self.movable + tasks) - self.time_in_system(self.movable)
    }

    /// The figures that another node's scheduler gave; `None` if it claims no CPU or no speed.
    #[must_use]
    pub fn from_answer(answer: &Answer) -> Option<Self> {
        let figures = Self {
            movable: from_milli(answer.movable_milli),
            background: from_milli(answer.background_milli),
            cpus: from_milli(answer.effective_cpus_milli),
            speed: from_milli(answer.speed),
        };
        (figures.cpus > 0.0 && figures.speed > 0.0).then_some(figures)
    }
}

/// Thousandths as a number.
#[must_use]
pub fn from_milli(milli: u32) -> f64 {
    f64::from(milli) / 1000.0
}

/// A number as thousandths; what does not fit is cut to the range of the wire.
#[must_use]
pub fn to_milli(value: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the range of u32"
    )]
    let milli = (value * 1000.0).round().clamp(0.0, f64::from(u32::MAX)) as u32;
    milli
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(movable: f64, cpus: f64) -> Figures {
        Figures { movable, background: 0.0, cpus, speed: 1.0 }
    }

    #[test]
    fn four_jobs_on_one_cpu_win_six_by_sending_one_to_an_idle_node() {
        assert_eq!(node(4.0, 1.0).relief(1.0) - node(0.0, 1.0).burden(1.0), 6.0);
    }

    #[test]
    fn three_against_two_is_as_good_as_two_against_three() {
        assert_eq!(node(3.0, 1.0).relief(1.0) - node(2.0, 1.0).burden(1.0), 0.0);
    }

    #[test]
    fn a_lone_job_wins_only_on_a_faster_node() {
        let here = node(1.0, 1.0);
        assert!(here.relief(1.0) - node(0.0, 8.0).burden(1.0) <= 0.0);
        assert!(here.relief(1.0) - Figures { speed: 1.5, ..node(0.0, 1.0) }.burden(1.0) > 0.0);
    }

    proptest! {
        #[test]
        fn to_and_fro_never_both_pay(
            here in 0.0..20.0f64, there in 0.0..20.0f64, n in 0.1..4.0f64,
            (b1, b2) in (0.0..5.0f64, 0.0..5.0f64), (c1, c2) in (0.5..16.0f64, 0.5..16.0f64),
            (s1, s2) in (0.3..3.0f64, 0.3..3.0f64),
        ) {
            let from = Figures { movable: here + n, background: b1, cpus: c1, speed: s1 };
            let to = Figures { movable: there, background: b2, cpus: c2, speed: s2 };
            let out = from.relief(n) - to.burden(n);
            let from_after = Figures { movable: here, ..from };
            let to_after = Figures { movable: there + n, ..to };
            let back = to_after.relief(n) - from_after.burden(n);
            prop_assert!((out + back).abs() < 1e-6);
        }

        #[test]
        fn milli_survives_the_wire(milli: u32) {
            prop_assert_eq!(to_milli(from_milli(milli)), milli);
        }
    }
}
