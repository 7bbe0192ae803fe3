//! Requests about what is known of a file: attributes, extended attributes, permissions, free space.

use std::ffi::CStr;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, SFlag, UtimensatFlags, fchmod, fchmodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, ftruncate};

use crate::reply::{Reply, clamp};
use crate::request::{Changes, SetTime};
use crate::sys;

use super::handle::{path_of, reopen};
use super::names::permissions;
use super::session::Session;

/// How long the attributes of a file may be trusted by reads of it.
///
/// A kernel that keeps a file's pages asks before each read(2) whether the file has changed; without this, each
/// small read would cost a round trip. It asks with a file handle then, and stat(2) asks without: that is
/// always answered afresh and never remembered.
const READ_VALID: Duration = Duration::from_millis(100);

impl Session {
    pub(super) fn getattr(&self, node: u64, handle: Option<u64>, reply: &mut Reply) -> Result<(), Errno> {
        let (stat, valid) = match handle {
            Some(handle) => (sys::stat(&self.handles.get(handle)?.file()?.fd)?, READ_VALID),
            None => (self.inodes.get(node)?.stat()?, Duration::ZERO),
        };
        reply.attr_out(&stat, self.inodes.number_of(&stat), valid);
        Ok(())
    }

    pub(super) fn setattr(&self, node: u64, changes: &Changes, reply: &mut Reply) -> Result<(), Errno> {
        let inode = self.inodes.get(node)?;
        let place = inode.unveiled()?;
        let handle = changes.handle.map(|handle| self.handles.get(handle)).transpose()?;
        let file = handle.as_deref().map(|handle| handle.file()).transpose()?;
        let path = path_of(&*place)?;
        if let Some(mode) = changes.mode {
            match file {
                Some(file) => fchmod(&file.fd, permissions(mode))?,
                None => fchmodat(AT_FDCWD, path.as_c_str(), permissions(mode), FchmodatFlags::FollowSymlink)?,
            }
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            let (uid, gid) = (changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw));
            fchownat(&*place, c"", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        if let Some(size) = changes.size {
            let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
            match file {
                Some(file) => ftruncate(&file.fd, size)?,
                None if inode.kind != SFlag::S_IFREG => return Err(Errno::EINVAL),
                None => ftruncate(reopen(&*place, OFlag::O_WRONLY)?, size)?,
            }
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let (atime, mtime) = (time(changes.atime), time(changes.mtime));
            utimensat(AT_FDCWD, path.as_c_str(), &atime, &mtime, UtimensatFlags::FollowSymlink)?;
        }
        let stat = inode.stat()?;
        reply.attr_out(&stat, self.inodes.number_of(&stat), Duration::ZERO);
        Ok(())
    }

    pub(super) fn statfs(&self, node: u64, reply: &mut Reply) -> Result<(), Errno> {
        let stat = fstatvfs(&*self.inodes.get(node)?.look()?)?;
        reply.u64(stat.blocks()).u64(stat.blocks_free()).u64(stat.blocks_available());
        reply.u64(stat.files()).u64(stat.files_free());
        reply.u32(clamp(stat.block_size())).u32(clamp(stat.name_max()));
        reply.u32(clamp(stat.fragment_size())).bytes(&[0; 28]);
        Ok(())
    }

    pub(super) fn access(&self, node: u64, mask: u32) -> Result<(), Errno> {
        sys::access(&*self.inodes.get(node)?.look()?, mask & 0o7)
    }

    pub(super) fn setxattr(&self, node: u64, name: &CStr, value: &[u8], flags: u32) -> Result<(), Errno> {
        let flags = i32::try_from(flags).map_err(|_| Errno::EINVAL)?;
        sys::set_xattr(&path_of(&*self.inodes.get(node)?.unveiled()?)?, name, value, flags)
    }

    pub(super) fn getxattr(
        &self,
        node: u64,
        name: &CStr,
        size: usize,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let path = path_of(&*self.inodes.get(node)?.unveiled()?)?;
        answer_with_size(size, reply, |value| sys::get_xattr(&path, name, value))
    }

    pub(super) fn listxattr(&self, node: u64, size: usize, reply: &mut Reply) -> Result<(), Errno> {
        let path = path_of(&*self.inodes.get(node)?.unveiled()?)?;
        answer_with_size(size, reply, |list| sys::list_xattr(&path, list))
    }

    pub(super) fn removexattr(&self, node: u64, name: &CStr) -> Result<(), Errno> {
        sys::remove_xattr(&path_of(&*self.inodes.get(node)?.unveiled()?)?, name)
    }
}

/// Answers with at most `size` bytes; asked for none, with how many there are.
fn answer_with_size(
    size: usize,
    reply: &mut Reply,
    get: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    if size == 0 {
        let size = get(&mut [])?;
        reply.u32(clamp(u64::try_from(size).unwrap_or(u64::MAX))).u32(0);
    } else {
        let size = get(reply.room(size))?;
        reply.fill(size);
    }
    Ok(())
}

/// As utimensat(2) wants it: `None` leaves the time alone.
fn time(time: Option<SetTime>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(SetTime::Now) => TimeSpec::UTIME_NOW,
        Some(SetTime::At(seconds, nanoseconds)) => TimeSpec::new(seconds, nanoseconds),
    }
}
