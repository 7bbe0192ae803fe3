//! Why a command of `om` did not do what it was told: one line for a person, and an exit status.

use std::io;
use std::path::{Path, PathBuf};

use om_proto::net::NetError;
use om_proto::omfs::OmError;
use thiserror::Error;

/// Exit status of a command that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit status of a command line that cannot be meant.
pub const EXIT_USAGE: u8 = 2;
/// Exit status of `om run` when it is om that failed and not the command, as with env(1) and timeout(1).
pub const EXIT_RUN: u8 = 125;

/// Why not. Whatever was asked for has not been done, unless the variant says otherwise.
#[derive(Debug, Error)]
pub enum Failure {
    /// The arguments contradict each other or make no sense. Nothing was tried.
    #[error("{0}")]
    Usage(String),
    /// What the command was to do cannot be done.
    #[error("{0}")]
    Refused(String),
    /// The om files of the node are not there. Worth another try once om-migd runs.
    #[error(
        "nobody serves the om files at {}: start om-migd (systemctl start om-migd), or say where they are with --om-root",
        root.display()
    )]
    NoDaemon {
        /// The root of the om files.
        root: PathBuf,
    },
    /// There is no such job.
    #[error("{pid}: no such job on this node; om ps lists them")]
    NoJob {
        /// The pid as it was given.
        pid: u32,
    },
    /// A job's files said something else.
    #[error("{pid}: {what}")]
    Job {
        /// The job.
        pid: u32,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The node's switches, or the om files as a whole.
    #[error(transparent)]
    OmFiles(OmError),
    /// om-migd cannot be reached, so no job was started.
    #[error("cannot reach om-migd at {}: {why}", socket.display())]
    NoKeeper {
        /// The socket.
        socket: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The keeper of the job is gone, and the job with it.
    #[error("the keeper of the job has died, and the job with it; its last words are in om-migd's log")]
    KeeperLost,
    /// The job could not be started; the exit status is the one to leave with.
    #[error("{message}")]
    NotStarted {
        /// The keeper's words.
        message: String,
        /// 125, 126 or 127.
        status: u8,
    },
    /// The job's node was lost, and the job with it.
    #[error("{0}")]
    Lost(String),
    /// `om run` itself failed; the job, if there was one, is ended.
    #[error("cannot {what}: {source}")]
    Run {
        /// What was tried.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The scheduler does not tell.
    #[error("cannot ask om-sched at {}: {why}", socket.display())]
    NoScheduler {
        /// Its status socket.
        socket: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Anything else the kernel said.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, with the file.
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Failure {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::NotStarted { status, .. } => *status,
            Self::NoKeeper { .. } | Self::KeeperLost | Self::Lost(_) | Self::Run { .. } => EXIT_RUN,
            _ => EXIT_FAILED,
        }
    }

    /// For `map_err`: an I/O error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// What went wrong with a job's files, in a person's words. `text` is what was to be written, if anything was.
    pub fn of_job(root: &Path, pid: u32, error: OmError) -> Self {
        let what = match error {
            OmError::Gone { .. } => return Self::NoJob { pid },
            OmError::NoDaemon { .. } => return Self::NoDaemon { root: root.to_owned() },
            OmError::NotPermitted { .. } => {
                "not permitted: only its owner, root and members of the group om may do that".to_owned()
            }
            OmError::Busy { .. } => {
                "it is being moved at this moment; try again when it has arrived".to_owned()
            }
            OmError::Stays { reasons, .. } if reasons.is_empty() => {
                "it may not move now, and nothing says why any more; try again".to_owned()
            }
            OmError::Stays { reasons, .. } => format!("it cannot move: {}", reasons.join("; ")),
            OmError::NoSuchNode { text, .. } => {
                format!("no node {text} is known; om nodes lists those that are")
            }
            OmError::Invalid { text, .. } => {
                format!("'{text}' is not understood by whoever serves the om files")
            }
            other => other.to_string(),
        };
        Self::Job { pid, what }
    }

    /// What went wrong with the node's own files.
    pub fn of_node(root: &Path, error: OmError) -> Self {
        match error {
            OmError::NoDaemon { .. } | OmError::Gone { .. } => Self::NoDaemon { root: root.to_owned() },
            OmError::NotPermitted { .. } => Self::Refused(
                "not permitted: only root and members of the group om may throw a node's switches".into(),
            ),
            other => Self::OmFiles(other),
        }
    }
}
