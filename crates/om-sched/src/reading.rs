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

/// Wall time for which a job counts as starting.
const STARTING_MS: u64 = 10_000;

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

impl Known {
    /// Whether `lock`, `stay` and `nmigs` need not be read again. A young job's stay reasons pass quickly: it is
    /// still starting.
    fn still_holds(&self, now: Time, stat: &JobStat) -> bool {
        let is_starting = stat.age_ms < STARTING_MS && !self.stay_reasons.is_empty();
        !is_starting && now.saturating_sub(self.read) < SELDOM
    }
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
            Some(known) if known.place == place && known.still_holds(now, &stat) => Known { is_own, ..known },
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
        bounds: stat.bounds,
        locked: known.locked,
        stay_reasons: known.stay_reasons.clone(),
        cpu_baseline: stat.cpu,
        command: stat.command,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use om_proto::omfs::{Bounds, JobState};

    use super::*;

    struct Files(PathBuf);

    impl Files {
        fn new(name: &str) -> Self {
            let files = Self(std::env::temp_dir().join(format!("om-sched-{name}-{}", std::process::id())));
            fs::create_dir_all(files.0.join("hpc/admin")).unwrap();
            for switch in ["block", "stay", "expel", "bring"] {
                fs::write(files.0.join("hpc/admin").join(switch), "0\n").unwrap();
            }
            files
        }

        fn set(&self, pid: u32, file: &str, text: &str) {
            let dir = self.0.join(format!("{pid}/om"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(file), format!("{text}\n")).unwrap();
        }

        fn add(&self, pid: u32, home: &str, place: &str) {
            let stat = JobStat {
                job: format!("{pid:032x}"),
                uid: 1,
                home_pid: 5,
                state: JobState::Running,
                cpu_us: 1,
                runnable: 2,
                rss_bytes: 3,
                threads: 4,
                age_ms: 20_000,
                since_move_ms: 6,
                moves_ms: 0,
                bounds: Bounds::default(),
                cpu: om_proto::cpu::Baseline::Native,
                command: "job".into(),
            };
            let values = [
                ("where", place),
                ("home", home),
                ("stay", ""),
                ("lock", "0"),
                ("nmigs", "1"),
                ("result", ""),
            ];
            for (file, text) in values {
                self.set(pid, file, text);
            }
            self.set(pid, "stat", stat.to_string().trim_end());
        }

        fn root(&self) -> OmRoot {
            OmRoot::discover(Some(Path::new(&self.0)))
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn at(ms: u64) -> Time {
        Duration::from_millis(ms)
    }

    #[test]
    fn where_tells_own_jobs_from_guests() {
        let files = Files::new("reading-where");
        files.add(1, "10.0.0.1", "home");
        files.add(2, "10.0.0.1", "10.0.0.2");
        files.add(3, "10.0.0.3", "10.0.0.3");
        files.add(4, "10.0.0.1", "migrating");
        files.add(5, "10.0.0.3", "queued");
        let here = Some(IpAddr::from([10, 0, 0, 1]));
        let snapshot = Reader::default().read(at(0), &files.root(), here).unwrap();
        let seen: Vec<(u32, bool, Place)> =
            snapshot.jobs.iter().map(|job| (job.pid, job.is_own, job.place)).collect();
        let away = Place::Away(IpAddr::from([10, 0, 0, 2]));
        let expected = vec![
            (1, true, Place::Here),
            (2, true, away),
            (3, false, Place::Here),
            (4, true, Place::Moving),
            (5, false, Place::Moving),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_seldom_changes_is_read_every_few_seconds_and_when_a_job_has_moved() {
        let files = Files::new("reading-seldom");
        files.add(1, "10.0.0.1", "home");
        let mut reader = Reader::default();
        let mut read = |now| reader.read(now, &files.root(), None).unwrap().jobs.remove(0);
        assert!(!read(at(0)).locked);
        files.set(1, "lock", "1");
        assert!(!read(at(2999)).locked);
        assert!(read(at(3000)).locked);
        files.set(1, "lock", "0");
        files.set(1, "where", "10.0.0.2");
        assert!(!read(at(3100)).locked);
    }

    #[test]
    fn a_job_that_cannot_be_understood_is_left_out_and_no_files_are_an_error() {
        let files = Files::new("reading-odd");
        files.add(1, "10.0.0.1", "home");
        files.add(2, "10.0.0.1", "nowhere");
        let mut reader = Reader::default();
        assert_eq!(reader.read(at(0), &files.root(), None).unwrap().jobs.len(), 1);
        fs::remove_dir_all(files.0.join("hpc")).unwrap();
        assert!(matches!(reader.read(at(1), &files.root(), None), Err(OmError::NoDaemon { .. })));
    }
}
