//! Who started a job and how its process stands: taken from the kernel, never from what the caller says.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid, isatty};

use crate::nest::Credentials;
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
}

impl Caller {
    /// Looks at the other end of the socket.
    pub fn of(socket: &UnixStream) -> io::Result<Self> {
        let peer = getsockopt(socket, sockopt::PeerCredentials)?;
        let pid = Pid::from_raw(peer.pid());
        if peer.pid() == 0 {
            return Err(io::Error::other("the caller is in another pid namespace"));
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let groups = field("Groups:").unwrap_or_default();
        let cpus = sched_getaffinity(pid)?;
        Ok(Self {
            pid,
            credentials: Credentials {
                uid: peer.uid(),
                gid: peer.gid(),
                groups: groups.split_whitespace().filter_map(|group| group.parse().ok()).collect(),
            },
            umask: field("Umask:").and_then(|mask| u32::from_str_radix(mask, 8).ok()).unwrap_or(0o022),
            nice: sys::nice_of(pid)?,
            limits: limits::of(pid)?,
            cpus: (0..CpuSet::count())
                .filter(|cpu| cpus.is_set(*cpu) == Ok(true))
                .filter_map(|cpu| u32::try_from(cpu).ok())
                .collect(),
        })
    }
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
