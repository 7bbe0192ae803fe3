//! The signals that `om run` and `om top` get, and those that they give themselves.
//!
//! All signals are blocked and read from a descriptor, so that there is no handler and no moment at which one could be
//! missed. What the caller had ignored is forwarded as well: the job has it ignored too, until it says otherwise.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys;

/// A signal that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Its number.
    pub signal: i32,
    /// The kernel made it, of a key say, and nobody sent it.
    pub from_kernel: bool,
}

/// All signals that can be caught.
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Catches every signal from now on.
    pub fn catch() -> io::Result<Self> {
        let all = SigSet::all();
        all.thread_block()?;
        let descriptor = SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { descriptor })
    }

    /// The next signal that has come.
    pub fn next(&self) -> Option<Caught> {
        let info = self.descriptor.read_signal().ok().flatten()?;
        let signal = i32::try_from(info.ssi_signo).ok()?;
        Some(Caught { signal, from_kernel: info.ssi_code == libc::SI_KERNEL })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Stops this process, or its whole group, as `signal` would have, until somebody continues it. Returns at once if
/// the kernel does not stop it: no shell is there that could continue it, or the caller had the signal ignored.
pub fn stop(signal: i32, whole_group: bool) {
    // Blocked as everything is, it stays pending on this process until it is let through.
    let pid = if whole_group { 0 } else { own_pid() };
    if sys::send_signal(pid, signal).is_ok() {
        sys::unblock(signal);
        block_everything();
    }
}

/// Ends this process by `signal`, so that whoever waits for it sees what it would see of the command itself. Returns if
/// the signal does not end it.
pub fn die(signal: i32, whole_group: bool) {
    // Not to leave a second core beside the command's.
    let _ = prctl::set_dumpable(false);
    sys::default_action(signal);
    let pid = if whole_group { 0 } else { own_pid() };
    if sys::send_signal(pid, signal).is_ok() {
        sys::unblock(signal);
    }
}

/// Whether a terminal sends this signal to a whole process group.
pub fn is_terminals(signal: i32) -> bool {
    use libc::{SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU};
    [SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU].contains(&signal)
}

fn block_everything() {
    let _ = SigSet::all().thread_block();
}

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}
