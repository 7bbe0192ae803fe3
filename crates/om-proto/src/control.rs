//! What `om run` and the keeper of its job say to each other, over the local socket of `om-migd`.
//!
//! `om run` connects, sends one [`Start`] frame with its stdin, stdout and stderr attached as descriptors to
//! the frame's first byte, and then [`Request`]s until [`Reply::Exited`] comes. Who is asking the keeper
//! takes from the kernel (socket credentials and `/proc`), never from these messages. If the connection closes
//! before the end, the deputy has died and the job is killed.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cpu::Baseline;
use crate::omfs::Bounds;

/// Version of this protocol; a keeper refuses others with a sentence.
pub const VERSION: u16 = 3;
/// The longest frame: the kernel's own limit for arguments and environment is below it.
pub const MAX_FRAME: usize = 8 << 20;

/// Starts a job: the first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// [`VERSION`].
    pub version: u16,
    /// The command and its arguments; not empty.
    pub argv: Vec<Vec<u8>>,
    /// The environment, `NAME=value` each.
    pub env: Vec<Vec<u8>>,
    /// The working directory.
    pub cwd: Vec<u8>,
    /// Bit n-1 set: signal n is ignored, as `nohup` and shells leave it.
    pub ignored_signals: u64,
    /// Start locked: the job stays until somebody unlocks it.
    pub lock: bool,
    /// Where it may run.
    pub bounds: Bounds,
    /// The node on which it is to begin; none: this one. If it cannot begin there it begins here.
    pub begin_on: Option<IpAddr>,
    /// What the job shall use of CPUs; none: as the node is configured.
    pub cpu: Option<Baseline>,
}

/// What `om run` asks for afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Send this signal to the job.
    Signal(i32, Audience),
    /// The user's terminal has changed its size: rows, columns.
    WindowSize(u16, u16),
    /// Whose the keyboard of the user's terminal is now. Until this is told it is another's.
    Keyboard(Keyboard),
}

/// Whose the keyboard of the user's terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keyboard {
    /// Another's: `om run` is not in the foreground, and nothing may be read.
    Others,
    /// The job's, and that of other programs beside `om run`: nothing may be read while one of them has switched line
    /// mode off, because it takes single keys.
    Shared,
    /// The job's alone.
    Own,
}

/// Which of a job's processes a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audience {
    /// The command alone, as `kill PID` has it.
    Command,
    /// The command's process group, as `kill %1`, timeout(1), `fg` and `bg` have it.
    Group,
    /// Whoever is in the foreground of the job's terminal, as keys have it; the command's group without a terminal.
    Foreground,
}

/// What the keeper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The command runs. Whether it has a terminal: then `om run` puts the user's into raw mode.
    Started {
        /// The job's name, 32 hexadecimal digits.
        job: String,
        /// The job's standard streams are a terminal.
        terminal: bool,
    },
    /// The job could not be started; nothing is left of it.
    Refused {
        /// One line for the user.
        message: String,
        /// The exit status for `om run`: 126 and 127 as a shell has them.
        status: u8,
    },
    /// The command has ended and everything that it wrote has been delivered.
    Exited {
        /// As `wait` returns it: exit code or signal.
        status: Ending,
        /// What the job used on all nodes.
        usage: Usage,
    },
    /// The job's node was lost and the job with it.
    Lost {
        /// One line for the user.
        message: String,
    },
    /// The job has stopped itself or was stopped from its terminal: `om run` stops too.
    Stopped,
    /// Something that the user should know; the job goes on.
    Notice {
        /// One line for the user.
        message: String,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl Ending {
    /// Decodes a status as `wait(2)` returns it.
    #[must_use]
    pub fn from_wait_status(status: i32) -> Self {
        let [signal, code, ..] = status.to_le_bytes();
        match signal & 0x7f {
            0 => Self::Code(code),
            signal => Self::Signal(signal),
        }
    }

    /// The exit status that a shell shows: 128+n for a signal.
    #[must_use]
    pub fn shell_status(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// What a job used on all nodes where it ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Wall time since the start, microseconds.
    pub wall_us: u64,
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, microseconds.
    pub system_us: u64,
    /// Moves made.
    pub moves: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_becomes_what_a_shell_shows() {
        assert_eq!(Ending::from_wait_status(3 << 8).shell_status(), 3);
        assert_eq!(Ending::from_wait_status(15).shell_status(), 143);
        assert_eq!(Ending::from_wait_status(11 | 0x80).shell_status(), 139);
    }
}
