//! What each thread is carrying at the moment: only as much as is needed to wait for a file to be let go.
//!
//! The kernel tells home of a last close(2) without waiting for the answer, so that a lock may be asked for
//! before home has heard that its holder let go of it. To be refused for that reason would be wrong: the
//! close came first. The thread that is refused waits until no other carries such a RELEASE that it may have
//! overtaken, and asks once more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::abi::op;

/// How long to wait at most: home may take its time with a close.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often to look.
const PAUSE: Duration = Duration::from_micros(100);

/// What a thread is doing, in the lowest bits of its slot; above them a count of the requests it has read.
const STATE: u64 = 0b11;
const IDLE: u64 = 0;
/// About to read a request, or has read one without having said what it is.
const READING: u64 = 1;
const RELEASE: u64 = 2;
const OTHER: u64 = 3;

/// One slot a thread.
#[derive(Debug)]
pub(super) struct Slots(Vec<AtomicU64>);

impl Slots {
    pub(super) fn new(threads: u16) -> Slots {
        Slots((0..threads).map(|_| AtomicU64::new(IDLE)).collect())
    }

    /// The thread is about to read a request.
    pub(super) fn reading(&self, thread: u16) {
        self.set(thread, |slot| (slot | STATE).wrapping_add(1) | READING);
    }

    /// The thread has read a request of this kind.
    pub(super) fn carries(&self, thread: u16, opcode: u32) {
        let state = if opcode == op::RELEASE { RELEASE } else { OTHER };
        self.set(thread, |slot| (slot & !STATE) | state);
    }

    /// The thread waits for the device.
    pub(super) fn idle(&self, thread: u16) {
        self.set(thread, |slot| (slot & !STATE) | IDLE);
    }

    /// Waits until each RELEASE that was read before this call has been answered.
    pub(super) fn await_releases(&self) {
        let deadline = Instant::now() + PATIENCE;
        for slot in &self.0 {
            let first = slot.load(Ordering::SeqCst);
            let done = |now: u64| now & !STATE != first & !STATE || matches!(now & STATE, IDLE | OTHER);
            while !done(slot.load(Ordering::SeqCst)) && Instant::now() < deadline {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Only the thread itself writes its slot.
    fn set(&self, thread: u16, change: impl Fn(u64) -> u64) {
        if let Some(slot) = self.0.get(usize::from(thread)) {
            slot.store(change(slot.load(Ordering::Relaxed)), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_threads_that_carry_something_else() {
        let slots = Slots::new(3);
        slots.reading(0);
        slots.carries(0, op::READ);
        let start = Instant::now();
        slots.await_releases();
        assert!(start.elapsed() < PATIENCE);
    }

    #[test]
    fn a_release_is_waited_for_until_the_next_request() {
        let slots = Slots::new(2);
        slots.reading(1);
        slots.carries(1, op::RELEASE);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| slots.await_releases());
            thread::sleep(Duration::from_millis(20));
            assert!(!waiter.is_finished());
            slots.reading(1);
            slots.carries(1, op::RELEASE);
        });
    }
}
