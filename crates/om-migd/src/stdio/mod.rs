//! The job's standard streams, wherever it runs.
//!
//! Every byte of stdin, stdout and stderr has an offset since the job began, and every party knows up to which offset
//! it has a stream. That is what lets connections break and jobs move without a byte lost or doubled:
//!
//! ```text
//! at home:   user ──▶ Inlet ──▶ job's pipe            user ◀── Outlet ◀── job's pipe
//! away:      user ──▶ Inlet ══▶ AwayInput ──▶ pipe    user ◀── Outlet ◀══ AwayOutput ◀── pipe
//! ```
//!
//! What a move finds in the pipes of a frozen job is copied out, not taken, so a move that fails has changed nothing;
//! it travels with the job ([`InputState`], [`OutputState`]).

pub mod away_input;
pub mod away_output;
pub mod inlet;
pub mod input_pipe;
pub mod outlet;
mod wake;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::sys;

/// Ways into the job: stdin if it is a pipe, and the terminal.
pub const INPUTS: usize = 2;
/// Ways out of the job: stdout and stderr if they are pipes, and the terminal.
pub const OUTPUTS: usize = 3;
/// Index of the terminal among the inputs.
pub const TERMINAL_INPUT: usize = 1;
/// Index of the terminal among the outputs.
pub const TERMINAL_OUTPUT: usize = 2;

/// The most that is read or sent at once.
const CHUNK: usize = 256 << 10;
/// The most that is kept of one stream because the other side has not acknowledged it.
const WINDOW: usize = 1 << 20;

/// What one of the job's standard streams is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamKind {
    /// A pipe.
    Pipe,
    /// The job's terminal.
    Terminal,
    /// The null device, opened inside the job.
    Null,
    /// Stderr only: the very same as stdout.
    SameAsOutput,
    /// Closed.
    Closed,
}

impl StreamKind {
    /// The letter that the nest knows it by.
    #[must_use]
    pub fn letter(self) -> u8 {
        match self {
            Self::Pipe => b'p',
            Self::Terminal => b't',
            Self::Null => b'n',
            Self::SameAsOutput => b's',
            Self::Closed => b'c',
        }
    }
}

/// Stdin at the moment of a move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputState {
    /// Offset up to which the source had received it.
    pub received: u64,
    /// The last of these bytes, which the job has not read.
    pub unread: Bytes,
    /// Whether the end has come.
    pub ended: bool,
}

/// Stdout or stderr at the moment of a move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputState {
    /// Offset up to which home has acknowledged it.
    pub base: u64,
    /// What the job has written since.
    pub unacknowledged: Bytes,
    /// Whether home's reader has left, so that the job gets SIGPIPE.
    pub closed: bool,
}

/// Makes reads and writes of this descriptor return at once. Only for descriptors that nobody else shares.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Copies what is in a pipe without taking it out; empty for anything that is no pipe.
pub fn peek(pipe: BorrowedFd<'_>) -> Vec<u8> {
    let copy = || -> io::Result<Vec<u8>> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let size = fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?;
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size))?;
        let count = sys::tee(pipe, writer.as_fd(), usize::try_from(size).unwrap_or(CHUNK))?;
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            filled += nix::unistd::read(&reader, &mut bytes[filled..])?;
        }
        Ok(bytes)
    };
    copy().unwrap_or_default()
}

/// Whether this is a pipe.
pub fn is_pipe(fd: impl AsFd) -> bool {
    nix::sys::stat::fstat(fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO)
}

/// Whether there is something to read, or its end, at this moment.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut list = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut list, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Both ends of a new pipe; ours does not block.
pub fn pipe_to_job() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(&writer)?;
    Ok((reader, writer))
}

/// Both ends of a new pipe; ours does not block.
pub fn pipe_from_job() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(&reader)?;
    Ok((reader, writer))
}
