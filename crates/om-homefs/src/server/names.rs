//! Requests about names: finding, making, renaming and removing directory entries.
//!
//! A name is one component; where a path leads is worked out by the guest's kernel, one lookup at a time.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, readlinkat, renameat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat, umask as set_umask};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::reply::Reply;
use crate::sys;

use super::handle::path_of;
use super::inode::{Inode, kind_of};
use super::session::Session;
use super::veil::Nature;

/// How long the guest's kernel may take a name to lead where it led. What the job itself changes it knows at
/// once; this is how late it may see what others at home rename or remove. Missing names are never remembered.
pub(super) const ENTRY_VALID: Duration = Duration::from_secs(1);

/// The bits of a mode that are not the file's type.
const PERMISSIONS: u32 = 0o7777;

impl Session {
    pub(super) fn lookup(&self, parent: u64, name: &CStr, reply: &mut Reply) -> Result<(), Errno> {
        let parent = self.inodes.get(parent)?;
        if parent.is_veiled() {
            return Err(Errno::ENOENT);
        }
        let inode = self.find(&parent, name, reply)?;
        log::trace!("{name:?} is inode {}", inode.id);
        Ok(())
    }

    /// Looks up a name, counts the lookup and appends the entry.
    pub(super) fn find(&self, parent: &Inode, name: &CStr, reply: &mut Reply) -> Result<Arc<Inode>, Errno> {
        let directory = parent.unveiled()?;
        let mut place = openat(&*directory, name, look(), Mode::empty())?;
        if parent.nature == Nature::Automounter && kind_of(&sys::stat(&place)?) == SFlag::S_IFDIR {
            place = openat(&*directory, name, look() | OFlag::O_DIRECTORY, Mode::empty())?;
        }
        self.entry(parent, place, reply)
    }

    /// Counts a lookup of the file at `place` and appends the entry.
    pub(super) fn entry(
        &self,
        parent: &Inode,
        place: OwnedFd,
        reply: &mut Reply,
    ) -> Result<Arc<Inode>, Errno> {
        let stat = sys::stat(&place)?;
        let inode = self.inodes.adopt(place, &stat, parent)?;
        reply.entry(inode.id, &stat, self.inodes.number_of(&stat), ENTRY_VALID);
        Ok(inode)
    }

    pub(super) fn symlink(
        &self,
        parent: u64,
        name: &CStr,
        target: &CStr,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let parent = self.inodes.get(parent)?;
        symlinkat(target, &*parent.unveiled()?, name)?;
        self.find(&parent, name, reply).map(drop)
    }

    /// Makes a regular file, a FIFO or a socket. Devices are refused: no guest may reach home's hardware.
    pub(super) fn mknod(
        &self,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let kind = match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
            kind if kind.is_empty() => SFlag::S_IFREG,
            kind if [SFlag::S_IFREG, SFlag::S_IFIFO, SFlag::S_IFSOCK].contains(&kind) => kind,
            _ => return Err(Errno::EPERM),
        };
        let parent = self.inodes.get(parent)?;
        mask(umask);
        mknodat(&*parent.unveiled()?, name, kind, permissions(mode), 0)?;
        self.find(&parent, name, reply).map(drop)
    }

    pub(super) fn mkdir(
        &self,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let parent = self.inodes.get(parent)?;
        mask(umask);
        mkdirat(&*parent.unveiled()?, name, permissions(mode))?;
        self.find(&parent, name, reply).map(drop)
    }

    pub(super) fn unlink(&self, parent: u64, name: &CStr) -> Result<(), Errno> {
        let parent = self.inodes.get(parent)?.unveiled()?;
        self.inodes.keep(&parent, name);
        unlinkat(&*parent, name, UnlinkatFlags::NoRemoveDir)
    }

    pub(super) fn rmdir(&self, parent: u64, name: &CStr) -> Result<(), Errno> {
        let parent = self.inodes.get(parent)?.unveiled()?;
        self.inodes.keep(&parent, name);
        unlinkat(&*parent, name, UnlinkatFlags::RemoveDir)
    }

    pub(super) fn rename(
        &self,
        parent: u64,
        name: &CStr,
        to: u64,
        new_name: &CStr,
        flags: u32,
    ) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        let (from, to) = (self.inodes.get(parent)?.unveiled()?, self.inodes.get(to)?.unveiled()?);
        self.inodes.keep(&to, new_name);
        renameat2(&*from, name, &*to, new_name, flags)
    }

    pub(super) fn link(&self, of: u64, parent: u64, name: &CStr, reply: &mut Reply) -> Result<(), Errno> {
        let path = path_of(&*self.inodes.get(of)?.unveiled()?)?;
        let parent = self.inodes.get(parent)?;
        linkat(AT_FDCWD, path.as_c_str(), &*parent.unveiled()?, name, AtFlags::AT_SYMLINK_FOLLOW)?;
        self.find(&parent, name, reply).map(drop)
    }

    pub(super) fn readlink(&self, node: u64, reply: &mut Reply) -> Result<(), Errno> {
        let target = readlinkat(&*self.inodes.get(node)?.unveiled()?, c"")?;
        reply.bytes(target.as_encoded_bytes());
        Ok(())
    }
}

/// Flags that look at a name without opening what it leads to, or following it.
pub(super) fn look() -> OFlag {
    OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Applies the umask of the process that asks: here, and not on its own node, so that a directory's default
/// ACL takes its place where there is one.
pub(super) fn mask(umask: u32) {
    set_umask(Mode::from_bits_truncate(umask & 0o777));
}

pub(super) fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & PERMISSIONS)
}
