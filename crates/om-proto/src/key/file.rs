//! The key file as a daemon follows it: a change is noticed without a signal, so that rotating the key on forty machines
//! takes nothing but copying a file.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{ClusterKeys, KeyError};

/// A key file and what it held when it could be used last.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
    seen: Option<Seen>,
    keys: ClusterKeys,
}

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    inode: (u64, u64),
    changed: (i64, i64),
    size: u64,
}

impl Seen {
    /// `None`: there is no such file.
    fn at(path: &Path) -> Option<Self> {
        let of = |metadata: Metadata| Self {
            inode: (metadata.dev(), metadata.ino()),
            // Covers the content, the mode and the owner.
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        };
        fs::metadata(path).ok().map(of)
    }
}

impl KeyFile {
    /// Reads the file, as [`ClusterKeys::load`] does.
    ///
    /// # Errors
    /// [`KeyError`] says what to do.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        // Looked at first: a change that comes in between is read again, not missed.
        let seen = Seen::at(path);
        Ok(Self { path: path.to_owned(), seen, keys: ClusterKeys::load(path)? })
    }

    /// The keys to use.
    #[must_use]
    pub fn keys(&self) -> &ClusterKeys {
        &self.keys
    }

    /// Looks whether the file has changed, at the price of one stat(2), and reads it if so. `None`: it has not.
    ///
    /// # Errors
    /// Once for each version of the file that cannot be used, a removal too; the keys stay as they were.
    pub fn refresh(&mut self) -> Option<Result<(), KeyError>> {
        let seen = Seen::at(&self.path);
        if seen == self.seen {
            return None;
        }
        self.seen = seen;
        Some(match ClusterKeys::load(&self.path) {
            Ok(keys) if keys.is_empty() && !self.keys.is_empty() => {
                Err(KeyError::Io { path: self.path.clone(), source: io::ErrorKind::NotFound.into() })
            }
            Ok(keys) => {
                self.keys = keys;
                Ok(())
            }
            Err(error) => Err(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn put(path: &Path, text: &str, mode: u32) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn a_new_file_is_noticed_and_one_that_cannot_be_used_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut file = KeyFile::open(&path).unwrap();
        assert!(file.keys().is_empty() && file.refresh().is_none());

        put(&path, &"ab".repeat(32), 0o600);
        assert!(matches!(file.refresh(), Some(Ok(()))));
        let first = file.keys().signing_id();
        assert!(first != 0 && file.refresh().is_none());

        put(&path, &"cd".repeat(32), 0o644);
        assert!(matches!(file.refresh(), Some(Err(KeyError::TooOpen { .. }))));
        assert!(file.refresh().is_none(), "it is told once");
        assert_eq!(file.keys().signing_id(), first);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(file.refresh(), Some(Ok(()))));
        assert_ne!(file.keys().signing_id(), first);

        fs::remove_file(&path).unwrap();
        assert!(matches!(file.refresh(), Some(Err(KeyError::Io { .. }))));
        assert!(!file.keys().is_empty());
    }
}
