//! Who started a job and how its process stands: taken from the kernel, never from what the caller says.
//!
//! A job has no more than its caller has. Who it is the kernel remembers from the moment of connecting ([`Peer`]). All else
//! is read from `/proc`, where meanwhile another process may have the caller's pid, or the caller may run a set-user-id
//! program: so what is found there counts only if all user ids of that process are the caller's. What the caller is
//! confined by and a job cannot be (a system call filter, other mounts) is a reason to refuse.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid, isatty};

use crate::nest::{Credentials, ROOT};
use crate::peer::Peer;
use crate::stdio::StreamKind;
use crate::{limits, sys};

/// The process that runs `om run`.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its pid in this pid namespace.
    pub pid: Pid,
    /// Its user and groups.
    pub credentials: Credentials,
    /// Its file mode mask.
    pub umask: u32,
    /// Its nice value.
    pub nice: i32,
    /// Its resource limits, as [`limits::of`] returns them.
    pub limits: Vec<(u64, u64)>,
    /// The CPUs that it may use.
    pub cpus: Vec<u32>,
    /// The capabilities that it or a program that it starts may ever have, as a mask.
    pub bounding: u64,
    /// Whether programs that it starts gain nothing by being set-user-id.
    pub no_new_privileges: bool,
    /// How much the kernel prefers it when it has to kill for memory, -1000 to 1000.
    pub oom_score: i32,
}

impl Caller {
    /// Looks at the other end of the socket.
    ///
    /// # Errors
    /// One line for the user: the caller has gone, or is confined in a way that its job would not be.
    pub fn of(socket: &UnixStream) -> io::Result<Self> {
        let Peer { pid, credentials } = Peer::of(socket)?;
        let status = Status::of(&pid.to_string())?;
        let cpus = sched_getaffinity(pid)?;
        let caller = Self {
            pid,
            umask: status.field("Umask").and_then(|mask| u32::from_str_radix(mask, 8).ok()).unwrap_or(0o022),
            nice: sys::nice_of(pid)?,
            limits: limits::of(pid)?,
            cpus: (0..CpuSet::count())
                .filter(|cpu| cpus.is_set(*cpu) == Ok(true))
                .filter_map(|cpu| u32::try_from(cpu).ok())
                .collect(),
            bounding: status.field("CapBnd").and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0),
            no_new_privileges: status.field("NoNewPrivs") != Some("0"),
            oom_score: fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?
                .trim()
                .parse()
                .map_err(io::Error::other)?,
            credentials,
        };
        if Status::of("self")?.filters() < status.filters() {
            return Err(io::Error::other(
                "om run is confined by a system call filter (seccomp), which its job would not be",
            ));
        }
        check_namespaces(pid)?;
        // Last, so that all of the above was this user's own process.
        if !Status::of(&pid.to_string())?.is_of(caller.credentials.uid) {
            return Err(io::Error::other("om run must have one user id: not from a set-user-id program"));
        }
        Ok(caller)
    }
}

/// A file `/proc/PID/status`.
struct Status(String);

impl Status {
    fn of(process: &str) -> io::Result<Self> {
        fs::read_to_string(format!("/proc/{process}/status")).map(Self)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// Whether real, effective, saved and file system user id are all this one.
    fn is_of(&self, uid: u32) -> bool {
        let uids = self.field("Uid").unwrap_or_default();
        uids.split_whitespace().count() == 4 && uids.split_whitespace().all(|found| found.parse() == Ok(uid))
    }

    /// How many system call filters there are. Kernels before 5.9 tell only whether there is one.
    fn filters(&self) -> u32 {
        let number = |name| self.field(name).and_then(|number| number.parse().ok());
        number("Seccomp_filters").or(number("Seccomp")).unwrap_or(0)
    }
}

/// A job sees this node's own files and network, so its caller must. One that is itself in a job has mounts of its own,
/// made by us, below the same root.
fn check_namespaces(pid: Pid) -> io::Result<()> {
    let refuse = |what: &str| {
        Err(io::Error::other(format!(
            "om run must be started outside of containers and sandboxes: this one has {what} of its own"
        )))
    };
    let in_a_job = fs::read_link(format!("/proc/{pid}/root"))? == Path::new(ROOT);
    for (name, what) in [("user", "a user namespace"), ("net", "a network"), ("mnt", "mounts")] {
        let is_own = fs::read_link(format!("/proc/{pid}/ns/{name}"))?
            == fs::read_link(format!("/proc/self/ns/{name}"))?;
        if !(is_own || name == "mnt" && in_a_job) {
            return refuse(what);
        }
    }
    let (root, own) = (fs::metadata(format!("/proc/{pid}/root"))?, fs::metadata("/")?);
    if (root.dev(), root.ino()) != (own.dev(), own.ino()) {
        return refuse("a root directory");
    }
    Ok(())
}

/// What a standard stream that the caller passed is.
pub fn kind_of(stream: BorrowedFd<'_>) -> StreamKind {
    if isatty(stream).unwrap_or(false) {
        return StreamKind::Terminal;
    }
    match (fstat(stream), nix::sys::stat::stat("/dev/null")) {
        (Ok(ours), Ok(null)) => {
            let is_device = SFlag::from_bits_truncate(ours.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR;
            if is_device && ours.st_rdev == null.st_rdev { StreamKind::Null } else { StreamKind::Pipe }
        }
        (Err(_), _) => StreamKind::Closed,
        _ => StreamKind::Pipe,
    }
}

/// Whether two descriptors are the same file in the same place, so that what is written to both must keep its order.
pub fn same_file(one: impl AsFd, other: impl AsFd) -> bool {
    match (fstat(one.as_fd()), fstat(other.as_fd())) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}
