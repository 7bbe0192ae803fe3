//! A core that is spoken to by hand.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::offer::{Answer, Ask};
use om_proto::omfs::Bounds;
use om_proto::report::{Capacity, Load, Machine, Memory, Migration};
use om_sched::Time;
use om_sched::core::{Core, Input, Output};
use om_sched::job::{Admin, LocalJob, Place, Snapshot};
use om_sched::node::Report;
use om_sched::offer::Offer;
use om_sched::policy::{Cost, Policy, Proposal};
use om_sched::random::Random;
use om_sched::settings::Settings;
use om_sched::view::View;

pub(crate) fn node(last: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, last])
}

pub(crate) fn at(ms: u64) -> Time {
    Duration::from_millis(ms)
}

/// A node as it tells of itself.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) address: IpAddr,
    pub(crate) authenticated: bool,
    pub(crate) machine: Machine,
    pub(crate) capacity: Capacity,
    pub(crate) load: Load,
    pub(crate) memory: Memory,
    pub(crate) migration: Option<Migration>,
}

impl Told {
    pub(crate) fn new(last: u8, runnable: u32) -> Self {
        Self {
            address: node(last),
            authenticated: true,
            machine: Machine {
                arch: "x86_64".into(),
                kernel_release: String::new(),
                cpu_model: String::new(),
                cpu_features: 77,
                online_cpus: 1,
                om_version: String::new(),
            },
            capacity: Capacity {
                effective_cpus_milli: 1000,
                speed: 1000,
                mem_total_kib: Some(4 << 20),
                swap_total_kib: None,
            },
            load: Load {
                runnable: Some(runnable),
                exported_milli: Some(runnable * 1000),
                smoothed_milli: Some(runnable * 1000),
                busy_permille: None,
                steal_permille: None,
                psi_cpu_some_us: None,
                psi_memory_some_us: None,
                psi_io_some_us: None,
                processes: None,
            },
            memory: Memory { available_kib: Some(2 << 20), swap_free_kib: None },
            migration: Some(Migration {
                guests: 0,
                guest_limit: 2,
                own_jobs: runnable,
                block: false,
                stay: false,
                expel: false,
                bring: false,
            }),
        }
    }

    pub(crate) fn tell(&self, core: &mut Core, now: Time) {
        let report = Report {
            address: self.address,
            authenticated: self.authenticated,
            period: Duration::from_secs(1),
            machine: Some(&self.machine),
            capacity: Some(&self.capacity),
            load: Some(&self.load),
            memory: Some(&self.memory),
            migration: self.migration.as_ref(),
        };
        core.handle(now, Input::Report(report));
    }
}

pub(crate) fn job(pid: u32) -> LocalJob {
    LocalJob {
        pid,
        uid: 1000,
        home: node(1),
        is_own: true,
        place: Place::Here,
        cpu: Duration::from_secs(2),
        runnable: 1,
        rss_bytes: 8 << 20,
        threads: 1,
        age: Duration::from_secs(8),
        since_move: None,
        moves: 0,
        bounds: Bounds::default(),
        locked: false,
        stay_reasons: Vec::new(),
        cpu_baseline: om_proto::cpu::Baseline::Native,
        command: "job".into(),
    }
}

pub(crate) fn jobs(jobs: Vec<LocalJob>) -> Input<'static> {
    Input::Snapshot(Snapshot { jobs, admin: Admin::default() })
}

/// Wants every job on nodes 2 and 3, at once and twice, and nothing changes its mind.
pub(crate) struct Stubborn;

impl Policy for Stubborn {
    fn decide(&mut self, _now: Time, _view: &View, _random: &mut Random) -> Vec<Proposal> {
        let pairs = (7..10).flat_map(|pid| [(pid, node(2)), (pid, node(3)), (pid, node(2))]);
        let propose = |(pid, to)| Proposal { pid, to, reason: "I want it".into(), weighing: None };
        pairs.map(propose).collect()
    }
}

pub(crate) fn core_with(settings: Settings) -> Core {
    core_of(settings, Box::new(Cost::default()))
}

pub(crate) fn core_of(settings: Settings, policy: Box<dyn Policy>) -> Core {
    let mut core = Core::new(settings, policy, Random::from_seed(1));
    core.handle(at(0), Input::Here(node(1)));
    core
}

/// Node 1, with a key; its own report has been heard.
pub(crate) fn core() -> Core {
    let mut core = core_with(Settings { has_key: true, ..Settings::default() });
    Told::new(1, 0).tell(&mut core, at(0));
    core
}

pub(crate) fn sent(core: &mut Core) -> Vec<(IpAddr, Offer)> {
    outputs(core)
        .into_iter()
        .filter_map(|it| if let Output::Send { to, offer } = it { Some((to, offer)) } else { None })
        .collect()
}

pub(crate) fn outputs(core: &mut Core) -> Vec<Output> {
    std::iter::from_fn(|| core.poll_output()).collect()
}

pub(crate) fn asked(core: &mut Core) -> Option<(IpAddr, Ask)> {
    sent(core).into_iter().find_map(|(to, offer)| match offer {
        Offer::Ask(ask) if ask.runnable_milli > 0 => Some((to, ask)),
        _ => None,
    })
}

pub(crate) fn ask(nonce: u64) -> Ask {
    Ask { nonce, rss_bytes: 8 << 20, runnable_milli: 1000, cpu_features: 77, coming_home: false }
}

pub(crate) fn yes(nonce: u64) -> Answer {
    Answer {
        nonce,
        accepted: true,
        reason: String::new(),
        movable_milli: 0,
        background_milli: 0,
        effective_cpus_milli: 1000,
        speed: 1000,
        promise_ms: 3000,
    }
}

pub(crate) fn offer(from: u8, offer: Offer) -> Input<'static> {
    Input::Offer { from: node(from), authenticated: true, offer }
}

/// What this node answers to a question of node 2.
pub(crate) fn answer_to(core: &mut Core, now: Time, ask: Ask) -> Answer {
    core.handle(now, offer(2, Offer::Ask(ask)));
    sent(core)
        .into_iter()
        .find_map(|(to, offer)| match offer {
            Offer::Answer(answer) => {
                assert_eq!(to, node(2));
                Some(answer)
            }
            _ => None,
        })
        .unwrap()
}

/// Who is asked when three jobs compete here and node 2 is as told.
pub(crate) fn asked_with(core: &mut Core, two: &Told) -> Option<IpAddr> {
    two.tell(core, at(10));
    core.handle(at(20), jobs(vec![job(7), job(8), job(9)]));
    asked(core).map(|(to, _)| to)
}
