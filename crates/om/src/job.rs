//! One job as its om files tell it; the JSON of `om ps`.
//!
//! Kernels with om files of their own tell less than om-migd does: what is not told is `None`, never 0.

use std::collections::HashMap;
use std::net::IpAddr;

use nix::unistd::{Uid, User};
use om_proto::net::Interface;
use om_proto::omfs::{Bounds, JobStat, JobState, MoveResult, OmError, OmRoot, Where};
use serde::Serialize;

use crate::error::Failure;

/// A job, or a guest, with an entry on this node.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// The entry: at home the pid of the deputy, on a guest's node the guest's.
    pub pid: u32,
    /// The job's name in the cluster.
    pub job: Option<String>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its owner's name, if the user is known here.
    pub user: Option<String>,
    /// It has its home on another node.
    pub guest: bool,
    /// Where it was started.
    pub home_address: Option<IpAddr>,
    /// What `where` says: `home`, `queued`, `migrating`, or an address; for a guest that of its home.
    #[serde(rename = "where")]
    pub place: String,
    /// `running`, `stopped` or `migrating`.
    pub state: Option<String>,
    /// CPU time on all nodes, microseconds.
    pub cpu_us: Option<u64>,
    /// Runnable tasks now.
    pub runnable: Option<u32>,
    /// Resident bytes.
    pub rss_bytes: Option<u64>,
    /// Threads of all its processes.
    pub threads: Option<u32>,
    /// Wall time since it was started, milliseconds.
    pub age_ms: Option<u64>,
    /// Wall time since it arrived where it is, milliseconds.
    pub since_move_ms: Option<u64>,
    /// How often it has moved.
    pub moves: Option<u64>,
    /// For how long its last move stopped it, milliseconds.
    pub last_downtime_ms: Option<u64>,
    /// How its last move went: `ok ADDRESS SECONDS` or `failed ADDRESS REASON`.
    pub last_result: Option<String>,
    /// The only nodes that it may run on; none: all.
    pub on: Vec<IpAddr>,
    /// Nodes that it must not run on.
    pub not_on: Vec<IpAddr>,
    /// It never leaves home.
    pub stay_home: bool,
    /// Its owner has pinned it.
    pub locked: bool,
    /// Why it cannot move: a word, or a word, a colon and an explanation.
    pub stay_reasons: Vec<String>,
    /// The command line.
    pub command: Option<String>,
}

/// Reads jobs, and remembers users' names.
pub struct Reader<'a> {
    root: &'a OmRoot,
    addresses: Vec<IpAddr>,
    users: HashMap<u32, Option<String>>,
}

impl<'a> Reader<'a> {
    /// A reader of the om files under `root`.
    pub fn new(root: &'a OmRoot) -> Self {
        let interfaces = Interface::all().unwrap_or_default();
        let addresses = interfaces.into_iter().flat_map(|interface| interface.addresses).collect();
        Self { root, addresses, users: HashMap::new() }
    }

    /// All jobs, by pid: this node's own, then its guests. One that ends meanwhile is left out.
    ///
    /// # Errors
    /// If nobody serves the om files.
    pub fn all(&mut self) -> Result<Vec<Job>, Failure> {
        let pids = self.root.pids().map_err(|error| Failure::of_node(self.root.path(), error))?;
        if pids.is_empty() && !self.root.available() && !self.root.path().join("self").exists() {
            return Err(Failure::NoDaemon { root: self.root.path().to_owned() });
        }
        let mut jobs = Vec::with_capacity(pids.len());
        for pid in pids {
            match self.job(pid) {
                Ok(job) => jobs.push(job),
                Err(OmError::Gone { .. }) => {}
                Err(error) => return Err(Failure::of_job(self.root.path(), pid, error)),
            }
        }
        jobs.sort_by_key(|job| (job.guest, job.pid));
        Ok(jobs)
    }

    /// One job.
    ///
    /// # Errors
    /// [`OmError::Gone`] if there is none, [`OmError::NoDaemon`] if nobody can tell. What else goes wrong with a file
    /// leaves its fields empty.
    pub fn job(&mut self, pid: u32) -> Result<Job, OmError> {
        let process = self.root.process(pid);
        let place = told(process.where_is())?;
        let stat: Option<JobStat> = told(process.stat())?;
        let home_address = told(process.home())?;
        let uid = stat.as_ref().map(|stat| stat.uid);
        let bounds = stat.as_ref().map(|stat| stat.bounds.clone()).unwrap_or_default();
        Ok(Job {
            pid,
            guest: self.is_guest(pid, place, home_address, stat.as_ref()),
            home_address,
            place: place.map_or_else(|| "?".to_owned(), |place| place.to_string()),
            uid,
            user: uid.and_then(|uid| self.user(uid)),
            moves: told(process.nmigs())?,
            on: bounds.on,
            not_on: bounds.not_on,
            stay_home: bounds.stay,
            locked: told(process.locked())?.unwrap_or(false),
            stay_reasons: told(process.stay_reasons())?.unwrap_or_default(),
            last_result: told(process.result())?.flatten().map(|result: MoveResult| result.to_string()),
            job: stat.as_ref().map(|stat| stat.job.clone()),
            state: stat.as_ref().map(|stat| stat.state.to_string()),
            cpu_us: stat.as_ref().map(|stat| stat.cpu_us),
            runnable: stat.as_ref().map(|stat| stat.runnable),
            rss_bytes: stat.as_ref().map(|stat| stat.rss_bytes),
            threads: stat.as_ref().map(|stat| stat.threads),
            age_ms: stat.as_ref().map(|stat| stat.age_ms),
            since_move_ms: stat.as_ref().map(|stat| stat.since_move_ms),
            last_downtime_ms: stat.as_ref().map(|stat| stat.moves_ms),
            command: stat.map(|stat| stat.command),
        })
    }

    /// At home `where` never reads the home's own address, on a guest's node never anything else but while it moves.
    fn is_guest(&self, pid: u32, place: Option<Where>, home: Option<IpAddr>, stat: Option<&JobStat>) -> bool {
        match (place, home) {
            (Some(Where::Home), _) => false,
            (Some(Where::At(address)), Some(home)) => address == home,
            (_, Some(home)) if !self.addresses.is_empty() => !self.addresses.contains(&home),
            _ => stat.is_some_and(|stat| stat.home_pid != pid),
        }
    }

    fn user(&mut self, uid: u32) -> Option<String> {
        let look_up = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        self.users.entry(uid).or_insert_with(look_up).clone()
    }
}

impl Job {
    /// Where it is, for people.
    pub fn place_in_words(&self) -> String {
        if self.guest && self.place.parse::<IpAddr>().is_ok() {
            format!("guest of {}", self.place)
        } else {
            self.place.clone()
        }
    }

    /// Where it may run, for people; empty: anywhere.
    pub fn bounds_in_words(&self) -> String {
        let (on, not_on) = (self.on.clone(), self.not_on.clone());
        Bounds { on, not_on, stay: self.stay_home }.to_string()
    }

    /// The first word of each stay reason, and that it is locked.
    pub fn stay_words(&self) -> String {
        let lock = self.locked.then_some("locked");
        let reasons = self.stay_reasons.iter().filter_map(|reason| reason.split([':', ' ']).next());
        let mut words: Vec<&str> = lock.into_iter().chain(reasons).collect();
        words.dedup();
        words.join(",")
    }

    /// Whether it is on its way.
    pub fn is_moving(&self) -> bool {
        matches!(self.place.parse(), Ok(Where::Queued | Where::Migrating))
            || self.state.as_deref() == Some(JobState::Migrating.to_string().as_str())
    }
}

/// What one file says: nothing, if it is missing on this kernel or makes no sense.
fn told<T>(read: Result<T, OmError>) -> Result<Option<T>, OmError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error @ (OmError::Gone { .. } | OmError::NoDaemon { .. })) => Err(error),
        Err(_) => Ok(None),
    }
}
