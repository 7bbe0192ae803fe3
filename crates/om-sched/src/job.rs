//! What this node's om files say: the jobs that run here, and the node's own switches.
//!
//! Plain facts as of one reading; whether a job may move is the guard's to say.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::cpu::Baseline;
use om_proto::omfs::Bounds;

/// Where an entry of the om files has its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It runs on this node: an own job at home, or a guest.
    Here,
    /// `queued` or `migrating`: someone has asked for a move already.
    Moving,
    /// An own job that runs on another node.
    Away(IpAddr),
}

/// One entry of the om files.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalJob {
    /// The entry's name: the process that is seen on this node.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
    /// Where it was started.
    pub home: IpAddr,
    /// This node is its home.
    pub is_own: bool,
    /// Where it runs.
    pub place: Place,
    /// CPU time that the whole job has used, on all nodes.
    pub cpu: Duration,
    /// Runnable tasks at the moment of reading.
    pub runnable: u32,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Threads of all its processes.
    pub threads: u32,
    /// Wall time since it was started.
    pub age: Duration,
    /// Wall time since it last arrived anywhere; `None` if it never moved.
    pub since_move: Option<Duration>,
    /// How often it has moved.
    pub moves: u32,
    /// Where its user wants it.
    pub bounds: Bounds,
    /// What it uses of CPUs.
    pub cpu_baseline: Baseline,
    /// Its owner pinned it.
    pub locked: bool,
    /// Why it cannot move; empty if it can.
    pub stay_reasons: Vec<String>,
    /// The command, for people.
    pub command: String,
}

impl LocalJob {
    /// Whether nothing about the job itself keeps it from moving.
    #[must_use]
    pub fn can_move(&self) -> bool {
        !self.locked && self.stay_reasons.is_empty()
    }
}

/// The node's own switches, `hpc/admin/*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// Takes no guests.
    pub block: bool,
    /// Keeps its own jobs here.
    pub stay: bool,
    /// Sends its guests home.
    pub expel: bool,
    /// Calls its own jobs home.
    pub bring: bool,
}

/// All entries of the om files, as of one reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The entries, in no particular order.
    pub jobs: Vec<LocalJob>,
    /// The switches.
    pub admin: Admin,
}
