//! Periodic timers with a descriptor (timerfd) that CRIU brings back dead.
//!
//! The kernel starts the next period of such a timer when its expiry is read. One that had expired and was not read yet
//! when the job was frozen shows no time that is left, and CRIU arms it for that: never. So each of them in the
//! restored, frozen job is made to expire at once, and given back the expiries that it had.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::sys;

/// A timer that has expired and waits to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expired {
    /// Expiries that were not read.
    ticks: u64,
    /// Its period: seconds, nanoseconds.
    interval: (i64, i64),
}

/// Sets every such timer of a frozen job going again. Of one that cannot be, the log tells.
pub fn revive(cgroup: &Cgroup) {
    for pid in cgroup.processes() {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let is_timer =
                fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[timerfd]");
            let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()).filter(|_| is_timer)
            else {
                continue;
            };
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
            if let Some(expired) = Expired::parse(&info)
                && let Err(error) = expired.revive(pid, fd)
            {
                log::warn!("a timer of process {pid} stands still after the move: {error}");
            }
        }
    }
}

impl Expired {
    /// From the timer's fdinfo; none if it goes on by itself or was never to.
    fn parse(info: &str) -> Option<Self> {
        let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let pair = |key| {
            let (seconds, nanoseconds) =
                value(key)?.strip_prefix('(')?.strip_suffix(')')?.split_once(", ")?;
            Some((seconds.parse::<i64>().ok()?, nanoseconds.parse::<i64>().ok()?))
        };
        let (ticks, interval) = (value("ticks:")?.parse().ok()?, pair("it_interval:")?);
        (ticks > 0 && interval != (0, 0) && pair("it_value:")? == (0, 0)).then_some(Self { ticks, interval })
    }

    fn revive(&self, pid: Pid, fd: i32) -> io::Result<()> {
        let timer = sys::descriptor_of(pid, fd)?;
        sys::expire_timer(timer.as_fd(), self.interval)?;
        sys::set_timer_ticks(timer.as_fd(), self.ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_periodic_timer_that_was_not_read_is_dead() {
        let info = |ticks, value, interval| {
            format!(
                "pos:\t0\nflags:\t02\nclockid: 1\nticks: {ticks}\nsettime flags: 00\nit_value: {value}\nit_interval: {interval}\n"
            )
        };
        let dead = Expired::parse(&info(3, "(0, 0)", "(0, 20000000)"));
        assert_eq!(dead, Some(Expired { ticks: 3, interval: (0, 20_000_000) }));
        assert_eq!(Expired::parse(&info(3, "(0, 5)", "(0, 20000000)")), None);
        assert_eq!(Expired::parse(&info(1, "(0, 0)", "(0, 0)")), None);
        assert_eq!(Expired::parse(&info(0, "(0, 0)", "(1, 0)")), None);
        assert_eq!(Expired::parse("pos:\t0\n"), None);
    }
}
