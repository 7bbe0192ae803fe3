//! What om-migd and a keeper say to each other on this node. Old keepers outlive upgrades of om-migd, so the protocol
//! has a version, said by the keeper first.

use std::net::IpAddr;
use std::path::PathBuf;

use om_proto::cpu::Baseline;
use om_proto::omfs::{Bounds, JobState, Mode, Where};
use serde::{Deserialize, Serialize};

use crate::confines::{Confines, Hierarchies};
use crate::guest_groups::GuestGroups;
use crate::net::message::Status;
use crate::net::preamble::{JobId, Purpose};
use crate::uid_map::UidMap;

/// Version of this protocol.
pub const VERSION: u16 = 2;
/// The longest frame.
pub const MAX_FRAME: usize = 1 << 20;

/// What a new keeper is told, with the connection that it is for attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// What it is for.
    pub cause: Cause,
    /// The node's address.
    pub address: IpAddr,
    /// TCP port of every om-migd of the cluster.
    pub port: u16,
    /// CRIU, if there is one.
    pub criu: Option<PathBuf>,
    /// The cluster key's file.
    pub key_file: PathBuf,
    /// The control groups of this machine.
    pub hierarchies: Hierarchies,
    /// Where guests belong in them.
    pub guests: Confines,
    /// The directory of links that tell where jobs' cgroups are.
    pub cgroups: PathBuf,
    /// The directory of the keepers' sockets.
    pub sockets: PathBuf,
    /// Seconds after which a silent node counts as dead: a guest whose home is silent ends, and so does `om run` of a job
    /// whose node is silent.
    pub grace_s: u64,
    /// The least user id of a guest.
    pub min_uid: u32,
    /// Whether a job of root may come.
    pub allow_root: bool,
    /// What jobs use of CPUs if `om run` does not say.
    pub cpu_baseline: Baseline,
    /// How jobs move if nobody says.
    pub mode: Mode,
    /// Whether a job's memory can follow it, on this kernel with this CRIU.
    pub can_follow: bool,
    /// Which other user ids may come.
    pub uid_map: UidMap,
    /// Which of their groups they have here.
    pub guest_groups: GuestGroups,
}

/// Why a keeper is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// `om run` is at the other end of the attached Unix socket.
    Start,
    /// A keeper of another node is at the other end of the attached TCP connection and offers this job.
    Arrival(JobId),
    /// Another node, at the other end of the attached TCP connection, asks about a job of which nothing is here.
    Absence(JobId),
}

/// om-migd to keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Move the job to this node, in this way if one was named.
    Move(IpAddr, Option<Mode>),
    /// Move it home.
    MoveHome,
    /// Pin it or not.
    Lock(bool),
    /// A connection for the job, attached.
    Attach(Purpose),
    /// Whether an arrival is accepted; the reason if not.
    Admission(Result<(), String>),
}

/// Keeper to om-migd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// First: the protocol's version.
    Version(u16),
    /// How the job stands; after every change.
    Job(Box<Snapshot>),
    /// A guest wants to come: its resident bytes. om-migd answers with an admission.
    Admit {
        /// Resident bytes.
        rss_bytes: u64,
    },
}

/// How a job stands, for the om files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The job.
    pub job: JobId,
    /// Whether this node is its home.
    pub own: bool,
    /// The pid of its entry here; none while it has none (a guest that is arriving or has left).
    pub pid: Option<u32>,
    /// What `where` says.
    pub location: Where,
    /// Its home.
    pub home: IpAddr,
    /// The pid at home.
    pub deputy: u32,
    /// The owner.
    pub uid: u32,
    /// The command line, for people.
    pub command: String,
    /// Where it may run.
    pub bounds: Bounds,
    /// What it uses of CPUs.
    pub cpu: Baseline,
    /// Moves made.
    pub moves: u64,
    /// The owner has pinned it.
    pub locked: bool,
    /// The node from which its memory is still coming.
    pub fetching: Option<IpAddr>,
    /// What `result` says.
    pub result: Option<String>,
    /// Running, stopped or migrating.
    pub state: JobState,
    /// When it was started, microseconds since 1970.
    pub started_us: u64,
    /// When it came to this node, microseconds since 1970.
    pub moved_us: u64,
    /// Downtime of the last move, milliseconds.
    pub downtime_ms: u64,
    /// Its cgroup if it runs here.
    pub cgroup: Option<PathBuf>,
    /// CPU time used before it came here, microseconds: user, system.
    pub cpu_before_us: (u64, u64),
    /// How it is doing, if it runs elsewhere.
    pub remote: Option<Status>,
}
