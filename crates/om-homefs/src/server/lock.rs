//! The record locks that a guest's processes hold.
//!
//! Each owner of a lock gets an open file description of its own on the file, and holds the lock by it (an
//! "OFD" lock): so owners exclude each other and every process at home, as they would there. The guest's
//! kernel tells when an owner closes the file.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::poison::lock;
use crate::reply::Reply;
use crate::request::Lock;
use crate::sys;

use super::handle::reopen;
use super::ranges::Ranges;
use super::session::Session;

/// Owners, counted per file, that a session may have.
const LIMIT: usize = 1 << 14;

/// The owners of locks in one session, by inode and the kernel's number of the owner.
#[derive(Debug, Default)]
pub(super) struct Locks {
    owners: Mutex<HashMap<(u64, u64), Owner>>,
}

#[derive(Debug)]
struct Owner {
    file: Arc<OwnedFd>,
    /// The handle by which it locked last: when that is released, so are the locks.
    handle: u64,
    locked: Ranges,
}

impl Locks {
    pub(super) fn drop_owner(&self, node: u64, owner: u64) {
        lock(&self.owners).remove(&(node, owner));
    }

    pub(super) fn drop_handle(&self, handle: u64) {
        lock(&self.owners).retain(|_, owner| owner.handle != handle);
    }

    pub(super) fn clear(&self) {
        lock(&self.owners).clear();
    }

    /// How many owners hold locks, each counted once a file.
    pub(super) fn held(&self) -> usize {
        lock(&self.owners).len()
    }

    /// Remembers what an owner has now, and gives back `file`; forgets an owner that has nothing, unless another
    /// thread of the same process is about to lock by the same file.
    fn changed(&self, node: u64, wanted: Lock, file: Arc<OwnedFd>, change: impl FnOnce(&mut Ranges)) {
        let mut owners = lock(&self.owners);
        drop(file);
        if let Some(owner) = owners.get_mut(&(node, wanted.owner)) {
            change(&mut owner.locked);
            if owner.locked.is_empty() && Arc::strong_count(&owner.file) == 1 {
                owners.remove(&(node, wanted.owner));
            }
        }
    }
}

impl Session {
    /// Takes, changes or drops a lock. Never waits: EAGAIN, and the guest's node asks again.
    pub(super) fn set_lock(&self, node: u64, wanted: Lock) -> Result<(), Errno> {
        let handle = self.handles.get(wanted.handle)?;
        let file = handle.file()?;
        if wanted.flock {
            let operation = match kind(wanted)? {
                libc::F_RDLCK => libc::LOCK_SH,
                libc::F_WRLCK => libc::LOCK_EX,
                _ => libc::LOCK_UN,
            };
            sys::flock(&file.fd, operation)?;
            file.flocked.store(operation != libc::LOCK_UN, Ordering::Relaxed);
            return Ok(());
        }
        let described = described(wanted)?;
        let unlock = i32::from(described.l_type) == libc::F_UNLCK;
        let Some(owner) = self.owner(node, wanted, !unlock)? else { return Ok(()) };
        let result = fcntl(&*owner, FcntlArg::F_OFD_SETLK(&described));
        self.locks.changed(node, wanted, owner, |locked| match result {
            Ok(_) if unlock => locked.remove(wanted.start, wanted.end),
            Ok(_) => locked.add(wanted.start, wanted.end),
            Err(_) => {}
        });
        result.map(drop)
    }

    /// Tells what would be in the way of a lock.
    pub(super) fn get_lock(&self, node: u64, wanted: Lock, reply: &mut Reply) -> Result<(), Errno> {
        let mut described = described(wanted)?;
        let handle = self.handles.get(wanted.handle)?;
        match self.owner(node, wanted, false)? {
            Some(owner) => fcntl(&*owner, FcntlArg::F_OFD_GETLK(&mut described))?,
            None => fcntl(&handle.file()?.fd, FcntlArg::F_OFD_GETLK(&mut described))?,
        };
        let start = described.l_start.cast_unsigned();
        let end = match described.l_len {
            0 => i64::MAX.cast_unsigned(),
            length => start.saturating_add(length.cast_unsigned()).saturating_sub(1),
        };
        let kind = i32::from(described.l_type).cast_unsigned();
        // Pids at home mean nothing to the guest.
        reply.u64(start).u64(end).u32(kind).u32(0);
        Ok(())
    }

    /// The file description of a lock's owner, opened if it has none and `make` is set.
    fn owner(&self, node: u64, wanted: Lock, make: bool) -> Result<Option<Arc<OwnedFd>>, Errno> {
        let key = (node, wanted.owner);
        if let Some(owner) = lock(&self.locks.owners).get_mut(&key) {
            owner.handle = wanted.handle;
            return Ok(Some(owner.file.clone()));
        }
        if !make {
            return Ok(None);
        }
        let handle = self.handles.get(wanted.handle)?;
        let fd = &handle.file()?.fd;
        let file = Arc::new(reopen(fd, OFlag::O_RDWR).or_else(|_| reopen(fd, OFlag::O_RDONLY))?);
        let mut owners = lock(&self.locks.owners);
        if owners.len() >= LIMIT {
            return Err(Errno::ENOLCK);
        }
        let owner =
            owners.entry(key).or_insert(Owner { file, handle: wanted.handle, locked: Ranges::default() });
        Ok(Some(owner.file.clone()))
    }
}

fn kind(lock: Lock) -> Result<i32, Errno> {
    let kind = lock.kind.cast_signed();
    match kind {
        libc::F_RDLCK | libc::F_WRLCK | libc::F_UNLCK => Ok(kind),
        _ => Err(Errno::EINVAL),
    }
}

fn described(lock: Lock) -> Result<libc::flock, Errno> {
    let start = i64::try_from(lock.start).map_err(|_| Errno::EINVAL)?;
    let length = match lock.end {
        end if end >= i64::MAX.cast_unsigned() => 0,
        end => {
            let length = end.checked_sub(lock.start).and_then(|less| less.checked_add(1));
            length.and_then(|length| i64::try_from(length).ok()).ok_or(Errno::EINVAL)?
        }
    };
    let kind = i16::try_from(kind(lock)?).map_err(|_| Errno::EINVAL)?;
    Ok(libc::flock {
        l_type: kind,
        l_whence: i16::try_from(libc::SEEK_SET).map_err(|_| Errno::EINVAL)?,
        l_start: start,
        l_len: length,
        l_pid: 0,
    })
}
