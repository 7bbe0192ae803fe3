//! What two keepers say to each other.
//!
//! On a *move* connection, source to target: [`Offer`], [`OfferAnswer`] back, then after freezing the [`Part`]s, ended by
//! [`Part::Luggage`], and [`PagesAnswer`]s back. On a *link*, opened by the node where the job is or wants to be:
//! [`ToHome`] and [`FromHome`], with [`ToHome::Hello`] and [`FromHome::Welcome`] first. On an *inquiry*: an epoch, and an
//! [`Answer`] back.

use std::net::IpAddr;

use om_proto::control::Audience;
use om_proto::cpu::{Baseline, Demand};
use om_proto::omfs::{Bounds, Mode};
use serde::{Deserialize, Serialize};

use super::preamble::JobId;
use crate::bytes::Bytes;
use crate::keeper::residence::Externals;
use crate::nest::{Credentials, Launch};
use crate::stdio::{INPUTS, InputState, OUTPUTS, OutputState, StreamKind};
use crate::used_files::UsedFile;

/// The longest frame between keepers.
pub const MAX_FRAME: usize = 4 << 20;

/// What never changes about a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Its name.
    pub id: JobId,
    /// The node where it was started.
    pub home: IpAddr,
    /// The pid that the user sees at home.
    pub deputy: u32,
    /// Who it is.
    pub credentials: Credentials,
    /// The command line, for people.
    pub command: String,
    /// When it was started, microseconds since 1970 by home's clock.
    pub started_us: u64,
    /// What its stdin, stdout and stderr are.
    pub streams: [StreamKind; 3],
    /// Where it may run.
    pub bounds: Bounds,
    /// What it uses of CPUs.
    pub cpu: Baseline,
}

/// The source's question whether the target takes the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The job.
    pub spec: JobSpec,
    /// The epoch that the move would begin.
    pub epoch: u64,
    /// Where the job is now.
    pub from: IpAddr,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// Instruction set, as `uname -m` has it.
    pub arch: String,
    /// What the job demands of the CPU.
    pub cpu: Demand,
    /// How the source would send its memory.
    pub way: Way,
    /// Whether it could let it follow the job.
    pub can_follow: bool,
    /// The job's PID 1 as a file.
    pub init: Bytes,
    /// Files that it uses: what a restore will want of them is fetched before it stands still.
    pub used_files: Vec<UsedFile>,
    /// The job itself, if it has not begun yet.
    pub newborn: Option<Box<Newborn>>,
}

/// A job that has not begun yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newborn {
    /// What is to be executed. Who it is and where is not taken from here on another node.
    pub launch: Launch,
    /// Rows and columns of its terminal, if it has one.
    pub size: (u16, u16),
    /// Whether its owner has pinned it.
    pub locked: bool,
}

/// How a job's memory comes to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// Before it is restored.
    Copy,
    /// Into the restored processes, before they run.
    Stream,
    /// Into the restored processes, while they run.
    Lazy,
}

/// The target's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfferAnswer {
    /// Everything is prepared for it; how its memory shall come.
    Accepted(Way),
    /// Why not, in one sentence.
    Refused(String),
}

/// A piece of a job on its way. When memory follows the job, it comes after the luggage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// So many bytes follow of what CRIU's dump says to a page server: the job's memory, as it is read from the frozen
    /// processes.
    Pages(u32),
    /// A file for the image directory; its bytes follow as [`Part::Data`].
    Image {
        /// File name, no directory.
        name: String,
        /// Bytes that follow.
        size: u64,
    },
    /// A file of the job's `/dev/shm`; its bytes follow as [`Part::Data`].
    Shared {
        /// Path below `/dev/shm`.
        name: String,
        /// Permission bits and file type, as in `st_mode`.
        mode: u32,
        /// Bytes that follow.
        size: u64,
    },
    /// Bytes of the file that was announced.
    Data(Bytes),
    /// The last part.
    Luggage(Box<Luggage>),
    /// The source has given up; the job goes on there.
    Abandoned(String),
}

/// From the target to the source while the job is on its way: what the page server answers, or asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagesAnswer(pub Bytes);

/// What travels with a job besides its images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luggage {
    /// CPU time used before, on all nodes, microseconds: user, system.
    pub cpu_us: (u64, u64),
    /// Moves made, this one not counted.
    pub moves: u64,
    /// Whether the user has stopped the job.
    pub stopped: bool,
    /// Whether the command is stopped by a signal of its own.
    pub command_stopped: bool,
    /// Whether the owner has pinned it.
    pub locked: bool,
    /// How the command ended, if it has and others of the job go on.
    pub ended: Option<i32>,
    /// How long it had been frozen when this was sent, microseconds.
    pub frozen_for_us: u64,
    /// Input that was delivered here and not read.
    pub input: [InputState; INPUTS],
    /// Output that was written here and not acknowledged by home.
    pub output: [OutputState; OUTPUTS],
    /// CRIU's names of the outside descriptors.
    pub externals: Externals,
    /// The terminal's settings, as `struct termios`, and its rows and columns.
    pub terminal: Option<(Bytes, u16, u16)>,
}

/// What a node knows of a job and an epoch when another one asks, over a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Home has granted the epoch.
    Granted,
    /// It has not, and will not.
    Aborted,
    /// There is a keeper of the job, which does not know.
    Undecided,
    /// There is no keeper of this job, and so nothing of it.
    Nothing,
}

/// From where a job is, or wants to be, to its home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHome {
    /// First on every link.
    Hello {
        /// The node that speaks.
        node: IpAddr,
        /// The epoch that it has or wants.
        epoch: u64,
        /// Whether it has that epoch already (a link that was broken), or is a candidate for it.
        holds: bool,
        /// Input received so far, if it holds.
        input_received: [u64; INPUTS],
    },
    /// The target has restored the job, frozen. Where its input and output go on.
    Ready {
        /// The epoch it wants.
        epoch: u64,
        /// Input received so far.
        input_received: [u64; INPUTS],
    },
    /// The source has sent everything and will do nothing before it hears from home.
    Prepared {
        /// The epoch of the target.
        epoch: u64,
    },
    /// Source or target has failed: the move of this epoch must not happen.
    Abort {
        /// The epoch of the target.
        epoch: u64,
        /// What went wrong.
        reason: String,
    },
    /// Output of the job.
    Output {
        /// Index of the output.
        stream: u8,
        /// Offset of its first byte since the job began.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// Input up to this offset has been given to the job: index and offset.
    InputTaken(u8, u64),
    /// How the job is doing, once a second.
    Status(Status),
    /// The command has ended; its output ends at these offsets.
    CommandEnded {
        /// As `wait(2)` returns it.
        status: i32,
        /// Output written.
        output: [u64; OUTPUTS],
        /// Input read, if nobody is left who might read on.
        input: Option<u64>,
        /// CPU time of the whole job so far, microseconds: user, system.
        cpu_us: (u64, u64),
    },
    /// The command was stopped by a signal, or goes on.
    CommandStopped(bool),
    /// The last process has ended.
    Gone {
        /// CPU time of the whole job, microseconds: user, system.
        cpu_us: (u64, u64),
    },
    /// A move that was asked for has failed or was made.
    Moved {
        /// As the file `result` has it.
        result: String,
        /// Moves made.
        moves: u64,
        /// Downtime of the last one, microseconds.
        downtime_us: u64,
    },
    /// The owner has pinned the job or not, where it runs.
    Locked(bool),
    /// The command could not be executed: the kernel's error number.
    CannotExecute(u32),
    /// So many signals were given to the job since it came here.
    SignalsTaken(u64),
}

/// How a job is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// CPU time on all nodes, microseconds: user, system.
    pub cpu_us: (u64, u64),
    /// Runnable tasks.
    pub runnable: u32,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// Threads.
    pub threads: u32,
    /// Stay reasons, one word and an explanation each.
    pub stay: Vec<String>,
    /// Whether it is about to move on.
    pub migrating: bool,
}

/// From home to where the job is, or wants to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHome {
    /// Answers a hello: home knows the job and the epoch is the right one.
    Welcome {
        /// Output received so far.
        output_received: [u64; OUTPUTS],
    },
    /// The job is yours from this epoch on. To the source: it is not yours any more.
    Granted {
        /// The epoch.
        epoch: u64,
        /// Output received so far.
        output_received: [u64; OUTPUTS],
    },
    /// The move of this epoch does not happen.
    Aborted {
        /// The epoch.
        epoch: u64,
        /// Why.
        reason: String,
    },
    /// Input for the job.
    Input {
        /// Index of the input.
        stream: u8,
        /// Offset of its first byte since the job began.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// The input ends at this offset: index and offset.
    InputEnd(u8, u64),
    /// Output up to this offset has been delivered: index and offset.
    OutputTaken(u8, u64),
    /// Nobody reads this output stream any more.
    OutputClosed(u8),
    /// A signal for the job.
    Signal(i32, Audience),
    /// The user's terminal has this size: rows, columns.
    WindowSize(u16, u16),
    /// The user has stopped the job, or lets it go on.
    Stop(bool),
    /// The owner has pinned the job or not.
    Lock(bool),
    /// Move the job to this node, in this way if one was named.
    Move(IpAddr, Option<Mode>),
    /// Kill the job.
    Kill,
    /// Home has heard that the last process has ended: nothing is left to do.
    Over,
}
