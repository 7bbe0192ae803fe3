//! What a policy sees: this node, the jobs that may move, and the nodes that may take one.
//!
//! The guard has been over it already: a locked job or a dead node is not in here. What remains to be asked for a
//! pair of job and node is [`View::allows`]. A view is a value of its own, made for one round.

use std::net::IpAddr;

use om_proto::omfs::Bounds;
use serde::Serialize;

use crate::figures::Figures;
use crate::guard::{self, Refusal};

/// This node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Here {
    /// The address that names it.
    pub address: IpAddr,
    /// Its figures; what is promised is not in yet, what is leaving is out.
    pub figures: Figures,
    /// Memory that can be had; `None` if unknown.
    pub memory_available_bytes: Option<u64>,
    /// Memory that is missing to the configured reserve; 0 if there is enough.
    pub memory_short_bytes: u64,
    /// Share of a node's memory that has to stay free.
    pub memory_reserve: f64,
    /// How many times its resident memory a job needs for a moment where it arrives.
    pub memory_factor: f64,
}

/// A job that runs here and may move.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its entry in the om files.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
    /// Where it was started.
    pub home: IpAddr,
    /// n: runnable tasks, averaged over about two seconds.
    pub tasks: f64,
    /// CPU seconds used by the whole job, on all nodes.
    pub cpu_s: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Threads of all its processes.
    pub threads: u32,
    /// Wall seconds since it was started.
    pub age_s: f64,
    /// How often it has moved.
    pub moves: u32,
    /// C: seconds that a move of it will take.
    pub move_cost_s: f64,
    /// Where its user wants it.
    pub bounds: Bounds,
    /// CPU feature hash that a node must have; 0 if unknown, or if any will do that has the job's baseline.
    pub cpu_features: u64,
    /// The command, for people.
    pub command: String,
}

/// A node that may take a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The address that names it.
    pub address: IpAddr,
    /// Its best known figures.
    pub figures: Figures,
    /// Its scheduler gave these figures just now.
    pub fresh: bool,
    /// Memory in all; `None` if unknown.
    pub memory_total_bytes: Option<u64>,
    /// Memory that can be had; `None` if unknown.
    pub memory_available_bytes: Option<u64>,
    /// CPU feature hash; 0 if unknown.
    pub cpu_features: u64,
    /// How many more guests it takes; 0 while it takes none.
    pub guests_left: u32,
    /// Whether it takes no guests because it is told to (`block` or `expel`).
    pub blocked: bool,
}

/// Everything a policy may look at.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// This node.
    pub here: Here,
    /// Jobs that may move, by pid.
    pub jobs: Vec<Job>,
    /// Nodes that may take one, by address.
    pub targets: Vec<Target>,
    /// How many more moves may be under way at once.
    pub free_slots: usize,
}

impl View {
    /// Whether the guard would let `job` go to `target`.
    ///
    /// # Errors
    /// What speaks against it; nothing has changed.
    pub fn allows(&self, job: &Job, target: &Target) -> Result<(), Refusal> {
        guard::check_pair(&self.here, job, target)
    }
}

/// What a policy computed for one job and one node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Weighing {
    /// n: runnable tasks that would move.
    pub tasks: f64,
    /// ΔJ: slowdown saved, summed over all jobs of both nodes.
    pub delta_j: f64,
    /// R: reference CPU seconds that each of the tasks is expected still to need.
    pub remaining_s: f64,
    /// C: seconds that the move takes.
    pub cost_s: f64,
    /// R · ΔJ − C.
    pub gain_s: f64,
    /// The policy takes that for enough: it is worth the trouble, and more than noise.
    pub is_enough: bool,
    /// This node's figures.
    pub here: Figures,
    /// The other node's figures.
    pub there: Figures,
}
