//! The numbers of the FUSE kernel ABI that this crate uses: opcodes, flags and sizes.
//!
//! Facts from the kernel's `linux/fuse.h`; the ABI is versioned (7.x) and only ever grows. Nothing here
//! has behaviour: [`crate::request`] parses what the kernel wrote, [`crate::reply`] builds what it reads.

/// ABI version that the server speaks; the kernel uses the lower of its own and this one.
pub(crate) const MAJOR: u32 = 7;
/// See [`MAJOR`].
pub(crate) const MINOR: u32 = 38;
/// Oldest minor version served: Linux 5.4. The cgroup v2 freezer, without which no job moves, is as old.
pub(crate) const OLDEST_MINOR: u32 = 31;

/// The node id of the root of the mount.
pub(crate) const ROOT_ID: u64 = 1;
/// Bytes of `struct fuse_in_header`.
pub(crate) const IN_HEADER: usize = 40;
/// Bytes of `struct fuse_out_header`.
pub(crate) const OUT_HEADER: usize = 16;

/// Most bytes of data in one read or write: 256 pages, the most that kernels let an unprivileged file system ask for.
pub const MAX_IO: usize = 1 << 20;
/// Most bytes of one FUSE message in either direction: the data and its headers.
pub(crate) const MAX_MESSAGE: usize = MAX_IO + 4096;
/// Longest file name, bytes.
pub(crate) const NAME_MAX: usize = 255;
/// Longest value or list of extended attributes, bytes.
pub(crate) const XATTR_MAX: usize = 64 << 10;

/// What the kernel asks for.
pub(crate) mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const GETLK: u32 = 31;
    pub(crate) const SETLK: u32 = 32;
    pub(crate) const SETLKW: u32 = 33;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const TMPFILE: u32 = 51;
}

/// What kernel and server agree on at INIT: bits of `flags`.
pub(crate) mod init {
    pub(crate) const ASYNC_READ: u32 = 1 << 0;
    pub(crate) const POSIX_LOCKS: u32 = 1 << 1;
    pub(crate) const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub(crate) const BIG_WRITES: u32 = 1 << 5;
    pub(crate) const DONT_MASK: u32 = 1 << 6;
    pub(crate) const FLOCK_LOCKS: u32 = 1 << 10;
    pub(crate) const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub(crate) const DO_READDIRPLUS: u32 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub(crate) const ASYNC_DIO: u32 = 1 << 15;
    pub(crate) const PARALLEL_DIROPS: u32 = 1 << 18;
    pub(crate) const MAX_PAGES: u32 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u32 = 1 << 23;
    pub(crate) const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
}

/// Bits of `fuse_setattr_in.valid`.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const FH: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
}

/// `fuse_getattr_in.getattr_flags`: the file handle is valid.
pub(crate) const GETATTR_FH: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: written back from the page cache, at its own offset.
pub(crate) const WRITE_CACHE: u32 = 1 << 0;
/// `fuse_lk_in.lk_flags`: flock(2), not a record lock.
pub(crate) const LK_FLOCK: u32 = 1 << 0;
/// `fuse_fsync_in.fsync_flags`: data only.
pub(crate) const FSYNC_DATA: u32 = 1 << 0;
/// `fuse_open_out.open_flags`: the pages that the kernel has are still good.
pub(crate) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// `fuse_open_out.open_flags`: a close(2) need not be told.
pub(crate) const FOPEN_NOFLUSH: u32 = 1 << 5;
/// Bit of the open flags by which the kernel says that the file is opened to be executed.
pub(crate) const FMODE_EXEC: u32 = 0x20;
