//! Requests about open files and what is in them.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, copy_file_range, fallocate, openat};
use nix::sys::stat::{Mode, SFlag};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{fdatasync, fsync};

use crate::abi;
use crate::reply::{Reply, clamp};
use crate::sys;

use super::handle::{File, Handle, reopen};
use super::inode::{Inode, kind_of};
use super::names::{look, mask, permissions};
use super::session::Session;

/// Most bytes that one request copies at home, so that it takes seconds at worst; the guest asks for the rest.
const COPY_MAX: u64 = 64 << 20;

impl Session {
    pub(super) fn open(&self, node: u64, flags: u32, reply: &mut Reply) -> Result<(), Errno> {
        let inode = self.inodes.get(node)?;
        // FIFOs, sockets and devices are the guest node's own affair and are never opened here, hence never wait.
        if inode.kind != SFlag::S_IFREG {
            return Err(Errno::ENXIO);
        }
        let place = inode.unveiled()?;
        if flags & abi::FMODE_EXEC != 0 {
            sys::access(&*place, libc::X_OK.cast_unsigned())?;
        }
        let fd = open_with(flags, |flags| reopen(&*place, flags))?;
        let keep = if inode.is_as_last_opened(&fd) { abi::FOPEN_KEEP_CACHE } else { 0 };
        self.keep_open(fd, flags, keep, reply)
    }

    pub(super) fn create(
        &self,
        parent: u64,
        name: &CStr,
        flags: u32,
        mode: u32,
        umask: u32,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let parent = self.inodes.get(parent)?;
        let directory = parent.unveiled()?;
        mask(umask);
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made =
            openable(flags).and_then(|flags| openat(&*directory, name, flags | create, permissions(mode)));
        match made {
            Ok(fd) => {
                let place = reopen(&fd, look_anew())?;
                self.enter_and_open(&parent, place, fd, flags, reply)
            }
            // It came into being since the guest looked. Open only what is known to be a regular file.
            Err(Errno::EEXIST) if OFlag::from_bits_truncate(flags.cast_signed()).contains(OFlag::O_EXCL) => {
                Err(Errno::EEXIST)
            }
            Err(Errno::EEXIST) => {
                let place = openat(&*directory, name, look(), Mode::empty())?;
                if kind_of(&sys::stat(&place)?) != SFlag::S_IFREG {
                    return Err(Errno::ESTALE);
                }
                let fd = reopen(&place, openable(flags)?)?;
                self.enter_and_open(&parent, place, fd, flags, reply)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Makes a file without a name, see open(2), `O_TMPFILE`.
    pub(super) fn tmpfile(
        &self,
        parent: u64,
        flags: u32,
        mode: u32,
        umask: u32,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let parent = self.inodes.get(parent)?;
        mask(umask);
        let exclusive = OFlag::from_bits_truncate(flags.cast_signed()) & OFlag::O_EXCL;
        let how = openable(flags)? | exclusive | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let fd = openat(&*parent.unveiled()?, c".", how, permissions(mode))?;
        let place = reopen(&fd, look_anew())?;
        self.enter_and_open(&parent, place, fd, flags, reply)
    }

    /// Answers with both: the inode at `place`, and its file `fd` as an open one.
    fn enter_and_open(
        &self,
        parent: &Inode,
        place: OwnedFd,
        fd: OwnedFd,
        flags: u32,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let inode = self.entry(parent, place, reply)?;
        self.keep_open(fd, flags, 0, reply).inspect_err(|_| self.inodes.forget(inode.id, 1))
    }

    /// `answer`: open flags for the guest's kernel.
    fn keep_open(&self, fd: OwnedFd, flags: u32, answer: u32, reply: &mut Reply) -> Result<(), Errno> {
        let handle = self.handles.insert(Handle::File(File::new(fd)))?;
        // Closing a file drops record locks, of which home must be told; what was only read is told at its last
        // close anyway, and that saves a round trip on most files.
        let reads_only = OFlag::from_bits_truncate(flags.cast_signed()) & OFlag::O_ACCMODE == OFlag::O_RDONLY;
        reply.opened(handle, answer | if reads_only { abi::FOPEN_NOFLUSH } else { 0 });
        Ok(())
    }

    pub(super) fn release(&self, handle: u64) {
        self.locks.drop_handle(handle);
        self.handles.remove(handle);
    }

    pub(super) fn flush(&self, handle: u64, node: u64, owner: u64) -> Result<(), Errno> {
        self.handles.get(handle)?.file()?;
        self.locks.drop_owner(node, owner);
        Ok(())
    }

    pub(super) fn read(&self, handle: u64, offset: u64, size: usize, reply: &mut Reply) -> Result<(), Errno> {
        let handle = self.handles.get(handle)?;
        let file = handle.file()?;
        let room = reply.room(size);
        let mut have = 0;
        // Only the end of the file may cut a read short: the guest's kernel takes a short one for the end.
        while let Some(rest) = room.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match pread(&file.fd, rest, position(offset, have)?) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(Errno::EINTR) => continue,
                Err(_) if have > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        reply.fill(have);
        Ok(())
    }

    pub(super) fn write(
        &self,
        handle: u64,
        offset: u64,
        append: bool,
        data: &[u8],
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let handle = self.handles.get(handle)?;
        let file = handle.file()?;
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let result = match append {
                true => sys::append(&file.fd, rest),
                false => pwrite(&file.fd, rest, position(offset, done)?),
            };
            match result {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::EINTR) => continue,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        reply.u32(clamp(u64::try_from(done).unwrap_or(0))).u32(0);
        Ok(())
    }

    pub(super) fn fsync(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        sync(&self.handles.get(handle)?.file()?.fd, data_only)
    }

    pub(super) fn seek(&self, handle: u64, offset: u64, whence: u32, reply: &mut Reply) -> Result<(), Errno> {
        let whence = whence.cast_signed();
        if ![libc::SEEK_DATA, libc::SEEK_HOLE].contains(&whence) {
            return Err(Errno::EINVAL);
        }
        let handle = self.handles.get(handle)?;
        let found = sys::seek(handle.file()?.fd.as_fd(), position(offset, 0)?, whence)?;
        reply.u64(found.cast_unsigned());
        Ok(())
    }

    pub(super) fn allocate(&self, handle: u64, offset: u64, length: u64, mode: u32) -> Result<(), Errno> {
        let mode = FallocateFlags::from_bits(mode.cast_signed()).ok_or(Errno::EOPNOTSUPP)?;
        let handle = self.handles.get(handle)?;
        let length = i64::try_from(length).map_err(|_| Errno::EFBIG)?;
        fallocate(&handle.file()?.fd, mode, position(offset, 0)?, length)
    }

    pub(super) fn copy_range(
        &self,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
        flags: u64,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        let (source, target) = (self.handles.get(from.0)?, self.handles.get(to.0)?);
        let (mut read_at, mut write_at) = (position(from.1, 0)?, position(to.1, 0)?);
        let length = usize::try_from(length.min(COPY_MAX)).map_err(|_| Errno::EINVAL)?;
        let count = copy_file_range(
            &source.file()?.fd,
            Some(&mut read_at),
            &target.file()?.fd,
            Some(&mut write_at),
            length,
        )?;
        reply.u32(clamp(u64::try_from(count).unwrap_or(0))).u32(0);
        Ok(())
    }
}

/// Opens a file with these flags of the guest's.
fn open_with(flags: u32, open: impl Fn(OFlag) -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    let wanted = openable(flags)?;
    let append = OFlag::from_bits_truncate(flags.cast_signed()) & OFlag::O_APPEND;
    match open(wanted) {
        // A file that may only ever grow (chattr +a) is only opened for just that.
        Err(Errno::EPERM) if !append.is_empty() => open(wanted | append),
        other => other,
    }
}

/// The flags with which home opens what the guest opens with `flags`.
///
/// Not `O_APPEND`: each write says itself whether it appends (a program may change its mind, and pages that
/// are written back never do). Not `O_DIRECT`: it is about the guest's page cache.
fn openable(flags: u32) -> Result<OFlag, Errno> {
    let flags = OFlag::from_bits_truncate(flags.cast_signed());
    if flags & OFlag::O_ACCMODE == OFlag::O_ACCMODE {
        return Err(Errno::EINVAL);
    }
    let kept = OFlag::O_ACCMODE | OFlag::O_TRUNC | OFlag::O_SYNC | OFlag::O_DSYNC | OFlag::O_NOATIME;
    Ok((flags & kept) | OFlag::O_CLOEXEC)
}

/// As [`look`], of a file that is open.
fn look_anew() -> OFlag {
    OFlag::O_PATH | OFlag::O_CLOEXEC
}

pub(super) fn sync(file: impl AsFd, data_only: bool) -> Result<(), Errno> {
    if data_only { fdatasync(file) } else { fsync(file) }
}

fn position(offset: u64, further: usize) -> Result<i64, Errno> {
    let further = u64::try_from(further).map_err(|_| Errno::EINVAL)?;
    offset.checked_add(further).and_then(|sum| i64::try_from(sum).ok()).ok_or(Errno::EINVAL)
}
