//! A node's report with everything filled in. Whoever tells changes what matters to the case.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::report::{Capacity, Load, Machine, Memory, Migration};

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
}
