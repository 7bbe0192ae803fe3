//! The few calls that the safe wrappers do not cover. Every `unsafe` block of the crate is here.
#![expect(unsafe_code, reason = "system calls without a safe wrapper, and code that runs before main")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;

nix::ioctl_read_bad!(read_window_size, libc::TIOCGWINSZ, libc::winsize);

/// Bit n-1 set: signal n was ignored when this program was executed.
static IGNORED: AtomicU64 = AtomicU64::new(0);

/// Rust's own start ignores SIGPIPE before `main`; what the caller had can only be seen earlier.
extern "C" fn before_main() {
    let mut ignored = 0;
    for signal in 1..=64 {
        // SAFETY: all zeros is a valid sigaction, and asking changes nothing.
        let action = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0 {
                continue;
            }
            action.sa_sigaction
        };
        if action == libc::SIG_IGN {
            ignored |= 1 << (signal - 1);
        }
    }
    IGNORED.store(ignored, Ordering::Relaxed);
}

// SAFETY: the C library calls each function of this section once, in a single thread; `before_main` needs nothing
// that is not there yet.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// The signals that whoever started this program had it ignore, as `nohup` and shells do: bit n-1 for signal n.
pub fn ignored_signals() -> u64 {
    IGNORED.load(Ordering::Relaxed)
}

/// Whether the caller had this program ignore a signal.
pub fn was_ignored(signal: i32) -> bool {
    (1..=64).contains(&signal) && ignored_signals() >> (signal - 1) & 1 == 1
}

/// Undoes what Rust's start did to SIGPIPE: a reader that leaves ends this program, as it ends any other.
pub fn restore_sigpipe() {
    if !was_ignored(libc::SIGPIPE) {
        default_action(libc::SIGPIPE);
    }
}

/// Gives a signal its default action. Of no effect for one that has none to set.
pub fn default_action(signal: i32) {
    // SAFETY: the default action runs no code of this program; the kernel refuses numbers that are no signals.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// The size of a terminal: rows, columns.
pub fn window_size(tty: impl AsFd) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize, which is there.
    unsafe { read_window_size(tty.as_fd().as_raw_fd(), &raw mut size) }?;
    Ok((size.ws_row, size.ws_col))
}

/// Sends a signal, also one that only has a number, to a process; 0 is this process's whole group.
pub fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: has no effect on memory.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a blocked signal through to this thread; with its default action it may end the program right here.
pub fn unblock(signal: i32) {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Starts a child process that runs `body` and ends. Only before there is a second thread.
pub fn fork(body: impl FnOnce()) -> io::Result<()> {
    // SAFETY: this program has one thread, so the child may do anything.
    if let nix::unistd::ForkResult::Child = unsafe { nix::unistd::fork() }? {
        body();
        // SAFETY: ends without running what the parent will run at its own end.
        unsafe { libc::_exit(0) }
    }
    Ok(())
}

/// Closes every descriptor of this process but one, whose owners must not use them any more.
pub fn close_all_but(kept: i32) {
    let (Ok(before), Ok(after)) = (u32::try_from(kept - 1), u32::try_from(kept + 1)) else { return };
    // SAFETY: in a child that uses nothing but the one that is kept.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, before, 0);
        libc::syscall(libc::SYS_close_range, after, u32::MAX, 0);
    }
}

/// Takes the signals that wait for this process, which has them blocked: bit n-1 for signal n.
pub fn take_pending_signals() -> u64 {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut taken = 0;
    // SAFETY: set and time outlive the call, and nothing is written.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        loop {
            match libc::sigtimedwait(&raw const all, std::ptr::null_mut(), &raw const at_once) {
                signal @ 1..=64 => taken |= 1 << (signal - 1),
                _ => return taken,
            }
        }
    }
}
