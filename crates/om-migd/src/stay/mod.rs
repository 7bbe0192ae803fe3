//! Why a job cannot be moved, as far as it can be seen before anything is frozen.
//!
//! Every process of the job is looked at through `/proc`, from outside and without disturbing it: no signal, no
//! ptrace, no descriptor taken over, and nothing that could wait for another node, as a guest's files would. A process
//! or a descriptor that goes meanwhile is skipped.
//!
//! A reason is only what CRIU has been seen to fail at, or to lose without a word; docs/stay-reasons.md lists them all.
//! What cannot be seen from here CRIU finds out itself, and the job goes on where it is.
//!
//! ```text
//! process   a process as a whole: tracer, ids, namespaces, scheduling
//! sharing   what processes share that only threads may, or threads do not share that they should
//! descriptor, mounts   what is open
//! socket, unix         which sockets lead out of the job
//! mapping   what is mapped
//! ```

mod deleted;
mod descriptor;
mod directory;
mod findings;
mod mapping;
mod mounts;
mod process;
mod sharing;
mod socket;
mod sys;
mod unix;

use std::fmt;

use self::descriptor::Descriptors;
use self::findings::Findings;
use self::mounts::Mounts;
use self::process::{Namespaces, Process};
use crate::cgroup::Cgroup;

/// The most bytes of a deleted file that CRIU is told to carry along.
pub const DELETED_FILE_LIMIT: u64 = 256 << 20;

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// One word, as the kernel's `stay` file has them.
    pub word: &'static str,
    /// What exactly, for a person: the first that was found, and how many there are.
    pub detail: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.word, self.detail)
    }
}

/// What the parts of the search know of the job.
struct Job<'a> {
    /// Every process in the job's cgroup.
    processes: &'a [Process],
    /// Its PID 1.
    init: &'a Process,
    /// The namespaces that every process should be in.
    namespaces: Namespaces,
    /// The mounts that the job sees.
    mounts: Mounts,
}

/// Looks at every process of the job. At most one reason a word; none if the job is at its end.
#[must_use]
pub fn reasons(cgroup: &Cgroup) -> Vec<Reason> {
    let processes = processes(cgroup);
    let Some(init) = processes.iter().find(|process| process.inner_pid == 1) else { return Vec::new() };
    let (Some(namespaces), Some(mounts)) = (init.namespaces(), Mounts::of(init)) else { return Vec::new() };
    let job = Job { processes: &processes, init, namespaces, mounts };
    let (mut findings, mut descriptors) = (Findings::default(), Descriptors::default());
    for process in job.processes {
        if process::check(process, &job, &mut findings) {
            descriptors.check(process, &job, &mut findings);
            mapping::check(process, &job, &mut findings);
            sharing::check_threads(process, &mut findings);
        }
    }
    sharing::check(job.processes, &mut findings);
    descriptors.sockets.check(job.init, &mut findings);
    findings.into_reasons()
}

/// The pid of a process that is about to start a program and shares its parent's memory until then (vfork, which is
/// what most shells and libraries use). It is over in a moment, hence no reason to stay; but CRIU waits for such a
/// parent until it gives up. So this is for a job that is frozen: if there is one, let the job go on and try again.
#[must_use]
pub fn mid_vfork(cgroup: &Cgroup) -> Option<i32> {
    sharing::mid_vfork(&processes(cgroup))
}

fn processes(cgroup: &Cgroup) -> Vec<Process> {
    cgroup.processes().into_iter().filter_map(Process::open).collect()
}
