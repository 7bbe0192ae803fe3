//! The few system calls that the search needs and the safe wrappers do not cover.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::unistd::Pid;

/// What two tasks may share, with kcmp(2)'s numbers.
#[derive(Clone, Copy, Debug)]
pub enum Shared {
    /// Memory.
    Memory = 1,
    /// The table of descriptors.
    Descriptors = 2,
    /// Working directory, root and umask.
    Directory = 3,
}

/// Whether two tasks share this; nothing if one has gone or the kernel does not say.
pub fn shares(one: Pid, other: Pid, what: Shared) -> Option<bool> {
    // SAFETY: numbers only; nothing is written.
    let order =
        unsafe { libc::syscall(libc::SYS_kcmp, one.as_raw(), other.as_raw(), what as libc::c_int, 0, 0) };
    (order >= 0).then_some(order == 0)
}

/// The scheduling policy of a task; nothing if it has gone.
pub fn scheduling_policy(task: Pid) -> Option<i32> {
    // SAFETY: a number only. Not libc's function, which musl leaves empty.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, task.as_raw()) };
    i32::try_from(policy).ok().filter(|policy| *policy >= 0)
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Kind and permissions.
    pub mode: u32,
    /// How many names it has.
    pub links: u32,
    /// Bytes that it takes up.
    pub bytes: u64,
    /// Device that it is on: major, minor.
    pub on: (u32, u32),
    /// Device that it is: major, minor.
    pub device: (u32, u32),
    /// Its number on its device.
    pub inode: u64,
}

impl Status {
    /// Whether it is of this kind, one of `libc::S_IF*`.
    pub fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }
}

/// Status of the file at `path` below an open directory. A network file system is not asked: it tells what it knew last.
pub fn status(directory: &impl AsFd, path: &str) -> io::Result<Status> {
    let path = CString::new(path)?;
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the structure is plain integers, for which zeros will do, and the call fills it.
    let file = unsafe {
        let mut file: libc::statx = std::mem::zeroed();
        let mask = libc::STATX_BASIC_STATS;
        if libc::statx(directory.as_fd().as_raw_fd(), path.as_ptr(), flags, mask, &raw mut file) != 0 {
            return Err(io::Error::last_os_error());
        }
        file
    };
    Ok(Status {
        mode: file.stx_mode.into(),
        links: file.stx_nlink,
        bytes: file.stx_blocks * 512,
        on: (file.stx_dev_major, file.stx_dev_minor),
        device: (file.stx_rdev_major, file.stx_rdev_minor),
        inode: file.stx_ino,
    })
}

/// The kernel's name for the protocol of the socket at this path below `/proc`, as `TCP` or `UNIX-STREAM`.
pub fn socket_protocol(path: &str) -> Option<String> {
    const NAME: &CStr = c"system.sockprotoname";
    let path = CString::new(path).ok()?;
    let mut name = [0_u8; 64];
    // SAFETY: at most as many bytes are written as there are.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), NAME.as_ptr(), name.as_mut_ptr().cast(), name.len()) };
    let name = name.get(..usize::try_from(length).ok()?)?;
    Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_kernel_tells_what_a_socket_is() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        assert_eq!(socket_protocol(&path).as_deref(), Some("UDP"));
    }

    #[test]
    fn a_device_is_told_from_a_directory() {
        let directory = File::open("/dev").unwrap();
        let null = status(&directory, "null").unwrap();
        assert!(null.is(libc::S_IFCHR));
        assert_eq!(null.device, (1, 3));
        assert!(status(&directory, ".").unwrap().is(libc::S_IFDIR));
    }

    #[test]
    fn a_process_shares_all_with_itself_and_nothing_with_others() {
        let this = Pid::this();
        assert_eq!(shares(this, this, Shared::Memory), Some(true));
        assert!(!shares(this, Pid::from_raw(1), Shared::Descriptors).unwrap_or_default());
        assert_eq!(shares(this, Pid::from_raw(i32::MAX), Shared::Directory), None, "there is none");
        assert_eq!(scheduling_policy(this), Some(libc::SCHED_OTHER));
    }
}
