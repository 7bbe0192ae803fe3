//! The jobs on this node as their keepers tell them, and what the om files say of them.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use om_proto::cpu::Baseline;
use om_proto::omfs::{Destination, JobStat, JobState, MoveRequest, OutOfBounds, Where};

use super::config::Config;
use super::node::{self, BLOCK, BRING, EXPEL, Node, STAY};
use crate::cgroup::Cgroup;
use crate::inspect;
use crate::net::preamble::JobId;
use crate::passing::send_frame;
use crate::snapshot::{Command, Snapshot};
use crate::stay;

/// What the main loop and the om files share.
#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Mutex<Inner>>,
}

/// Everything that is known.
pub struct Inner {
    /// The node.
    pub node: Node,
    /// The most guests.
    pub guest_limit: u32,
    /// Seconds that the node may take to leave.
    pub stop_grace_s: u32,
    /// What jobs that are started here use of CPUs if their users do not say.
    pub cpu_baseline: Baseline,
    /// The jobs by name.
    pub jobs: BTreeMap<JobId, Job>,
}

/// One job.
pub struct Job {
    /// The keeper's socket; commands go here.
    pub keeper: UnixStream,
    /// The keeper's last word; none before the first.
    pub snapshot: Option<Snapshot>,
}

impl Jobs {
    /// None yet.
    #[must_use]
    pub fn new(node: Node, config: &Config) -> Self {
        let Config { guest_limit, stop_grace_s, cpu_baseline, .. } = *config;
        let inner = Inner { node, guest_limit, stop_grace_s, cpu_baseline, jobs: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Exclusive access, to be held shortly.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The jobs that have an entry here, by pid.
    pub fn entries(&self) -> impl Iterator<Item = (u32, &Snapshot)> {
        self.jobs.values().filter_map(|job| job.snapshot.as_ref()).filter_map(|job| Some((job.pid?, job)))
    }

    /// The job with this pid.
    #[must_use]
    pub fn by_pid(&self, pid: u32) -> Option<&Snapshot> {
        self.entries().find_map(|(entry, job)| (entry == pid).then_some(job))
    }

    /// Guests that are here or arriving.
    #[must_use]
    pub fn guests(&self) -> usize {
        self.jobs.values().filter(|job| job.snapshot.as_ref().is_some_and(|job| !job.own)).count()
    }

    /// Whether a guest may come.
    pub fn admit(&self) -> Result<(), String> {
        if self.node.is_on(BLOCK) || self.node.is_on(EXPEL) {
            return Err("this node takes no guests (om block)".into());
        }
        let guests = self.guests();
        let limit = usize::try_from(self.guest_limit).unwrap_or(usize::MAX);
        if guests > limit {
            return Err(format!("this node has {} guests already (guest-limit)", guests - 1));
        }
        Ok(())
    }

    /// Sends a keeper a command. An error means that the keeper is dead or stuck.
    pub fn command(&self, job: JobId, command: &Command) -> io::Result<()> {
        let job = self.jobs.get(&job).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        send_frame(&job.keeper, command, &[])
    }

    /// Registers a request to move a job; the errors are those of a write to `where`. Until its keeper has told how it
    /// stands the job counts as queued, so that of two requests the second is refused.
    pub fn request_move(&mut self, job: &Snapshot, request: MoveRequest) -> Result<(), Errno> {
        let here = self.node.address;
        let present = match (job.own, job.location) {
            (_, Where::Queued | Where::Migrating) => return Err(Errno::EBUSY),
            (true, Where::At(address)) => address,
            (true, Where::Home) | (false, _) => here,
        };
        let target = match request.to {
            Destination::Home => job.home,
            Destination::Node(address) => address.to_canonical(),
        };
        if target == present {
            return Ok(());
        }
        if !node::is_routable(target) {
            return Err(Errno::EHOSTUNREACH);
        }
        if job.locked || !self.stay_reasons(job).is_empty() {
            return Err(Errno::EACCES);
        }
        if job.bounds.check(target, job.home).is_err() {
            return Err(Errno::EACCES);
        }
        if job.own && present == here && self.node.is_on(STAY) {
            return Err(Errno::EACCES);
        }
        self.command(job.job, &Command::Move(target, request.mode)).map_err(|_| Errno::ENOTCONN)?;
        if let Some(snapshot) = self.jobs.get_mut(&job.job).and_then(|job| job.snapshot.as_mut()) {
            snapshot.location = Where::Queued;
        }
        Ok(())
    }

    /// Why a job cannot move: one line each.
    #[must_use]
    pub fn stay_reasons(&self, job: &Snapshot) -> Vec<String> {
        let mut reasons = self.node.stay_reasons();
        if job.locked {
            reasons.push("locked: its owner has pinned it".to_owned());
        }
        if job.bounds.stay {
            reasons.push(format!("stays: {}", OutOfBounds::Stays));
        }
        match (&job.cgroup, &job.remote) {
            (Some(cgroup), _) => {
                reasons.extend(
                    job.fetching.map(|from| format!("fetching: its memory is still coming from {from}")),
                );
                reasons.extend(stay::reasons(&Cgroup::at(cgroup.clone())).iter().map(ToString::to_string));
                if job.own && self.node.is_on(STAY) {
                    reasons.push("node_stay: this node keeps its own jobs (om stay)".to_owned());
                }
            }
            (None, Some(remote)) => reasons.extend(remote.stay.iter().cloned()),
            (None, None) => {}
        }
        reasons
    }

    /// Sets a switch and does what it says.
    pub fn set_switch(&mut self, index: usize, on: bool) {
        self.node.set_switch(index, on);
        log::info!("{} is {}", node::SWITCHES[index], if on { "on" } else { "off" });
        if on {
            self.send_home(index == EXPEL, index == BRING);
        }
    }

    /// The node is about to leave, or is not any more.
    pub fn set_draining(&mut self, on: bool) {
        self.node.draining = on;
        log::info!("{}", if on { "leaving: jobs go home" } else { "not leaving any more" });
        if on {
            self.send_home(true, true);
        }
    }

    /// Guests, and own jobs that are away.
    fn send_home(&self, guests: bool, own: bool) {
        for job in self.jobs.values() {
            let Some(snapshot) = &job.snapshot else { continue };
            let affected = if snapshot.own { own && snapshot.location != Where::Home } else { guests };
            if affected && let Err(error) = send_frame(&job.keeper, &Command::MoveHome, &[]) {
                log::warn!("job {}: {error}", snapshot.job);
            }
        }
    }
}

/// What the file `stat` says.
#[must_use]
pub fn stat_of(job: &Snapshot) -> JobStat {
    let now = inspect::now_us();
    let (cpu_us, activity) = match (&job.cgroup, &job.remote) {
        (Some(path), _) => {
            let cgroup = Cgroup::at(PathBuf::from(path));
            let here = cgroup.cpu_time();
            let before = job.cpu_before_us;
            (before.0 + before.1 + here.user_us + here.system_us, inspect::activity(&cgroup))
        }
        (None, Some(remote)) => (
            remote.cpu_us.0 + remote.cpu_us.1,
            inspect::Activity {
                runnable: remote.runnable,
                rss_bytes: remote.rss_bytes,
                threads: remote.threads,
            },
        ),
        (None, None) => (job.cpu_before_us.0 + job.cpu_before_us.1, inspect::Activity::default()),
    };
    JobStat {
        job: job.job.to_string(),
        uid: job.uid,
        home_pid: job.deputy,
        state: job.state,
        cpu_us,
        runnable: if job.state == JobState::Running { activity.runnable } else { 0 },
        rss_bytes: activity.rss_bytes,
        threads: activity.threads,
        age_ms: now.saturating_sub(job.started_us) / 1000,
        since_move_ms: now.saturating_sub(job.moved_us) / 1000,
        moves_ms: job.downtime_ms,
        bounds: job.bounds.clone(),
        cpu: job.cpu,
        command: job.command.clone(),
    }
}
