//! What a guest's kernel asks: one FUSE request, parsed and checked.
//!
//! Pure: bytes in, [`Request`] out. The bytes come from another node, so every length is checked, names
//! hold neither `/` nor NUL and are neither `.` nor `..`, and nothing here panics or allocates.

use std::ffi::CStr;

use nix::errno::Errno;

use crate::abi::{self, op};

/// A request: its header's facts and what is asked.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The inode that it is about.
    pub(crate) node: u64,
    /// What is asked.
    pub(crate) operation: Operation<'a>,
}

/// A point in time to set, see utimensat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetTime {
    /// The server's now.
    Now,
    /// Seconds and nanoseconds since the epoch.
    At(i64, i64),
}

/// What SETATTR changes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) handle: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<SetTime>,
    pub(crate) mtime: Option<SetTime>,
}

/// A lock as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lock {
    pub(crate) handle: u64,
    pub(crate) owner: u64,
    pub(crate) start: u64,
    /// Last byte, inclusive; `i64::MAX` for "to the end of the file".
    pub(crate) end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(crate) kind: u32,
    /// flock(2), not a record lock.
    pub(crate) flock: bool,
}

/// Where a list of directory entries is to be continued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing {
    pub(crate) handle: u64,
    pub(crate) offset: u64,
    pub(crate) size: usize,
}

/// One operation with its arguments.
#[derive(Debug)]
pub(crate) enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    },
    Destroy,
    Interrupt,
    Forget {
        lookups: u64,
    },
    BatchForget(Forgets<'a>),
    Lookup {
        name: &'a CStr,
    },
    GetAttr {
        handle: Option<u64>,
    },
    SetAttr(Changes),
    ReadLink,
    SymLink {
        name: &'a CStr,
        target: &'a CStr,
    },
    MkNod {
        name: &'a CStr,
        mode: u32,
        umask: u32,
    },
    MkDir {
        name: &'a CStr,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a CStr,
    },
    RmDir {
        name: &'a CStr,
    },
    Rename {
        name: &'a CStr,
        to: u64,
        new_name: &'a CStr,
        flags: u32,
    },
    Link {
        of: u64,
        name: &'a CStr,
    },
    Open {
        flags: u32,
    },
    Create {
        name: &'a CStr,
        flags: u32,
        mode: u32,
        umask: u32,
    },
    TmpFile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Read {
        handle: u64,
        offset: u64,
        size: usize,
    },
    Write {
        handle: u64,
        offset: u64,
        append: bool,
        data: &'a [u8],
    },
    Flush {
        handle: u64,
        owner: u64,
    },
    Release {
        handle: u64,
    },
    FSync {
        handle: u64,
        data_only: bool,
    },
    OpenDir,
    ReadDir(Listing),
    ReadDirPlus(Listing),
    ReleaseDir {
        handle: u64,
    },
    FSyncDir {
        handle: u64,
        data_only: bool,
    },
    StatFs,
    Access {
        mask: u32,
    },
    SetXattr {
        name: &'a CStr,
        value: &'a [u8],
        flags: u32,
    },
    GetXattr {
        name: &'a CStr,
        size: usize,
    },
    ListXattr {
        size: usize,
    },
    RemoveXattr {
        name: &'a CStr,
    },
    GetLock(Lock),
    SetLock(Lock),
    Seek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    Allocate {
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    },
    CopyRange {
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        length: u64,
        flags: u64,
    },
    /// Nothing that this server knows; answered with ENOSYS, upon which kernels do without.
    Unknown(u32),
}

/// The inodes of a BATCH_FORGET, with how many lookups of each are forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Forgets<'a>(Body<'a>);

impl Iterator for Forgets<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        Some((self.0.u64().ok()?, self.0.u64().ok()?))
    }
}

/// What can be read of a request's header even if its body is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) opcode: u32,
    /// The kernel's name for this request; the reply repeats it.
    pub(crate) unique: u64,
    pub(crate) node: u64,
}

impl Header {
    /// Reads the header of the request in `message`; `None` unless the message is as long as it says.
    pub(crate) fn parse(message: &[u8]) -> Option<Header> {
        let mut header = Body(message.get(..abi::IN_HEADER)?);
        let length = header.u32().ok()?;
        if usize::try_from(length).ok()? != message.len() {
            return None;
        }
        let (opcode, unique, node) = (header.u32().ok()?, header.u64().ok()?, header.u64().ok()?);
        Some(Header { opcode, unique, node })
    }

    /// Whether the kernel waits for an answer.
    pub(crate) fn wants_reply(self) -> bool {
        !matches!(self.opcode, op::FORGET | op::BATCH_FORGET | op::INTERRUPT)
    }
}

impl<'a> Request<'a> {
    /// Parses the body that belongs to `header`. The error is what to answer.
    pub(crate) fn parse(header: Header, message: &'a [u8]) -> Result<Request<'a>, Errno> {
        let body = Body(message.get(abi::IN_HEADER..).ok_or(Errno::EINVAL)?);
        let operation = operation(header.opcode, body)?;
        Ok(Request { node: header.node, operation })
    }
}

fn operation(opcode: u32, mut b: Body<'_>) -> Result<Operation<'_>, Errno> {
    use Operation as O;
    Ok(match opcode {
        op::INIT => {
            let (major, minor) = (b.u32()?, b.u32()?);
            O::Init { major, minor, max_readahead: b.u32()?, flags: b.u32()? }
        }
        op::DESTROY => O::Destroy,
        op::INTERRUPT => O::Interrupt,
        op::FORGET => O::Forget { lookups: b.u64()? },
        op::BATCH_FORGET => {
            let count = usize::try_from(b.u32()?).map_err(|_| Errno::EINVAL)?;
            b.skip(4)?;
            O::BatchForget(Forgets(Body(b.bytes(count.checked_mul(16).ok_or(Errno::EINVAL)?)?)))
        }
        op::LOOKUP => O::Lookup { name: b.name()? },
        op::GETATTR => {
            let flags = b.u32()?;
            b.skip(4)?;
            let handle = b.u64()?;
            O::GetAttr { handle: (flags & abi::GETATTR_FH != 0).then_some(handle) }
        }
        op::SETATTR => O::SetAttr(changes(&mut b)?),
        op::READLINK => O::ReadLink,
        op::SYMLINK => O::SymLink { name: b.name()?, target: b.text()? },
        op::MKNOD => {
            let (mode, _device, umask, _) = (b.u32()?, b.u32()?, b.u32()?, b.u32()?);
            O::MkNod { name: b.name()?, mode, umask }
        }
        op::MKDIR => {
            let (mode, umask) = (b.u32()?, b.u32()?);
            O::MkDir { name: b.name()?, mode, umask }
        }
        op::UNLINK => O::Unlink { name: b.name()? },
        op::RMDIR => O::RmDir { name: b.name()? },
        op::RENAME => O::Rename { to: b.u64()?, flags: 0, name: b.name()?, new_name: b.name()? },
        op::RENAME2 => {
            let (to, flags, _) = (b.u64()?, b.u32()?, b.u32()?);
            O::Rename { to, flags, name: b.name()?, new_name: b.name()? }
        }
        op::LINK => O::Link { of: b.u64()?, name: b.name()? },
        op::OPEN => O::Open { flags: b.u32()? },
        op::CREATE | op::TMPFILE => {
            let (flags, mode, umask, _) = (b.u32()?, b.u32()?, b.u32()?, b.u32()?);
            match opcode {
                op::CREATE => O::Create { name: b.name()?, flags, mode, umask },
                _ => O::TmpFile { flags, mode, umask },
            }
        }
        op::READ => {
            let (handle, offset) = (b.u64()?, b.u64()?);
            O::Read { handle, offset, size: b.size(abi::MAX_IO)? }
        }
        op::WRITE => {
            let (handle, offset, size) = (b.u64()?, b.u64()?, b.size(abi::MAX_IO)?);
            let (write_flags, _owner, flags, _) = (b.u32()?, b.u64()?, b.u32()?, b.u32()?);
            let append = flags & libc::O_APPEND.cast_unsigned() != 0 && write_flags & abi::WRITE_CACHE == 0;
            O::Write { handle, offset, append, data: b.bytes(size)? }
        }
        op::FLUSH => {
            let (handle, _) = (b.u64()?, b.u64()?);
            O::Flush { handle, owner: b.u64()? }
        }
        op::RELEASE => O::Release { handle: b.u64()? },
        op::RELEASEDIR => O::ReleaseDir { handle: b.u64()? },
        op::FSYNC => O::FSync { handle: b.u64()?, data_only: b.u32()? & abi::FSYNC_DATA != 0 },
        op::FSYNCDIR => O::FSyncDir { handle: b.u64()?, data_only: b.u32()? & abi::FSYNC_DATA != 0 },
        op::OPENDIR => O::OpenDir,
        op::READDIR => O::ReadDir(listing(&mut b)?),
        op::READDIRPLUS => O::ReadDirPlus(listing(&mut b)?),
        op::STATFS => O::StatFs,
        op::ACCESS => O::Access { mask: b.u32()? },
        op::SETXATTR => {
            let (size, flags) = (b.size(abi::XATTR_MAX)?, b.u32()?);
            O::SetXattr { name: b.text()?, value: b.bytes(size)?, flags }
        }
        op::GETXATTR => {
            let (size, _) = (b.capped(abi::XATTR_MAX)?, b.u32()?);
            O::GetXattr { name: b.text()?, size }
        }
        op::LISTXATTR => O::ListXattr { size: b.capped(abi::XATTR_MAX)? },
        op::REMOVEXATTR => O::RemoveXattr { name: b.text()? },
        op::GETLK => O::GetLock(lock(&mut b)?),
        // The guest's node waits for locks by asking again, so a request for one never waits here.
        op::SETLK | op::SETLKW => O::SetLock(lock(&mut b)?),
        op::LSEEK => O::Seek { handle: b.u64()?, offset: b.u64()?, whence: b.u32()? },
        op::FALLOCATE => O::Allocate { handle: b.u64()?, offset: b.u64()?, length: b.u64()?, mode: b.u32()? },
        op::COPY_FILE_RANGE => {
            let (from, from_offset, _node) = (b.u64()?, b.u64()?, b.u64()?);
            let (to, to_offset, length, flags) = (b.u64()?, b.u64()?, b.u64()?, b.u64()?);
            O::CopyRange { from, from_offset, to, to_offset, length, flags }
        }
        other => O::Unknown(other),
    })
}

fn changes(b: &mut Body<'_>) -> Result<Changes, Errno> {
    use abi::fattr;
    let (valid, _) = (b.u32()?, b.u32()?);
    let (handle, size, _owner) = (b.u64()?, b.u64()?, b.u64()?);
    let (atime, mtime, _ctime) = (b.u64()?, b.u64()?, b.u64()?);
    let (atime_ns, mtime_ns, _ctime_ns) = (b.u32()?, b.u32()?, b.u32()?);
    let (mode, _, uid, gid) = (b.u32()?, b.u32()?, b.u32()?, b.u32()?);
    let has = |bit: u32| valid & bit != 0;
    let time = |set, now, seconds: u64, ns: u32| {
        has(set).then(|| match has(now) {
            true => SetTime::Now,
            false => SetTime::At(seconds.cast_signed(), i64::from(ns)),
        })
    };
    Ok(Changes {
        handle: has(fattr::FH).then_some(handle),
        mode: has(fattr::MODE).then_some(mode),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, atime, atime_ns),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, mtime, mtime_ns),
    })
}

fn listing(b: &mut Body<'_>) -> Result<Listing, Errno> {
    Ok(Listing { handle: b.u64()?, offset: b.u64()?, size: b.capped(abi::MAX_IO)? })
}

fn lock(b: &mut Body<'_>) -> Result<Lock, Errno> {
    let (handle, owner, start, end) = (b.u64()?, b.u64()?, b.u64()?, b.u64()?);
    let (kind, _pid, flags) = (b.u32()?, b.u32()?, b.u32()?);
    Ok(Lock { handle, owner, start, end, kind, flock: flags & abi::LK_FLOCK != 0 })
}

/// The bytes that are still to be read. A missing byte is EINVAL: the guest's kernel never leaves one out.
#[derive(Clone, Debug)]
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), Errno> {
        self.bytes(count).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_ne_bytes)
    }

    /// A 32-bit size that must not be above `limit`.
    fn size(&mut self, limit: usize) -> Result<usize, Errno> {
        usize::try_from(self.u32()?).ok().filter(|size| *size <= limit).ok_or(Errno::EINVAL)
    }

    /// A 32-bit size; above `limit` the answer is simply shorter than asked for.
    fn capped(&mut self, limit: usize) -> Result<usize, Errno> {
        usize::try_from(self.u32()?).map(|size| size.min(limit)).map_err(|_| Errno::EINVAL)
    }

    /// Text up to and with its NUL.
    fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::EINVAL)?;
        self.skip(text.count_bytes() + 1)?;
        Ok(text)
    }

    /// The name of a directory entry.
    fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::EINVAL),
            bytes if bytes.len() > abi::NAME_MAX => Err(Errno::ENAMETOOLONG),
            bytes if bytes.contains(&b'/') => Err(Errno::EINVAL),
            _ => Ok(name),
        }
    }
}
