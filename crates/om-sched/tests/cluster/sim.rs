//! A small cluster in virtual time: real scheduler cores, and processor sharing, reports, messages and moves
//! worked out by hand in steps of 10 ms.
//!
//! What a core asks for is checked here, whatever the scenario: no move to a node that is dead, blocked, stale or only
//! tells, none of a job that is in a move, none before its cool-down is over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use om_proto::report::Migration;
use om_sched::Time;
use om_sched::core::{Core, Input, MoveEnd, Output};
use om_sched::figures::to_milli;
use om_sched::job::{Admin, LocalJob, Place, Snapshot};
use om_sched::offer::Offer;
use om_sched::policy::{Cost, Policy};
use om_sched::random::Random;
use om_sched::settings::Settings;

use crate::heard::local_job;
use crate::told::Told;

const STEP: Duration = Duration::from_millis(10);
const LATENCY: Duration = Duration::from_millis(2);
const PERIOD: Duration = Duration::from_secs(1);
const BUSY_PERIOD: Duration = Duration::from_millis(250);
const MOVE_FIXED_S: f64 = 0.1;
const MOVE_BYTES_PER_S: f64 = 500e6;

/// The address of node `index`.
pub(crate) fn address(index: usize) -> IpAddr {
    IpAddr::from([10, 77, 0, u8::try_from(index + 1).unwrap()])
}

/// A job of the workload.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) home: usize,
    pub(crate) start: Duration,
    /// CPU seconds at speed 1, over all its tasks.
    pub(crate) work_s: f64,
    pub(crate) tasks: u32,
    pub(crate) rss_bytes: u64,
    pub(crate) locked: bool,
}

impl Job {
    pub(crate) fn new(home: usize, start_ms: u64, work_s: f64) -> Self {
        let start = Duration::from_millis(start_ms);
        Self { home, start, work_s, tasks: 1, rss_bytes: 20 << 20, locked: false }
    }
}

#[derive(Clone, Debug)]
struct Running {
    job: Job,
    node: usize,
    left_s: f64,
    cpu_s: f64,
    moves: u32,
    arrived: Option<Time>,
    in_move: Option<(usize, Time)>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) core: Core,
    pub(crate) cpus: f64,
    pub(crate) speed: f64,
    pub(crate) background: u32,
    pub(crate) admin: Admin,
    pub(crate) alive: bool,
    pub(crate) monitoring: bool,
    pub(crate) guest_limit: u32,
    exported: f64,
    smoothed: f64,
    next_report: Time,
    last_report: Time,
    next_poll: Time,
    busy_s: f64,
}

/// A move as it was requested.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) at: Time,
    pub(crate) job: u32,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// The cluster.
pub(crate) struct Sim {
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Node>,
    pub(crate) moved: Vec<Moved>,
    pub(crate) ended: BTreeMap<u32, Time>,
    jobs: BTreeMap<u32, Running>,
    waiting: Vec<(u32, Job)>,
    messages: Vec<(Time, usize, usize, Offer)>,
    random: Random,
    loss_permille: u64,
    next_pid: u32,
    /// Moves to this node fail.
    pub(crate) broken: Option<usize>,
}

impl Sim {
    pub(crate) fn new(cpus_and_speeds: &[(f64, f64)], seed: u64) -> Self {
        Self::with_policy(cpus_and_speeds, seed, || Box::new(Cost::default()))
    }

    pub(crate) fn with_policy(
        cpus_and_speeds: &[(f64, f64)],
        seed: u64,
        policy: impl Fn() -> Box<dyn Policy>,
    ) -> Self {
        let settings = Settings { has_key: true, ..Settings::default() };
        let nodes = cpus_and_speeds.iter().enumerate().map(|(index, (cpus, speed))| {
            let seed = seed.wrapping_mul(1000).wrapping_add(index as u64);
            let mut core = Core::new(settings.clone(), policy(), Random::from_seed(seed));
            core.handle(Time::ZERO, Input::Here(address(index)));
            let phase = Duration::from_millis((index as u64 * 370) % 1000);
            Node {
                core,
                cpus: *cpus,
                speed: *speed,
                background: 0,
                admin: Admin::default(),
                alive: true,
                monitoring: false,
                guest_limit: 64,
                exported: 0.0,
                smoothed: 0.0,
                next_report: phase,
                last_report: Time::ZERO,
                next_poll: Duration::from_millis((index as u64 * 740) % 1000),
                busy_s: 0.0,
            }
        });
        Self {
            now: Time::ZERO,
            nodes: nodes.collect(),
            moved: Vec::new(),
            ended: BTreeMap::new(),
            jobs: BTreeMap::new(),
            waiting: Vec::new(),
            messages: Vec::new(),
            random: Random::from_seed(seed ^ 0xabcd),
            loss_permille: 0,
            next_pid: 100,
            broken: None,
        }
    }

    pub(crate) fn lossy(mut self, permille: u64) -> Self {
        self.loss_permille = permille;
        self
    }

    pub(crate) fn add(&mut self, jobs: impl IntoIterator<Item = Job>) {
        for job in jobs {
            self.waiting.push((self.next_pid, job));
            self.next_pid += 1;
        }
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].alive = false;
        self.jobs.retain(|_, job| job.node != index && job.job.home != index);
    }

    /// Jobs that run on each node now, those in a move not counted.
    pub(crate) fn counts(&self) -> Vec<usize> {
        let running =
            |index| self.jobs.values().filter(move |job| job.in_move.is_none() && job.node == index);
        (0..self.nodes.len()).map(|index| running(index).count()).collect()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.jobs.is_empty() && self.waiting.is_empty()
    }

    /// When the last job ended, in seconds.
    pub(crate) fn makespan_s(&self) -> f64 {
        self.ended.values().max().map_or(0.0, Duration::as_secs_f64)
    }

    pub(crate) fn run_for(&mut self, seconds: f64) {
        let until = self.now + Duration::from_secs_f64(seconds);
        while self.now < until {
            self.step();
        }
    }

    pub(crate) fn run_to_the_end(&mut self, limit_s: f64) {
        while !self.is_over() {
            assert!(self.now.as_secs_f64() < limit_s, "jobs left after {limit_s} s: {:?}", self.jobs);
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.start_jobs();
        self.work();
        self.end_moves();
        for index in 0..self.nodes.len() {
            if self.nodes[index].alive {
                self.report(index);
                self.poll(index);
            }
        }
        // Messages make messages: several hops fit into one step.
        for _ in 0..4 {
            self.deliver();
        }
    }

    fn start_jobs(&mut self) {
        let now = self.now;
        let (due, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, job)| job.start <= now);
        self.waiting = waiting;
        for (pid, job) in due {
            let node = job.home;
            let left_s = job.work_s;
            self.jobs.insert(
                pid,
                Running { job, node, left_s, cpu_s: 0.0, moves: 0, arrived: None, in_move: None },
            );
        }
    }

    fn runnable(&self, index: usize) -> u32 {
        let running = self.jobs.values().filter(|job| job.in_move.is_none() && job.node == index);
        running.map(|job| job.job.tasks).sum::<u32>() + self.nodes[index].background
    }

    fn work(&mut self) {
        for index in 0..self.nodes.len() {
            let runnable = f64::from(self.runnable(index));
            let node = &mut self.nodes[index];
            let share = (node.cpus / runnable.max(node.cpus)) * STEP.as_secs_f64();
            for job in self.jobs.values_mut().filter(|job| job.in_move.is_none() && job.node == index) {
                let cpu_s = share * f64::from(job.job.tasks);
                job.cpu_s += cpu_s;
                job.left_s -= cpu_s * node.speed;
                node.busy_s += cpu_s;
            }
        }
        let now = self.now;
        let ended = &mut self.ended;
        self.jobs.retain(|pid, job| {
            let is_over = job.left_s <= 0.0;
            if is_over {
                ended.insert(*pid, now);
            }
            !is_over
        });
    }

    fn end_moves(&mut self) {
        let due: Vec<(u32, usize, usize)> = self
            .jobs
            .iter()
            .filter_map(|(pid, job)| {
                job.in_move.filter(|(_, until)| *until <= self.now).map(|(to, _)| (*pid, job.node, to))
            })
            .collect();
        for (pid, from, to) in due {
            let fails = !self.nodes[to].alive || self.broken == Some(to);
            let Some(job) = self.jobs.get_mut(&pid) else { continue };
            job.in_move = None;
            let end = if fails {
                MoveEnd::Failed { reason: "no route to host".into(), only_the_job: false }
            } else {
                job.node = to;
                job.moves += 1;
                job.arrived = Some(self.now);
                MoveEnd::Done { downtime: Some(move_takes(job.job.rss_bytes)) }
            };
            if self.nodes[from].alive {
                self.nodes[from].core.handle(self.now, Input::MoveEnded { pid, end });
                self.nodes[from].next_poll = self.now;
                self.outputs(from);
            }
        }
    }

    fn report(&mut self, index: usize) {
        if self.nodes[index].next_report > self.now {
            return;
        }
        let runnable = self.runnable(index);
        let guests = self.jobs.values().filter(|job| job.node == index && job.job.home != index).count();
        let own_jobs = self.jobs.values().filter(|job| job.job.home == index).count();
        let node = &mut self.nodes[index];
        node.next_report += PERIOD;
        node.last_report = self.now;
        let now_f = f64::from(runnable);
        node.exported = now_f.max(node.exported * 0.7 + now_f * 0.3);
        node.smoothed = now_f.min(node.smoothed * 0.5 + now_f * 0.5);
        let mut told = Told::new(address(index), runnable);
        told.period = PERIOD;
        told.capacity.effective_cpus_milli = to_milli(node.cpus);
        told.capacity.speed = to_milli(node.speed);
        told.load.exported_milli = Some(to_milli(node.exported));
        told.load.smoothed_milli = Some(to_milli(node.smoothed));
        told.migration = (!node.monitoring).then(|| Migration {
            guests: u32::try_from(guests).unwrap(),
            guest_limit: node.guest_limit,
            own_jobs: u32::try_from(own_jobs).unwrap(),
            block: node.admin.block,
            stay: node.admin.stay,
            expel: node.admin.expel,
            bring: node.admin.bring,
        });
        for to in 0..self.nodes.len() {
            let lost = to != index && self.random.bits() % 1000 < self.loss_permille;
            if self.nodes[to].alive && !lost {
                told.tell(&mut self.nodes[to].core, self.now);
            }
        }
    }

    fn poll(&mut self, index: usize) {
        if let Some(timeout) = self.nodes[index].core.poll_timeout()
            && timeout <= self.now
        {
            self.nodes[index].core.handle_timeout(self.now);
            self.outputs(index);
        }
        if self.nodes[index].next_poll > self.now {
            return;
        }
        self.read(index);
        let now = self.now;
        let node = &mut self.nodes[index];
        node.next_poll = now + if node.core.is_busy(now) { BUSY_PERIOD } else { PERIOD };
    }

    fn read(&mut self, index: usize) {
        let input = if self.nodes[index].monitoring {
            Input::NoSnapshot
        } else {
            Input::Snapshot(self.snapshot(index))
        };
        self.nodes[index].core.handle(self.now, input);
        self.outputs(index);
    }

    fn snapshot(&self, index: usize) -> Snapshot {
        let seen = self.jobs.iter().filter(|(_, job)| job.node == index || job.job.home == index);
        let jobs = seen.map(|(pid, job)| LocalJob {
            is_own: job.job.home == index,
            place: match job.in_move {
                Some(_) => Place::Moving,
                None if job.node == index => Place::Here,
                None => Place::Away(address(job.node)),
            },
            cpu: Duration::from_secs_f64(job.cpu_s),
            runnable: if job.in_move.is_none() { job.job.tasks } else { 0 },
            rss_bytes: job.job.rss_bytes,
            threads: job.job.tasks,
            age: self.now - job.job.start,
            since_move: job.arrived.map(|arrived| self.now - arrived),
            moves: job.moves,
            locked: job.job.locked,
            ..local_job(*pid, address(job.job.home))
        });
        Snapshot { jobs: jobs.collect(), admin: self.nodes[index].admin }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later) =
            std::mem::take(&mut self.messages).into_iter().partition(|(at, ..)| *at <= now + LATENCY * 4);
        self.messages = later;
        for (_, from, to, offer) in due {
            if !self.nodes[to].alive || self.random.bits() % 1000 < self.loss_permille {
                continue;
            }
            if self.nodes[to].core.wants_reading(now) {
                self.read(to);
            }
            let input = Input::Offer { from: address(from), authenticated: true, offer };
            self.nodes[to].core.handle(now, input);
            self.outputs(to);
        }
    }

    fn outputs(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].core.poll_output() {
            match output {
                Output::Send { to, offer } => {
                    let to = self.index(to);
                    assert_ne!(to, index, "a node talks to itself");
                    self.messages.push((self.now + LATENCY, index, to, offer));
                }
                Output::Move { pid, to, home } => self.begin_move(index, pid, self.index(to), home),
                Output::Decided(_) | Output::Start { .. } => {}
            }
        }
    }

    fn index(&self, wanted: IpAddr) -> usize {
        (0..self.nodes.len()).find(|index| address(*index) == wanted).unwrap()
    }

    fn begin_move(&mut self, from: usize, pid: u32, to: usize, home: bool) {
        let target = &self.nodes[to];
        assert!(!target.monitoring, "{to} only tells");
        assert!(self.now - target.last_report <= PERIOD * 3 + STEP, "{to} is stale");
        let Some(job) = self.jobs.get(&pid) else {
            let end = MoveEnd::Failed { reason: "no such process".into(), only_the_job: true };
            self.nodes[from].core.handle(self.now, Input::MoveEnded { pid, end });
            return;
        };
        assert_eq!(home, to == job.job.home);
        assert!(job.in_move.is_none(), "job {pid} is in two moves");
        assert_ne!(job.node, to, "job {pid} is there already");
        assert!(!job.job.locked, "job {pid} is locked");
        if job.node == from {
            assert!(home || !(target.admin.block || target.admin.expel) || !target.alive, "{to} is blocked");
            let guests = self.jobs.values().filter(|job| job.node == to && job.job.home != to).count();
            let limit = target.guest_limit as usize;
            assert!(home || guests < limit || !target.alive, "{to} has its {limit} guests already");
            assert!(home || from != job.job.home || !self.nodes[from].admin.stay, "{from} keeps its own");
            if let Some(arrived) = job.arrived.filter(|_| !self.nodes[from].admin.expel) {
                let stayed = self.now - arrived;
                assert!(stayed >= Duration::from_secs(1) - STEP, "job {pid} moves on after {stayed:?}");
            }
        } else {
            assert!(self.nodes[from].admin.bring && home, "{from} moves a job that is not there");
        }
        self.moved.push(Moved { at: self.now, job: pid, from: job.node, to });
        let until = self.now + move_takes(job.job.rss_bytes);
        if let Some(job) = self.jobs.get_mut(&pid) {
            job.in_move = Some((to, until));
        }
    }
}

fn move_takes(rss_bytes: u64) -> Duration {
    Duration::from_secs_f64(MOVE_FIXED_S + rss_bytes as f64 / MOVE_BYTES_PER_S)
}
