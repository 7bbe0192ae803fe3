//! Reads the om files of this node into a [`Snapshot`].
//!
//! `where` and `stat` change all the time and are read each time; `home` never changes and is read once; `lock`, `stay`
//! and `nmigs` seldom change and are read when a job appears, when it has come or gone, and every few seconds. A
//! request that a stay reason forbids is refused by whoever serves the files, so nothing is lost by that.
//!
//! A process that ends while its files are read is no failure: it is left out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use om_proto::omfs::{JobStat, OmError, OmRoot, Where};

use crate::Time;
use crate::job::{Admin, LocalJob, Place, Snapshot};

/// How long what seldom changes is taken for true.
const SELDOM: Duration = Duration::from_secs(3);

/// What is kept of a job from one reading to the next.
#[derive(Clone, Debug)]
struct Known {
    /// Tells a later process with the same pid apart.
    job: String,
    home: IpAddr,
    is_own: Option<bool>,
    place: Place,
    read: Time,
    locked: bool,
    stay_reasons: Vec<String>,
    moves: u32,
}

/// Reads again and again, and remembers what need not be read each time.
#[derive(Debug, Default)]
pub struct Reader {
    known: BTreeMap<u32, Known>,
    /// Processes whose files could not be understood, each told once.
    told: BTreeMap<u32, String>,
}

impl Reader {
    /// Reads all jobs and the switches. `here` is this node's address, as far as known.
    ///
    /// # Errors
    /// [`OmError::NoDaemon`] if nobody serves the files; then nothing is remembered either. Other errors concern the
    /// root as a whole.
    pub fn read(&mut self, now: Time, root: &OmRoot, here: Option<IpAddr>) -> Result<Snapshot, OmError> {
        let snapshot = self.read_all(now, root, here);
        if snapshot.is_err() {
            self.known.clear();
        }
        snapshot
    }

    /// Reads a job's `lock` and `stay` again at the next reading.
    pub fn doubt(&mut self, pid: u32) {
        self.known.remove(&pid);
    }

    fn read_all(&mut self, now: Time, root: &OmRoot, here: Option<IpAddr>) -> Result<Snapshot, OmError> {
        let admin = root.admin()?;
        let admin = Admin { block: admin.block, stay: admin.stay, expel: admin.expel, bring: admin.bring };
        let pids = root.pids()?;
        self.known.retain(|pid, _| pids.binary_search(pid).is_ok());
        self.told.retain(|pid, _| pids.binary_search(pid).is_ok());
        let mut jobs = Vec::with_capacity(pids.len());
        for pid in pids {
            match self.read_job(now, root, pid, here) {
                Ok(job) => jobs.push(job),
                Err(OmError::Gone { .. }) => {
                    self.known.remove(&pid);
                }
                Err(error @ OmError::NoDaemon { .. }) => return Err(error),
                Err(error) => self.tell(pid, &error),
            }
        }
        Ok(Snapshot { jobs, admin })
    }

    fn read_job(
        &mut self,
        now: Time,
        root: &OmRoot,
        pid: u32,
        here: Option<IpAddr>,
    ) -> Result<LocalJob, OmError> {
        let process = root.process(pid);
        let stat = process.stat()?;
        let at = process.where_is()?;
        let known = self.known.remove(&pid).filter(|known| known.job == stat.job);
        let home = match &known {
            Some(known) => known.home,
            None => process.home()?,
        };
        // At home `where` never reads the home's own address, on a guest's node never anything else.
        let is_own = match at {
            Where::Home => Some(true),
            Where::At(address) => Some(address != home),
            Where::Queued | Where::Migrating => known.as_ref().and_then(|known| known.is_own),
        };
        let place = match (at, is_own) {
            (Where::Queued | Where::Migrating, _) => Place::Moving,
            (Where::At(address), Some(true)) => Place::Away(address),
            _ => Place::Here,
        };
        let known = match known {
            Some(known) if known.place == place && now.saturating_sub(known.read) < SELDOM => {
                Known { is_own, ..known }
            }
            _ => Known {
                job: stat.job.clone(),
                home,
                is_own,
                place,
                read: now,
                locked: process.locked()?,
                stay_reasons: process.stay_reasons()?,
                moves: u32::try_from(process.nmigs()?).unwrap_or(u32::MAX),
            },
        };
        let is_own = is_own.unwrap_or(here == Some(home));
        let job = local_job(pid, stat, &known, is_own);
        self.known.insert(pid, known);
        Ok(job)
    }

    fn tell(&mut self, pid: u32, error: &OmError) {
        let text = error.to_string();
        if self.told.get(&pid) != Some(&text) {
            log::warn!("job {pid} is left alone: {text}");
            self.told.insert(pid, text);
        }
    }
}

fn local_job(pid: u32, stat: JobStat, known: &Known, is_own: bool) -> LocalJob {
    LocalJob {
        pid,
        uid: stat.uid,
        home: known.home,
        is_own,
        place: known.place,
        cpu: Duration::from_micros(stat.cpu_us),
        runnable: stat.runnable,
        rss_bytes: stat.rss_bytes,
        threads: stat.threads,
        age: Duration::from_millis(stat.age_ms),
        since_move: (known.moves > 0).then(|| Duration::from_millis(stat.since_move_ms)),
        moves: known.moves,
        locked: known.locked,
        stay_reasons: known.stay_reasons.clone(),
        command: stat.command,
    }
}
