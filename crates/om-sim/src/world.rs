//! The simulated cluster: nodes, jobs and links, and what happens to them as time passes.
//!
//! ```text
//!  workload ─▶ Arrival ─▶ asked: where? ─▶ Begin ─▶ running ─▶ Done
//!                                                    │  ▲
//!                            Move: frozen, fixed part ▼  │ Transferred
//!                                               Transfer: memory over shared links
//! ```
//!
//! This file knows what happens to jobs, `failing` what happens to nodes, `deciding` what the schedulers are told and what
//! they want; `omniscient` are the yardsticks that take their place, and `audit` keeps the books honest. Everything
//! follows from the workload, the set-up and the seed.

use std::net::IpAddr;

use om_sched::core::Core;
use om_sched::random::Random;

use crate::agenda::{Agenda, Event};
use crate::chance;
use crate::chronicle::{Chronicle, Journey};
use crate::clock::{Nanos, nanos};
use crate::host::Host;
use crate::job::{Job, State};
use crate::link::Links;
use crate::measure::{Figures, Measure};
use crate::network::{Network, WireError};
use crate::setup::{Brain, Setup};
use crate::workload::Arrival;

/// After the end of a move its scheduler looks at the om files within this time, half of it on the average.
const FOLLOW_S: f64 = 0.05;
/// How often it is told how far a run has come, in jobs that ended.
const TELL_EVERY: usize = 256;
/// So many broken invariants are told one by one.
const TOLD_VIOLATIONS: u64 = 10;

/// The scheduler of one node.
pub(crate) struct Scheduler {
    pub(crate) core: Core,
    pub(crate) next_read: Nanos,
    pub(crate) timeout: Option<Nanos>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) address: IpAddr,
    pub(crate) host: Host,
    version: u64,
    pub(crate) is_alive: bool,
    /// Since when it takes no guests.
    pub(crate) blocked: Option<Nanos>,
    /// When it last broadcast.
    pub(crate) reported: Option<Nanos>,
    pub(crate) memory_used_bytes: u64,
    /// Jobs of others that run here, and that come.
    pub(crate) guests: u32,
    /// Threads of jobs that come.
    pub(crate) inbound: u32,
    /// Jobs that are here, and own jobs that are not.
    pub(crate) entries: Vec<u32>,
    pub(crate) own_jobs: u32,
    pub(crate) exported: f64,
    pub(crate) smoothed: f64,
    pub(crate) scheduler: Option<Scheduler>,
}

/// The cluster.
pub struct World<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) workload: &'a [Arrival],
    pub(crate) brain: Brain,
    pub(crate) now: Nanos,
    pub(crate) agenda: Agenda,
    pub(crate) nodes: Vec<Node>,
    pub(crate) jobs: Vec<Option<Box<Job>>>,
    pub(crate) network: Network,
    pub(crate) measure: Measure,
    pub(crate) random: Random,
    pub(crate) chronicle: Option<Chronicle>,
    pub(crate) audited: Nanos,
    pub(crate) links: Links,
    links_version: u64,
    next: usize,
    /// Jobs that have not ended.
    pub(crate) left: usize,
    /// No job can gain or lose anything any more.
    is_settled: bool,
}

impl<'a> World<'a> {
    /// A cluster before its first job.
    #[must_use]
    pub fn new(setup: &'a Setup, workload: &'a [Arrival], brain: Brain, seed: u64) -> Self {
        let nodes = setup.nodes.iter().zip(1u32..).map(|(shape, number)| Node {
            address: address(number - 1),
            host: Host::new(*shape),
            version: 0,
            is_alive: true,
            blocked: None,
            reported: None,
            memory_used_bytes: 0,
            guests: 0,
            inbound: 0,
            entries: Vec::new(),
            own_jobs: 0,
            exported: 0.0,
            smoothed: 0.0,
            scheduler: None,
        });
        Self {
            nodes: nodes.collect(),
            jobs: Vec::new(),
            network: Network::new(setup.nodes.len(), setup.quality, seed ^ 0x6e65_7477_6f72_6b00),
            links: Links::new(setup.nodes.len(), setup.link_bytes_per_s),
            links_version: 0,
            measure: Measure::default(),
            random: Random::from_seed(seed ^ 0x0063_6c75_7374_6572),
            agenda: Agenda::default(),
            now: 0,
            next: 0,
            left: workload.len(),
            is_settled: false,
            chronicle: None,
            audited: 0,
            setup,
            workload,
            brain,
        }
    }

    /// Keeps from now on who is where.
    pub fn record(&mut self) {
        self.chronicle = Some(Chronicle::default());
    }

    /// Runs until every job has ended. `progress` is told now and then which share of them has.
    ///
    /// # Errors
    /// [`WireError`] if what a core says does not survive the wire.
    pub fn run(self, progress: &mut dyn FnMut(f64)) -> Result<(Figures, Option<Chronicle>), WireError> {
        self.run_until(Nanos::MAX, progress)
    }

    /// The same, but no longer than until `end`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_until(
        mut self,
        end: Nanos,
        progress: &mut dyn FnMut(f64),
    ) -> Result<(Figures, Option<Chronicle>), WireError> {
        self.prepare();
        if let Some(first) = self.workload.first() {
            self.agenda.enter(first.at, Event::Arrival);
        }
        let mut told = self.left;
        while self.left > 0 {
            let Some((at, event)) = self.agenda.take() else {
                let left = self.left;
                self.violated(|| format!("{left} jobs will never end"));
                break;
            };
            if at > end {
                break;
            }
            self.now = at;
            self.step(event)?;
            self.audit_if_due();
            if told - self.left >= TELL_EVERY {
                told = self.left;
                progress(1.0 - told as f64 / self.workload.len() as f64);
            }
        }
        self.audit();
        Ok((self.measure.figures(self.workload, &self.setup.nodes), self.chronicle))
    }

    fn prepare(&mut self) {
        for index in 0..self.count() {
            self.boot(index);
        }
        self.plan_failure();
        self.plan_block();
        if matches!(self.brain, Brain::Omniscient { .. }) {
            self.agenda.enter(0, Event::Look);
        }
    }

    fn step(&mut self, event: Event) -> Result<(), WireError> {
        if self.is_settled && !matches!(event, Event::Done { .. } | Event::Wake(_)) {
            return Ok(());
        }
        match event {
            Event::Arrival => self.arrive(),
            Event::Begin { job, node } => {
                self.begin(job, node);
                Ok(())
            }
            Event::Wake(job) => {
                self.wake(job);
                Ok(())
            }
            Event::Done { node, version } => {
                if self.nodes[node as usize].version == version {
                    self.end_jobs(node);
                }
                Ok(())
            }
            Event::Read(node) => self.read_if_due(node),
            Event::Report(node) => self.report(node),
            Event::Heard => self.hear(),
            Event::Deliver(slot) => self.deliver(slot),
            Event::Timeout(node) => self.time_out(node),
            Event::Transfer(job) => {
                self.transfer(job);
                Ok(())
            }
            Event::Transferred { version } => {
                if self.links_version == version {
                    self.end_transfers();
                }
                Ok(())
            }
            Event::Told { node, job, moved, frozen } => self.tell_end(node, job, moved, frozen),
            Event::Look => {
                self.look();
                Ok(())
            }
            Event::Fail => {
                self.fail();
                Ok(())
            }
            Event::Repair(node) => {
                self.repair(node);
                Ok(())
            }
            Event::Block => {
                self.block();
                Ok(())
            }
            Event::Unblock(node) => {
                self.nodes[node as usize].blocked = None;
                Ok(())
            }
        }
    }

    /// Whether all jobs have begun, and each has CPUs of its own that are as fast as any: what happens from now on is
    /// that they end, one by one, hours later perhaps.
    fn settles(&self) -> bool {
        let shapes = &self.setup.nodes;
        let mut begun = 0;
        let has_room = |(node, number): (&Node, u32)| {
            let here = node.entries.iter().filter_map(|pid| self.job(*pid)).filter(|job| job.node == number);
            let mut threads = 0;
            let all_there = here.fold(true, |all_there, job| {
                threads += job.arrival.threads;
                begun += 1;
                all_there && job.is_there()
            });
            all_there && node.inbound == 0 && threads <= node.host.shape().cpus
        };
        self.next == self.workload.len()
            && self.setup.failures_per_node_hour == 0.0
            && shapes.iter().all(|shape| shape.speed.to_bits() == shapes[0].speed.to_bits())
            && self.nodes.iter().zip(0..).all(has_room)
            // About one that has not, others are being asked.
            && begun == self.left
    }

    fn arrive(&mut self) -> Result<(), WireError> {
        let Some(arrival) = self.workload.get(self.next).copied() else { return Ok(()) };
        self.next += 1;
        if let Some(following) = self.workload.get(self.next) {
            self.agenda.enter(following.at, Event::Arrival);
        }
        let job = index(self.jobs.len());
        if !self.nodes[arrival.node as usize].is_alive {
            self.jobs.push(None);
            self.measure.lost += 1;
            self.left -= 1;
            return Ok(());
        }
        self.jobs.push(Some(Box::new(Job::new(arrival))));
        self.ask_where(job, arrival)
    }

    /// A job starts on a node, sooner at home than elsewhere.
    pub(crate) fn start(&mut self, job: u32, to: Option<u32>) {
        let Some(home) = self.job(job).map(|job| job.arrival.node) else { return };
        match to.filter(|to| *to != home) {
            Some(node) => {
                self.measure.started_elsewhere();
                if let Some(threads) = self.job(job).map(|job| job.arrival.threads) {
                    self.nodes[node as usize].inbound += threads;
                }
                self.agenda.enter(self.now + nanos(self.setup.start_elsewhere_s), Event::Begin { job, node });
            }
            None => self.begin(job, home),
        }
    }

    pub(crate) fn begin(&mut self, pid: u32, node: u32) {
        let Arrival { node: home, threads, rss_bytes, .. } = self.workload[pid as usize];
        if node != home {
            self.nodes[node as usize].inbound -= threads;
        }
        // Its home may have died in the meantime.
        if self.job(pid).is_none() {
            return;
        }
        let node = if self.nodes[node as usize].is_alive { node } else { home };
        self.nodes[home as usize].own_jobs += 1;
        self.nodes[home as usize].entries.push(pid);
        if node != home {
            self.nodes[node as usize].guests += 1;
            self.nodes[node as usize].entries.push(pid);
        }
        self.nodes[node as usize].memory_used_bytes += rss_bytes;
        if let Some(chronicle) = &mut self.chronicle {
            chronicle.comes(self.now, pid, node);
        }
        self.resume(pid, node);
    }

    /// A job runs on `node` from now on.
    fn resume(&mut self, pid: u32, node: u32) {
        let now = self.now;
        let Some(job) = &mut self.jobs[pid as usize] else { return };
        let host = &mut self.nodes[node as usize].host;
        let due_s = host.add(now, pid, job.arrival.threads, job.until_sleep_s);
        job.node = node;
        job.state = State::Running { due_s, since_s: host.served_s() };
        self.plan_done(node);
    }

    /// A job does not run any more; what it has done so far is noted, all it was to do if `is_due`.
    pub(crate) fn pause(&mut self, pid: u32, is_due: bool) {
        let now = self.now;
        let Some(job) = &mut self.jobs[pid as usize] else { return };
        let State::Running { due_s, .. } = job.state else { return };
        let node = job.node;
        let host = &mut self.nodes[node as usize].host;
        host.remove(now, pid, job.arrival.threads, due_s);
        job.stop(host.served_s(), host.shape().speed, is_due);
        self.plan_done(node);
    }

    fn plan_done(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        node.version += 1;
        if let Some(at) = node.host.next_done() {
            self.agenda.enter(at.max(self.now), Event::Done { node: index, version: node.version });
        }
    }

    fn end_jobs(&mut self, node: u32) {
        self.nodes[node as usize].host.advance(self.now);
        while let Some(pid) = self.nodes[node as usize].host.done() {
            self.pause(pid, true);
            if self.job(pid).is_some_and(|job| job.left_s > 0.0) {
                self.sleep(pid);
            } else if let Some(job) = self.take_out(pid) {
                self.measure.ended(self.now, &job);
            }
        }
        self.is_settled = self.is_settled || self.settles();
        self.plan_done(node);
    }

    fn sleep(&mut self, pid: u32) {
        let Some(job) = &mut self.jobs[pid as usize] else { return };
        let until = self.now + nanos(job.arrival.rhythm.map_or(0.0, |rhythm| rhythm.wait_s));
        job.state = State::Sleeping { until };
        job.wake();
        self.agenda.enter(until, Event::Wake(pid));
    }

    fn wake(&mut self, pid: u32) {
        // While it is frozen it does not notice.
        let slept = |job: &&Job| matches!(job.state, State::Sleeping { until } if until <= self.now);
        if let Some(node) = self.job(pid).filter(slept).map(|job| job.node) {
            self.resume(pid, node);
        }
    }

    /// Takes a job that neither runs nor moves out of the books.
    pub(crate) fn take_out(&mut self, pid: u32) -> Option<Box<Job>> {
        let job = self.jobs[pid as usize].take()?;
        self.left -= 1;
        if let Some(chronicle) = &mut self.chronicle {
            chronicle.goes(self.now, pid);
        }
        let home = job.arrival.node;
        if job.state != State::Starting {
            self.nodes[home as usize].own_jobs -= 1;
            self.forget_entry(home, pid);
            self.leave(&job, pid, job.node);
        }
        Some(job)
    }

    /// A job is not on `node` any more.
    fn leave(&mut self, job: &Job, pid: u32, node: u32) {
        let gone = &mut self.nodes[node as usize];
        gone.memory_used_bytes = gone.memory_used_bytes.saturating_sub(job.arrival.rss_bytes);
        if node != job.arrival.node {
            gone.guests -= 1;
            self.forget_entry(node, pid);
        }
    }

    fn forget_entry(&mut self, node: u32, pid: u32) {
        let entries = &mut self.nodes[node as usize].entries;
        if let Some(found) = entries.iter().position(|entry| *entry == pid) {
            entries.swap_remove(found);
        }
    }

    /// Freezes a job and sends it on its way. The caller has made sure that it is there, and not on `to`.
    pub(crate) fn freeze(&mut self, pid: u32, to: u32, moved_by: u32) {
        self.pause(pid, false);
        let now = self.now;
        if let Some(chronicle) = &mut self.chronicle {
            chronicle.goes(now, pid);
        }
        let Some(job) = &mut self.jobs[pid as usize] else { return };
        let sleeps_until = if let State::Sleeping { until } = job.state { until } else { now };
        job.state = State::Moving { to, since: now, sleeps_until };
        job.moved_by = moved_by;
        let target = &mut self.nodes[to as usize];
        target.memory_used_bytes += job.arrival.rss_bytes;
        target.inbound += job.arrival.threads;
        if to != job.arrival.node {
            target.guests += 1;
        }
        self.agenda.enter(now + nanos(self.setup.move_fixed_s), Event::Transfer(pid));
    }

    fn transfer(&mut self, pid: u32) {
        let Some(job) = self.jobs.get(pid as usize).and_then(Option::as_ref) else { return };
        let State::Moving { to, .. } = job.state else { return };
        let (from, bytes) = (job.node, job.arrival.rss_bytes);
        self.links.begin(self.now, pid, (from, to), bytes);
        self.plan_transfers();
    }

    pub(crate) fn plan_transfers(&mut self) {
        self.links_version += 1;
        if let Some(at) = self.links.next_done() {
            self.agenda.enter(at.max(self.now), Event::Transferred { version: self.links_version });
        }
    }

    fn end_transfers(&mut self) {
        while let Some(pid) = self.links.take_done(self.now) {
            self.arrive_there(pid);
        }
        self.plan_transfers();
    }

    fn arrive_there(&mut self, pid: u32) {
        let now = self.now;
        let Some(mut job) = self.jobs[pid as usize].take() else { return };
        let State::Moving { to, since, sleeps_until } = job.state else { return };
        let (from, home, threads) = (job.node, job.arrival.node, job.arrival.threads);
        self.nodes[to as usize].inbound -= threads;
        let moved = self.nodes[to as usize].is_alive;
        job.frozen += now - since;
        let (frozen, by) = (now - since, job.moved_by);
        if moved {
            job.moves += 1;
            job.arrived = Some(now);
            self.leave(&job, pid, from);
            if to != home {
                self.nodes[to as usize].entries.push(pid);
            }
        } else {
            let target = &mut self.nodes[to as usize];
            target.memory_used_bytes = target.memory_used_bytes.saturating_sub(job.arrival.rss_bytes);
            if to != home {
                target.guests -= 1;
            }
        }
        job.node = if moved { to } else { from };
        job.state = State::Sleeping { until: sleeps_until };
        if let Some(chronicle) = &mut self.chronicle {
            chronicle.journeys.push(Journey { job: pid, from, to: job.node, begin: since, end: now });
            chronicle.comes(now, pid, job.node);
        }
        self.jobs[pid as usize] = Some(job);
        // If it goes on to sleep, the event that wakes it is still to come.
        self.wake(pid);
        let told = now + nanos(FOLLOW_S * chance::uniform(&mut self.random));
        self.agenda.enter(told, Event::Told { node: by, job: pid, moved, frozen });
    }

    /// An invariant is broken.
    pub(crate) fn violated(&mut self, what: impl FnOnce() -> String) {
        self.measure.violations += 1;
        if self.measure.violations <= TOLD_VIOLATIONS {
            eprintln!("{:.3} s: {}", crate::clock::seconds(self.now), what());
        }
    }

    pub(crate) fn job(&self, pid: u32) -> Option<&Job> {
        self.jobs.get(pid as usize).and_then(|job| job.as_deref())
    }

    pub(crate) fn count(&self) -> u32 {
        index(self.nodes.len())
    }
}

/// The address of a node.
pub(crate) fn address(node: u32) -> IpAddr {
    IpAddr::from((0x0a00_0001 + node).to_be_bytes())
}

/// The node that has this address.
pub(crate) fn node_of(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(address) => u32::from_be_bytes(address.octets()).checked_sub(0x0a00_0001),
        IpAddr::V6(_) => None,
    }
}

/// A position as a number; no simulation has more than 2³² of anything.
pub(crate) fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
