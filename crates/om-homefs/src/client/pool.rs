//! The threads of one session, and what they share.
//!
//! There are [`BASE`] to begin with. A thread that waits for home cannot read the next request; when all have
//! been waiting for a [`MOMENT`], the *usher* starts one more, up to [`MOST`].

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::unistd::syncfs;

use crate::poison::lock;
use crate::stream::{Breaker, Stream};

use super::Connect;
use super::device::{Device, Stop};
use super::slots::Slots;
use super::waiter::Waiter;
use super::worker;

/// Threads and channels at first.
const BASE: u16 = 4;
/// Threads and channels at most.
const MOST: u16 = 32;
/// The channel of the thread that waits for locks.
pub(super) const WAITER_CHANNEL: u16 = MOST;
/// How long all threads must have been busy before one more is started.
const MOMENT: Duration = Duration::from_millis(2);

/// See the module.
pub(super) struct Pool {
    /// For new threads; each has its own share. Taken away when the session is over, and the last thread to end
    /// closes the device.
    device: Mutex<Option<Arc<Device>>>,
    pub(super) stop: Stop,
    pub(super) connector: Arc<dyn Connect>,
    pub(super) waiter: Waiter,
    pub(super) slots: Slots,
    connections: Mutex<HashMap<u16, Breaker>>,
    over: AtomicBool,
    lost: AtomicBool,
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    threads: u16,
    /// Threads that do anything but wait for the device.
    busy: u16,
    /// How often a thread became busy or idle.
    turns: u64,
}

impl Pool {
    pub(super) fn new(device: OwnedFd, connector: Arc<dyn Connect>) -> io::Result<Pool> {
        Ok(Pool {
            device: Mutex::new(Some(Arc::new(Device::new(device)))),
            stop: Stop::new()?,
            connector,
            waiter: Waiter::default(),
            slots: Slots::new(MOST),
            connections: Mutex::default(),
            over: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            counts: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Starts a thread that shares this pool.
    pub(super) fn spawn(
        self: &Arc<Pool>,
        name: &str,
        work: impl FnOnce(&Arc<Pool>) + Send + 'static,
    ) -> io::Result<()> {
        let pool = self.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || work(&pool)).map(drop)
    }

    /// Starts the first threads and the usher.
    pub(super) fn start(self: &Arc<Pool>) -> io::Result<()> {
        for _ in 0..BASE {
            self.add_worker()?;
        }
        self.spawn("om-home-usher", Pool::usher)
    }

    fn add_worker(self: &Arc<Pool>) -> io::Result<()> {
        let device = self.device()?;
        let number = {
            let mut counts = lock(&self.counts);
            counts.threads += 1;
            counts.busy += 1;
            counts.threads - 1
        };
        self.spawn(&format!("om-home-{number}"), move |pool| worker::work(pool, &device, number))
    }

    /// Starts one more thread each time that all have been busy for a moment.
    fn usher(self: &Arc<Pool>) {
        let mut counts = lock(&self.counts);
        while !self.is_over() && counts.threads < MOST {
            if counts.busy < counts.threads {
                counts = self.changed.wait(counts).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let turns = counts.turns;
            counts = self.changed.wait_timeout(counts, MOMENT).unwrap_or_else(PoisonError::into_inner).0;
            if counts.turns == turns && !self.is_over() {
                drop(counts);
                if let Err(error) = self.add_worker() {
                    return log::warn!("cannot start another thread for home files: {error}");
                }
                counts = lock(&self.counts);
            }
        }
    }

    fn device(&self) -> io::Result<Arc<Device>> {
        lock(&self.device).clone().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// A thread has left the queue.
    pub(super) fn busy(&self) {
        let mut counts = lock(&self.counts);
        counts.turns += 1;
        counts.busy += 1;
        if counts.busy == counts.threads {
            self.changed.notify_one();
        }
    }

    /// A thread joins the queue.
    pub(super) fn idle(&self) {
        let mut counts = lock(&self.counts);
        counts.turns += 1;
        counts.busy = counts.busy.saturating_sub(1);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Home cannot be reached; told once.
    pub(super) fn home_is_lost(&self, error: &io::Error) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            log::warn!("home cannot be reached: {error}; file requests wait");
        }
    }

    /// Home has been reached; told if it was lost.
    pub(super) fn home_is_found(&self) {
        if self.lost.swap(false, Ordering::Relaxed) {
            log::info!("home is reached again, file requests go on");
        }
    }

    /// Keeps a way to break a new connection. Fails when the session is over.
    pub(super) fn register(&self, channel: u16, connection: &dyn Stream) -> io::Result<()> {
        let breaker = Breaker::of(connection)?;
        let mut connections = lock(&self.connections);
        if self.is_over() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        connections.insert(channel, breaker);
        Ok(())
    }

    pub(super) fn unregister(&self, channel: u16) {
        lock(&self.connections).remove(&channel);
    }

    /// See [`super::Session::flush`].
    pub(super) fn flush(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        // Sends the dirty pages on their way, but FUSE does not wait for them to arrive.
        syncfs(root)?;
        while !self.is_quiet(&*self.device()?) {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether at some moment during this call no request was in the device or under way.
    ///
    /// An answer may bring the next request into the device, so it does not do that one was empty and then the
    /// other: all threads must have been waiting from before the look at the device until after it.
    fn is_quiet(&self, device: &Device) -> bool {
        let before = lock(&self.counts).turns;
        if device.is_waiting() {
            return false;
        }
        let counts = lock(&self.counts);
        counts.busy == 0 && counts.turns == before
    }

    /// See [`super::Session::close`].
    pub(super) fn close(&self) {
        if self.over.swap(true, Ordering::SeqCst) {
            return;
        }
        lock(&self.device).take();
        self.stop.order();
        self.waiter.close();
        for breaker in lock(&self.connections).values() {
            breaker.break_off();
        }
        let _counts = lock(&self.counts);
        self.changed.notify_all();
    }
}
