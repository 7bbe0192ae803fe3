//! What a core is told, with everything filled in: a node's report and a job of the om files. Whoever tells changes what
//! matters to the case.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::cpu::Baseline;
use om_proto::omfs::Bounds;
use om_proto::report::{Capacity, Load, Machine, Memory, Migration};
use om_sched::Time;
use om_sched::core::{Core, Input};
use om_sched::job::{LocalJob, Place};
use om_sched::node::Report;

/// A node as it tells of itself.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) address: IpAddr,
    pub(crate) authenticated: bool,
    pub(crate) period: Duration,
    pub(crate) machine: Machine,
    pub(crate) capacity: Capacity,
    pub(crate) load: Load,
    pub(crate) memory: Memory,
    pub(crate) migration: Option<Migration>,
}

impl Told {
    /// One CPU of speed 1, 4 GiB of which half is used, own jobs only, and room for two guests.
    pub(crate) fn new(address: IpAddr, runnable: u32) -> Self {
        Self {
            address,
            authenticated: true,
            period: Duration::from_secs(1),
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
            period: self.period,
            machine: Some(&self.machine),
            capacity: Some(&self.capacity),
            load: Some(&self.load),
            memory: Some(&self.memory),
            migration: self.migration.as_ref(),
        };
        core.handle(now, Input::Report(report));
    }
}

/// A job at home that runs and may move.
pub(crate) fn local_job(pid: u32, home: IpAddr) -> LocalJob {
    LocalJob {
        pid,
        uid: 1000,
        home,
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
        cpu_baseline: Baseline::Native,
        command: "job".into(),
    }
}
