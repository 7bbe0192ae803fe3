//! The FUSE device: where the kernel's requests come from and answers go. Once it is closed, the kernel fails
//! whatever is asked of the mount.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};

use crate::abi;

/// What [`Device::read`] found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Taken {
    /// A request of so many bytes.
    Request(usize),
    Nothing,
    /// Unmounted.
    End,
}

/// By which a queue knows the order to stop.
const STOP: u64 = 1;

/// The device of one mount, shared by the threads that serve it.
#[derive(Debug)]
pub(super) struct Device(OwnedFd);

/// The order to stop, for all threads of a session.
#[derive(Debug)]
pub(super) struct Stop(EventFd);

/// A thread's place in the queue for requests.
#[derive(Debug)]
pub(super) struct Queue(Epoll);

impl Stop {
    pub(super) fn new() -> io::Result<Stop> {
        Ok(Stop(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Wakes all threads that wait for a request or sleep, now and ever after.
    pub(super) fn order(&self) {
        let _ = self.0.write(1);
    }

    /// Sleeps, unless and until stop is ordered.
    pub(super) fn sleep(&self, time: Duration) {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut polled, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
    }
}

impl Queue {
    /// Waits until there may be a request. `false`: stop.
    pub(super) fn wait(&self) -> bool {
        let mut events = [EpollEvent::empty(); 2];
        let count = self.0.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        !events.iter().take(count).any(|event| event.data() == STOP)
    }
}

impl Device {
    pub(super) fn new(fd: OwnedFd) -> Device {
        Device(fd)
    }

    /// A new place in the queue: each request wakes one waiting thread.
    pub(super) fn queue(&self, stop: &Stop) -> io::Result<Queue> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let alone = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        epoll.add(&self.0, EpollEvent::new(alone, 0))?;
        epoll.add(&stop.0, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        Ok(Queue(epoll))
    }

    /// Reads a request if there is one.
    pub(super) fn read(&self, request: &mut [u8]) -> Taken {
        loop {
            return match read(&self.0, request) {
                Ok(length) => Taken::Request(length),
                Err(Errno::EAGAIN) => Taken::Nothing,
                // Interrupted, or the process gave up on the request before it was read.
                Err(Errno::EINTR | Errno::ENOENT) => continue,
                Err(Errno::ENODEV) => Taken::End,
                Err(errno) => {
                    log::error!("cannot read file requests: {errno}");
                    Taken::End
                }
            };
        }
    }

    /// Gives the kernel an answer.
    pub(super) fn answer(&self, reply: &[u8]) {
        match write(&self.0, reply) {
            Ok(_) => {}
            // Nobody waits for it any more.
            Err(Errno::ENOENT | Errno::ENODEV) => {}
            Err(errno) => {
                log::debug!("the kernel refused an answer to a file request: {errno}");
                if let Some(unique) = reply.get(8..abi::OUT_HEADER).and_then(|bytes| bytes.try_into().ok()) {
                    let _ = write(&self.0, &refusal(u64::from_ne_bytes(unique), Errno::EIO));
                }
            }
        }
    }

    /// Tells the kernel that a request failed.
    pub(super) fn refuse(&self, unique: u64, errno: Errno) {
        self.answer(&refusal(unique, errno));
    }

    /// Whether there is a request that no thread has read yet.
    pub(super) fn is_waiting(&self) -> bool {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut polled, PollTimeout::ZERO).unwrap_or(0) > 0;
        ready && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
    }
}

fn refusal(unique: u64, errno: Errno) -> [u8; abi::OUT_HEADER] {
    let mut refusal = [0; abi::OUT_HEADER];
    refusal[..4].copy_from_slice(&16_u32.to_ne_bytes());
    refusal[4..8].copy_from_slice(&(-(errno as i32)).to_ne_bytes());
    refusal[8..].copy_from_slice(&unique.to_ne_bytes());
    refusal
}
