//! Resource limits: those of the caller are those of its job.

use std::fs;
use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// The resources, with their names in `/proc/$pid/limits` (prlimit(2) on another user's process would take
/// CAP_SYS_RESOURCE, which containers lack).
const RESOURCES: [(Resource, &str); 16] = [
    (Resource::RLIMIT_AS, "Max address space"),
    (Resource::RLIMIT_CORE, "Max core file size"),
    (Resource::RLIMIT_CPU, "Max cpu time"),
    (Resource::RLIMIT_DATA, "Max data size"),
    (Resource::RLIMIT_FSIZE, "Max file size"),
    (Resource::RLIMIT_LOCKS, "Max file locks"),
    (Resource::RLIMIT_MEMLOCK, "Max locked memory"),
    (Resource::RLIMIT_MSGQUEUE, "Max msgqueue size"),
    (Resource::RLIMIT_NICE, "Max nice priority"),
    (Resource::RLIMIT_NOFILE, "Max open files"),
    (Resource::RLIMIT_NPROC, "Max processes"),
    (Resource::RLIMIT_RSS, "Max resident set"),
    (Resource::RLIMIT_RTPRIO, "Max realtime priority"),
    (Resource::RLIMIT_RTTIME, "Max realtime timeout"),
    (Resource::RLIMIT_SIGPENDING, "Max pending signals"),
    (Resource::RLIMIT_STACK, "Max stack size"),
];

/// Soft and hard limits of a process, in the order of an inner table: for [`apply`].
pub fn of(pid: Pid) -> io::Result<Vec<(u64, u64)>> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    Ok(RESOURCES
        .iter()
        .map(|(_, name)| parse(&text, name).unwrap_or((RLIM_INFINITY, RLIM_INFINITY)))
        .collect())
}

fn parse(text: &str, name: &str) -> Option<(u64, u64)> {
    let mut values = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
    let mut value = || match values.next()? {
        "unlimited" => Some(RLIM_INFINITY),
        number => number.parse().ok(),
    };
    Some((value()?, value()?))
}

/// Gives this process limits that [`of`] returned. One that cannot be raised so far is raised as far as it can be.
pub fn apply(limits: &[(u64, u64)]) -> io::Result<()> {
    for ((resource, name), (soft, hard)) in RESOURCES.iter().zip(limits) {
        if setrlimit(*resource, *soft, *hard).is_err() {
            let (_, most) = getrlimit(*resource)?;
            setrlimit(*resource, (*soft).min(most), (*hard).min(most))
                .map_err(|errno| io::Error::other(format!("cannot set the limit {name:?}: {errno}")))?;
        }
    }
    Ok(())
}

/// The most that a guest may have of a resource with this number (`RLIMIT_…`), if that is limited: what would put it before
/// the node's own work, real-time priority and nice values below 0.
#[must_use]
pub fn most_of_guest(resource: u32) -> Option<u64> {
    /// RLIMIT_NICE is 20 less the nice value.
    const NICE_0: u64 = 20;
    match resource {
        libc::RLIMIT_RTPRIO => Some(0),
        libc::RLIMIT_NICE => Some(NICE_0),
        _ => None,
    }
}

/// What another node asks for a guest, or as much of it as it may have ([`most_of_guest`]). None if these are not limits as
/// [`of`] returns them.
#[must_use]
pub fn of_guest(mut limits: Vec<(u64, u64)>) -> Option<Vec<(u64, u64)>> {
    if limits.len() != RESOURCES.len() || limits.iter().any(|(soft, hard)| soft > hard) {
        return None;
    }
    for ((resource, _), (soft, hard)) in RESOURCES.iter().zip(&mut limits) {
        if let Some(most) = most_of_guest(*resource as u32) {
            (*soft, *hard) = ((*soft).min(most), (*hard).min(most));
        }
    }
    Some(limits)
}

/// Whether tasks that are scheduled so (`SCHED_…`) run before all that are not.
#[must_use]
pub fn is_real_time(policy: u64) -> bool {
    [libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE]
        .iter()
        .any(|real| i64::from(*real).cast_unsigned() == policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(parse(text, "Max open files"), Some((1024, 524_288)));
        assert_eq!(parse(text, "Max cpu time"), Some((RLIM_INFINITY, RLIM_INFINITY)));
        assert_eq!(parse(text, "Max stack size"), None);
    }

    #[test]
    fn our_own_limits_can_be_read_and_given_again() {
        let limits = of(nix::unistd::getpid()).unwrap();
        assert_eq!(limits.len(), RESOURCES.len());
        apply(&limits).unwrap();
    }

    #[test]
    fn a_guest_gets_no_real_time_and_no_priority_above_the_nodes_own_work() {
        let all = of_guest(vec![(99, RLIM_INFINITY); RESOURCES.len()]).unwrap();
        let of = |wanted: &str| all[RESOURCES.iter().position(|(_, name)| *name == wanted).unwrap()];
        assert_eq!(of("Max realtime priority"), (0, 0));
        assert_eq!(of("Max nice priority"), (20, 20));
        assert_eq!(of("Max open files"), (99, RLIM_INFINITY));
    }

    #[test]
    fn what_are_no_limits_is_not_taken_from_another_node() {
        assert_eq!(of_guest(Vec::new()), None);
        assert_eq!(of_guest(vec![(1, 1); RESOURCES.len() + 1]), None);
        assert_eq!(of_guest(vec![(2, 1); RESOURCES.len()]), None);
    }
}
