//! The system calls that have no safe wrapper, or whose wrapper would act on the whole process.
#![expect(unsafe_code, reason = "system calls without a safe wrapper; each block says why it is sound")]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// A set of capabilities, as a bit mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    /// None at all.
    pub(crate) const NONE: Capabilities = Capabilities(0);
    /// What root needs to be root for files: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID,
    /// LINUX_IMMUTABLE and SETFCAP. Not MKNOD.
    pub(crate) const FILES: Capabilities =
        Capabilities(1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9 | 1 << 31);
}

/// Sets the calling thread's supplementary groups; the C library's function would set every thread's.
pub(crate) fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `len` 32-bit numbers from a slice that has as many.
    Errno::result(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Sets the calling thread's file system gid.
pub(crate) fn set_fs_gid(gid: u32) -> Result<(), Errno> {
    // SAFETY: plain numbers. The call reports no error, so it is made again to see what holds.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsgid, u32::MAX)
    };
    if now == i64::from(gid) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Sets the calling thread's file system uid; the kernel then drops the thread's capabilities over files.
pub(crate) fn set_fs_uid(uid: u32) -> Result<(), Errno> {
    // SAFETY: plain numbers. The call reports no error, so it is made again to see what holds.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsuid, uid);
        libc::syscall(libc::SYS_setfsuid, u32::MAX)
    };
    if now == i64::from(uid) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Leaves the calling thread those of its capabilities that are in `keep`, for good.
pub(crate) fn set_capabilities(keep: Capabilities) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: header and the two sets are laid out as the kernel wants them for version 3, and live here.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    for (set, half) in sets.iter_mut().zip([keep.0 & 0xffff_ffff, keep.0 >> 32]) {
        let half = u32::try_from(half).unwrap_or(0);
        set.permitted &= half;
        set.effective = set.permitted;
        set.inheritable = 0;
    }
    // SAFETY: as above; the kernel only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) }).map(drop)
}

/// Reads directory entries as the kernel lays them out: see getdents64(2).
pub(crate) fn get_dents(directory: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let fd = directory.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes into a slice that has as many.
    let count = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) };
    Errno::result(count).map(|count| usize::try_from(count).unwrap_or(0))
}

/// Writes at the end of the file, whatever flags it was opened with.
pub(crate) fn append(file: impl AsFd, data: &[u8]) -> Result<usize, Errno> {
    let part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: the kernel only reads, from one part that is a live slice.
    let count = unsafe { libc::pwritev2(file.as_fd().as_raw_fd(), &raw const part, 1, 0, libc::RWF_APPEND) };
    Errno::result(count).map(|count| usize::try_from(count).unwrap_or(0))
}

/// Asks whether the calling thread's file system uid may do `mask` to `file`. faccessat(2) would ask for the
/// real uid, which is root's.
pub(crate) fn access(file: impl AsFd, mask: u32) -> Result<(), Errno> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: a file descriptor, an empty string and numbers.
    let result =
        unsafe { libc::syscall(libc::SYS_faccessat2, file.as_fd().as_raw_fd(), c"".as_ptr(), mask, flags) };
    Errno::result(result).map(drop)
}

/// Takes, changes or drops a flock(2) without waiting. `operation`: `LOCK_SH`, `LOCK_EX` or `LOCK_UN`.
pub(crate) fn flock(file: impl AsFd, operation: i32) -> Result<(), Errno> {
    // SAFETY: a file descriptor and a number.
    Errno::result(unsafe { libc::flock(file.as_fd().as_raw_fd(), operation | libc::LOCK_NB) }).map(drop)
}

/// Seeks, also to data and holes.
pub(crate) fn seek(file: BorrowedFd<'_>, offset: i64, whence: i32) -> Result<i64, Errno> {
    // SAFETY: a file descriptor and numbers.
    Errno::result(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })
}

/// Reads an extended attribute. With an empty buffer: how long its value is.
pub(crate) fn get_xattr(path: &CStr, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: two strings that end in NUL; the kernel writes at most `len` bytes into a slice that has as many.
    let size =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    Errno::result(size).map(|size| usize::try_from(size).unwrap_or(0))
}

/// Reads the names of the extended attributes. With an empty buffer: how long the list is.
pub(crate) fn list_xattr(path: &CStr, list: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: a string that ends in NUL; the kernel writes at most `len` bytes into a slice that has as many.
    let size = unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    Errno::result(size).map(|size| usize::try_from(size).unwrap_or(0))
}

/// Sets an extended attribute. `flags`: `XATTR_CREATE`, `XATTR_REPLACE` or 0.
pub(crate) fn set_xattr(path: &CStr, name: &CStr, value: &[u8], flags: i32) -> Result<(), Errno> {
    // SAFETY: two strings that end in NUL; the kernel reads `len` bytes from a slice that has as many.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    Errno::result(result).map(drop)
}

/// Removes an extended attribute.
pub(crate) fn remove_xattr(path: &CStr, name: &CStr) -> Result<(), Errno> {
    // SAFETY: two strings that end in NUL.
    Errno::result(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}
