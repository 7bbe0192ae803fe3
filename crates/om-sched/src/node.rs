//! What is known of one node, and how far it can be relied on.
//!
//! A report is old when it arrives and says only the sum of a node's load. Three things are known better and are
//! kept beside it: fresh figures from an answer or invitation, the share that cannot move (from the last answer),
//! and the jobs that this node is sending there right now.

use std::net::IpAddr;
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

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct Node {
    /// The address that names it.
    pub address: IpAddr,
    /// When it was last heard.
    pub heard: Time,
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
    fresh: Option<(Time, Figures)>,
    background: Option<(Time, f64)>,
    inbound: Vec<Inbound>,
}

impl Node {
    /// A node of which nothing but the address is known.
    #[must_use]
    pub fn new(address: IpAddr, now: Time) -> Self {
        Self {
            address,
            heard: now,
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
            fresh: None,
            background: None,
            inbound: Vec::new(),
        }
    }

    /// Takes in a report. What it did not bring is unknown from now on, the machine's facts excepted: those come
    /// only now and then.
    pub fn hear(&mut self, now: Time, report: &Report<'_>) {
        self.heard = now;
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
        self.inbound
            .retain(|job| job.arrived.is_none_or(|arrived| now < arrived + self.period * STALE_PERIODS));
    }

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

    /// Whether it has been silent for so long that it is no node any more.
    #[must_use]
    pub fn is_gone(&self, now: Time) -> bool {
        self.unheard(now) > self.period * FORGET_PERIODS
    }

    /// Whether its scheduler gave figures itself a moment ago.
    #[must_use]
    pub fn spoke_up(&self, now: Time) -> bool {
        self.fresh.is_some_and(|(at, _)| now.saturating_sub(at) <= self.period * FRESH_PERIODS)
    }

    /// The best figures there are for this node; `None` if it told too little.
    #[must_use]
    pub fn figures(&self, now: Time) -> Option<Figures> {
        let (cpus, speed) = self.capacity?;
        if let Some((at, fresh)) = self.fresh.filter(|_| self.spoke_up(now)) {
            // The answer counts what was promised before it, not the job that it answers for.
            let later =
                self.inbound.iter().filter(|job| job.accepted >= at).map(|job| job.tasks).sum::<f64>();
            return Some(Figures { movable: fresh.movable + later, cpus, speed, ..fresh });
        }
        let total = self.exported?;
        let background = match self.background {
            Some((at, background)) if now.saturating_sub(at) <= SPLIT_LASTS => background.min(total),
            // Nothing known of the split: no more can move than there are jobs.
            _ => {
                let jobs = self.migration.as_ref().map_or(0, |it| it.guests.saturating_add(it.own_jobs));
                (total - f64::from(jobs)).max(0.0)
            }
        };
        let unseen = self
            .inbound
            .iter()
            .filter(|job| job.arrived.is_none_or(|arrived| self.heard <= arrived))
            .map(|job| job.tasks)
            .sum::<f64>();
        Some(Figures { movable: total - background + unseen, background, cpus, speed })
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

    fn node(exported: f64) -> Node {
        Node {
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
            ..Node::new(IpAddr::from([10, 77, 0, 2]), at(0))
        }
    }

    #[test]
    fn a_node_is_stale_after_three_periods_and_gone_after_ten() {
        let node = node(0.0);
        assert!(!node.is_stale(at(3000)) && node.is_stale(at(3001)));
        assert!(!node.is_gone(at(10_000)) && node.is_gone(at(10_001)));
    }

    #[test]
    fn no_more_is_movable_than_there_are_jobs() {
        let figures = node(5.0).figures(at(0)).unwrap();
        assert_eq!((figures.movable, figures.background), (2.0, 3.0));
    }

    #[test]
    fn a_job_on_its_way_counts_until_a_report_can_have_seen_it() {
        let mut node = node(0.0);
        node.expect(at(100), 7, 1.0);
        assert_eq!(node.figures(at(200)).unwrap().movable, 1.0);
        node.arrived(at(500), 7);
        assert_eq!(node.figures(at(600)).unwrap().movable, 1.0);
        node.heard = at(1000);
        node.exported = Some(1.0);
        assert_eq!(node.figures(at(1000)).unwrap().movable, 1.0);
        node.expect(at(1100), 8, 1.0);
        node.forget_inbound(8);
        assert_eq!(node.figures(at(1100)).unwrap().movable, 1.0);
    }

    #[test]
    fn fresh_figures_outrank_a_report_for_two_periods() {
        let mut node = node(4.0);
        let fresh = Figures { movable: 0.0, background: 1.0, cpus: 1.0, speed: 1.0 };
        node.hear_figures(at(0), fresh);
        node.expect(at(0), 7, 1.0);
        assert_eq!(node.figures(at(2000)).unwrap(), Figures { movable: 1.0, ..fresh });
        let later = node.figures(at(2001)).unwrap();
        assert_eq!((later.movable, later.background), (4.0, 1.0));
    }
}
