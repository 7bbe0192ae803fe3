//! Runs CRIU. It is a program to us, never a library, and once it has begun it is never killed: of 82 kills in
//! mid-dump 7 left a process dead or wedged. Its own time-out is all that ends it early.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Gid, Pid, Uid};

use crate::cgroup::Cgroup;
use crate::confines::Confines;
use crate::hook;
use crate::launcher::Launcher;
use crate::nest::IMAGES;
use crate::{inspect, stay, sys};

/// Where `scripts/setup` puts a CRIU of its own.
const OWN_PREFIX: &str = "/opt/om/sbin/criu";
/// The first descriptor number that restored streams are handed over at.
const FIRST_INHERITED: RawFd = 200;
/// The largest pipe that CRIU uses to hand out pages, bytes.
const PIPE_SIZE: u64 = 8 << 20;
/// The Linux capability to exceed resource limits.
const CAP_SYS_RESOURCE: u32 = 24;

/// What CRIU said when it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no CRIU on this node.
    #[error("no criu here: install it, or name it in the configuration (criu = \"/path\")")]
    Missing,
    /// It could not be started. The job is unchanged.
    #[error("cannot run {0}: {1}")]
    Spawn(PathBuf, io::Error),
    /// It ran and failed; its first error line. The job is unchanged.
    #[error("criu {action}: {message}")]
    Failed {
        /// `dump`, `restore`, `page-server`, `lazy-pages` or `check`.
        action: &'static str,
        /// The first error in its log.
        message: String,
    },
}

/// A CRIU on this node, to be run in one nest.
#[derive(Debug)]
pub struct Criu<'a> {
    /// The program.
    pub program: &'a Path,
    /// The nest's mount namespace.
    pub namespace: BorrowedFd<'a>,
    /// The nest's image directory.
    pub images: BorrowedFd<'a>,
    /// The job's user and group.
    pub ids: (Uid, Gid),
    /// Whose limits hold for it too, since what it makes is the job's.
    pub confines: Option<&'a Confines>,
}

/// Where a dump leaves the job's memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// What a page server, or who fetches pages, is at the other end of.
    pub pages: BorrowedFd<'a>,
    /// If the memory is to be fetched: a byte is written here when all the rest is dumped.
    pub dumped: Option<BorrowedFd<'a>>,
}

/// A descriptor that the job has from outside: CRIU's name for it, and the new one on restore.
pub type External = (String, OwnedFd);

/// Finds CRIU: as configured, `$OM_CRIU`, the own prefix, `$PATH`.
pub fn find(configured: Option<&Path>) -> Result<PathBuf, Error> {
    let named = configured.map(Path::to_owned).or_else(|| std::env::var_os("OM_CRIU").map(PathBuf::from));
    if let Some(path) = named {
        return if path.is_file() { Ok(path) } else { Err(Error::Missing) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = vec![PathBuf::from(OWN_PREFIX)];
    candidates.extend(std::env::split_paths(&path).map(|directory| directory.join("criu")));
    candidates.extend(["/usr/sbin/criu".into(), "/usr/local/sbin/criu".into()]);
    candidates.into_iter().find(|candidate| candidate.is_file()).ok_or(Error::Missing)
}

/// A restore that may be under way, and what fetches its memory. They are the only work of CRIU's that is ever killed: a job
/// that is not going to run here has nothing to lose, and CRIU has been seen to wait for ever where a full file system had taken
/// one of its own, or for a restore that had failed.
#[derive(Clone, Debug, Default)]
pub struct Restoring(Arc<Mutex<Progress>>);

/// How far it is.
#[derive(Debug, Default)]
struct Progress {
    /// CRIU, while it runs.
    running: Vec<Pid>,
    /// Where somebody waits for it.
    awaited: Option<OwnedFd>,
    /// It is not wanted any more.
    ended: bool,
}

impl Restoring {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits for it at this socket, and waits no longer once it has ended.
    pub fn watch(&self, socket: OwnedFd) {
        self.lock().awaited = Some(socket);
    }

    /// Kills it, and what it has restored so far; one that has not begun does not begin.
    pub fn end(&self) {
        let mut progress = self.lock();
        progress.ended = true;
        if let Some(socket) = progress.awaited.take() {
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
        for pid in &progress.running {
            log::warn!("criu (pid {pid}) is killed: what it restores is not wanted any more");
            let restored = inspect::children(*pid);
            for victim in std::iter::once(*pid).chain(restored) {
                let _ = kill(victim, Signal::SIGKILL);
            }
        }
    }

    /// Runs what this starts so that it can be ended.
    fn run(&self, start: impl FnOnce() -> io::Result<Child>) -> io::Result<ExitStatus> {
        let mut progress = self.lock();
        if progress.ended {
            return Err(io::Error::other("the move has been given up"));
        }
        let mut child = start()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        progress.running.push(pid);
        drop(progress);
        // Not reaped before nobody can kill it any more: the pid could be another's.
        let exited = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(pid), exited) == Err(Errno::EINTR) {}
        self.lock().running.retain(|running| *running != pid);
        child.wait()
    }
}

impl Criu<'_> {
    /// Dumps a frozen job: its memory to where `memory` says, the rest into the image directory. It stays frozen.
    /// `externals` are CRIU's names of its outside descriptors.
    pub fn dump(
        &self,
        init: Pid,
        cgroup: &Cgroup,
        externals: &[String],
        memory: Memory<'_>,
    ) -> Result<(), Error> {
        let mut command = self.command("dump");
        command.arg("--tree").arg(init.to_string()).arg("--freeze-cgroup").arg(cgroup.path());
        command.args([
            "--manage-cgroups=ignore",
            "--leave-running",
            "--network-lock",
            "skip",
            "--file-locks",
        ]);
        command.arg("--ghost-limit").arg(stay::DELETED_FILE_LIMIT.to_string());
        for external in externals {
            command.arg("--external").arg(external);
        }
        let mut fds = vec![(memory.pages, FIRST_INHERITED)];
        command.arg("--ps-socket").arg(FIRST_INHERITED.to_string());
        match memory.dumped {
            None => drop(command.arg("--page-server")),
            Some(dumped) => {
                let number = FIRST_INHERITED + 1;
                command.arg("--lazy-pages").arg("--status-fd").arg(number.to_string());
                fds.push((dumped, number));
            }
        }
        self.run(command, "dump", &fds)
    }

    /// Fetches the memory of a job that is restored with `follows` from the dump at the other end of `pages`. A byte is
    /// written to `ready` when the restore may begin. Returns when all of it has come.
    pub fn fetch_pages(
        &self,
        pages: BorrowedFd<'_>,
        ready: BorrowedFd<'_>,
        restoring: &Restoring,
    ) -> Result<(), Error> {
        let mut command = self.command("lazy-pages");
        command.arg("--page-server").arg("--ps-socket").arg(FIRST_INHERITED.to_string());
        command.arg("--status-fd").arg((FIRST_INHERITED + 1).to_string());
        let fds = [(pages, FIRST_INHERITED), (ready, FIRST_INHERITED + 1)];
        self.run_by(command, "lazy-pages", &fds, |command| restoring.run(|| command.spawn()))
    }

    /// Serves pages: writes what a dump at the other end of `pages` sends into the image directory. Returns when that has
    /// said that it is done, or is gone.
    pub fn serve_pages(&self, pages: BorrowedFd<'_>) -> Result<(), Error> {
        let mut command = self.command("page-server");
        command.arg("--ps-socket").arg(FIRST_INHERITED.to_string());
        self.run(command, "page-server", &[(pages, FIRST_INHERITED)])
    }

    /// Restores the job from the image directory, frozen, and returns its PID 1. If its memory follows, somebody must be
    /// fetching it already. `launcher` becomes CRIU.
    pub fn restore(
        &self,
        cgroup: &Cgroup,
        externals: &[External],
        follows: bool,
        restoring: &Restoring,
        launcher: Launcher,
    ) -> Result<Pid, Error> {
        let mut command = self.command("restore");
        if follows {
            command.arg("--lazy-pages");
        }
        command.args(["--manage-cgroups=ignore", "--restore-detached", "--file-locks", "--pidfile", "pid"]);
        // The action script must be a path in the nest: our own executable, even if its file was replaced.
        command.arg("--action-script").arg(format!("/proc/{}/exe", std::process::id()));
        command.env(hook::CGROUP, cgroup.path());
        let mut fds = Vec::new();
        for (number, (name, fd)) in (FIRST_INHERITED..).zip(externals) {
            command.arg("--inherit-fd").arg(format!("fd[{number}]:{name}"));
            fds.push((fd.as_fd(), number));
        }
        self.judge("restore", restoring.run(|| launcher.become_program(&command, &fds)))?;
        let failed = |message: String| Error::Failed { action: "restore", message };
        let pid =
            fs::read_to_string(self.image("pid")).map_err(|error| failed(format!("no pid file: {error}")))?;
        pid.trim().parse().map(Pid::from_raw).map_err(|_| failed(format!("odd pid file {pid:?}")))
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(self.program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.arg(action).args(["--images-dir", IMAGES, "--no-default-config"]);
        command.args(["-v2", "--log-file"]).arg(format!("{action}.log"));
        command
    }

    fn run(
        &self,
        command: Command,
        action: &'static str,
        fds: &[(BorrowedFd<'_>, RawFd)],
    ) -> Result<(), Error> {
        self.run_by(command, action, fds, Command::status)
    }

    fn run_by(
        &self,
        mut command: Command,
        action: &'static str,
        fds: &[(BorrowedFd<'_>, RawFd)],
        run: impl FnOnce(&mut Command) -> io::Result<ExitStatus>,
    ) -> Result<(), Error> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let entrances = self.confines.map_or(Ok(Vec::new()), Confines::entrances_for_criu);
        let entrances = entrances.map_err(|error| Error::Spawn(self.program.to_owned(), error))?;
        sys::prepare(
            &mut command,
            &sys::ChildSetup {
                fds: fds.to_vec(),
                mount_namespace: Some(self.namespace),
                real_ids: real_ids(self.ids),
                own_session: false,
                entrances: entrances.iter().map(AsFd::as_fd).collect(),
            },
        );
        let ended = run(&mut command);
        self.judge(action, ended)
    }

    /// Says why, if it has failed.
    fn judge(&self, action: &'static str, ended: io::Result<ExitStatus>) -> Result<(), Error> {
        let status = ended.map_err(|error| Error::Spawn(self.program.to_owned(), error))?;
        if status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(self.image(&format!("{action}.log"))).unwrap_or_default();
        for line in log.lines().filter(|line| line.contains("Error (")) {
            log::debug!("{line}");
        }
        log::trace!("criu {action} ended with {status}:\n{log}");
        Err(Error::Failed { action, message: first_error(&log).unwrap_or_else(|| status.to_string()) })
    }

    fn image(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.images.as_raw_fd()))
    }
}

/// The first line of CRIU's log that names an error, without time stamp and source position.
fn first_error(log: &str) -> Option<String> {
    // Without CAP_SYS_RESOURCE it first complains that it cannot raise its own limit, and goes on.
    let is_error = |line: &&str| line.contains("Error (") && !line.contains("RLIMIT_NOFILE for self");
    let line = log.lines().find(is_error)?;
    let message = line.split_once("): ").map_or(line, |(_, message)| message);
    Some(message.trim().to_owned())
}

/// The real ids of a CRIU for a job of `ids`, if they must be others than ours: without CAP_SYS_RESOURCE it can dump and restore
/// an ordinary user's job only with the user's.
#[must_use]
pub fn real_ids(ids: (Uid, Gid)) -> Option<(Uid, Gid)> {
    (!may_exceed_limits()).then_some(ids)
}

/// Whether this process has CAP_SYS_RESOURCE.
fn may_exceed_limits() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> CAP_SYS_RESOURCE & 1 == 1)
}

/// Whether a job's memory can follow it: the kernel tells page faults to user space, and CRIU may have pipes of the size
/// in which it hands pages out.
#[must_use]
pub fn can_follow(program: &Path) -> bool {
    let pipe_size = fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap_or_default();
    let has_pipes = may_exceed_limits() || pipe_size.trim().parse().is_ok_and(|size: u64| size >= PIPE_SIZE);
    let mut command = Command::new(program);
    command.env_clear().args(["check", "--no-default-config", "--feature", "uffd-noncoop"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    has_pipes && command.status().is_ok_and(|status| status.success())
}

/// Lets CRIU find out about this kernel once and keeps what it found, so that each later run saves some 40 ms. Must
/// run in a mount namespace whose `/run` is a tmpfs.
pub fn check(program: &Path) -> Result<(), Error> {
    let mut command = Command::new(program);
    command.env_clear().arg("check").arg("--no-default-config").stdin(Stdio::null());
    let output = command.output().map_err(|error| Error::Spawn(program.to_owned(), error))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::Failed {
        action: "check",
        message: first_error(&text).unwrap_or_else(|| output.status.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_that_hangs_is_ended_with_what_it_has_restored_and_what_fetches_memory_for_it() {
        let restoring = Restoring::default();
        let other = restoring.clone();
        let fetching = std::thread::spawn(move || other.run(|| Command::new("sleep").arg("1000").spawn()));
        while restoring.lock().running.is_empty() {
            std::thread::yield_now();
        }
        let other = restoring.clone();
        let hanging = std::thread::spawn(move || {
            other.run(|| Command::new("sh").args(["-c", "sleep 1000 & wait"]).spawn())
        });
        let restored = loop {
            let pid = restoring.lock().running.get(1).copied();
            match pid.map(inspect::children).unwrap_or_default()[..] {
                [child] => break child,
                _ => std::thread::yield_now(),
            }
        };
        restoring.end();
        assert!(!hanging.join().unwrap().unwrap().success());
        assert!(!fetching.join().unwrap().unwrap().success());
        // It is somebody else's to reap.
        let ended = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
        while fs::read_to_string(format!("/proc/{restored}/stat")).is_ok_and(|stat| !ended(stat)) {
            std::thread::yield_now();
        }
        assert!(restoring.run(|| Command::new("true").spawn()).is_err(), "it begins after its end");
    }

    #[test]
    fn the_first_error_is_told_without_its_decoration() {
        let log = "(00.01) Warn  (criu/x.c:1): hm\n(00.02) Error (criu/sk-inet.c:191): inet: Connected TCP socket\n(00.02) Error (criu/cr-dump.c:1): Dumping FAILED.\n";
        assert_eq!(first_error(log).as_deref(), Some("inet: Connected TCP socket"));
    }
}
