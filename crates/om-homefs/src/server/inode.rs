//! The inodes that a guest's kernel knows, and how they are found again.
//!
//! The kernel names an inode by the node id that a lookup gave it, counts how often it was given, and forgets
//! in the same coin. Node ids are never used twice, so that a stale one is an unknown one: ESTALE.
//!
//! The number that programs see (`st_ino`) is the file system's own on the device of the exported root, and a
//! hash of device and number elsewhere: the mount has but one device number, yet what a program compares
//! stays unique, and is the same in every session.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};

use crate::abi;
use crate::poison::lock;
use crate::sys::{self, Stat};

use super::place::{Budget, Place};
use super::veil::{self, Nature};
use super::version::Version;

/// Inodes that a session may hold: some 250 bytes each.
const LIMIT: usize = 1 << 21;

/// One inode that the guest's kernel knows.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) id: u64,
    /// What it is: one of the `S_IF…`.
    pub(super) kind: SFlag,
    /// What kind of file system it is on.
    pub(super) nature: Nature,
    file: File,
    place: Arc<Place>,
    /// Of its content when it was last opened.
    opened: Mutex<Option<Version>>,
}

/// Which file an inode is. One that is seen through two mounts is two inodes: one mount may be read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct File {
    device: u64,
    ino: u64,
    mount: u64,
}

impl File {
    fn of(stat: &Stat) -> File {
        File { device: device_of(stat), ino: stat.stx_ino, mount: stat.stx_mnt_id }
    }
}

impl Inode {
    /// Whether it is on a file system that guests must not look into.
    pub(super) fn is_veiled(&self) -> bool {
        self.nature == Nature::Veiled
    }

    /// An `O_PATH` descriptor of it.
    pub(super) fn look(&self) -> Result<Arc<OwnedFd>, Errno> {
        self.place.look()
    }

    /// The same, unless it is veiled: EACCES.
    pub(super) fn unveiled(&self) -> Result<Arc<OwnedFd>, Errno> {
        if self.is_veiled() { Err(Errno::EACCES) } else { self.look() }
    }

    /// Whether its content is that of its last open; `fd` is its file. Counts as an open.
    pub(super) fn is_as_last_opened(&self, fd: &OwnedFd) -> bool {
        let now = Version::of(fd);
        let before = std::mem::replace(&mut *lock(&self.opened), now);
        now.is_some() && now == before
    }

    /// What stat(2) says of it now.
    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        sys::stat(&*self.look()?)
    }
}

/// The inodes of one session.
#[derive(Debug)]
pub(super) struct Inodes {
    root_device: u64,
    budget: Arc<Budget>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<u64, Known>,
    by_file: HashMap<File, u64>,
    last_id: u64,
}

#[derive(Debug)]
struct Known {
    inode: Arc<Inode>,
    lookups: u64,
}

impl Inodes {
    /// A table that knows the root only.
    pub(super) fn new(root: &OwnedFd) -> io::Result<Inodes> {
        let root = root.try_clone()?;
        let stat = sys::stat(&root)?;
        let nature = veil::nature_of(&root)?;
        let budget = Budget::new();
        let mut table = Table { last_id: abi::ROOT_ID - 1, ..Table::default() };
        table.insert(root, &stat, nature, &budget);
        Ok(Inodes { root_device: device_of(&stat), budget, table: Mutex::new(table) })
    }

    /// The inode that the kernel names so, or ESTALE.
    pub(super) fn get(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        lock(&self.table).by_id.get(&id).map(|known| known.inode.clone()).ok_or(Errno::ESTALE)
    }

    /// Counts one more lookup of the file at `fd`, found in `parent`.
    pub(super) fn adopt(&self, fd: OwnedFd, stat: &Stat, parent: &Inode) -> Result<Arc<Inode>, Errno> {
        let file = File::of(stat);
        let crossed = (file.device, file.mount) != (parent.file.device, parent.file.mount);
        let nature = if crossed { veil::nature_of(&fd)? } else { parent.nature };
        let mut table = lock(&self.table);
        if let Some(known) = table.known(&file).filter(|known| known.inode.place.is(&fd)) {
            known.lookups += 1;
            let inode = known.inode.clone();
            drop(table);
            inode.place.take_back(fd);
            return Ok(inode);
        }
        if table.by_id.len() >= LIMIT {
            return Err(Errno::ENFILE);
        }
        Ok(table.insert(fd, stat, nature, &self.budget))
    }

    /// Before the last name of a file may go: holds on to the file if the guest knows it, for it may still be
    /// in use there without being open, as somebody's working directory for example.
    pub(super) fn keep(&self, parent: &OwnedFd, name: &CStr) {
        if !self.budget.has_let_go() {
            return;
        }
        let look = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let Ok(fd) = openat(parent, name, look, Mode::empty()) else { return };
        let Ok(stat) = sys::stat(&fd) else { return };
        let known = lock(&self.table).known(&File::of(&stat)).map(|known| known.inode.place.clone());
        if let Some(place) = known.filter(|place| place.is(&fd)) {
            place.take_back(fd);
        }
    }

    /// Takes back `lookups` of an inode. The root is never forgotten.
    pub(super) fn forget(&self, id: u64, lookups: u64) {
        let mut table = lock(&self.table);
        if id == abi::ROOT_ID {
            return;
        }
        let Some(known) = table.by_id.get_mut(&id) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0 {
            let file = known.inode.file;
            table.by_id.remove(&id);
            // The number may be another file's by now.
            if table.by_file.get(&file) == Some(&id) {
                table.by_file.remove(&file);
            }
        }
    }

    pub(super) fn clear(&self) {
        *lock(&self.table) = Table::default();
        self.budget.clear();
    }

    /// The number by which programs know the file: see the module.
    pub(super) fn number(&self, device: u64, ino: u64) -> u64 {
        /// Set in all numbers that are hashes and in no other.
        const HASHED: u64 = 1 << 63;
        if device == self.root_device && ino & HASHED == 0 {
            return ino;
        }
        mix(mix(device) ^ ino) | HASHED
    }

    /// The number of the file that `stat` is about.
    pub(super) fn number_of(&self, stat: &Stat) -> u64 {
        self.number(device_of(stat), stat.stx_ino)
    }
}

impl Table {
    fn known(&mut self, file: &File) -> Option<&mut Known> {
        self.by_file.get(file).and_then(|id| self.by_id.get_mut(id))
    }

    fn insert(&mut self, fd: OwnedFd, stat: &Stat, nature: Nature, budget: &Arc<Budget>) -> Arc<Inode> {
        self.last_id += 1;
        let (id, file) = (self.last_id, File::of(stat));
        let place = budget.hold(fd, file.mount);
        let inode =
            Arc::new(Inode { id, kind: kind_of(stat), nature, file, place, opened: Mutex::default() });
        self.by_file.insert(file, id);
        self.by_id.insert(id, Known { inode: inode.clone(), lookups: 1 });
        inode
    }
}

/// A bijection that spreads every bit over all: the finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What kind of file it is.
pub(super) fn kind_of(stat: &Stat) -> SFlag {
    SFlag::from_bits_truncate(u32::from(stat.stx_mode) & SFlag::S_IFMT.bits())
}

/// The device that a file is on, as one number.
pub(super) fn device_of(stat: &Stat) -> u64 {
    u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor)
}
