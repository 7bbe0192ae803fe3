//! What can go wrong with an om file, told apart so that a caller need never look at an errno.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why an om file could not be read or written. In every case the process stays where it is and nothing has
/// changed.
#[derive(Debug, Error)]
pub enum OmError {
    /// The process ended, or never had om files. Trying again is of no use.
    #[error("{}: no such process, or it is not a job; nothing was changed", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The caller is neither the owner nor root nor in group `om`.
    #[error("{}: not permitted; only the owner, root and group om may do this", path.display())]
    NotPermitted {
        /// The file.
        path: PathBuf,
    },
    /// The value written was not understood. An IPv6 address may be perfectly good and the kernel too old for it.
    #[error("{}: '{text}' was refused as malformed; nothing was changed", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was written, without its newline.
        text: String,
    },
    /// The process is in transit. Worth another try once it has arrived.
    #[error("{}: the process is in transit; the request was not taken, try again when it has arrived", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A stay reason, or where the job may run, forbids the move. Worth another try once `stay` is empty.
    #[error("{}: the process cannot move ({}); it stays where it is", path.display(), say_reasons(reasons))]
    Stays {
        /// The file.
        path: PathBuf,
        /// What the files said right after the refusal; may be empty if the reason has passed by then.
        reasons: Vec<String>,
    },
    /// No node with that address is known. Worth another try once it is heard.
    #[error("{}: no node {text} is known; the process stays where it is", path.display())]
    NoSuchNode {
        /// The file.
        path: PathBuf,
        /// The address that was written.
        text: String,
    },
    /// Nobody serves the om files: `om-migd` is not running, or has just died. Worth another try.
    #[error("{}: nobody serves the om files there; is om-migd running?", path.display())]
    NoDaemon {
        /// The file.
        path: PathBuf,
    },
    /// The process has om files, but this kernel's generation lacks this one.
    #[error("{}: this kernel has no such om file", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
    },
    /// The file was read and makes no sense.
    #[error("{}: {source}; the value is not used", path.display())]
    Unparseable {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        source: ParseError,
    },
    /// Anything else the kernel said.
    #[error("{}: {source}; nothing was changed", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

impl OmError {
    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. } | Self::NoDaemon { .. } | Self::NoSuchNode { .. } | Self::Stays { .. }
        )
    }

    /// Whether the process has gone, which for whoever walks over all of them is no failure.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// Names the error that a read, or the opening of a file, ended with.
    pub(super) fn from_read(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Self::Gone { path },
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { path },
            Some(libc::EBUSY | libc::EAGAIN) => Self::Busy { path },
            Some(libc::ENOTCONN | libc::ECONNABORTED) => Self::NoDaemon { path },
            _ => Self::Io { path, source },
        }
    }

    /// Names the error that writing `text` ended with. EACCES means a stay reason here: the right to write at all
    /// was settled when the file was opened.
    pub(super) fn from_write(path: &Path, text: &str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EACCES) => Self::Stays { path: path.to_owned(), reasons: Vec::new() },
            Some(libc::EINVAL) => Self::Invalid { path: path.to_owned(), text: text.to_owned() },
            Some(libc::EHOSTUNREACH) => Self::NoSuchNode { path: path.to_owned(), text: text.to_owned() },
            _ => Self::from_read(path, source),
        }
    }
}

fn say_reasons(reasons: &[String]) -> String {
    if reasons.is_empty() { "its stay file says why".to_owned() } else { reasons.join(", ") }
}

/// A text that is not the value it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("'{text}' is not {wanted}")]
pub struct ParseError {
    /// What was expected, with its article.
    pub wanted: &'static str,
    /// What was found, shortened and without control characters.
    pub text: String,
}

impl ParseError {
    /// An error that quotes at most 80 characters of `text`.
    pub(super) fn new(wanted: &'static str, text: &str) -> Self {
        Self { wanted, text: super::text::escape(text).chars().take(80).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(errno: i32) -> OmError {
        OmError::from_write(Path::new("where"), "10.0.0.9", io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn each_errno_of_a_write_has_its_meaning() {
        assert!(matches!(written(libc::EINVAL), OmError::Invalid { .. }));
        assert!(matches!(written(libc::EPERM), OmError::NotPermitted { .. }));
        assert!(matches!(written(libc::EBUSY), OmError::Busy { .. }));
        assert!(matches!(written(libc::EAGAIN), OmError::Busy { .. }));
        assert!(matches!(written(libc::EACCES), OmError::Stays { .. }));
        assert!(matches!(written(libc::EHOSTUNREACH), OmError::NoSuchNode { .. }));
        assert!(matches!(written(libc::ESRCH), OmError::Gone { .. }));
        assert!(matches!(written(libc::ENOTCONN), OmError::NoDaemon { .. }));
        assert!(matches!(written(libc::EIO), OmError::Io { .. }));
    }

    #[test]
    fn a_file_that_may_not_be_opened_is_no_stay_reason() {
        let error = OmError::from_read(Path::new("where"), io::Error::from_raw_os_error(libc::EACCES));
        assert!(matches!(error, OmError::NotPermitted { .. }));
    }

    #[test]
    fn a_message_says_what_and_with_which_consequence() {
        assert_eq!(
            written(libc::EHOSTUNREACH).to_string(),
            "where: no node 10.0.0.9 is known; the process stays where it is"
        );
        let stays = OmError::Stays { path: "where".into(), reasons: vec!["mem_lock".into()] };
        assert_eq!(stays.to_string(), "where: the process cannot move (mem_lock); it stays where it is");
    }
}
