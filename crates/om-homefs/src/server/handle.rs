//! The files and directories that a guest has open.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::poison::lock;

/// Open files and directories that a session may hold.
const LIMIT: usize = 1 << 16;

/// Something that the guest has open.
#[derive(Debug)]
pub(super) enum Handle {
    File(File),
    Directory(Directory),
    /// A directory that guests must not look into: it has no entries.
    Veiled,
}

/// A regular file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) fd: OwnedFd,
    /// Whether a flock(2) is held by it.
    pub(super) flocked: AtomicBool,
}

/// A directory, and from where its descriptor goes on reading; locked while it is read.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    pub(super) position: Mutex<u64>,
}

/// The handles of one session.
#[derive(Debug, Default)]
pub(super) struct Handles {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Handle>>,
    last: u64,
}

impl Handles {
    /// Keeps something open, under the number that is returned.
    pub(super) fn insert(&self, handle: Handle) -> Result<u64, Errno> {
        let mut table = lock(&self.table);
        if table.open.len() >= LIMIT {
            return Err(Errno::ENFILE);
        }
        table.last += 1;
        let number = table.last;
        table.open.insert(number, Arc::new(handle));
        Ok(number)
    }

    /// What is open under this number, or ESTALE.
    pub(super) fn get(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        lock(&self.table).open.get(&number).cloned().ok_or(Errno::ESTALE)
    }

    /// Closes it once nobody uses it any more.
    pub(super) fn remove(&self, number: u64) {
        let removed = lock(&self.table).open.remove(&number);
        // Closing may take its time, on a network file system say: not under the lock.
        drop(removed);
    }

    pub(super) fn clear(&self) {
        let open = std::mem::take(&mut lock(&self.table).open);
        drop(open);
    }

    /// How many open files hold a flock(2).
    pub(super) fn flocks_held(&self) -> usize {
        let held = |handle: &Arc<Handle>| match &**handle {
            Handle::File(file) => file.flocked.load(Ordering::Relaxed),
            _ => false,
        };
        lock(&self.table).open.values().filter(|handle| held(handle)).count()
    }
}

impl Handle {
    /// The file, or EBADF.
    pub(super) fn file(&self) -> Result<&File, Errno> {
        match self {
            Handle::File(file) => Ok(file),
            _ => Err(Errno::EBADF),
        }
    }
}

impl File {
    pub(super) fn new(fd: OwnedFd) -> File {
        File { fd, flocked: AtomicBool::new(false) }
    }
}

/// The path by which this process can name a file that it has a descriptor of, deleted or not.
pub(super) fn path_of(file: impl AsFd) -> Result<CString, Errno> {
    CString::new(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())).map_err(|_| Errno::EINVAL)
}

/// Opens the file behind a descriptor anew, with this thread's credentials.
pub(super) fn reopen(file: impl AsFd, flags: OFlag) -> Result<OwnedFd, Errno> {
    open(path_of(file)?.as_c_str(), flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())
}
