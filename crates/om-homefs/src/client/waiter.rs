//! The locks that a guest's processes wait for.
//!
//! Home never waits: a lock that is taken is asked for again, at first a millisecond later, then ever more
//! seldom, as NFS clients do. One thread with a channel of its own does this for all that wait, so that
//! they can be as many as they like and keep nobody from releasing a lock.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::frame::Buffer;
use crate::poison::lock;

use super::channel::Channel;
use super::device::Device;
use super::pool::{Pool, WAITER_CHANNEL};
use super::worker::is_taken;

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(32);
/// Interrupts remembered that came before what they interrupt.
const EARLY_MAX: usize = 256;

/// All that wait for locks in one session.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    parked: HashMap<u64, Parked>,
    early: VecDeque<u64>,
    running: bool,
    over: bool,
}

#[derive(Debug)]
struct Parked {
    request: Vec<u8>,
    due: Instant,
    pause: Duration,
}

impl Waiter {
    /// Takes over a request whose lock is taken; starts the thread with the first.
    pub(super) fn park(&self, pool: &Arc<Pool>, device: &Arc<Device>, unique: u64, request: &[u8]) {
        let parked =
            Parked { request: request.to_vec(), due: Instant::now() + FIRST_PAUSE, pause: FIRST_PAUSE };
        self.put(device, unique, parked);
        if std::mem::replace(&mut lock(&self.state).running, true) {
            return;
        }
        let thread_device = device.clone();
        if pool.spawn("om-home-locks", move |pool| pool.waiter.work(pool, &thread_device)).is_err() {
            lock(&self.state).running = false;
            if lock(&self.state).parked.remove(&unique).is_some() {
                device.refuse(unique, Errno::ENOLCK);
            }
        }
    }

    /// Lets a request wait, unless it has been interrupted in the meantime.
    fn put(&self, device: &Device, unique: u64, parked: Parked) {
        let mut state = lock(&self.state);
        if state.over {
            return device.refuse(unique, Errno::EIO);
        }
        if let Some(at) = state.early.iter().position(|early| *early == unique) {
            state.early.remove(at);
            return device.refuse(unique, Errno::EINTR);
        }
        state.parked.insert(unique, parked);
        self.changed.notify_all();
    }

    /// A process that waits for an answer got a signal. If it waits for a lock, it waits no longer.
    pub(super) fn interrupt(&self, device: &Device, unique: u64) {
        let mut state = lock(&self.state);
        if state.parked.remove(&unique).is_some() {
            return device.refuse(unique, Errno::EINTR);
        }
        if state.early.len() >= EARLY_MAX {
            state.early.pop_front();
        }
        state.early.push_back(unique);
    }

    /// Has all that wait fail, now and ever after.
    pub(super) fn close(&self) {
        lock(&self.state).over = true;
        self.changed.notify_all();
    }

    fn work(&self, pool: &Arc<Pool>, device: &Device) {
        let mut channel = Channel::new(pool, WAITER_CHANNEL);
        let mut request = Buffer::new();
        while let Some((unique, mut parked)) = self.next_due() {
            let length = parked.request.len();
            request.message_room()[..length].copy_from_slice(&parked.request);
            match channel.call(&mut request, length, unique) {
                Some(reply) if is_taken(reply) => {
                    parked.pause = (parked.pause * 2).min(LONGEST_PAUSE);
                    parked.due = Instant::now() + parked.pause;
                    self.put(device, unique, parked);
                }
                Some(reply) => device.answer(reply),
                None => device.refuse(unique, Errno::EIO),
            }
        }
        for (unique, _) in lock(&self.state).parked.drain() {
            device.refuse(unique, Errno::EIO);
        }
    }

    /// Waits for the next request to be asked again, and takes it out. `None`: the session is over.
    fn next_due(&self) -> Option<(u64, Parked)> {
        let mut state = lock(&self.state);
        loop {
            if state.over {
                return None;
            }
            let now = Instant::now();
            let first = state.parked.iter().min_by_key(|(_, parked)| parked.due);
            let pause = match first.map(|(unique, parked)| (*unique, parked.due)) {
                Some((unique, due)) if due <= now => {
                    return state.parked.remove_entry(&unique);
                }
                Some((_, due)) => due - now,
                None => Duration::from_secs(3600),
            };
            state = self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
