//! What processes share that only threads may, and what threads do not share that they should.
//!
//! CRIU makes each process with memory and directories of its own, and keeps those of a process's first thread only:
//! with the former it fails, the latter it loses without a word.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::findings::Findings;
use super::process::{Process, is_ending};
use super::sys::{Shared, shares};

/// How much of the CPU a task has at least used that is not still in the middle of vfork or exec.
const PAST_A_CALL: Duration = Duration::from_millis(2);
/// For so long a task is waited for that the CPU has no time for.
const LIMIT: Duration = Duration::from_millis(500);

/// Looks for processes that share memory or directories with their parents.
pub fn check(processes: &[Process], findings: &mut Findings) {
    for (process, parent) in with_parents(processes) {
        if keeps_sharing_memory(process, parent) {
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
        // One that ends gives up what it shares first.
        let apart = |what| {
            shares(process.pid, thread, what) == Some(false) && !is_ending(thread) && !is_ending(process.pid)
        };
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

/// Whether a process shares its parent's memory for longer than a call of vfork takes. Just after that call the parent
/// does not wait yet, and at its end no more, while the child still has the memory; if neither of them gets time on a
/// CPU, for long.
fn keeps_sharing_memory(process: &Process, parent: &Process) -> bool {
    let shared = || shares(process.pid, parent.pid, Shared::Memory) == Some(true) && !waits_for_child(parent);
    if !shared() {
        return false;
    }
    let begin = Instant::now();
    let tasks = || [process, parent].into_iter().flat_map(tasks);
    let used: HashMap<Pid, Duration> = tasks().map(|task| (task.id, task.cpu_time())).collect();
    let is_past = |task: Task<'_>| {
        !task.is_in_state('R')
            || used.get(&task.id).is_some_and(|used| task.cpu_time() >= *used + PAST_A_CALL)
    };
    while !tasks().all(is_past) && begin.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(1));
        if !shared() {
            return false;
        }
    }
    shared()
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
    tasks(process).any(|task| task.is_in_state('D'))
}

fn tasks(process: &Process) -> impl Iterator<Item = Task<'_>> {
    let ids = std::iter::once(process.pid).chain(process.other_threads());
    ids.map(move |id| Task { process, id })
}

/// A thread of a process.
#[derive(Clone, Copy)]
struct Task<'a> {
    process: &'a Process,
    id: Pid,
}

impl Task<'_> {
    fn read(self, file: &str) -> String {
        self.process.directory.read_record(&format!("task/{}/{file}", self.id)).unwrap_or_default()
    }

    fn is_in_state(self, state: char) -> bool {
        self.read("stat").rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(state))
    }

    /// The time for which it has had a CPU, as far as the kernel has counted it.
    fn cpu_time(self) -> Duration {
        let text = self.read("schedstat");
        Duration::from_nanos(text.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_that_starts_programs_shares_memory_with_none_of_them() {
        let mut shell = Command::new("sh").args(["-c", "while :; do /bin/true; done"]).spawn().unwrap();
        let pid = Pid::from_raw(shell.id().cast_signed());
        let children = || crate::inspect::children(pid).into_iter().chain([pid]);
        let mut findings = Findings::default();
        for _ in 0..1000 {
            let processes: Vec<Process> = children().filter_map(Process::open).collect();
            check(&processes, &mut findings);
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert_eq!(findings.into_reasons(), []);
    }
}
