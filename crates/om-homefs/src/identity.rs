//! On whose behalf files are touched: the job's user, taken on by one thread at a time.
//!
//! The keeper is root and has many threads. A thread that answers file requests becomes the job's user as
//! far as files go, for good, and no other thread notices: file system uid and gid, supplementary groups,
//! no capability, and a umask and working directory of its own. Its real and effective ids stay root's, so
//! that the job's user can neither signal nor trace it.

use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};

use crate::sys::{self, Capabilities};

/// Whose files these are: the credentials with which every request is executed at home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id of the job.
    pub uid: u32,
    /// Primary group id of the job.
    pub gid: u32,
    /// Supplementary group ids of the job.
    pub groups: Vec<u32>,
}

impl Identity {
    /// Does `work` in a thread that acts as this identity on files. What it waits for, the caller waits for.
    ///
    /// # Errors
    /// If the thread cannot be started or cannot become this identity; then `work` was not begun.
    pub fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let acting = || {
                self.assume()?;
                Ok(work())
            };
            let thread =
                std::thread::Builder::new().name("as the user".into()).spawn_scoped(scope, acting)?;
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that acts as the user broke off")))
        })
    }

    /// As [`Self::assume`], and whoever is at the other end of a Unix socket that the thread writes to sees this identity too.
    /// From then on its user can end the process with a signal to the thread.
    pub fn assume_for_sockets(&self) -> io::Result<()> {
        sys::set_real_ids(self.uid, self.gid)?;
        self.assume()
    }

    /// Makes the calling thread act as this identity on files, until the thread ends.
    ///
    /// On an error the thread may have changed in part and must not execute anything.
    pub fn assume(&self) -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        umask(Mode::empty());
        sys::set_groups(&self.groups)?;
        sys::set_fs_gid(self.gid)?;
        sys::set_fs_uid(self.uid)?;
        sys::set_capabilities(self.capabilities(), Capabilities::READ_ANY)?;
        Ok(())
    }

    /// What the job may use all the time.
    fn capabilities(&self) -> Capabilities {
        if self.uid == 0 { Capabilities::FILES } else { Capabilities::NONE }
    }
}

/// Runs `work` with the right to read any file, which a thread that has assumed an identity keeps for this
/// alone: nothing that a guest asks for is ever done inside.
pub(crate) fn reading_any<T>(work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let before = sys::effective_capabilities()?;
    if before.contains(Capabilities::READ_ANY) {
        return work();
    }
    sys::set_capabilities(before.with(Capabilities::READ_ANY), Capabilities::READ_ANY)?;
    let result = work();
    sys::set_capabilities(before, Capabilities::READ_ANY)?;
    result
}
