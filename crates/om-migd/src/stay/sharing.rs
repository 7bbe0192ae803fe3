//! What processes share that only threads may, and what threads do not share that they should.
//!
//! CRIU makes each process with memory and directories of its own, and keeps those of a process's first thread only:
//! with the former it fails, the latter it loses without a word.

use std::collections::HashMap;

use nix::unistd::Pid;

use super::findings::Findings;
use super::process::Process;
use super::sys::{Shared, shares};

/// Looks for processes that share memory or directories with their parents.
pub fn check(processes: &[Process], findings: &mut Findings) {
    for (process, parent) in with_parents(processes) {
        if shares(process.pid, parent.pid, Shared::Memory) == Some(true) && !waits_for_child(parent) {
            findings.add("clone_vm", || format!("{process} shares the memory of its parent {parent}"));
        }
        if shares(process.pid, parent.pid, Shared::Directory) == Some(true) {
            findings
                .add("clone_fs", || format!("{process} shares the working directory of its parent {parent}"));
        }
    }
}

/// Looks for threads that do not share all of their process.
pub fn check_threads(process: &Process, findings: &mut Findings) {
    for thread in process.other_threads() {
        let apart = |what| shares(process.pid, thread, what) == Some(false);
        if apart(Shared::Directory) {
            let what = || format!("thread {thread} of {process} has a working directory of its own");
            findings.add("unshared_thread", what);
        }
        if apart(Shared::Descriptors) {
            findings
                .add("unshared_thread", || format!("thread {thread} of {process} has open files of its own"));
        }
    }
}

/// A process that has been forked by vfork and has not started its program yet.
pub fn mid_vfork(processes: &[Process]) -> Option<i32> {
    let shares_memory = |(process, parent): &(&Process, &Process)| {
        shares(process.pid, parent.pid, Shared::Memory) == Some(true) && waits_for_child(parent)
    };
    with_parents(processes).find(shares_memory).map(|(process, _)| process.pid.as_raw())
}

/// The processes whose parents are in the job too, with them.
fn with_parents(processes: &[Process]) -> impl Iterator<Item = (&Process, &Process)> {
    let by_pid: HashMap<Pid, &Process> = processes.iter().map(|process| (process.pid, process)).collect();
    processes.iter().filter_map(move |process| Some((process, *by_pid.get(&process.parent)?)))
}

/// Whether one of its threads is in an uninterruptible wait, as the one that has called vfork is.
fn waits_for_child(process: &Process) -> bool {
    let waits = |thread: Pid| {
        let stat = process.directory.read_record(&format!("task/{thread}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
    };
    waits(process.pid) || process.other_threads().any(waits)
}
