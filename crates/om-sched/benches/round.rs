//! How long one round of decisions takes on a loaded node: 1,000 nodes, 200 local jobs. It has to stay below a
//! millisecond, the reading of the om files taken in included.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use om_proto::omfs::Bounds;
use om_proto::report::{Capacity, Load, Machine, Memory, Migration};
use om_sched::core::{Core, Input};
use om_sched::job::{Admin, LocalJob, Place, Snapshot};
use om_sched::node::Report;
use om_sched::policy::Registry;
use om_sched::random::Random;
use om_sched::settings::Settings;

const NODES: u32 = 1000;
const JOBS: u32 = 200;

fn address(node: u32) -> IpAddr {
    IpAddr::from((0x0a4d_0001 + node).to_be_bytes())
}

/// A core that has heard all nodes; the others are as loaded as this one, so that nothing is moved in the end.
fn core(policy: &str) -> Option<Core> {
    let settings = Settings { allow_without_key: true, invite: false, ..Settings::default() };
    let policy = Registry::stock().make(policy, toml::Table::new()).ok()?;
    let mut core = Core::new(settings, policy, Random::from_seed(1));
    core.handle(Duration::ZERO, Input::Here(address(0)));
    for node in 0..NODES {
        let machine = Machine {
            arch: "x86_64".to_owned(),
            kernel_release: String::new(),
            cpu_model: String::new(),
            cpu_features: 7,
            online_cpus: 8,
            om_version: String::new(),
        };
        let capacity = Capacity {
            effective_cpus_milli: 8000,
            speed: 1000,
            mem_total_kib: Some(64 << 20),
            swap_total_kib: None,
        };
        let load = Load {
            runnable: Some(200),
            exported_milli: Some(200_000),
            smoothed_milli: Some(200_000),
            busy_permille: None,
            steal_permille: None,
            psi_cpu_some_us: None,
            psi_memory_some_us: None,
            psi_io_some_us: None,
            processes: None,
        };
        let memory = Memory { available_kib: Some(32 << 20), swap_free_kib: None };
        let migration = Migration {
            guests: 10,
            guest_limit: 1000,
            own_jobs: 190,
            block: false,
            stay: false,
            expel: false,
            bring: false,
        };
        let report = Report {
            address: address(node),
            authenticated: false,
            // Nobody falls silent in the meantime.
            period: Duration::from_secs(1_000_000),
            machine: Some(&machine),
            capacity: Some(&capacity),
            load: Some(&load),
            memory: Some(&memory),
            migration: Some(&migration),
        };
        core.handle(Duration::ZERO, Input::Report(report));
    }
    Some(core)
}

fn snapshot() -> Snapshot {
    let jobs = (0..JOBS).map(|pid| LocalJob {
        pid,
        uid: 1000,
        home: address(0),
        is_own: true,
        place: Place::Here,
        cpu: Duration::from_millis(u64::from(pid) * 50),
        runnable: 1,
        rss_bytes: 32 << 20,
        threads: 1,
        age: Duration::from_secs(10),
        since_move: None,
        moves: 0,
        bounds: Bounds::default(),
        locked: false,
        stay_reasons: Vec::new(),
        cpu_baseline: om_proto::cpu::Baseline::Native,
        command: "job".to_owned(),
    });
    Snapshot { jobs: jobs.collect(), admin: Admin::default() }
}

fn rounds(criterion: &mut Criterion) {
    for policy in ["cost", "lifetime", "mosix", "spread"] {
        let Some(mut core) = core(policy) else { continue };
        let mut at = Duration::from_millis(1);
        criterion.bench_function(&format!("round of {policy}, {NODES} nodes, {JOBS} jobs"), |bencher| {
            bencher.iter_batched(
                snapshot,
                |snapshot| {
                    at += Duration::from_millis(100);
                    core.handle(black_box(at), Input::Snapshot(snapshot));
                    while let Some(output) = core.poll_output() {
                        black_box(output);
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, rounds);
criterion_main!(benches);
