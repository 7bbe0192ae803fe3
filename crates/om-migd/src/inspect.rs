//! What the job on this node is doing, from `/proc` and its cgroup.

use std::fs;
use std::path::Path;

use nix::unistd::Pid;
use om_proto::cgroup::{Limits, Whose};

use crate::cgroup::Cgroup;

/// A job's processes at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Tasks that are runnable.
    pub runnable: u32,
    /// Resident bytes; memory that processes share counts once for each.
    pub rss_bytes: u64,
    /// Threads.
    pub threads: u32,
}

/// Bytes of a page of memory.
#[must_use]
pub fn page_size() -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    u64::try_from(page).unwrap_or(4096)
}

/// Looks at every process of the job. A process that leaves meanwhile is not counted.
#[must_use]
pub fn activity(cgroup: &Cgroup) -> Activity {
    let page = page_size();
    let mut sum = Activity::default();
    for pid in cgroup.processes() {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let resident: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
        sum.rss_bytes += resident * page;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            sum.threads += 1;
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The name may contain anything, a closing parenthesis too: the last one counts.
            if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R')) {
                sum.runnable += 1;
            }
        }
    }
    sum
}

/// The children of a process.
#[must_use]
pub fn children(parent: Pid) -> Vec<Pid> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let its = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        its == Some(parent.as_raw())
    };
    pids.filter(is_child).map(Pid::from_raw).collect()
}

/// Whether a process is stopped by a signal (or a debugger).
#[must_use]
pub fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// Microseconds since 1970 by this node's clock.
#[must_use]
pub fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Memory that a job can have here without swapping, the limits of this process's cgroups considered, bytes; none if this
/// node does not say.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free_kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let limit = Limits::find(Whose::Process, Path::new("/proc"), Path::new("/")).memory();
    Some(limit.map_or(free_kib, |limit| free_kib.min(limit.available_kib)) * 1024)
}
