//! A job that has been submitted and is not done yet.

use crate::clock::Nanos;
use crate::workload::Arrival;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// It has been submitted and does not run yet.
    Starting,
    /// It runs on its node, and is done when the node's `served_s` has come to this.
    Running {
        /// The end, in CPU seconds that each thread of the node has got.
        due_s: f64,
        /// The same at the beginning.
        since_s: f64,
    },
    /// It is frozen and on its way.
    Moving {
        /// Where to.
        to: u32,
        /// Since when.
        since: Nanos,
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
        Self {
            arrival,
            node: arrival.node,
            state: State::Starting,
            left_s: arrival.work_s,
            used_s: 0.0,
            moves: 0,
            arrived: None,
            frozen: 0,
            moved_by: 0,
        }
    }

    /// CPU seconds used, while the node's threads have got `served_s`.
    #[must_use]
    pub fn used_s(&self, served_s: f64) -> f64 {
        match self.state {
            State::Running { since_s, .. } => {
                self.used_s + (served_s - since_s).max(0.0) * f64::from(self.arrival.threads)
            }
            _ => self.used_s,
        }
    }

    /// Reference CPU seconds that it still needs, on a node of this speed whose threads have got `served_s`.
    #[must_use]
    pub fn left_s(&self, served_s: f64, speed: f64) -> f64 {
        match self.state {
            State::Running { due_s, .. } => {
                (due_s - served_s).max(0.0) * f64::from(self.arrival.threads) * speed
            }
            _ => self.left_s,
        }
    }
}
