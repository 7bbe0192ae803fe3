//! What is known of one node, and how far it can be relied on.
//!
//! A report is old when it arrives and says only the sum of a node's load ([`Told`]). Three things are known better and
//! are kept beside it ([`Known`]): fresh figures from an answer or invitation, the share that cannot move (from the last
//! answer), and the jobs that this node is sending there right now. A [`Node`] is both together, at one moment.

use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use om_proto::report::{Capacity, Load, Machine, Memory, Migration};
use om_proto::table;
pub use om_proto::table::{FORGET_PERIODS, STALE_PERIODS};

use crate::Time;
use crate::figures::{Figures, from_milli};

/// What its scheduler said itself outranks its reports for this many periods.
const FRESH_PERIODS: u32 = 2;
/// How long the split of a node's load into movable and background is believed.
const SPLIT_LASTS: Duration = Duration::from_secs(30);

/// One report as it was heard. What the datagram did not bring is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The address that names the node.
    pub address: IpAddr,
    /// Whether its MAC was made with a key of the cluster.
    pub authenticated: bool,
    /// Time between its reports.
    pub period: Duration,
    /// What seldom changes.
    pub machine: Option<&'a Machine>,
    /// What it can do.
    pub capacity: Option<&'a Capacity>,
    /// How busy it is.
    pub load: Option<&'a Load>,
    /// How much memory is left.
    pub memory: Option<&'a Memory>,
    /// What its migration daemon says; `None`: it has none.
    pub migration: Option<&'a Migration>,
}

impl<'a> From<&'a table::Node> for Report<'a> {
    fn from(node: &'a table::Node) -> Self {
        Self {
            address: node.address,
            authenticated: node.authenticated,
            period: node.period(),
            machine: node.machine.as_deref(),
            capacity: node.capacity.as_ref(),
            load: node.load.as_ref(),
            memory: node.memory.as_ref(),
            migration: node.migration.as_ref(),
        }
    }
}

/// A job on its way from here to a node, or just arrived there.
#[derive(Clone, Copy, Debug)]
struct Inbound {
    pid: u32,
    tasks: f64,
    accepted: Time,
    arrived: Option<Time>,
}

/// What a node has told of itself, its last report counting.
#[derive(Clone, Debug)]
pub struct Told {
    /// The address that names it.
    pub address: IpAddr,
    /// Time between its reports.
    pub period: Duration,
    /// Whether its last report was authenticated.
    pub authenticated: bool,
    /// As `uname -m` has it; empty if unknown.
    pub arch: String,
    /// CPU feature hash; 0 if unknown.
    pub cpu_features: u64,
    /// Effective CPUs and speed; `None` if it did not tell.
    pub capacity: Option<(f64, f64)>,
    /// Runnable tasks as others should plan with them.
    pub exported: Option<f64>,
    /// Runnable tasks as the node itself should plan with them.
    pub own_view: Option<f64>,
    /// Memory in all.
    pub memory_total_bytes: Option<u64>,
    /// Memory that can be had.
    pub memory_available_bytes: Option<u64>,
    /// What its migration daemon says; `None`: it is a monitoring node.
    pub migration: Option<Migration>,
}

impl Told {
    /// A node of which nothing but the address is known.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            period: Duration::from_secs(1),
            authenticated: false,
            arch: String::new(),
            cpu_features: 0,
            capacity: None,
            exported: None,
            own_view: None,
            memory_total_bytes: None,
            memory_available_bytes: None,
            migration: None,
        }
    }

    /// Takes in a report. What it did not bring is unknown from now on, the machine's facts excepted: those come
    /// only now and then.
    pub fn hear(&mut self, report: &Report<'_>) {
        self.period = report.period;
        self.authenticated = report.authenticated;
        if let Some(machine) = report.machine {
            if self.arch != machine.arch {
                self.arch.clone_from(&machine.arch);
            }
            self.cpu_features = machine.cpu_features;
        }
        self.capacity = report.capacity.and_then(|capacity| {
            (capacity.effective_cpus_milli > 0 && capacity.speed > 0)
                .then(|| (from_milli(capacity.effective_cpus_milli), from_milli(capacity.speed)))
        });
        self.memory_total_bytes =
            report.capacity.and_then(|capacity| capacity.mem_total_kib).map(kib_to_bytes);
        self.memory_available_bytes = report.memory.and_then(|memory| memory.available_kib).map(kib_to_bytes);
        let runnable = report.load.and_then(|load| load.runnable).map(f64::from);
        let exported = report.load.and_then(|load| load.exported_milli).map(from_milli);
        let smoothed = report.load.and_then(|load| load.smoothed_milli).map(from_milli);
        self.exported = exported.or(runnable);
        self.own_view = match (runnable, smoothed) {
            (Some(runnable), Some(smoothed)) => Some(runnable.min(smoothed)),
            (one, other) => one.or(other),
        };
        self.migration = report.migration.cloned();
    }
}

/// What a node has told, and when it was last heard.
#[derive(Clone, Debug)]
pub struct Reported {
    /// When it was last heard.
    pub heard: Time,
    /// What it told.
    pub told: Rc<Told>,
}

impl Reported {
    /// Whether the node has been silent for so long that it is no node any more.
    #[must_use]
    pub fn is_gone(&self, now: Time) -> bool {
        now.saturating_sub(self.heard) > self.told.period * FORGET_PERIODS
    }
}

/// What this node knows of another one beside its reports.
#[derive(Clone, Debug, Default)]
pub struct Known {
    fresh: Option<(Time, Figures)>,
    background: Option<(Time, f64)>,
    inbound: Vec<Inbound>,
}

impl Known {
    /// Takes in figures that the node's scheduler gave just now.
    pub fn hear_figures(&mut self, now: Time, figures: Figures) {
        self.fresh = Some((now, figures));
        self.background = Some((now, figures.background));
    }

    /// A job of this node is on its way there; what was heard before does not count it.
    pub fn expect(&mut self, now: Time, pid: u32, tasks: f64) {
        self.forget_inbound(pid);
        self.inbound.push(Inbound { pid, tasks, accepted: now, arrived: None });
    }

    /// The expected job is there: what is heard from now on counts it.
    pub fn arrived(&mut self, now: Time, pid: u32) {
        for job in self.inbound.iter_mut().filter(|job| job.pid == pid) {
            job.arrived = Some(now);
        }
    }

    /// The expected job does not come.
    pub fn forget_inbound(&mut self, pid: u32) {
        self.inbound.retain(|job| job.pid != pid);
    }

    /// Forgets what counts no more for a node with this period. Whether anything is left.
    pub fn tidy(&mut self, now: Time, period: Duration) -> bool {
        self.inbound.retain(|job| job.arrived.is_none_or(|arrived| now < arrived + period * STALE_PERIODS));
        let split_lasts = self.background.is_some_and(|(at, _)| now.saturating_sub(at) <= SPLIT_LASTS);
        split_lasts || !self.inbound.is_empty()
    }
}

/// A node at one moment: what it told, and what is known beside.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    /// When it was last heard.
    pub heard: Time,
    told: Rc<Told>,
    known: Option<&'a Known>,
}

impl Deref for Node<'_> {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.told
    }
}

impl<'a> Node<'a> {
    /// Puts together what is known.
    #[must_use]
    pub fn new(reported: Reported, known: Option<&'a Known>) -> Self {
        Self { heard: reported.heard, told: reported.told, known }
    }

    /// Wall time since the node was heard.
    #[must_use]
    pub fn unheard(&self, now: Time) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// Whether its last report is too old to act on.
    #[must_use]
    pub fn is_stale(&self, now: Time) -> bool {
        self.unheard(now) > self.period * STALE_PERIODS
    }

    /// Whether its scheduler gave figures itself a moment ago.
    #[must_use]
    pub fn spoke_up(&self, now: Time) -> bool {
        self.fresh(now).is_some()
    }

    /// The best figures there are for this node; `None` if it told too little.
    #[must_use]
    pub fn figures(&self, now: Time) -> Option<Figures> {
        let (cpus, speed) = self.capacity?;
        let inbound = || self.known.iter().flat_map(|known| &known.inbound);
        if let Some((at, fresh)) = self.fresh(now) {
            // The answer counts what was promised before it, not the job that it answers for.
            let later = inbound().filter(|job| job.accepted >= at).map(|job| job.tasks).sum::<f64>();
            return Some(Figures { movable: fresh.movable + later, cpus, speed, ..fresh });
        }
        let total = self.exported?;
        let background = match self.known.and_then(|known| known.background) {
            Some((at, background)) if now.saturating_sub(at) <= SPLIT_LASTS => background.min(total),
            // Nothing known of the split: no more can move than there are jobs.
            _ => {
                let jobs = self.migration.as_ref().map_or(0, |it| it.guests.saturating_add(it.own_jobs));
                (total - f64::from(jobs)).max(0.0)
            }
        };
        let unseen = inbound()
            .filter(|job| job.arrived.is_none_or(|arrived| self.heard <= arrived))
            .map(|job| job.tasks)
            .sum::<f64>();
        Some(Figures { movable: total - background + unseen, background, cpus, speed })
    }

    fn fresh(&self, now: Time) -> Option<(Time, Figures)> {
        let outranks = |at: Time| now.saturating_sub(at) <= self.period * FRESH_PERIODS;
        self.known?.fresh.filter(|(at, _)| outranks(*at))
    }
}

fn kib_to_bytes(kib: u64) -> u64 {
    kib.saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Duration::from_millis(ms)
    }

    fn node(heard: Time, exported: f64, known: &Known) -> Node<'_> {
        let told = Told {
            capacity: Some((1.0, 1.0)),
            exported: Some(exported),
            migration: Some(Migration {
                guests: 1,
                guest_limit: 8,
                own_jobs: 1,
                block: false,
                stay: false,
                expel: false,
                bring: false,
            }),
            ..Told::new(IpAddr::from([10, 77, 0, 2]))
        };
        Node::new(Reported { heard, told: Rc::new(told) }, Some(known))
    }

    #[test]
    fn a_node_is_stale_after_three_periods_and_gone_after_ten() {
        let known = Known::default();
        let node = node(at(0), 0.0, &known);
        assert!(!node.is_stale(at(3000)) && node.is_stale(at(3001)));
        let reported = Reported { heard: node.heard, told: node.told };
        assert!(!reported.is_gone(at(10_000)) && reported.is_gone(at(10_001)));
    }

    #[test]
    fn no_more_is_movable_than_there_are_jobs() {
        let figures = node(at(0), 5.0, &Known::default()).figures(at(0)).unwrap();
        assert_eq!((figures.movable, figures.background), (2.0, 3.0));
    }

    #[test]
    fn a_job_on_its_way_counts_until_a_report_can_have_seen_it() {
        let mut known = Known::default();
        known.expect(at(100), 7, 1.0);
        assert_eq!(node(at(0), 0.0, &known).figures(at(200)).unwrap().movable, 1.0);
        known.arrived(at(500), 7);
        assert_eq!(node(at(0), 0.0, &known).figures(at(600)).unwrap().movable, 1.0);
        assert_eq!(node(at(1000), 1.0, &known).figures(at(1000)).unwrap().movable, 1.0);
        known.expect(at(1100), 8, 1.0);
        known.forget_inbound(8);
        assert_eq!(node(at(1000), 1.0, &known).figures(at(1100)).unwrap().movable, 1.0);
    }

    #[test]
    fn fresh_figures_outrank_a_report_for_two_periods() {
        let mut known = Known::default();
        let fresh = Figures { movable: 0.0, background: 1.0, cpus: 1.0, speed: 1.0 };
        known.hear_figures(at(0), fresh);
        known.expect(at(0), 7, 1.0);
        let node = node(at(0), 4.0, &known);
        assert_eq!(node.figures(at(2000)).unwrap(), Figures { movable: 1.0, ..fresh });
        let later = node.figures(at(2001)).unwrap();
        assert_eq!((later.movable, later.background), (4.0, 1.0));
    }

    #[test]
    fn what_is_known_beside_reports_is_forgotten_when_it_counts_no_more() {
        let mut known = Known::default();
        let period = Duration::from_secs(1);
        known.expect(at(0), 7, 1.0);
        assert!(known.tidy(at(60_000), period));
        known.arrived(at(60_000), 7);
        assert!(known.tidy(at(62_999), period) && !known.tidy(at(63_000), period));
        known.hear_figures(at(70_000), Figures { movable: 0.0, background: 1.0, cpus: 1.0, speed: 1.0 });
        assert!(known.tidy(at(100_000), period) && !known.tidy(at(100_001), period));
    }
}
