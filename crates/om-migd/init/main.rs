//! `om-init`: PID 1 of a job.
//!
//! It starts the command in a session of its own, reaps whatever is left behind to it, reports how the
//! command ended, and exits after the last process. It runs as the job's user and is dumped and restored
//! with the job, so it is as small as can be: no allocation, no library, a few system calls.
//!
//! ```text
//! om-init TTY PROGRAM ARGV0 [ARG…]      descriptor 3: reports, closed in the command
//!         │   └ absolute path, or a name to be found in $PATH
//!         └ the descriptor that becomes the controlling terminal: 0, 1, 2 or -
//! ```
//!
//! A report is 8 bytes: a little-endian kind ([`STARTED`], [`FAILED`], [`ENDED`]) and its value (a pid, an errno,
//! a wait status). The command is always PID 2.
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

const ENOENT: isize = -2;
const EINTR: isize = -4;
const ENOEXEC: isize = -8;
const EACCES: isize = -13;
const ENOTDIR: isize = -20;
const AT_FDCWD: usize = -100_isize as usize;
const TIOCSCTTY: usize = 0x540e;
const SIGCHLD: usize = 17;

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
    let child = fork();
    if child == 0 {
        // SAFETY: there are at least four arguments.
        unsafe { command(*argv.add(1), *argv.add(2), argv.add(3), envp) }
    }
    for fd in 0..3 {
        syscall(nr::CLOSE, [fd, 0, 0, 0]);
    }
    report(STARTED, child as u32);
    reap(child)
}

/// Becomes the command.
unsafe fn command(tty: *const u8, program: *const u8, argv: Strings, envp: Strings) -> ! {
    syscall(nr::SETSID, [0; 4]);
    // SAFETY: all four come from the kernel's own argument block, which lives as long as the process.
    let error = unsafe {
        if (b'0'..=b'2').contains(&*tty) {
            syscall(nr::IOCTL, [usize::from(*tty - b'0'), TIOCSCTTY, 0, 0]);
        }
        // Closed by a successful execve, still open to report a failed one.
        syscall(nr::FCNTL, [REPORT, 2, 1, 0]);
        execute(program, argv, envp)
    };
    report(FAILED, error.unsigned_abs() as u32);
    exit(if error == ENOENT || error == ENOTDIR { 127 } else { 126 })
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
fn reap(command: isize) -> ! {
    let mut last = 0_i32;
    loop {
        let mut status = 0_i32;
        let pid = syscall(nr::WAIT4, [usize::MAX, core::ptr::from_mut(&mut status) as usize, 0, 0]);
        if pid == command {
            last = status;
            report(ENDED, status as u32);
        } else if pid < 0 && pid != EINTR {
            exit(if last & 0x7f == 0 { (last >> 8) as usize & 0xff } else { 128 + (last as usize & 0x7f) })
        }
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
