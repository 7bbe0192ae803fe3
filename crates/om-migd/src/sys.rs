//! The few calls that the safe wrappers do not cover. Every `unsafe` block of the crate is here.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, CpuSet, setns, unshare};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork};

/// The nice value of a process, -20 to 19.
pub fn nice_of(pid: Pid) -> io::Result<i32> {
    // SAFETY: errno tells an error from a nice value of -1.
    unsafe {
        *libc::__errno_location() = 0;
        let nice = libc::getpriority(libc::PRIO_PROCESS, pid.as_raw().cast_unsigned());
        if nice == -1 && *libc::__errno_location() != 0 { Err(io::Error::last_os_error()) } else { Ok(nice) }
    }
}

/// Sends a signal by its number, the real-time ones too, which nix does not know.
pub fn send_signal(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: affects no memory of this process.
    check(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Sets the nice value of this process.
pub fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: changes this process alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// These CPUs as the kernel wants them; numbers beyond what it can have are left out.
#[must_use]
pub fn cpu_set(cpus: &[u32]) -> CpuSet {
    let mut set = CpuSet::new();
    for cpu in cpus {
        let _ = set.set(*cpu as usize);
    }
    set
}

/// A duplicate of another process's descriptor.
pub fn descriptor_of(pid: Pid, fd: RawFd) -> io::Result<OwnedFd> {
    let open = |number| {
        let number = RawFd::try_from(number).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made it for this call.
        check(number).map(|number| unsafe { OwnedFd::from_raw_fd(number) })
    };
    // SAFETY: numbers only.
    let process = open(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: numbers only.
    open(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// Has a timer with a descriptor expire at once, and from then on each `interval` (seconds, nanoseconds).
pub fn expire_timer(timer: BorrowedFd<'_>, (tv_sec, tv_nsec): (i64, i64)) -> io::Result<()> {
    let times = libc::itimerspec {
        it_interval: libc::timespec { tv_sec, tv_nsec },
        it_value: libc::timespec { tv_sec: 0, tv_nsec: 1 },
    };
    // SAFETY: `times` outlives the call.
    check(unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const times, std::ptr::null_mut()) })
        .map(drop)
}

nix::ioctl_write_ptr!(
    /// Sets how often a timer has expired.
    set_ticks, b'T', 0, u64);

/// Sets how often a timer with a descriptor has expired since it was last read.
pub fn set_timer_ticks(timer: BorrowedFd<'_>, ticks: u64) -> io::Result<()> {
    // SAFETY: `ticks` outlives the call.
    unsafe { set_ticks(timer.as_raw_fd(), &raw const ticks) }?;
    Ok(())
}

/// Makes this process the one that orphans below it are handed to.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// Sets every signal of this process to its default, but those whose bit is set in `ignored` to be ignored, and
/// blocks none.
pub fn reset_signals(ignored: u64) {
    for number in 1..=64 {
        let action = if ignored >> (number - 1) & 1 == 1 { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: default and ignore run no code; numbers that cannot be set are refused by the kernel.
        unsafe { libc::signal(number, action) };
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Takes over a descriptor that the parent left at a number agreed on. Only before anything else is opened.
pub fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: by convention of this program's own modes nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Forks a program that has one thread. The child runs `child` and never returns from here.
pub fn fork_single_threaded(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the caller has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let status = child();
            // SAFETY: ends without running the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
    }
}

/// Executes an open file; returns only on failure.
pub fn execute_file(file: &File, argv: &[&CStr], env: &[&CStr]) -> io::Error {
    match nix::unistd::fexecve(file, argv, env) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// How a child differs from this process.
pub struct ChildSetup<'a> {
    /// Descriptors to give to it, at these numbers.
    pub fds: Vec<(BorrowedFd<'a>, RawFd)>,
    /// The mount namespace that it enters.
    pub mount_namespace: Option<BorrowedFd<'a>>,
    /// Real user and group ids; the effective ones stay 0.
    pub real_ids: Option<(Uid, Gid)>,
    /// Starts a session of its own, so that signals to ours do not reach it.
    pub own_session: bool,
    /// The files `cgroup.procs` of the control groups that it enters.
    pub entrances: Vec<BorrowedFd<'a>>,
}

/// Has `command` make these changes between fork and exec.
pub fn prepare(command: &mut Command, setup: &ChildSetup<'_>) {
    let fds: Vec<(RawFd, RawFd)> = setup.fds.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect();
    let namespace = setup.mount_namespace.map(|fd| fd.as_raw_fd());
    let real_ids = setup.real_ids;
    let own_session = setup.own_session;
    let entrances: Vec<RawFd> = setup.entrances.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: the closure makes system calls only, which is allowed after a fork of a program with threads; the
    // raw descriptors are borrowed for as long as the caller keeps `setup`'s owners, who outlive the spawn.
    unsafe {
        command.pre_exec(move || {
            if own_session {
                libc::setsid();
            }
            for entrance in &entrances {
                if libc::write(*entrance, c"0".as_ptr().cast(), 1) != 1 {
                    return Err(io::Error::last_os_error());
                }
            }
            // First out of the way of the numbers that are to be filled, then to their places.
            let mut moved = [0; 16];
            for (index, (fd, _)) in fds.iter().enumerate() {
                moved[index] = check(libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 400))?;
            }
            if let Some(fd) = namespace {
                let fd = check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 400))?;
                setns(BorrowedFd::borrow_raw(fd), CloneFlags::CLONE_NEWNS)?;
            }
            close_on_exec(3);
            for (index, (_, number)) in fds.iter().enumerate() {
                check(libc::dup2(moved[index], *number))?;
            }
            if let Some((uid, gid)) = real_ids {
                check(libc::setresgid(gid.as_raw(), 0, 0))?;
                check(libc::setresuid(uid.as_raw(), 0, 0))?;
            }
            Ok(())
        });
    }
}

/// Has every descriptor from this number on close at the next exec: what others left open is not for our children.
pub fn close_on_exec(first: u32) {
    // SAFETY: sets a flag and nothing else. Kernels before 5.11 refuse it, which leaves things as they are.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Memory that is held back, and there for certain. Dropped, it is free.
#[derive(Debug)]
pub struct Reserve {
    at: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: nobody reads or writes it.
unsafe impl Send for Reserve {}

impl Reserve {
    /// Takes so many bytes from the kernel.
    pub fn take(bytes: usize) -> io::Result<Self> {
        const PROTECTION: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
        const FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory of our own, which nobody knows of.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), bytes, PROTECTION, FLAGS, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let reserve = Self { at, bytes };
            // Large pages are there sooner, where the kernel has them.
            libc::madvise(at, bytes, libc::MADV_HUGEPAGE);
            match check(libc::madvise(at, bytes, libc::MADV_POPULATE_WRITE)) {
                Ok(_) => {}
                // Kernels before 5.14 do not know that.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    std::ptr::write_bytes(at.cast::<u8>(), 1, bytes);
                }
                Err(error) => return Err(error),
            }
            Ok(reserve)
        }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // SAFETY: mapped by us and used by nobody.
        unsafe { libc::munmap(self.at, self.bytes) };
    }
}

/// Copies what is in the pipe `from` into the pipe `to` without taking it out; returns how many bytes.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are borrowed for the call.
    let count = unsafe { libc::tee(from.as_raw_fd(), to.as_raw_fd(), most, libc::SPLICE_F_NONBLOCK) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Moves what is in the pipe `from` into the pipe `to` without copying it; returns how many bytes, 0 at the end. Never
/// waits: `EAGAIN` if `from` is empty or `to` is full.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> nix::Result<usize> {
    let (from, to, null) = (from.as_raw_fd(), to.as_raw_fd(), std::ptr::null_mut());
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: both descriptors are borrowed for the call, and without offsets no memory of ours is touched.
    let count = unsafe { libc::splice(from, null, to, null, most, flags) };
    usize::try_from(count).map_err(|_| Errno::last())
}

nix::ioctl_read_bad!(
    /// Reads a terminal's size.
    get_window_size, libc::TIOCGWINSZ, libc::winsize);
nix::ioctl_write_ptr_bad!(
    /// Sets a terminal's size.
    set_window_size, libc::TIOCSWINSZ, libc::winsize);

/// The size of a terminal: rows, columns.
pub fn window_size(tty: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` outlives the call.
    unsafe { get_window_size(tty.as_raw_fd(), &raw mut size) }?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets the size of a terminal: rows, columns. Its foreground processes get SIGWINCH.
pub fn resize_window(tty: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` outlives the call.
    unsafe { set_window_size(tty.as_raw_fd(), &raw const size) }?;
    Ok(())
}

/// The supplementary groups of the process at the other end of a Unix socket, as they were when it connected.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let bytes = size_of_val(groups.as_slice());
        let mut size = libc::socklen_t::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `size` bytes into a buffer that has as many, and sets `size`.
        let result = check(unsafe {
            let (to, size) = (groups.as_mut_ptr().cast(), &raw mut size);
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, to, size)
        });
        let count = size as usize / size_of::<u32>();
        match result {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Takes from this process's bounding set, for good, every capability that is not in `kept`.
pub fn limit_capabilities(kept: u64) -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: plain numbers. The first unknown capability is refused.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) } {
            1 if kept >> capability & 1 == 0 => {
                // SAFETY: as above; changes this thread alone.
                check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })?;
            }
            0 | 1 => {}
            _ => break,
        }
    }
    Ok(())
}

/// Gives this process a session keyring of its own, empty, so that its children possess nothing of its parent's.
pub fn leave_session_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: no name, so nothing is read. A kernel without keyrings has nothing to leave.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// Keeps this process and all of its children to come from connecting to abstract Unix sockets of others, by Landlock.
/// False if this kernel cannot do that (it can from Linux 6.12 on). The calling thread must be the only one.
pub fn scope_abstract_sockets() -> io::Result<bool> {
    const VERSION: u32 = 1;
    const ABI_WITH_SCOPES: i64 = 6;
    /// File system rights and ports that it decides on: none; then the scopes.
    const ATTRIBUTES: [u64; 3] = [0, 0, 1];
    // SAFETY: asks for the version of the interface; nothing is read.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u64>(), 0, VERSION) };
    if abi < ABI_WITH_SCOPES {
        return Ok(false);
    }
    // SAFETY: `struct landlock_ruleset_attr` is three 64-bit numbers in this version; the kernel only reads it.
    let rules = unsafe {
        let (attributes, size) = (ATTRIBUTES.as_ptr(), size_of_val(&ATTRIBUTES));
        libc::syscall(libc::SYS_landlock_create_ruleset, attributes, size, 0)
    };
    let rules = inherited(check(libc::c_int::try_from(rules).map_err(io::Error::other)?)?);
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
    check(libc::c_int::try_from(result).map_err(io::Error::other)?).map(|_| true)
}

/// Sets and clears attributes (`MOUNT_ATTR_…`) of the mount at `path` and of all below it.
pub fn change_mounts(path: &CStr, set: u64, clear: u64) -> io::Result<()> {
    const RECURSIVE: libc::c_int = 0x8000;
    // Neither propagation nor a user namespace.
    let attributes = [set, clear, 0, 0];
    // SAFETY: `struct mount_attr` is four 64-bit numbers; the kernel reads them and the path.
    let result = unsafe {
        let (attributes, size) = (attributes.as_ptr(), size_of_val(&attributes));
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, path.as_ptr(), RECURSIVE, attributes, size)
    };
    check(libc::c_int::try_from(result).map_err(io::Error::other)?).map(drop)
}

/// Whether this thread's file system ids and capabilities allow this access (`R_OK`, `W_OK`…) to an open file.
pub fn access(file: BorrowedFd<'_>, mode: libc::c_int) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    // SAFETY: an empty path that lives for ever, and plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_faccessat2, file.as_raw_fd(), c"".as_ptr(), mode, flags) };
    check(libc::c_int::try_from(result).map_err(io::Error::other)?).map(drop)
}

/// Enters a pid namespace (for the children to come).
pub fn enter_pid_namespace(fd: BorrowedFd<'_>) -> io::Result<()> {
    setns(fd, CloneFlags::CLONE_NEWPID).map_err(io::Error::from)
}

/// Gives the calling process a mount namespace of its own.
pub fn unshare_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(io::Error::from)
}

/// Gives the children to come a pid namespace and this process a System V IPC namespace of its own.
pub fn unshare_processes() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC).map_err(io::Error::from)
}

nix::ioctl_write_ptr_bad!(
    /// Unlocks the slave of a terminal.
    set_lock, libc::TIOCSPTLCK, libc::c_int);
nix::ioctl_read_bad!(
    /// The number of a terminal.
    get_number, libc::TIOCGPTN, libc::c_uint);

/// Lets the slave of this master be opened.
pub fn unlock_terminal(master: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the flag outlives the call.
    unsafe { set_lock(master.as_raw_fd(), &raw const UNLOCKED) }?;
    Ok(())
}
static UNLOCKED: libc::c_int = 0;

/// The number of this master's slave in its devpts.
pub fn terminal_number(master: BorrowedFd<'_>) -> io::Result<u32> {
    let mut number = 0;
    // SAFETY: `number` outlives the call.
    unsafe { get_number(master.as_raw_fd(), &raw mut number) }?;
    Ok(number)
}

/// Duplicates a descriptor to this number, open across exec.
pub fn place(fd: RawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: used between fork and exec, where nobody owns the low numbers any more.
    check(unsafe { libc::dup2(fd, number) }).map(drop)
}

/// Closes this number.
pub fn close_number(number: RawFd) {
    // SAFETY: as for `place`.
    unsafe { libc::close(number) };
}

/// The settings of a terminal: `struct termios` as bytes, the same on every node of one architecture.
pub fn terminal_settings(tty: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; size_of::<libc::termios>()];
    // SAFETY: the buffer is as large as the structure; tcgetattr only writes plain integers into it.
    let result = unsafe { libc::tcgetattr(tty.as_raw_fd(), bytes.as_mut_ptr().cast()) };
    check(result).map(|_| bytes)
}

/// Gives a terminal settings as [`terminal_settings`] returned them. `InvalidInput` if their size is wrong.
pub fn set_terminal_settings(tty: BorrowedFd<'_>, settings: &[u8]) -> io::Result<()> {
    if settings.len() != size_of::<libc::termios>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: plain integers of the right size, copied out because the bytes need not be aligned.
    unsafe {
        let termios = settings.as_ptr().cast::<libc::termios>().read_unaligned();
        check(libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &raw const termios)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_held_back() {
        assert!(Reserve::take(4 << 20).is_ok());
        assert!(Reserve::take(1 << 46).is_err(), "more than there are addresses");
    }
}
