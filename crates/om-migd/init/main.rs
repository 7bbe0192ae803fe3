//! `om-init`: PID 1 of a job.
//!
//! It starts the command in a process group of its own, reaps whatever is left behind to it, reports how the
//! command ended and when it was stopped, and exits after the last process. As PID 1 it is deaf to every signal
//! from within the job.
//!
//! A group can be stopped from the keyboard, or by a program like an editor itself, only if somebody is there to let
//! it go on: the kernel wants one of its members to have a parent in the same session and another group.
//! Without a terminal that is om-init, which leads the session. With one the command has to lead it, since a move
//! gives the terminal back to the leader alone; then two [companions](accompany) fulfil the condition.
//!
//! ```text
//! om-init (1)                          om-init (1)
//! ├ session 1                          └ the command (2)   session 2, group 2
//! └ the command (2)  session 1,        └ companion (4)     session 2, group 4
//!                    group 2             └ companion (5)   session 2, group 2
//! ```
//!
//! It runs as the job's user and is dumped and restored with the job, so it is as small as can be: no
//! allocation, no library, a few system calls.
//!
//! ```text
//! om-init TTY PROGRAM ARGV0 [ARG…]      descriptor 3: reports, closed in the command
//!         │   └ absolute path, or a name to be found in $PATH
//!         └ the descriptor that becomes the controlling terminal: 0, 1, 2 or -
//! ```
//!
//! A report is 8 bytes: a little-endian kind ([`STARTED`] and so on) and its value (a pid, an errno, a wait
//! status, a signal). The command is always PID 2.
#![no_std]
#![no_main]

mod arch;

use arch::{nr, syscall};

const REPORT: usize = 3;
/// The command was forked; the value is its pid.
const STARTED: u32 = 1;
/// The command could not be executed; the value is an errno.
const FAILED: u32 = 2;
/// The command ended; the value is its wait status.
const ENDED: u32 = 3;
/// The command was stopped; the value is the signal. After a move it may come again for the same stop.
const STOPPED: u32 = 4;
/// The command goes on; no value.
const CONTINUED: u32 = 5;

const ENOENT: isize = -2;
const EINTR: isize = -4;
const ENOEXEC: isize = -8;
const EACCES: isize = -13;
const ENOTDIR: isize = -20;
const AT_FDCWD: usize = -100_isize as usize;
const TIOCSCTTY: usize = 0x540e;
const SIGCHLD: usize = 17;
const SIGKILL: usize = 9;
const WUNTRACED: usize = 2;
const WCONTINUED: usize = 8;
/// What wait4 gives for a process that goes on.
const GOES_ON: i32 = 0xffff;

/// The command's pid.
const COMMAND: usize = 2;
/// The pids of its companions, if it has a terminal; between them and the command there was one that has ended.
const COMPANIONS: [usize; 2] = [4, 5];

type Strings = *const *const u8;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}

/// Runs on the stack that the kernel prepared: argument count, arguments, null, environment, null.
extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: the kernel lays out argc, argv and envp like this at the process entry point.
    let (count, argv, envp) = unsafe {
        let count = *stack;
        let argv = stack.add(1).cast::<*const u8>();
        (count, argv, argv.add(count + 1))
    };
    if count < 4 {
        exit(125);
    }
    syscall(nr::SETSID, [0; 4]);
    // SAFETY: there are at least four arguments, null-terminated.
    let terminal = unsafe { terminal(*argv.add(1)) };
    let child = fork();
    if child == 0 {
        // SAFETY: as above.
        unsafe { command(terminal, *argv.add(2), argv.add(3), envp) }
    }
    for fd in 0..3 {
        syscall(nr::CLOSE, [fd, 0, 0, 0]);
    }
    report(STARTED, child as u32);
    reap(terminal.is_some())
}

/// The descriptor of the terminal, from its name.
unsafe fn terminal(name: *const u8) -> Option<usize> {
    // SAFETY: null-terminated, so there is a first byte.
    let first = unsafe { *name };
    (b'0'..=b'2').contains(&first).then(|| usize::from(first - b'0'))
}

/// Becomes the command.
unsafe fn command(terminal: Option<usize>, program: *const u8, argv: Strings, envp: Strings) -> ! {
    match terminal {
        None => drop(syscall(nr::SETPGID, [0; 4])),
        Some(fd) => {
            syscall(nr::SETSID, [0; 4]);
            syscall(nr::IOCTL, [fd, TIOCSCTTY, 0, 0]);
            accompany();
        }
    }
    // SAFETY: all three come from the kernel's own argument block, which lives as long as the process.
    let error = unsafe {
        // Closed by a successful execve, still open to report a failed one.
        syscall(nr::FCNTL, [REPORT, 2, 1, 0]);
        execute(program, argv, envp)
    };
    report(FAILED, error.unsigned_abs() as u32);
    exit(if error == ENOENT || error == ENOTDIR { 127 } else { 126 })
}

/// Gives the command, whose pid this process has already, its companions: one in its own group, and that one's parent in
/// another. They are om-init's children and grandchildren, not the command's, do nothing, and are deaf.
fn accompany() {
    const O_CLOEXEC: usize = 0o2_000_000;
    let mut ends = [0_i32; 2];
    syscall(nr::PIPE2, [core::ptr::from_mut(&mut ends) as usize, O_CLOEXEC, 0, 0]);
    let [reader, writer] = ends.map(|end| end as usize);
    let between = fork();
    if between == 0 {
        if fork() == 0 {
            syscall(nr::SETPGID, [0; 4]);
            const SIG_SETMASK: usize = 2;
            let all = u64::MAX;
            syscall(nr::RT_SIGPROCMASK, [SIG_SETMASK, &raw const all as usize, 0, size_of::<u64>()]);
            if fork() == 0 {
                syscall(nr::SETPGID, [0, COMMAND, 0, 0]);
            }
            for fd in 0..=writer.max(reader).max(REPORT) {
                syscall(nr::CLOSE, [fd, 0, 0, 0]);
            }
            loop {
                syscall(nr::PPOLL, [0; 4]);
            }
        }
        exit(0);
    }
    syscall(nr::CLOSE, [writer, 0, 0, 0]);
    // Ends when both companions have closed theirs.
    syscall(nr::READ, [reader, core::ptr::from_mut(&mut ends) as usize, 1, 0]);
    syscall(nr::CLOSE, [reader, 0, 0, 0]);
    syscall(nr::WAIT4, [between as usize, 0, 0, 0]);
}

/// As execvp(3): a name without a slash is looked up in `$PATH`, a file that is no program goes to the shell.
unsafe fn execute(program: *const u8, argv: Strings, envp: Strings) -> isize {
    // SAFETY: null-terminated strings and lists, as above.
    unsafe {
        if contains(program, b'/') {
            return execute_file(program, argv, envp);
        }
        let mut path = variable(envp, b"PATH=").unwrap_or(c"/usr/local/bin:/usr/bin:/bin".as_ptr().cast());
        let mut result = ENOENT;
        loop {
            let mut file = [0_u8; 4096];
            let mut length = 0;
            while *path != 0 && *path != b':' {
                if length < 2048 {
                    file[length] = *path;
                }
                length += 1;
                path = path.add(1);
            }
            if length == 0 {
                file[0] = b'.';
                length = 1;
            }
            if length < 2048 {
                file[length] = b'/';
                let mut name = program;
                length += 1;
                while *name != 0 && length < file.len() - 1 {
                    file[length] = *name;
                    name = name.add(1);
                    length += 1;
                }
                match execute_file(file.as_ptr(), argv, envp) {
                    ENOENT | ENOTDIR => {}
                    // Only what is there counts: a directory of $PATH may be closed to this user.
                    EACCES if syscall(nr::FACCESSAT, [AT_FDCWD, file.as_ptr() as usize, 0, 0]) == 0 => result = EACCES,
                    EACCES => {}
                    other => return other,
                }
            }
            if *path == 0 {
                return result;
            }
            path = path.add(1);
        }
    }
}

/// Executes one file, or `/bin/sh` with it if it has no format that the kernel knows.
unsafe fn execute_file(file: *const u8, argv: Strings, envp: Strings) -> isize {
    let result = syscall(nr::EXECVE, [file as usize, argv as usize, envp as usize, 0]);
    if result != ENOEXEC {
        return result;
    }
    const MOST: usize = 1022;
    let mut list = [core::ptr::null::<u8>(); MOST + 2];
    let shell = c"/bin/sh".as_ptr().cast::<u8>();
    list[0] = shell;
    list[1] = file;
    // SAFETY: argv is null-terminated and holds at least argv[0].
    unsafe {
        let mut index = 1;
        while !(*argv.add(index)).is_null() && index < MOST {
            list[index + 1] = *argv.add(index);
            index += 1;
        }
    }
    syscall(nr::EXECVE, [shell as usize, list.as_ptr() as usize, envp as usize, 0])
}

/// Waits until no process is left, then exits as the command did.
fn reap(has_companions: bool) -> ! {
    let mut last = 0_i32;
    loop {
        let mut status = 0_i32;
        let options = WUNTRACED | WCONTINUED;
        let pid = syscall(nr::WAIT4, [usize::MAX, core::ptr::from_mut(&mut status) as usize, options, 0]);
        if pid == COMMAND as isize {
            if status == GOES_ON {
                report(CONTINUED, 0);
            } else if status & 0xff == 0x7f {
                report(STOPPED, (status >> 8) as u32 & 0xff);
            } else {
                if has_companions {
                    dismiss();
                }
                last = status;
                report(ENDED, status as u32);
            }
        } else if pid < 0 && pid != EINTR {
            exit(if last & 0x7f == 0 { (last >> 8) as usize & 0xff } else { 128 + (last as usize & 0x7f) })
        }
    }
}

/// Ends the companions. The second becomes om-init's own child by the end of the first.
fn dismiss() {
    for pid in COMPANIONS {
        syscall(nr::KILL, [pid, SIGKILL, 0, 0]);
        syscall(nr::WAIT4, [pid, 0, 0, 0]);
    }
}

fn report(kind: u32, value: u32) {
    let bytes = (u64::from(kind) | u64::from(value) << 32).to_le_bytes();
    syscall(nr::WRITE, [REPORT, bytes.as_ptr() as usize, bytes.len(), 0]);
}

fn fork() -> isize {
    syscall(nr::CLONE, [SIGCHLD, 0, 0, 0])
}

fn exit(status: usize) -> ! {
    loop {
        syscall(nr::EXIT_GROUP, [status, 0, 0, 0]);
    }
}

unsafe fn contains(mut text: *const u8, byte: u8) -> bool {
    // SAFETY: null-terminated.
    unsafe {
        while *text != 0 {
            if *text == byte {
                return true;
            }
            text = text.add(1);
        }
    }
    false
}

/// The value of the variable whose `NAME=` is given.
unsafe fn variable(mut envp: Strings, name: &[u8]) -> Option<*const u8> {
    // SAFETY: a null-terminated list of null-terminated strings; a mismatch stops at the terminator.
    unsafe {
        while !(*envp).is_null() {
            if name.iter().enumerate().all(|(index, byte)| *(*envp).add(index) == *byte) {
                return Some((*envp).add(name.len()));
            }
            envp = envp.add(1);
        }
    }
    None
}

/// The compiler calls these for copies and fills; there is no library to take them from.
mod mem {
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        // SAFETY: the caller gives `count` bytes at `to`; volatile keeps this from becoming a call of itself.
        (0..count).for_each(|index| unsafe { to.add(index).write_volatile(byte as u8) });
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller gives `count` bytes at both, not overlapping.
        (0..count).for_each(|index| unsafe { to.add(index).write_volatile(*from.add(index)) });
        to
    }
}
