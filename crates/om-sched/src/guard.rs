//! What no policy can bypass.
//!
//! The guard filters what a policy gets to see and looks again at all it proposes, right before a node is asked
//! and right before the request is written. It knows nothing of gain or cost. Four questions, each a pure function:
//! may this node decide at all, may this job move, may that node take jobs, may this job go to that node.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::Time;
use crate::job::{Admin, LocalJob, Place};
use crate::node::Node;
use crate::view::{Here, Job, Target};

/// Why the guard says no. Nothing has been changed by asking.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The node has no cluster key.
    #[error("this node has no cluster key, so it sends no job to others")]
    NoKey,
    /// The node's own reports are not heard.
    #[error("this node's own omd is not heard, so its load is unknown")]
    HereUnknown,
    /// The job is not on this node, or not any more.
    #[error("it does not run on this node")]
    NotHere,
    /// The job is on another node.
    #[error("it runs on {0}, and om-sched there decides about it")]
    Away(IpAddr),
    /// The job is in transit or asked for.
    #[error("a move of it is under way")]
    InMove,
    /// Its owner pinned it.
    #[error("it is locked")]
    Locked,
    /// The migration daemon says that it cannot move.
    #[error("it has stay reasons: {0}")]
    Stays(String),
    /// `hpc/admin/stay` or `bring` keeps own jobs here.
    #[error("this node keeps its own jobs ({0})")]
    KeptHome(&'static str),
    /// It arrived a moment ago.
    #[error("it arrived a moment ago and stays for another {0} ms")]
    CoolDown(u64),
    /// Its last move failed.
    #[error("its last move failed; next try in {0} ms")]
    FailedLately(u64),
    /// The node asked about is this one.
    #[error("that is this node")]
    SameNode,
    /// Nothing was heard of it.
    #[error("nothing was heard of it for {0} ms")]
    Stale(u64),
    /// It has no migration daemon.
    #[error("it has no migration daemon")]
    MonitorsOnly,
    /// Its reports do not prove that it has the cluster key.
    #[error("its reports are not authenticated")]
    NotAuthenticated,
    /// Load or capacity are missing from its reports.
    #[error("it does not tell its load or its CPUs")]
    Untold,
    /// Its machine is of another kind.
    #[error("it is of another architecture ({0})")]
    OtherArch(String),
    /// Its CPU has other features.
    #[error("its CPU has other features")]
    OtherCpuFeatures,
    /// It was asked and has not answered yet.
    #[error("it is being asked about another job")]
    BeingAsked,
    /// It refused, failed or kept silent a moment ago.
    #[error("{reason}; next question in {left_ms} ms")]
    Resting {
        /// What happened.
        reason: String,
        /// Until it is asked again.
        left_ms: u64,
    },
    /// Its user does not want it there.
    #[error("{0}")]
    OutOfBounds(String),
    /// `hpc/admin/block` or `expel` there.
    #[error("it takes no guests (block or expel)")]
    Blocked,
    /// As many guests as it takes are there.
    #[error("it has as many guests as it takes")]
    Full,
    /// The job would not fit.
    #[error("it is short of memory: {needed_mib} MiB needed with the reserve, {available_mib} MiB available")]
    ShortMemory {
        /// What the job and the reserve need.
        needed_mib: u64,
        /// What there is.
        available_mib: u64,
    },
    /// `--dry-run`.
    #[error("dry run")]
    DryRun,
}

/// What the guard is told about a job beside the job itself.
#[derive(Clone, Copy, Debug)]
pub struct JobState {
    /// A question or a move of it is under way.
    pub in_move: bool,
    /// Not before this time again, since its last move failed.
    pub rests_until: Option<Time>,
    /// For how long a job that arrived stays.
    pub cool_down: Duration,
}

/// Whether `job` may move at all. `read` is when its facts were read.
///
/// # Errors
/// The first thing that speaks against it.
pub fn check_job(
    now: Time,
    read: Time,
    admin: Admin,
    job: &LocalJob,
    state: JobState,
) -> Result<(), Refusal> {
    match job.place {
        Place::Here => {}
        Place::Moving => return Err(Refusal::InMove),
        Place::Away(to) => return Err(Refusal::Away(to)),
    }
    if state.in_move {
        return Err(Refusal::InMove);
    }
    if job.locked {
        return Err(Refusal::Locked);
    }
    if !job.stay_reasons.is_empty() {
        return Err(Refusal::Stays(job.stay_reasons.join(", ")));
    }
    if job.is_own {
        if admin.stay {
            return Err(Refusal::KeptHome("stay"));
        }
        if admin.bring {
            return Err(Refusal::KeptHome("bring"));
        }
    }
    if let Some(until) = state.rests_until.filter(|until| *until > now) {
        return Err(Refusal::FailedLately(millis(until - now)));
    }
    if let Some(since_move) = job.since_move {
        let stayed = since_move + now.saturating_sub(read);
        if stayed < state.cool_down {
            return Err(Refusal::CoolDown(millis(state.cool_down - stayed)));
        }
    }
    Ok(())
}

/// What the guard compares a node with.
#[derive(Clone, Debug)]
pub struct Own<'a> {
    /// This node.
    pub node: Node<'a>,
    /// Whether this node has a cluster key.
    pub has_key: bool,
}

/// Whether `node` may take any job of this node now.
///
/// # Errors
/// The first thing that speaks against it.
pub fn check_node(now: Time, own: &Own<'_>, node: &Node<'_>) -> Result<(), Refusal> {
    if node.address == own.node.address {
        return Err(Refusal::SameNode);
    }
    if node.is_stale(now) {
        return Err(Refusal::Stale(millis(node.unheard(now))));
    }
    if node.migration.is_none() {
        return Err(Refusal::MonitorsOnly);
    }
    if own.has_key && !node.authenticated {
        return Err(Refusal::NotAuthenticated);
    }
    if !node.arch.is_empty() && !own.node.arch.is_empty() && node.arch != own.node.arch {
        return Err(Refusal::OtherArch(node.arch.clone()));
    }
    if node.figures(now).is_none() {
        return Err(Refusal::Untold);
    }
    Ok(())
}

/// Whether `job` may go to `target`. A job may always come home, so block, expel and the guest limit of its home
/// do not count.
///
/// # Errors
/// The first thing that speaks against it.
pub fn check_pair(here: &Here, job: &Job, target: &Target) -> Result<(), Refusal> {
    if !same_features(job.cpu_features, target.cpu_features) {
        return Err(Refusal::OtherCpuFeatures);
    }
    job.bounds.wants(target.address, job.home).map_err(|reason| Refusal::OutOfBounds(reason.to_string()))?;
    if job.home != target.address {
        if target.blocked {
            return Err(Refusal::Blocked);
        }
        if target.guests_left == 0 {
            return Err(Refusal::Full);
        }
    }
    check_memory(
        job.rss_bytes,
        target.memory_available_bytes,
        target.memory_total_bytes,
        here.memory_factor,
        here.memory_reserve,
    )
}

/// Whether a job of `rss_bytes` fits a node and leaves its reserve. Unknown memory is no memory.
///
/// # Errors
/// [`Refusal::ShortMemory`].
pub fn check_memory(
    rss_bytes: u64,
    available: Option<u64>,
    total: Option<u64>,
    factor: f64,
    reserve: f64,
) -> Result<(), Refusal> {
    let available = available.unwrap_or(0) as f64;
    let needed = rss_bytes as f64 * factor + total.unwrap_or(0) as f64 * reserve;
    if needed <= available {
        return Ok(());
    }
    Err(Refusal::ShortMemory { needed_mib: mebibytes(needed), available_mib: mebibytes(available) })
}

/// Whether two CPU feature hashes speak for machines between which a job can move; unknown ones do not speak
/// against it, since the migration daemons compare again.
#[must_use]
pub fn same_features(one: u64, other: u64) -> bool {
    one == other || one == 0 || other == 0
}

fn mebibytes(bytes: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped; only shown to people"
    )]
    let mib = (bytes / 1_048_576.0).clamp(0.0, 1e12) as u64;
    mib
}

/// Whole milliseconds, for messages and the wire.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
