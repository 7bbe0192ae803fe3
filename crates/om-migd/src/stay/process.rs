//! A process of the job as `/proc` shows it, and what keeps a process as a whole from moving.

use std::fmt;
use std::fs;

use nix::unistd::Pid;

use super::directory::Directory;
use super::findings::Findings;
use super::{Job, sys};

/// What `/proc/PID/ns` has. `user` is last: a job that may make one makes it together with others.
const NAMESPACES: [&str; 10] =
    ["pid", "pid_for_children", "mnt", "ipc", "net", "uts", "cgroup", "time", "time_for_children", "user"];
/// The scheduling policies that CRIU refuses to restore: deadline, and those of loaded schedulers.
const UNKNOWN_POLICIES: [i32; 2] = [6, 7];
const RESET_ON_FORK: i32 = 0x4000_0000;

/// The namespaces of a process, in the order of [`NAMESPACES`]; none where it has no such, or no children's yet.
pub type Namespaces = [Option<String>; NAMESPACES.len()];

/// One process.
#[derive(Debug)]
pub struct Process {
    /// Its directory in `/proc`. All that follows is read through it, never of a later process with the same pid.
    pub directory: Directory,
    /// Its pid as this node sees it.
    pub pid: Pid,
    /// Its pid in the job.
    pub inner_pid: i32,
    /// Its parent.
    pub parent: Pid,
    /// What state it is in, as `ps` shows it.
    pub state: char,
    /// How many threads it has.
    pub threads: usize,
    name: String,
    tracer: i32,
    /// Real, effective and saved.
    uids: [u32; 3],
    gids: [u32; 3],
    /// The capabilities that it may use, as a mask.
    capabilities: u64,
}

impl Process {
    /// Opens it; nothing if it has gone.
    pub fn open(pid: Pid) -> Option<Self> {
        let directory = Directory::open(&format!("/proc/{pid}")).ok()?;
        let status = directory.read_record("status").ok()?;
        Self::parse(directory, &status)
    }

    fn parse(directory: Directory, status: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
            status.lines().find(value).map(|line| line[name.len() + 1..].trim())
        };
        let number = |name| field(name)?.parse::<i32>().ok();
        let ids = |name| {
            let mut ids = field(name)?.split_whitespace().map(str::parse::<u32>);
            Some([ids.next()?.ok()?, ids.next()?.ok()?, ids.next()?.ok()?])
        };
        Some(Self {
            directory,
            pid: Pid::from_raw(number("Pid")?),
            inner_pid: field("NSpid")?.split_whitespace().last()?.parse().ok()?,
            parent: Pid::from_raw(number("PPid")?),
            state: field("State")?.chars().next()?,
            threads: usize::try_from(number("Threads")?).ok()?,
            name: field("Name")?.to_owned(),
            tracer: number("TracerPid")?,
            uids: ids("Uid")?,
            gids: ids("Gid")?,
            capabilities: u64::from_str_radix(field("CapPrm")?, 16).ok()?,
        })
    }

    /// The numbers that are the names in a subdirectory, as `fd` or `task`.
    pub fn numbers(&self, path: &str) -> Vec<i32> {
        self.directory.below(path).map(|directory| directory.numbers()).unwrap_or_default()
    }

    /// Its threads but the first.
    pub fn other_threads(&self) -> impl Iterator<Item = Pid> {
        let threads = if self.threads > 1 { self.numbers("task") } else { Vec::new() };
        threads.into_iter().map(Pid::from_raw).filter(|thread| *thread != self.pid)
    }

    /// Its namespaces; nothing if it has gone.
    pub fn namespaces(&self) -> Option<Namespaces> {
        self.namespaces_of(self.pid)
    }

    /// The namespaces of one of its threads; nothing if that has gone.
    fn namespaces_of(&self, thread: Pid) -> Option<Namespaces> {
        let directory = self.directory.below(&format!("task/{thread}/ns")).ok()?;
        let namespaces = NAMESPACES.map(|name| directory.link(name));
        namespaces[0].is_some().then_some(namespaces)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Looks at a process as a whole. False if what it has open or mapped need not be looked at: it sees other mounts than
/// the job, or has ended but for some threads.
pub fn check(process: &Process, job: &Job<'_>, findings: &mut Findings) -> bool {
    if process.tracer != 0 {
        findings.add("traced", || format!("{process} is traced by pid {}", process.tracer));
    }
    // CRIU could not take hold of it, and home's files answer only to the job's own ids.
    for (kind, ids, own) in [("uid", process.uids, job.init.uids), ("gid", process.gids, job.init.gids)] {
        if let Some(other) = ids.iter().find(|id| **id != own[0]) {
            findings
                .add("ids", || format!("{process} has {kind} {other}, but the job is of {kind} {}", own[0]));
        }
    }
    if job.init.uids[0] != 0 && process.capabilities != 0 {
        findings.add("ids", || format!("{process} has capabilities, which its user has not"));
    }
    for task in std::iter::once(process.pid).chain(process.other_threads()) {
        let policy = sys::scheduling_policy(task).map(|policy| policy & !RESET_ON_FORK);
        if policy.is_some_and(|policy| UNKNOWN_POLICIES.contains(&policy)) {
            findings.add("rt_sched", || format!("{process} is scheduled by deadline"));
        }
    }
    if process.state == 'Z' {
        // While a process ends, its threads follow its first one.
        if process.threads > 1 && !process.other_threads().all(is_ending) {
            findings.add("dead_leader", || format!("the first thread of {process} has ended, others run on"));
        }
        return false;
    }
    // In the chroot nobody but root can make namespaces, so nobody else's threads need be looked at.
    if job.init.uids[0] == 0 {
        for thread in process.other_threads() {
            check_namespaces(process, thread, job, findings);
        }
    }
    check_namespaces(process, process.pid, job, findings)
}

/// Whether a thread is on its way out: it exits, or has been told to.
pub fn is_ending(thread: Pid) -> bool {
    const EXITING: u64 = 0x4;
    const KILLED: u64 = 1 << (libc::SIGKILL - 1);
    let Ok(stat) = fs::read_to_string(format!("/proc/{thread}/stat")) else { return true };
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse().ok());
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    flags.is_none_or(|flags: u64| flags & EXITING != 0) || pending.is_none_or(|mask| mask & KILLED != 0)
}

/// Whether this thread sees the job's mounts.
fn check_namespaces(process: &Process, thread: Pid, job: &Job<'_>, findings: &mut Findings) -> bool {
    let Some(namespaces) = process.namespaces_of(thread) else { return false };
    let mut sees_mounts = true;
    for ((name, its), own) in NAMESPACES.iter().zip(&namespaces).zip(&job.namespaces) {
        if its.is_some() && its != own {
            let what = || format!("{process} is in another {} namespace than the job", described(name));
            findings.add("namespace", what);
            sees_mounts &= *name != "mnt";
        }
    }
    sees_mounts
}

fn described(namespace: &str) -> &str {
    match namespace {
        "mnt" => "mount",
        "net" => "network",
        "uts" => "host name (uts)",
        "pid_for_children" => "pid",
        "time_for_children" => "time",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(status: &str) -> Option<Process> {
        Process::parse(Directory::open("/proc/self").unwrap(), status)
    }

    #[test]
    fn a_status_file_is_understood() {
        let text = "Name:\tpython3\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t390\nPid:\t390\nPPid:\t383\nTracerPid:\t7\n\
            Uid:\t1001\t0\t1001\t0\nGid:\t100\t100\t100\t100\nFDSize:\t64\nCapPrm:\t0000000000000400\nNSpid:\t390\t2\nThreads:\t3\n";
        let process = parse(text).unwrap();
        assert_eq!((process.pid.as_raw(), process.inner_pid, process.parent.as_raw()), (390, 2, 383));
        assert_eq!((process.state, process.threads, process.tracer), ('S', 3, 7));
        assert_eq!((process.uids, process.gids), ([1001, 0, 1001], [100, 100, 100]));
        assert_eq!(process.capabilities, 0x400);
        assert_eq!(process.to_string(), "python3 (pid 390)");
    }

    #[test]
    fn a_status_file_without_what_is_needed_is_no_process() {
        assert!(parse("Name:\tx\nPid:\t1\n").is_none());
        assert!(parse("").is_none());
    }

    #[test]
    fn a_process_can_be_looked_at() {
        let this = Process::open(Pid::this()).unwrap();
        assert!(this.numbers("fd").contains(&0));
        assert!(this.numbers("task").contains(&this.pid.as_raw()));
        assert!(this.namespaces().unwrap()[0].as_ref().unwrap().starts_with("pid:["));
        assert!(Process::open(Pid::from_raw(i32::MAX)).is_none());
    }
}
