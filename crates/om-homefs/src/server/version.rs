//! Whether a guest's kernel may keep a file's pages from one open(2) to the next: programs and libraries would otherwise
//! cross the network again each time that they are started.
//!
//! It may if size and times are those of the last open. Times tell of every change but two: one in the same tick of
//! the clock, and one through a mapping that has been written to since the file was last written back. So a file
//! that was changed in the last [`SETTLED`] always counts as changed, and so does any file in memory, which is never
//! written back.

use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::sys::{self, Stat};

/// Twice as long as Linux leaves a changed page unwritten, if it is not told otherwise.
const SETTLED: Duration = Duration::from_secs(60);

/// What a file's content was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    modified: (i64, u32),
    changed: (i64, u32),
    size: u64,
}

impl Version {
    /// The present one; none if it may change without a trace.
    pub(super) fn of(file: impl AsFd) -> Option<Version> {
        let stat = sys::stat(&file).ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let in_memory = fstatfs(&file).map_or(true, |at| at.filesystem_type() == TMPFS_MAGIC);
        if in_memory { None } else { Version::settled(&stat, now) }
    }

    fn settled(stat: &Stat, now: Duration) -> Option<Version> {
        let changed = stat.stx_ctime.tv_sec;
        let age = i64::try_from(now.as_secs()).ok()?.checked_sub(changed)?;
        let is_settled = age > i64::try_from(SETTLED.as_secs()).ok()?;
        is_settled.then_some(Version {
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (changed, stat.stx_ctime.tv_nsec),
            size: stat.stx_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_just_changed_has_no_version() {
        let path = std::env::temp_dir().join(format!("om-version-{}", std::process::id()));
        std::fs::write(&path, "text").unwrap();
        let file = std::fs::File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let stat = sys::stat(&file).unwrap();
        let changed = u64::try_from(stat.stx_ctime.tv_sec).unwrap();
        let after = |seconds| Version::settled(&stat, Duration::from_secs(changed + seconds));
        assert_eq!(after(0), None);
        assert_eq!(after(60), None);
        assert!(after(61).is_some());
        // By a clock that is ahead.
        assert_eq!(Version::settled(&stat, Duration::from_secs(changed - 100)), None);
    }
}
