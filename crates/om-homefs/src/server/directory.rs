//! Requests about open directories.
//!
//! The place in a directory is the file system's own cookie, passed through. Entries are read from it in
//! portions that are sure to fit into the answer, so that the descriptor's own position is where the guest
//! goes on next, and the file system need not search for it.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;

use crate::poison::lock;
use crate::reply::Reply;
use crate::request::Listing;
use crate::sys;

use super::data::sync;
use super::handle::{Directory, Handle, reopen};
use super::inode::device_of;
use super::session::Session;
use super::veil::Nature;

/// Bytes of an entry before its name, as getdents64(2) has them and as FUSE has them.
const DENTS_HEADER: usize = 19;
const FUSE_HEADER: usize = 24;
/// Bytes of the attributes before each entry in a READDIRPLUS.
const ENTRY_OUT: usize = 128;
/// Most bytes of entries in one answer.
const LISTING_MAX: usize = 128 << 10;
/// Fewest bytes with which getdents64(2) can return the longest name.
const DENTS_MIN: usize = 280;

/// One entry as the file system gives it.
struct Entry<'a> {
    ino: u64,
    /// The cookie of the place after this entry.
    next: u64,
    kind: u8,
    name: &'a CStr,
}

impl Session {
    pub(super) fn opendir(&self, node: u64, reply: &mut Reply) -> Result<(), Errno> {
        let inode = self.inodes.get(node)?;
        if inode.kind != SFlag::S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        let handle = match inode.is_veiled() {
            true => Handle::Veiled,
            false => {
                let fd = reopen(&*inode.look()?, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                Handle::Directory(Directory { fd, position: Mutex::new(0) })
            }
        };
        reply.opened(self.handles.insert(handle)?, 0);
        Ok(())
    }

    pub(super) fn readdir(&self, listing: Listing, reply: &mut Reply) -> Result<(), Errno> {
        // An entry grows by a third at most on its way from one format to the other.
        self.list(listing, listing.size / 4 * 3, reply, |session, device, entry, reply| {
            dirent(reply, session.inodes.number(device, entry.ino), entry);
            Ok(())
        })
    }

    pub(super) fn readdirplus(&self, node: u64, listing: Listing, reply: &mut Reply) -> Result<(), Errno> {
        let parent = self.inodes.get(node)?;
        let automounter = parent.nature == Nature::Automounter;
        // An entry with a name of one letter grows from 24 bytes to 160: by less than seven times.
        let portion = (listing.size / 7).max(DENTS_MIN);
        self.list(listing, portion, reply, |session, device, entry, reply| {
            let before = reply.len();
            // Looking at what an automounter lists would mount it all.
            let special = matches!(entry.name.to_bytes(), b"." | b"..") || automounter;
            // What cannot be looked up is listed all the same, as READDIR would, without attributes.
            if special || session.find(&parent, entry.name, reply).is_err() {
                reply.truncate(before);
                reply.bytes(&[0; ENTRY_OUT]);
            }
            dirent(reply, session.inodes.number(device, entry.ino), entry);
            Ok(())
        })
    }

    /// Reads a portion of entries and hands each to `put`, until one would not fit. The guest's kernel then asks
    /// for the rest, from behind the descriptor's position.
    fn list(
        &self,
        listing: Listing,
        portion: usize,
        reply: &mut Reply,
        put: impl Fn(&Session, u64, &Entry<'_>, &mut Reply) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let handle = self.handles.get(listing.handle)?;
        let directory = match &*handle {
            Handle::Directory(directory) => directory,
            Handle::Veiled => return Ok(()),
            Handle::File(_) => return Err(Errno::ENOTDIR),
        };
        let device = device_of(&sys::stat(&directory.fd)?);
        let mut position = lock(&directory.position);
        if listing.offset != *position {
            let offset = listing.offset.cast_signed();
            sys::seek(directory.fd.as_fd(), offset, libc::SEEK_SET)?;
            *position = listing.offset;
        }
        let mut dents = vec![0; portion.clamp(DENTS_MIN, LISTING_MAX)];
        let count = sys::get_dents(&directory.fd, &mut dents)?;
        let mut rest = dents.get(..count).unwrap_or_default();
        let mut full = false;
        while let Some(entry) = next_entry(&mut rest) {
            *position = entry.next;
            let longest = ENTRY_OUT + FUSE_HEADER + entry.name.count_bytes().next_multiple_of(8);
            full |= reply.len() + longest > listing.size;
            if !full {
                put(self, device, &entry, reply)?;
            }
        }
        if full && reply.len() == 0 { Err(Errno::EINVAL) } else { Ok(()) }
    }

    pub(super) fn fsyncdir(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        match &*self.handles.get(handle)? {
            Handle::Directory(directory) => sync(&directory.fd, data_only),
            Handle::Veiled => Ok(()),
            Handle::File(_) => Err(Errno::ENOTDIR),
        }
    }
}

/// Appends a `struct fuse_dirent`.
fn dirent(reply: &mut Reply, ino: u64, entry: &Entry<'_>) {
    let name = entry.name.to_bytes();
    reply.u64(ino).u64(entry.next).u32(u32::try_from(name.len()).unwrap_or(0)).u32(u32::from(entry.kind));
    reply.bytes(name);
    reply.pad();
}

/// Takes one `struct linux_dirent64` off the front.
fn next_entry<'a>(dents: &mut &'a [u8]) -> Option<Entry<'a>> {
    let header = dents.first_chunk::<DENTS_HEADER>()?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    let (ino, next) = (number(0), number(8));
    let length = usize::from(u16::from_ne_bytes([header[16], header[17]]));
    let (this, rest) = dents.split_at_checked(length)?;
    let name = CStr::from_bytes_until_nul(this.get(DENTS_HEADER..)?).ok()?;
    *dents = rest;
    Some(Entry { ino, next, kind: header[18], name })
}
