//! The guest's side: carries what the kernel asks of the mount to home, and the answers back.
//!
//! A few threads read the FUSE device, each with a channel of its own to home: a request is read, sent,
//! answered and written back by one thread, and no lock is taken on the way. When all of them have been
//! waiting for home for a moment, another is started, up to a limit. A thread knows hardly anything of what it
//! carries; `worker` is all there is to it.
//!
//! While home cannot be reached, requests wait, as on a hard NFS mount, and connections are tried with a
//! growing pause. [`Session::close`] ends that: every request fails then, with EIO and later ENOTCONN.

mod channel;
mod device;
mod mount;
mod pool;
mod slots;
mod waiter;
mod worker;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::stream::Stream;

pub use crate::frame::Refused;
pub use mount::{MountOptions, mount_options, open_device};

use pool::Pool;

/// Opens connections to home. Called by several threads at once.
pub trait Connect: Send + Sync {
    /// Opens a new connection on which home serves this session's files, authenticated and blocking.
    ///
    /// Called again, after a pause, when it has failed. It should give up within a few seconds, for
    /// [`Session::close`] does not interrupt it. An error that holds [`Refused`] is final: the session closes itself.
    fn connect(&self) -> io::Result<Box<dyn Stream>>;
}

/// One mount's connection to home. Dropping it closes it.
pub struct Session {
    pool: Arc<Pool>,
}

impl Session {
    /// A session of the mount that is made with `device`; nothing happens before [`Session::run`].
    ///
    /// The mount fails at once when the session ends only if no other process or thread keeps a duplicate of
    /// the device open: a child that mounts must exit or close its own.
    pub fn new(device: OwnedFd, connector: Arc<dyn Connect>) -> io::Result<Session> {
        Ok(Session { pool: Arc::new(Pool::new(device, connector)?) })
    }

    /// Starts the threads that answer the mount's requests, and returns. To be called once it is mounted.
    pub fn run(&self) -> io::Result<()> {
        self.pool.start()
    }

    /// Whether it was closed, unmounted, or refused by home.
    pub fn is_over(&self) -> bool {
        self.pool.is_over()
    }

    /// Waits until everything that the mount holds back has reached home: what a job that is about to be moved
    /// wrote to shared mappings of files is in its node's page cache only. `root` is the mount's root or any
    /// file on it. Call it when the job is frozen; while it runs there is always more to come.
    pub fn flush(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        self.pool.flush(root)
    }

    /// Ends the session: waiting requests are answered with EIO, connections are broken, threads end.
    pub fn close(&self) {
        self.pool.close();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}
