//! What the schedulers are told and what they want: the simulated counterpart of om-sched's run loop.
//!
//! It reads the om files as often as the daemon does, also before a question is answered if the last reading is old.
//! What a core wants moved is judged by `audit` before it is done.

use std::time::Duration;

use om_proto::cpu::Baseline;
use om_proto::omfs::Bounds;
use om_proto::report::{Capacity, Load, Machine, Memory, Migration};
use om_sched::core::{Core, Input, MoveEnd, Output};
use om_sched::figures::to_milli;
use om_sched::job::{Admin, LocalJob, Place, Snapshot};
use om_sched::random::Random;
use om_sched::start::NewJob;

use crate::agenda::Event;
use crate::audit::GUEST_LIMIT;
use crate::clock::{Nanos, nanos, seconds, time};
use crate::job::State;
use crate::network::{Broadcast, WireError};
use crate::setup::Brain;
use crate::workload::Arrival;
use crate::world::{Scheduler, World, index, node_of};

/// Over how long omd smooths the load.
const SMOOTHING_S: f64 = 2.0;
/// All jobs are of one user.
const USER: u32 = 1000;
/// All nodes are of one kind.
const CPU_FEATURES: u64 = 77;

impl World<'_> {
    /// Starts a node's daemons.
    pub(crate) fn boot(&mut self, node: u32) {
        let Brain::Cores { registry, policy } = &self.brain else { return };
        let settings = self.setup.policies.get(policy).cloned().unwrap_or_default();
        // It was made once already, when the brain was chosen.
        let Ok(policy) = registry.make(policy, settings) else { return };
        let random = Random::from_seed(self.random.bits());
        let ears = Box::new(self.network.ears(node));
        let mut core = Core::with_reports(self.setup.settings.clone(), policy, random, ears);
        let here = self.nodes[node as usize].address;
        core.handle(time(self.now), Input::Here(here));
        let next_read = self.now + self.phase(self.setup.read_every);
        self.nodes[node as usize].scheduler = Some(Scheduler { core, next_read, timeout: None });
        self.agenda.enter(next_read, Event::Read(node));
        // What it said before it died counts no more.
        if self.nodes[node as usize].reported.take().is_none() {
            let first = self.now + self.phase(self.setup.period);
            self.agenda.enter(first, Event::Report(node));
        }
    }

    fn phase(&mut self, period: Nanos) -> Nanos {
        let period = usize::try_from(period).unwrap_or(usize::MAX);
        self.random.below(period) as Nanos
    }

    /// The node broadcasts what it is like, as omd would.
    pub(crate) fn report(&mut self, from: u32) -> Result<(), WireError> {
        let period_s = seconds(self.setup.period);
        self.agenda.enter(self.now + self.setup.period, Event::Report(from));
        let now = self.now;
        let node = &mut self.nodes[from as usize];
        if !node.is_alive {
            return Ok(());
        }
        node.reported = Some(now);
        let runnable = node.host.threads();
        let weight = 1.0 - libm::exp(-period_s / SMOOTHING_S);
        let slowly = |before: f64| before + (f64::from(runnable) - before) * weight;
        node.exported = slowly(node.exported).max(runnable.into());
        node.smoothed = slowly(node.smoothed).min(runnable.into());
        let shape = node.host.shape();
        let told = Broadcast {
            address: node.address,
            machine: Machine {
                arch: String::new(),
                kernel_release: String::new(),
                cpu_model: String::new(),
                cpu_features: CPU_FEATURES,
                online_cpus: u16::try_from(shape.cpus).unwrap_or(u16::MAX),
                om_version: String::new(),
            },
            capacity: Capacity {
                effective_cpus_milli: shape.cpus * 1000,
                speed: to_milli(shape.speed),
                mem_total_kib: Some(shape.memory_bytes >> 10),
                swap_total_kib: None,
            },
            load: Load {
                runnable: Some(runnable),
                exported_milli: Some(to_milli(node.exported)),
                smoothed_milli: Some(to_milli(node.smoothed)),
                busy_permille: None,
                steal_permille: None,
                psi_cpu_some_us: None,
                psi_memory_some_us: None,
                psi_io_some_us: None,
                processes: None,
            },
            memory: Memory {
                available_kib: Some(shape.memory_bytes.saturating_sub(node.memory_used_bytes) >> 10),
                swap_free_kib: None,
            },
            migration: Migration {
                guests: node.guests,
                guest_limit: GUEST_LIMIT,
                own_jobs: node.own_jobs,
                block: node.blocked.is_some(),
                stay: false,
                expel: false,
                bring: false,
            },
            period: Duration::from_nanos(self.setup.period),
        };
        let at = self.network.broadcast(now, from, &told)?;
        self.agenda.enter(at, Event::Heard);
        Ok(())
    }

    /// A report arrives: on the board for all, and for the node's own core, which learns its background load from it.
    pub(crate) fn hear(&mut self) -> Result<(), WireError> {
        match self.network.post(self.now) {
            Some((from, told)) => self.tell(from, Input::Report(told.report())),
            None => Ok(()),
        }
    }

    /// Somebody submits a job: where shall it start?
    pub(crate) fn ask_where(&mut self, job: u32, arrival: Arrival) -> Result<(), WireError> {
        if let Brain::Omniscient { rule, places } = self.brain {
            let to = if places { self.best_start(arrival, rule) } else { None };
            self.start(job, to);
            return Ok(());
        }
        let node = arrival.node;
        if self.setup.settings.start_among == 0 {
            self.start(job, None);
            return Ok(());
        }
        self.read_if_old(node)?;
        let ticket = job.into();
        let job = NewJob {
            // What the history would say of it nobody reads.
            pid: 0,
            uid: USER,
            command: String::new(),
            tasks: f64::from(arrival.threads),
            bounds: Bounds::default(),
            cpu: Baseline::Native,
        };
        self.tell(node, Input::Starting { ticket, job })
    }

    /// A datagram arrives.
    pub(crate) fn deliver(&mut self, slot: usize) -> Result<(), WireError> {
        let Some(message) = self.network.take(slot) else { return Ok(()) };
        self.read_if_old(message.to)?;
        let from = self.nodes[message.from as usize].address;
        self.tell(message.to, Input::Offer { from, authenticated: false, offer: message.offer })
    }

    pub(crate) fn time_out(&mut self, node: u32) -> Result<(), WireError> {
        let now = self.now;
        let Some(scheduler) = &mut self.nodes[node as usize].scheduler else { return Ok(()) };
        if scheduler.timeout.is_none_or(|timeout| timeout > now) {
            return Ok(());
        }
        scheduler.timeout = None;
        if scheduler.core.poll_timeout().is_some_and(|timeout| timeout <= time(now)) {
            scheduler.core.handle_timeout(time(now));
        }
        self.outputs(node)
    }

    pub(crate) fn tell_end(
        &mut self,
        node: u32,
        job: u32,
        moved: bool,
        frozen: Nanos,
    ) -> Result<(), WireError> {
        let end = if moved {
            MoveEnd::Done { downtime: Some(Duration::from_nanos(frozen)) }
        } else {
            MoveEnd::Failed { reason: "no route to host".to_owned(), only_the_job: false }
        };
        self.tell(node, Input::MoveEnded { pid: job, end })?;
        self.read(node)
    }

    /// The time for a reading has come, unless there has been one in between.
    pub(crate) fn read_if_due(&mut self, node: u32) -> Result<(), WireError> {
        let Some(scheduler) = &self.nodes[node as usize].scheduler else { return Ok(()) };
        if scheduler.next_read <= self.now {
            self.read(node)?;
        }
        if let Some(scheduler) = &self.nodes[node as usize].scheduler {
            self.agenda.enter(scheduler.next_read, Event::Read(node));
        }
        Ok(())
    }

    fn read_if_old(&mut self, node: u32) -> Result<(), WireError> {
        let now = time(self.now);
        let scheduler = self.nodes[node as usize].scheduler.as_ref();
        if scheduler.is_some_and(|scheduler| scheduler.core.wants_reading(now)) {
            self.read(node)?;
        }
        Ok(())
    }

    fn read(&mut self, node: u32) -> Result<(), WireError> {
        let snapshot = self.snapshot(node);
        self.tell(node, Input::Snapshot(snapshot))?;
        let now = self.now;
        if let Some(scheduler) = &mut self.nodes[node as usize].scheduler {
            let is_busy = scheduler.core.is_busy(time(now));
            scheduler.next_read =
                now + if is_busy { self.setup.read_every_busy } else { self.setup.read_every };
        }
        Ok(())
    }

    fn snapshot(&mut self, here: u32) -> Snapshot {
        let now = self.now;
        self.nodes[here as usize].host.advance(now);
        let served_s = self.nodes[here as usize].host.served_s();
        let entries = self.nodes[here as usize].entries.iter();
        let jobs = entries.filter_map(|pid| {
            let job = self.job(*pid)?;
            let arrival = &job.arrival;
            let is_running = matches!(job.state, State::Running { .. });
            let place = match job.state {
                State::Moving { .. } => Place::Moving,
                _ if job.node == here => Place::Here,
                _ => Place::Away(self.nodes[job.node as usize].address),
            };
            Some(LocalJob {
                pid: *pid,
                uid: USER,
                home: self.nodes[arrival.node as usize].address,
                is_own: arrival.node == here,
                place,
                cpu: Duration::from_secs_f64(if job.node == here {
                    job.used_s(served_s)
                } else {
                    job.used_s
                }),
                runnable: if is_running { arrival.threads } else { 0 },
                rss_bytes: arrival.rss_bytes,
                threads: arrival.threads,
                age: time(now - arrival.at),
                since_move: job.arrived.map(|arrived| time(now - arrived)),
                moves: job.moves,
                bounds: Bounds::default(),
                locked: false,
                stay_reasons: Vec::new(),
                cpu_baseline: om_proto::cpu::Baseline::Native,
                command: String::new(),
            })
        });
        let block = self.nodes[here as usize].blocked.is_some();
        Snapshot { jobs: jobs.collect(), admin: Admin { block, ..Admin::default() } }
    }

    fn tell(&mut self, node: u32, input: Input<'_>) -> Result<(), WireError> {
        let now = time(self.now);
        let Some(scheduler) = &mut self.nodes[node as usize].scheduler else { return Ok(()) };
        scheduler.core.handle(now, input);
        self.outputs(node)
    }

    /// Does what a core wants until it wants nothing more.
    fn outputs(&mut self, node: u32) -> Result<(), WireError> {
        while let Some(output) =
            self.nodes[node as usize].scheduler.as_mut().and_then(|scheduler| scheduler.core.poll_output())
        {
            match output {
                Output::Send { to, offer } => {
                    let Some(to) = node_of(to) else { continue };
                    let here = self.nodes[node as usize].address;
                    if let Some((at, slot)) = self.network.send(self.now, here, (node, to), &offer)? {
                        self.agenda.enter(at, Event::Deliver(slot));
                    }
                }
                Output::Move { pid, to, .. } => {
                    if let Some(to) = node_of(to) {
                        self.request(node, pid, to);
                    }
                }
                Output::Start { ticket, to } => {
                    let ticket = usize::try_from(ticket).unwrap_or(usize::MAX);
                    self.start(index(ticket), to.and_then(node_of));
                }
                Output::Decided(_) => {}
            }
        }
        let now = self.now;
        let Some(scheduler) = &mut self.nodes[node as usize].scheduler else { return Ok(()) };
        if let Some(wanted) = scheduler.core.poll_timeout() {
            let at = nanos(wanted.as_secs_f64()).max(now);
            if scheduler.timeout.is_none_or(|timeout| timeout <= now || at < timeout) {
                scheduler.timeout = Some(at);
                self.agenda.enter(at, Event::Timeout(node));
            }
        }
        Ok(())
    }

    /// A core writes a job's destination.
    fn request(&mut self, from: u32, pid: u32, to: u32) {
        let Some(job) = self.job(pid).filter(|job| job.node == from) else {
            let told = Event::Told { node: from, job: pid, moved: false, frozen: 0 };
            self.agenda.enter(self.now, told);
            return;
        };
        let is_there = job.is_there();
        self.judge(from, pid, to);
        if is_there && from != to {
            self.freeze(pid, to, from);
        }
    }
}
