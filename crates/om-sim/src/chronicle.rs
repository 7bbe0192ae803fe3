//! Who ran where, and who moved when: kept for the picture, and for tests that ask when moves ended.

use std::collections::BTreeMap;

use crate::clock::Nanos;

/// A job was on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// The job.
    pub job: u32,
    /// The node.
    pub node: u32,
    /// Since when.
    pub begin: Nanos,
    /// Until when.
    pub end: Nanos,
}

/// A job was frozen on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// The job.
    pub job: u32,
    /// Where it came from.
    pub from: u32,
    /// Where it went to; the same if the move failed.
    pub to: u32,
    /// Since when it was frozen.
    pub begin: Nanos,
    /// Until when.
    pub end: Nanos,
}

/// All that happened.
#[derive(Clone, Debug, Default)]
pub struct Chronicle {
    /// In the order in which they ended.
    pub stays: Vec<Stay>,
    /// In the order in which they ended.
    pub journeys: Vec<Journey>,
    open: BTreeMap<u32, (u32, Nanos)>,
}

impl Chronicle {
    /// A job is on a node from now on.
    pub fn comes(&mut self, now: Nanos, job: u32, node: u32) {
        self.open.insert(job, (node, now));
    }

    /// A job is not on its node any more.
    pub fn goes(&mut self, now: Nanos, job: u32) {
        if let Some((node, begin)) = self.open.remove(&job) {
            self.stays.push(Stay { job, node, begin, end: now });
        }
    }
}
