//! A job that has been submitted and is not done yet.

use crate::clock::Nanos;
use crate::workload::Arrival;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// It has been submitted and does not run yet.
    Starting,
    /// It runs on its node until the node's `served_s` has come to `due_s`; then it is done, or sleeps.
    Running {
        /// The end, in CPU seconds that each thread of the node has got.
        due_s: f64,
        /// The same at the beginning.
        since_s: f64,
    },
    /// It waits for something that takes no CPU.
    Sleeping {
        /// When it goes on.
        until: Nanos,
    },
    /// It is frozen and on its way.
    Moving {
        /// Where to.
        to: u32,
        /// Since when.
        since: Nanos,
        /// Until when it would sleep; in the past if it would run.
        sleeps_until: Nanos,
    },
}

/// The job.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it is.
    pub arrival: Arrival,
    /// Where it runs, or from where it is moving.
    pub node: u32,
    /// Whether it runs, and how far it has come.
    pub state: State,
    /// Reference CPU seconds that it still needed when it last started to run.
    pub left_s: f64,
    /// The same until it sleeps, or ends.
    pub until_sleep_s: f64,
    /// CPU seconds that it had used then, on all nodes.
    pub used_s: f64,
    /// How often it has moved.
    pub moves: u32,
    /// When it arrived where it is; `None` if it never moved.
    pub arrived: Option<Nanos>,
    /// For how long it has been frozen in all.
    pub frozen: Nanos,
    /// The scheduler that has asked for its move.
    pub moved_by: u32,
}

impl Job {
    /// A job that has just been submitted.
    #[must_use]
    pub fn new(arrival: Arrival) -> Self {
        let mut job = Self {
            arrival,
            node: arrival.node,
            state: State::Starting,
            left_s: arrival.work_s,
            until_sleep_s: 0.0,
            used_s: 0.0,
            moves: 0,
            arrived: None,
            frozen: 0,
            moved_by: 0,
        };
        job.wake();
        job
    }

    /// It has slept enough.
    pub fn wake(&mut self) {
        let between = self.arrival.rhythm.map(|rhythm| rhythm.run_s * f64::from(self.arrival.threads));
        self.until_sleep_s = between.map_or(self.left_s, |between| between.min(self.left_s));
    }

    /// Whether it is on its node, and in no move.
    #[must_use]
    pub fn is_there(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Sleeping { .. })
    }

    /// CPU seconds used, while the node's threads have got `served_s`.
    #[must_use]
    pub fn used_s(&self, served_s: f64) -> f64 {
        self.used_s + self.since_start_s(served_s)
    }

    /// Reference CPU seconds that it still needs, on a node of this speed whose threads have got `served_s`.
    #[must_use]
    pub fn left_s(&self, served_s: f64, speed: f64) -> f64 {
        (self.left_s - self.since_start_s(served_s) * speed).max(0.0)
    }

    /// It does not run any more. What it has done since it started is noted; all it was to do before it sleeps or
    /// ends, if `is_due`.
    pub fn stop(&mut self, served_s: f64, speed: f64, is_due: bool) {
        let used_s = self.since_start_s(served_s);
        let done_s = if is_due { self.until_sleep_s } else { (used_s * speed).min(self.until_sleep_s) };
        self.used_s += used_s;
        self.left_s -= done_s;
        self.until_sleep_s -= done_s;
    }

    fn since_start_s(&self, served_s: f64) -> f64 {
        match self.state {
            State::Running { since_s, .. } => (served_s - since_s).max(0.0) * f64::from(self.arrival.threads),
            _ => 0.0,
        }
    }
}
