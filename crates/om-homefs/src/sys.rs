//! The system calls that have no safe wrapper, or whose wrapper would act on the whole process.
#![expect(unsafe_code, reason = "system calls without a safe wrapper; each block says why it is sound")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
    /// DAC_READ_SEARCH: to read any file, and to open files by their handles.
    pub(crate) const READ_ANY: Capabilities = Capabilities(1 << 2);

    /// Whether all of `other` are in it.
    pub(crate) const fn contains(self, other: Capabilities) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of either set.
    pub(crate) const fn with(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }
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

/// Sets the calling thread's real uid and gid; the effective ones stay.
pub(crate) fn set_real_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    const KEEP: u32 = u32::MAX;
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, KEEP, KEEP) })?;
    // SAFETY: as above.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, KEEP, KEEP) }).map(drop)
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The capabilities that the calling thread uses.
pub(crate) fn effective_capabilities() -> Result<Capabilities, Errno> {
    let [low, high] = capability_sets()?;
    Ok(Capabilities(u64::from(low.effective) | u64::from(high.effective) << 32))
}

fn capability_sets() -> Result<[CapabilitySets; 2], Errno> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = [CapabilitySets::default(); 2];
    // SAFETY: header and the two sets are laid out as the kernel wants them for version 3, and live here.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(sets)
}

/// Lets the calling thread use `effective`, and later take up what is in `permitted`; what is in neither it
/// loses for good. Capabilities that the thread does not have are left out.
pub(crate) fn set_capabilities(effective: Capabilities, permitted: Capabilities) -> Result<(), Errno> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = capability_sets()?;
    let permitted = permitted.with(effective);
    for (set, shift) in sets.iter_mut().zip([0, 32]) {
        let half = |all: Capabilities| u32::try_from((all.0 >> shift) & 0xffff_ffff).unwrap_or(0);
        set.permitted &= half(permitted);
        set.effective = set.permitted & half(effective);
        set.inheritable = 0;
    }
    // SAFETY: header and the two sets are laid out as the kernel wants them for version 3; it only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) }).map(drop)
}

/// What statx(2) says of a file.
pub(crate) type Stat = libc::statx;

/// statx(2) of an open file, which may be an `O_PATH` descriptor, of a symbolic link too.
pub(crate) fn stat(file: impl AsFd) -> Result<Stat, Errno> {
    /// `STATX_BASIC_STATS | STATX_MNT_ID`.
    const WANTED: u32 = 0x7ff | 0x1000;
    let mut stat = MaybeUninit::<Stat>::zeroed();
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: an empty string, numbers, and room for the structure that the kernel writes.
    Errno::result(unsafe { libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, WANTED, stat.as_mut_ptr()) })?;
    // SAFETY: integers only, for which zeroes are fine, and then the kernel wrote it.
    Ok(unsafe { stat.assume_init() })
}

/// A name for a file that stays good as long as the file exists, and is never another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

/// Most bytes of a handle: the kernel's `MAX_HANDLE_SZ`.
const HANDLE_MAX: usize = 128;

#[repr(C)]
struct RawHandle {
    size: u32,
    kind: i32,
    bytes: [u8; HANDLE_MAX],
}

/// The handle of an open file; EOPNOTSUPP where the file system has none.
pub(crate) fn handle_of(file: impl AsFd) -> Result<FileHandle, Errno> {
    let mut raw = RawHandle { size: 128, kind: 0, bytes: [0; HANDLE_MAX] };
    let mut mount = 0_i32;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: an empty string; the handle says how much room it has; the mount id is an int that lives here.
    Errno::result(unsafe {
        let (raw, mount) = (&raw mut raw, &raw mut mount);
        libc::syscall(libc::SYS_name_to_handle_at, fd, c"".as_ptr(), raw, mount, libc::AT_EMPTY_PATH)
    })?;
    let bytes = usize::try_from(raw.size).ok().and_then(|size| raw.bytes.get(..size));
    Ok(FileHandle { kind: raw.kind, bytes: bytes.ok_or(Errno::EOVERFLOW)?.into() })
}

/// Looks at (`O_PATH`) the file that has this handle, on the mount that `anchor` is on. Needs
/// [`Capabilities::READ_ANY`].
pub(crate) fn look_by_handle(anchor: impl AsFd, handle: &FileHandle) -> Result<OwnedFd, Errno> {
    let size = u32::try_from(handle.bytes.len()).map_err(|_| Errno::EINVAL)?;
    let mut raw = RawHandle { size, kind: handle.kind, bytes: [0; HANDLE_MAX] };
    raw.bytes.get_mut(..handle.bytes.len()).ok_or(Errno::EINVAL)?.copy_from_slice(&handle.bytes);
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let fd = anchor.as_fd().as_raw_fd();
    // SAFETY: the kernel only reads the handle, which says how long it is.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_open_by_handle_at, fd, &raw mut raw, flags) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
