//! A directory of `/proc` that is kept open, so that what is in it is found in one step and always belongs to the same
//! process.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

/// What one read can bring of a file that the kernel writes in one piece.
const RECORD: usize = 4096;

/// One directory.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens it by its path.
    pub fn open(path: &str) -> io::Result<Self> {
        Ok(Self(openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// Opens one below it.
    pub fn below(&self, path: &str) -> io::Result<Self> {
        Ok(Self(openat(self.as_fd(), path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// The text of a file.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::with_capacity(4 * RECORD);
        // Not read_to_end of the file itself, which would ask for its size first.
        self.file(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
        Ok(text(bytes))
    }

    /// The text of a file that the kernel writes in one piece, so that a short one needs one read only.
    pub fn read_record(&self, path: &str) -> io::Result<String> {
        let mut file = self.file(path)?;
        let mut bytes = vec![0; RECORD];
        let length = file.read(&mut bytes)?;
        bytes.truncate(length);
        if length == RECORD {
            file.take(u64::MAX).read_to_end(&mut bytes)?;
        }
        Ok(text(bytes))
    }

    fn file(&self, path: &str) -> io::Result<File> {
        Ok(openat(self.as_fd(), path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.into())
    }

    /// Where a link leads; nothing if it has gone.
    pub fn link(&self, path: &str) -> Option<String> {
        Some(readlinkat(self.as_fd(), path).ok()?.to_string_lossy().into_owned())
    }

    /// The numbers among the names in it.
    pub fn numbers(&self) -> Vec<i32> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(directory) = Dir::openat(self.as_fd(), ".", flags, Mode::empty()) else { return Vec::new() };
        let names = directory.into_iter().filter_map(Result::ok);
        names.filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok()).collect()
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_files_are_read_whole() {
        let this = Directory::open("/proc/self").unwrap();
        for path in ["environ", "cmdline", "limits", "status"] {
            assert_eq!(
                this.read_record(path).unwrap().lines().count(),
                this.read(path).unwrap().lines().count()
            );
        }
        assert!(this.read("maps").unwrap().ends_with('\n'));
        assert!(this.read("there is no such").is_err());
    }

    #[test]
    fn links_and_numbers_are_found() {
        let descriptors = Directory::open("/proc/self").unwrap().below("fd").unwrap();
        assert!(descriptors.numbers().contains(&0));
        assert!(descriptors.link("0").is_some());
        assert_eq!(descriptors.link("99999"), None);
    }
}
