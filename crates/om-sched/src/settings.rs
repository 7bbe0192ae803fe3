//! The numbers by which the core goes, in units that it uses. [`crate::config`] reads them from a file.

use std::time::Duration;

/// What the core is told about how to decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Decide and tell, move nothing, ask nobody.
    pub dry_run: bool,
    /// Whether this node has a cluster key.
    pub has_key: bool,
    /// Move jobs although there is no key. Nobody can tell then who asks.
    pub allow_without_key: bool,
    /// Moves and questions that may be under way at once.
    pub max_moves: usize,
    /// How long a node has to answer; it is asked twice.
    pub ask_timeout: Duration,
    /// How long a promise is kept, beside the time that the move itself takes.
    pub promise: Duration,
    /// How long a promise is kept for a job that is about to start, until the om files show it: longer than a start elsewhere
    /// takes. One that outlives its job keeps others from a free CPU.
    pub start_promise: Duration,
    /// The least time for which a job that arrived stays.
    pub cool_down: Duration,
    /// Share of a node's memory that has to stay free.
    pub memory_reserve: f64,
    /// How many times its resident memory a job needs for a moment where it arrives.
    pub memory_factor: f64,
    /// C0 until moves have been seen.
    pub move_cost: Duration,
    /// Bandwidth until moves have been seen.
    pub move_bytes_per_s: f64,
    /// Guests are in the way of this node's own user.
    pub owner_first: bool,
    /// An idle node asks loaded ones for work.
    pub invite: bool,
    /// How many nodes are asked where a new job shall start; 0: it starts where it is.
    pub start_among: usize,
    /// How often others are asked, twice as many each time, while none of those asked has a CPU free.
    pub start_rounds: usize,
    /// How long they have to answer, each time.
    pub start_timeout: Duration,
    /// Decisions that are kept for `om why` and `om history`.
    pub history: usize,
}

impl Settings {
    /// How many nodes are asked where a job shall start after so many rounds: the more have been asked in vain, the fewer have
    /// a CPU free.
    #[must_use]
    pub fn asked_in_round(&self, round: usize) -> usize {
        self.start_among.saturating_mul(1 << round.min(16))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dry_run: false,
            has_key: false,
            allow_without_key: false,
            max_moves: 4,
            ask_timeout: Duration::from_millis(300),
            promise: Duration::from_secs(3),
            start_promise: Duration::from_millis(100),
            cool_down: Duration::from_secs(1),
            memory_reserve: 0.05,
            memory_factor: 2.0,
            move_cost: Duration::from_millis(200),
            move_bytes_per_s: 112.0 * 1_048_576.0,
            owner_first: false,
            invite: true,
            start_among: 8,
            start_rounds: 3,
            start_timeout: Duration::from_millis(50),
            history: 256,
        }
    }
}
