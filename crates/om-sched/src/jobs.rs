//! The jobs of this node over time: what one reading of the om files cannot say.
//!
//! A reading shows how many tasks of a job are runnable at one moment; decisions need an average. It shows what is
//! here, not what has just arrived. And the node's reports count all runnable tasks: what is left of that count once
//! the jobs are taken out is the background load.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::Time;
use crate::job::{Admin, LocalJob, Place, Snapshot};

/// Time constant over which runnable tasks are averaged.
const AVERAGE_OVER: Duration = Duration::from_secs(2);
/// Younger jobs are not counted as load that could move: most processes are gone before that.
const MIN_AGE: Duration = Duration::from_millis(100);
/// The background load is the least of this many readings: reports and om files are not read at the same moment,
/// so a job that ends or starts between them looks like background in one of them.
const BACKGROUND_READINGS: usize = 3;
/// For how long after a job appeared or went the om files are worth reading more often.
const CHANGE_LASTS: Duration = Duration::from_secs(3);

/// What is remembered of a job from one reading to the next.
#[derive(Clone, Debug)]
pub struct Tracked {
    /// Runnable tasks, averaged.
    pub tasks: f64,
    /// CPU seconds that it gets a second, averaged; `None` after the first reading.
    pub share: Option<f64>,
    cpu: Duration,
    /// Not to be moved before this time, since its last move failed.
    pub rests_until: Option<Time>,
    /// Moves that failed since the last one that did not.
    pub failures: u32,
    here: bool,
}

/// A job that was not here at the last reading and has come from another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its entry in the om files.
    pub pid: u32,
    /// It is an own job that came home.
    pub came_home: bool,
}

/// All that is known of this node's jobs.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    snapshot: Snapshot,
    read: Option<Time>,
    tracked: BTreeMap<u32, Tracked>,
    background: VecDeque<f64>,
    changed: Option<Time>,
    /// Tasks of jobs that were started here since the om files were read.
    started: f64,
}

impl Jobs {
    /// Takes in a reading of the om files and tells who has arrived since the last one.
    pub fn read(&mut self, now: Time, snapshot: Snapshot) -> Vec<Arrival> {
        let passed = self.read.map(|read| now.saturating_sub(read));
        let mut before = std::mem::take(&mut self.tracked);
        let mut arrivals = Vec::new();
        for job in &snapshot.jobs {
            let here = job.place == Place::Here;
            let runnable = f64::from(job.runnable);
            let tracked = match before.remove(&job.pid) {
                Some(mut tracked) => {
                    if here && tracked.here {
                        let passed = passed.unwrap_or_default().as_secs_f64();
                        let weight = passed / (passed + AVERAGE_OVER.as_secs_f64());
                        tracked.tasks += weight * (runnable - tracked.tasks);
                        if passed > 0.0 {
                            let got = job.cpu.saturating_sub(tracked.cpu).as_secs_f64() / passed;
                            let before = tracked.share.unwrap_or(got);
                            tracked.share = Some(before + weight * (got - before));
                        }
                    } else {
                        tracked.tasks = runnable;
                        tracked.share = None;
                    }
                    tracked.cpu = job.cpu;
                    if here && !tracked.here && job.moves > 0 {
                        arrivals.push(Arrival { pid: job.pid, came_home: job.is_own });
                    }
                    tracked.here = here;
                    tracked
                }
                None => {
                    self.changed = Some(now);
                    // At the first reading nobody has just arrived.
                    let has_come = job.moves > 0 || !job.is_own;
                    if here && has_come && self.read.is_some() {
                        arrivals.push(Arrival { pid: job.pid, came_home: job.is_own });
                    }
                    let cpu = job.cpu;
                    Tracked { tasks: runnable, share: None, cpu, rests_until: None, failures: 0, here }
                }
            };
            self.tracked.insert(job.pid, tracked);
        }
        if !before.is_empty() {
            self.changed = Some(now);
        }
        self.snapshot = snapshot;
        self.started = 0.0;
        self.read = Some(now);
        arrivals
    }

    /// Nobody serves the om files any more: nothing is known of any job.
    pub fn lose(&mut self) {
        *self = Self::default();
    }

    /// A job has left for `to` since the om files were read.
    pub fn left(&mut self, pid: u32, to: IpAddr) {
        if let Some(job) = self.snapshot.jobs.iter_mut().find(|job| job.pid == pid) {
            job.place = Place::Away(to);
        }
    }

    /// A job has ended since the om files were read.
    pub fn ended(&mut self, pid: u32) {
        self.snapshot.jobs.retain(|job| job.pid != pid);
    }

    /// Takes in what this node's own report says of its load.
    pub fn hear_own_load(&mut self, runnable: f64) {
        let of_jobs: u32 = self.snapshot.jobs.iter().filter(|job| on_node(job)).map(|job| job.runnable).sum();
        self.background.push_back((runnable - f64::from(of_jobs)).max(0.0));
        while self.background.len() > BACKGROUND_READINGS {
            self.background.pop_front();
        }
    }

    /// When the om files were last read; `None` if they cannot be.
    #[must_use]
    pub fn read_at(&self) -> Option<Time> {
        self.read
    }

    /// The node's switches.
    #[must_use]
    pub fn admin(&self) -> Admin {
        self.snapshot.admin
    }

    /// All entries, as last read.
    pub fn iter(&self) -> impl Iterator<Item = &LocalJob> {
        self.snapshot.jobs.iter()
    }

    /// One entry, as last read.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&LocalJob> {
        self.iter().find(|job| job.pid == pid)
    }

    /// What is remembered of a job.
    #[must_use]
    pub fn tracked(&self, pid: u32) -> Option<&Tracked> {
        self.tracked.get(&pid)
    }

    /// The same, to change it.
    pub fn tracked_mut(&mut self, pid: u32) -> Option<&mut Tracked> {
        self.tracked.get_mut(&pid)
    }

    /// n: a job's runnable tasks, averaged.
    #[must_use]
    pub fn tasks(&self, pid: u32) -> f64 {
        self.tracked(pid).map_or(0.0, |tracked| tracked.tasks)
    }

    /// CPU seconds that a job gets a second; since its start, if nothing newer is known.
    #[must_use]
    pub fn share(&self, pid: u32) -> f64 {
        let since_start = |job: &LocalJob| job.cpu.as_secs_f64() / job.age.as_secs_f64().max(0.001);
        let measured = self.tracked(pid).and_then(|tracked| tracked.share);
        measured.or_else(|| self.get(pid).map(since_start)).unwrap_or(0.0)
    }

    /// Runnable tasks of the jobs here that could move, those for which `leaves` is true excepted.
    pub fn movable_tasks(&self, leaves: impl Fn(u32) -> bool) -> f64 {
        self.iter()
            .filter(|job| {
                job.place == Place::Here && job.can_move() && job.age >= MIN_AGE && !leaves(job.pid)
            })
            .map(|job| self.tasks(job.pid))
            .sum()
    }

    /// The same with those that are too young to be moved, and with those that the om files do not show yet: what a
    /// new job would have to share with.
    #[must_use]
    pub fn present_tasks(&self, leaves: impl Fn(u32) -> bool) -> f64 {
        let seen = self.iter().filter(|job| job.place == Place::Here && job.can_move() && !leaves(job.pid));
        seen.map(|job| self.tasks(job.pid)).sum::<f64>() + self.started
    }

    /// A job of so many runnable tasks has been started here since the om files were read.
    pub fn started(&mut self, tasks: f64) {
        self.started += tasks;
    }

    /// b: the load of all that is no job, and of jobs that cannot move.
    #[must_use]
    pub fn background(&self) -> f64 {
        let pinned: f64 = self
            .iter()
            .filter(|job| job.place == Place::Here && !job.can_move())
            .map(|job| self.tasks(job.pid))
            .sum();
        self.others() + pinned
    }

    /// The load of all that is no job.
    fn others(&self) -> f64 {
        // As long as there are too few readings, what looks like background may well be a job.
        let enough = self.background.len() == BACKGROUND_READINGS;
        self.background.iter().copied().reduce(f64::min).filter(|_| enough).unwrap_or(0.0)
    }

    /// The load of this node's own user: its jobs, and all that is no job.
    #[must_use]
    pub fn owner_tasks(&self) -> f64 {
        let own = self.iter().filter(|job| job.place == Place::Here && job.is_own);
        self.others() + own.map(|job| self.tasks(job.pid)).sum::<f64>()
    }

    /// The load of the guests here.
    #[must_use]
    pub fn guest_tasks(&self) -> f64 {
        let guests = self.iter().filter(|job| job.place == Place::Here && !job.is_own);
        guests.map(|job| self.tasks(job.pid)).sum()
    }

    /// Guests here and those that come or go.
    #[must_use]
    pub fn guests(&self) -> u32 {
        let guests = self.iter().filter(|job| !job.is_own && on_node(job)).count();
        u32::try_from(guests).unwrap_or(u32::MAX)
    }

    /// Whether jobs came or went a moment ago, or are in transit.
    #[must_use]
    pub fn is_changing(&self, now: Time) -> bool {
        self.changed.is_some_and(|changed| now.saturating_sub(changed) < CHANGE_LASTS)
            || self.iter().any(|job| job.place == Place::Moving)
    }
}

fn on_node(job: &LocalJob) -> bool {
    !matches!(job.place, Place::Away(_))
}

#[cfg(test)]
mod tests {
    use om_proto::omfs::Bounds;

    use super::*;

    fn at(ms: u64) -> Time {
        Duration::from_millis(ms)
    }

    fn job(pid: u32, runnable: u32) -> LocalJob {
        LocalJob {
            pid,
            uid: 1000,
            home: IpAddr::from([10, 77, 0, 1]),
            is_own: true,
            place: Place::Here,
            cpu: Duration::from_secs(1),
            runnable,
            rss_bytes: 1 << 20,
            threads: 1,
            age: Duration::from_secs(2),
            since_move: None,
            moves: 0,
            bounds: Bounds::default(),
            locked: false,
            stay_reasons: Vec::new(),
            cpu_baseline: om_proto::cpu::Baseline::Native,
            command: "job".into(),
        }
    }

    fn reading(jobs: Vec<LocalJob>) -> Snapshot {
        Snapshot { jobs, admin: Admin::default() }
    }

    #[test]
    fn runnable_tasks_are_averaged_over_two_seconds() {
        let mut jobs = Jobs::default();
        jobs.read(at(0), reading(vec![job(1, 1)]));
        assert_eq!(jobs.tasks(1), 1.0);
        jobs.read(at(2000), reading(vec![job(1, 0)]));
        assert_eq!(jobs.tasks(1), 0.5);
    }

    #[test]
    fn what_reports_show_beyond_the_jobs_is_background_if_it_lasts() {
        let mut jobs = Jobs::default();
        jobs.read(at(0), reading(vec![job(1, 1), job(2, 1)]));
        jobs.hear_own_load(3.0);
        jobs.hear_own_load(3.0);
        assert_eq!(jobs.background(), 0.0);
        jobs.hear_own_load(3.0);
        assert_eq!(jobs.background(), 1.0);
        jobs.hear_own_load(2.0);
        assert_eq!(jobs.background(), 0.0);
        for _ in 0..3 {
            jobs.hear_own_load(4.0);
        }
        assert_eq!(jobs.background(), 2.0);
    }

    #[test]
    fn a_pinned_job_is_background_and_a_newborn_is_nothing() {
        let mut jobs = Jobs::default();
        let newborn = LocalJob { age: at(50), ..job(3, 1) };
        let locked = LocalJob { locked: true, ..job(1, 1) };
        jobs.read(at(0), reading(vec![locked, job(2, 1), newborn]));
        assert_eq!((jobs.movable_tasks(|_| false), jobs.background()), (1.0, 1.0));
        assert_eq!(jobs.movable_tasks(|pid| pid == 2), 0.0);
    }

    #[test]
    fn who_was_here_at_the_first_reading_has_not_just_arrived() {
        let mut jobs = Jobs::default();
        let guest = |pid| LocalJob { is_own: false, moves: 1, ..job(pid, 1) };
        assert_eq!(jobs.read(at(0), reading(vec![guest(1)])), vec![]);
        let arrivals = jobs.read(at(1000), reading(vec![guest(1), guest(2), job(3, 1)]));
        assert_eq!(arrivals, vec![Arrival { pid: 2, came_home: false }]);
        let away = LocalJob { place: Place::Away(IpAddr::from([10, 77, 0, 2])), moves: 1, ..job(3, 1) };
        jobs.read(at(2000), reading(vec![away]));
        let arrivals = jobs.read(at(3000), reading(vec![LocalJob { moves: 2, ..job(3, 1) }]));
        assert_eq!(arrivals, vec![Arrival { pid: 3, came_home: true }]);
    }
}
