//! The inodes that a guest's kernel knows, and how they are found again.
//!
//! The kernel names an inode by the node id that a lookup gave it, counts how often it was given, and forgets
//! in the same coin. Node ids are never used twice, so that a stale one is an unknown one: ESTALE.
//!
//! The number that programs see (`st_ino`) is the file system's own on the device of the exported root, and a
//! hash of device and number elsewhere: the mount has but one device number, yet what a program compares
//! stays unique, and is the same in every session.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::abi;
use crate::poison::lock;

use super::veil;

/// Inodes that a session may hold.
const LIMIT: usize = 1 << 20;

/// One inode that the guest's kernel knows.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) id: u64,
    /// What it is: one of the `S_IF…`.
    pub(super) kind: SFlag,
    /// Whether it is on a file system that guests must not look into.
    pub(super) veiled: bool,
    device: u64,
    place: Arc<OwnedFd>,
}

impl Inode {
    /// An `O_PATH` descriptor of it.
    pub(super) fn place(&self) -> Arc<OwnedFd> {
        self.place.clone()
    }

    /// The same, unless it is veiled: EACCES.
    pub(super) fn unveiled(&self) -> Result<Arc<OwnedFd>, Errno> {
        if self.veiled { Err(Errno::EACCES) } else { Ok(self.place()) }
    }

    /// What stat(2) says of it now.
    pub(super) fn stat(&self) -> Result<FileStat, Errno> {
        stat_of(&*self.place)
    }
}

/// The inodes of one session.
#[derive(Debug)]
pub(super) struct Inodes {
    root_device: u64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<u64, Known>,
    by_file: HashMap<(u64, u64), u64>,
    last_id: u64,
}

#[derive(Debug)]
struct Known {
    inode: Arc<Inode>,
    file: (u64, u64),
    lookups: u64,
}

impl Inodes {
    /// A table that knows the root only.
    pub(super) fn new(root: Arc<OwnedFd>) -> io::Result<Inodes> {
        let stat = stat_of(&*root)?;
        let inode = Arc::new(Inode {
            id: abi::ROOT_ID,
            kind: kind_of(&stat),
            veiled: veil::is_veiled(&*root)?,
            device: stat.st_dev,
            place: root,
        });
        let file = (stat.st_dev, stat.st_ino);
        let table = Table {
            by_id: HashMap::from([(abi::ROOT_ID, Known { inode, file, lookups: 1 })]),
            by_file: HashMap::from([(file, abi::ROOT_ID)]),
            last_id: abi::ROOT_ID,
        };
        Ok(Inodes { root_device: stat.st_dev, table: Mutex::new(table) })
    }

    /// The inode that the kernel names so, or ESTALE.
    pub(super) fn get(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        lock(&self.table).by_id.get(&id).map(|known| known.inode.clone()).ok_or(Errno::ESTALE)
    }

    /// Counts one more lookup of the file at `place`, found in `parent`.
    pub(super) fn adopt(&self, place: OwnedFd, stat: &FileStat, parent: &Inode) -> Result<Arc<Inode>, Errno> {
        let crossed = stat.st_dev != parent.device;
        let veiled = if crossed { veil::is_veiled(&place)? } else { parent.veiled };
        let file = (stat.st_dev, stat.st_ino);
        let mut table = lock(&self.table);
        let table = &mut *table;
        if let Some(known) = table.by_file.get(&file).and_then(|id| table.by_id.get_mut(id)) {
            known.lookups += 1;
            return Ok(known.inode.clone());
        }
        if table.by_id.len() >= LIMIT {
            return Err(Errno::ENFILE);
        }
        table.last_id += 1;
        let id = table.last_id;
        let inode =
            Arc::new(Inode { id, kind: kind_of(stat), veiled, device: stat.st_dev, place: Arc::new(place) });
        table.by_file.insert(file, id);
        table.by_id.insert(id, Known { inode: inode.clone(), file, lookups: 1 });
        Ok(inode)
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
            let file = known.file;
            table.by_id.remove(&id);
            table.by_file.remove(&file);
        }
    }

    pub(super) fn clear(&self) {
        *lock(&self.table) = Table::default();
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
    pub(super) fn number_of(&self, stat: &FileStat) -> u64 {
        self.number(stat.st_dev, stat.st_ino)
    }
}

/// A bijection that spreads every bit over all: the finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What kind of file it is.
pub(super) fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// stat(2) of an open file, which may be an `O_PATH` descriptor, of a symbolic link too.
pub(super) fn stat_of(file: impl AsFd) -> Result<FileStat, Errno> {
    fstat(file)
}
