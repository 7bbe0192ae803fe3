//! A job's cgroup: the v2 freezer is the only thing that stops and starts a job as a whole, and the only thing that
//! kills it as a whole. It needs no controllers, so a bare cgroup v2 beside v1 will do.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::preamble::JobId;

/// How long the kernel may take to freeze a job before we say that it cannot.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);

/// The job that a cgroup with this name is of.
#[must_use]
pub fn job_of(name: &OsStr) -> Option<JobId> {
    name.to_str()?.strip_prefix("om-")?.split_once('-')?.0.parse().ok()
}

/// The cgroup of one stay of a job on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
    /// The link that tells of it.
    link: Option<PathBuf>,
}

/// CPU time used in a cgroup, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In user mode.
    pub user_us: u64,
    /// In the kernel.
    pub system_us: u64,
}

impl Cgroup {
    /// Makes the cgroup of a job's stay, and a link in `links` that tells where it is: it may be anywhere, and has to be
    /// found if the keeper is killed.
    pub fn create(parent: &Path, job: JobId, epoch: u64, links: &Path) -> io::Result<Self> {
        let name = format!("om-{job}-{epoch}");
        let (path, link) = (parent.join(&name), links.join(&name));
        let made = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io::Error::new(
                error.kind(),
                format!("cannot make the cgroup {}: {error}", path.display()),
            )),
            _ => Ok(()),
        };
        made(std::os::unix::fs::symlink(&path, &link))?;
        made(fs::create_dir(&path)).inspect_err(|_| drop(fs::remove_file(&link)))?;
        Ok(Self { path, link: Some(link) })
    }

    /// One that exists.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path, link: None }
    }

    /// One that such a link tells of.
    pub fn linked(link: PathBuf) -> io::Result<Self> {
        Ok(Self { path: fs::read_link(&link)?, link: Some(link) })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does `work`, during which processes can be put into this cgroup without delay.
    ///
    /// The first process that is moved between cgroups waits for a grace period of RCU, some ten milliseconds; others that
    /// follow soon do not (`cgroup_threadgroup_rwsem` in the kernel's `cgroup.c`). So we go first, again and again, from our own
    /// cgroup to the same one.
    pub fn kept_open<T>(&self, work: impl FnOnce() -> T) -> T {
        const SOON: Duration = Duration::from_millis(3);
        let (done, until) = crossbeam_channel::bounded::<()>(0);
        std::thread::scope(|scope| {
            if let Some(own) = self.own_group() {
                let go_first = move || {
                    while fs::write(own.join("cgroup.procs"), "0").is_ok()
                        && until.recv_timeout(SOON) == Err(RecvTimeoutError::Timeout)
                    {}
                };
                // Without it the work takes longer, and that is all.
                let _ = Builder::new().name("way in".to_owned()).spawn_scoped(scope, go_first);
            }
            let result = work();
            drop(done);
            result
        })
    }

    /// The cgroup of this process, in the same tree.
    fn own_group(&self) -> Option<PathBuf> {
        let has_processes = |path: &&Path| path.join("cgroup.procs").exists();
        let root = self.path.ancestors().take_while(has_processes).last()?;
        let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
        let own = root.join(own.trim_start_matches('/'));
        // In a container the names may be others than here.
        let is_ours = Self::at(own.clone()).processes().contains(&Pid::this());
        is_ours.then_some(own)
    }

    /// Freezes the job and waits until nothing of it runs.
    pub fn freeze(&self) -> io::Result<()> {
        self.hold()?;
        let deadline = Instant::now() + FREEZE_LIMIT;
        let mut pause = Duration::from_micros(100);
        while !self.is_frozen()? {
            if Instant::now() > deadline {
                self.thaw()?;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the kernel cannot freeze the job: a process is in an uninterruptible wait",
                ));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Begins to freeze the job: none of its processes gets any further in its own program.
    pub fn hold(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.freeze"), "1")
    }

    /// Lets the job run again. Success if it ran already.
    pub fn thaw(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.freeze"), "0")
    }

    /// Whether every process in it is frozen.
    pub fn is_frozen(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.path.join("cgroup.events"))?.lines().any(|line| line == "frozen 1"))
    }

    /// Kills every process in it, frozen or not.
    pub fn kill(&self) {
        if fs::write(self.path.join("cgroup.kill"), "1").is_err() {
            for pid in self.processes() {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// The processes in it; empty if it is gone.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        let list = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect()
    }

    /// CPU time that was used in it.
    #[must_use]
    pub fn cpu_time(&self) -> CpuTime {
        let stat = fs::read_to_string(self.path.join("cpu.stat")).unwrap_or_default();
        let value = |key: &str| {
            stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()).unwrap_or_default()
        };
        CpuTime { user_us: value("user_usec "), system_us: value("system_usec ") }
    }

    /// Kills what is left and removes the directory; waits a moment for the dead to leave.
    pub fn remove(&self) {
        let forget = || self.link.iter().for_each(|link| drop(fs::remove_file(link)));
        for attempt in 0..200 {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return forget(),
                Ok(()) => return forget(),
                Err(_) if attempt % 20 == 0 => self.kill(),
                Err(_) => {}
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        log::warn!("cannot remove the cgroup {}: something in it does not die", self.path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_jobs_cgroup_is_recognised() {
        let job = JobId([7; 16]);
        assert_eq!(job_of(OsStr::new(&format!("om-{job}-3"))), Some(job));
        assert_eq!(job_of(OsStr::new("om-guests")), None);
        assert_eq!(job_of(OsStr::new("user.slice")), None);
    }
}
