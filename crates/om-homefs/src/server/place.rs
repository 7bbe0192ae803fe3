//! How an inode that the guest's kernel knows is held on to.
//!
//! By an `O_PATH` descriptor, as long as there are few. A guest that walks a large tree knows a million
//! inodes, more than a process may have descriptors; beyond a budget those that were not used lately are
//! let go, and found again by the file system's own handle. Handles are never another file's, so an inode whose
//! file is gone is ESTALE, as on NFS. What has no handle, or no name any more, is held for good.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::fstatfs;

use crate::identity::reading_any;
use crate::poison::lock;
use crate::sys::{self, FileHandle, Stat};

use super::handle::reopen;

/// Most descriptors held, however many the process may have.
const BUDGET: usize = 4096;
/// How many places are looked at, to let them go, for each one that is held.
const LOOKS: usize = 8;
/// `f_type` of the file systems whose handles last: ext4, XFS, Btrfs, tmpfs, F2FS, bcachefs, ZFS, NFS.
const LASTING: [u64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x6969];

/// The budget of one session, and what is spent.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    held: Mutex<VecDeque<Weak<Place>>>,
    /// A descriptor on each mount, by which handles are opened; `None` where there are none to rely on.
    anchors: Mutex<HashMap<u64, Option<Arc<OwnedFd>>>>,
}

/// Where one inode is.
#[derive(Debug)]
pub(super) struct Place {
    budget: Arc<Budget>,
    mount: u64,
    used: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Held(Arc<OwnedFd>),
    LetGo(FileHandle),
}

impl Budget {
    /// A quarter of what the process may open, which leaves room for the guest's open files.
    pub(super) fn new() -> Arc<Budget> {
        let allowed = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let most = usize::try_from(allowed / 4).unwrap_or(BUDGET).min(BUDGET);
        Arc::new(Budget { most, held: Mutex::default(), anchors: Mutex::default() })
    }

    /// Holds on to the file at `fd`, on the mount with this id. Another one may be let go for it.
    pub(super) fn hold(self: &Arc<Budget>, fd: OwnedFd, mount: u64) -> Arc<Place> {
        let state = Mutex::new(State::Held(Arc::new(fd)));
        let place = Arc::new(Place { budget: self.clone(), mount, used: AtomicBool::new(true), state });
        if !matches!(lock(&self.anchors).get(&mount), Some(None)) {
            self.count(&place);
        }
        place
    }

    /// Counts a held place, and lets go of others until the budget is kept.
    fn count(&self, place: &Arc<Place>) {
        lock(&self.held).push_back(Arc::downgrade(place));
        // Some were used and get a reprieve, some cannot be let go; what is over the budget now goes later.
        for _ in 0..LOOKS {
            let candidate = {
                let mut held = lock(&self.held);
                if held.len() <= self.most {
                    return;
                }
                held.pop_front()
            };
            let Some(candidate) = candidate.and_then(|place| place.upgrade()) else { continue };
            let can = candidate.can_be_let_go();
            if candidate.used.swap(false, Ordering::Relaxed) || !can || !candidate.let_go() {
                lock(&self.held).push_back(Arc::downgrade(&candidate));
            }
        }
    }

    /// Makes sure of a descriptor by which handles of this mount can be opened; `fd` is on it.
    fn anchor(&self, mount: u64, fd: &OwnedFd) -> Result<(), Errno> {
        let mut anchors = lock(&self.anchors);
        match anchors.get(&mount) {
            Some(Some(_)) => return Ok(()),
            Some(None) => return Err(Errno::EOPNOTSUPP),
            None => {}
        }
        let anchor = match has_lasting_handles(fd)? {
            // A directory, because opening anything else may have effects. Some directory's turn comes.
            true => Some(Arc::new(reading_any(|| reopen(fd, OFlag::O_RDONLY | OFlag::O_DIRECTORY))?)),
            false => None,
        };
        let found = anchor.as_ref().map(drop).ok_or(Errno::EOPNOTSUPP);
        anchors.insert(mount, anchor);
        found
    }

    /// Whether any place was ever let go.
    pub(super) fn has_let_go(&self) -> bool {
        !lock(&self.anchors).is_empty()
    }

    pub(super) fn clear(&self) {
        lock(&self.held).clear();
        lock(&self.anchors).clear();
    }
}

/// Whether the file system finds a file by its handle as long as the file exists, cached or not.
fn has_lasting_handles(file: &OwnedFd) -> Result<bool, Errno> {
    let kind = fstatfs(file)?.filesystem_type().0;
    Ok(LASTING.contains(&u64::try_from(kind).unwrap_or(0)))
}

impl Place {
    /// An `O_PATH` descriptor of the file; ESTALE if it is gone.
    pub(super) fn look(self: &Arc<Place>) -> Result<Arc<OwnedFd>, Errno> {
        self.used.store(true, Ordering::Relaxed);
        let fd = {
            let mut state = lock(&self.state);
            let handle = match &*state {
                State::Held(fd) => return Ok(fd.clone()),
                State::LetGo(handle) => handle,
            };
            let anchor = lock(&self.budget.anchors).get(&self.mount).cloned().flatten();
            let anchor = anchor.ok_or(Errno::ESTALE)?;
            let fd = Arc::new(reading_any(|| sys::look_by_handle(&*anchor, handle))?);
            *state = State::Held(fd.clone());
            fd
        };
        self.budget.count(self);
        Ok(fd)
    }

    /// Whether the file at `fd` is the one that was here. Device and number may have become another's.
    pub(super) fn is(&self, fd: &OwnedFd) -> bool {
        match &*lock(&self.state) {
            State::Held(_) => true,
            State::LetGo(handle) => sys::handle_of(fd).is_ok_and(|other| other == *handle),
        }
    }

    /// Holds on to the file, which may be about to lose its last name, by `fd`.
    pub(super) fn take_back(self: &Arc<Place>, fd: OwnedFd) {
        self.used.store(true, Ordering::Relaxed);
        {
            let mut state = lock(&self.state);
            if matches!(&*state, State::Held(_)) {
                return;
            }
            *state = State::Held(Arc::new(fd));
        }
        self.budget.count(self);
    }

    /// Whether files of this mount can be found again. A directory that is in use all the time and never let go
    /// is asked too: it may be the mount's anchor.
    fn can_be_let_go(&self) -> bool {
        let held = match &*lock(&self.state) {
            State::Held(fd) => fd.clone(),
            State::LetGo(_) => return true,
        };
        self.budget.anchor(self.mount, &held).is_ok()
    }

    /// Closes the descriptor, if the file has a name and a handle by which to find it again.
    fn let_go(&self) -> bool {
        let mut state = lock(&self.state);
        let State::Held(fd) = &*state else { return true };
        let nameless = |stat: Stat| stat.stx_nlink == 0;
        if sys::stat(fd).map_or(true, nameless) {
            return false;
        }
        let Ok(handle) = sys::handle_of(fd) else { return false };
        *state = State::LetGo(handle);
        true
    }
}
