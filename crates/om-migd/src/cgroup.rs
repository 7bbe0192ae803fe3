//! A job's cgroup: the v2 freezer is the only thing that stops and starts a job as a whole, and the only thing that
//! kills it as a whole. It needs no controllers, so a bare cgroup v2 beside v1 will do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long the kernel may take to freeze a job before we say that it cannot.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);

/// Where this process's own cgroup v2 directory is. Mounts cgroup2 below `run_dir` if it is mounted nowhere.
pub fn own_directory(run_dir: &Path) -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let root = match mounts.lines().find_map(cgroup2_mount_point) {
        Some(path) => path,
        None => {
            let path = run_dir.join("cgroup");
            fs::create_dir_all(&path)?;
            mount(Some("om"), &path, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
            path
        }
    };
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let own = membership.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(root.join(own.trim_start_matches('/')))
}

/// The mount point in this line of mountinfo if it is a cgroup2 mount.
fn cgroup2_mount_point(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    filesystem.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
}

/// The cgroup of one stay of a job on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
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
    /// Makes the cgroup, frozen or not.
    pub fn create(parent: &Path, name: &str) -> io::Result<Self> {
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io::Error::new(
                error.kind(),
                format!("cannot make the cgroup {}: {error}", path.display()),
            )),
            _ => Ok(Self { path }),
        }
    }

    /// One that exists.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Freezes the job and waits until nothing of it runs.
    pub fn freeze(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.freeze"), "1")?;
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
        for attempt in 0..200 {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Ok(()) => return,
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
    fn a_cgroup2_mount_is_recognised_beside_v1() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu";
        let v2 = "39 25 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount_point(v1), None);
        assert_eq!(cgroup2_mount_point(v2), Some("/sys/fs/cgroup/unified".into()));
    }
}
