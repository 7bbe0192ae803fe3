//! A thread's doorbell: wakes it from a poll on other descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The doorbell.
#[derive(Debug)]
pub(super) struct Wake(EventFd);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    /// Wakes the thread, now or when it next waits.
    pub(super) fn ring(&self) {
        let _ = self.0.write(1);
    }

    /// Waits for the bell or one of these events; errors and hang-ups of the descriptors always count. Returns, per
    /// descriptor, what happened.
    pub(super) fn wait<const N: usize>(
        &self,
        fds: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    ) -> [PollFlags; N] {
        self.wait_at_most(PollTimeout::NONE, fds)
    }

    /// Like [`Self::wait`], but not longer than this.
    pub(super) fn wait_at_most<const N: usize>(
        &self,
        limit: PollTimeout,
        fds: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    ) -> [PollFlags; N] {
        let mut list = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        list.extend(fds.iter().flatten().map(|(fd, events)| PollFd::new(*fd, *events)));
        let _ = poll(&mut list, limit);
        let _ = self.0.read();
        let mut happened = list.iter().skip(1).map(|entry| entry.revents().unwrap_or(PollFlags::empty()));
        fds.map(|wanted| wanted.and_then(|_| happened.next()).unwrap_or(PollFlags::empty()))
    }
}
