//! The question before a move and its answer: what two schedulers say to each other by unicast.
//!
//! A scheduler that would send a job to a node asks that node's scheduler first: reports are stale, and many
//! may have the same idea. The answer carries fresh figures; if it is yes, the answering node counts the
//! promised job in its load for a few seconds.

use serde::{Deserialize, Serialize};

/// Asks a node whether it would take a job now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Chosen at random by the asker; the answer repeats it.
    pub nonce: u64,
    /// Resident bytes of the job.
    pub rss_bytes: u64,
    /// Runnable tasks that the job brings, in thousandths.
    pub runnable_milli: u32,
    /// CPU feature hash that the job's present node has; 0 if unknown.
    pub cpu_features: u64,
    /// Whether the job's home is the node that is asked: it may always come home.
    pub coming_home: bool,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The question's nonce.
    pub nonce: u64,
    /// Whether the job may come. The promise is kept for `promise_ms`.
    pub accepted: bool,
    /// Why not, in a few plain words; empty if accepted.
    pub reason: String,
    /// L: runnable movable jobs and promises, in thousandths, the asked-for job not counted.
    pub movable_milli: u32,
    /// b: load of everything else, in thousandths.
    pub background_milli: u32,
    /// Effective CPUs, in thousandths.
    pub effective_cpus_milli: u32,
    /// Measured speed; 1000 is the reference.
    pub speed: u32,
    /// How long the promise is kept, milliseconds.
    pub promise_ms: u32,
}

/// An idle node asks a loaded one for work: pull. The loaded node answers with an ordinary [`Ask`], or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Fresh figures of the node that invites, as it would give them in an [`Answer`].
    pub figures: Answer,
}
