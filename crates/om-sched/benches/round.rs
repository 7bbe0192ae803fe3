//! How long one round of decisions takes on a loaded node: 1,000 nodes, 200 local jobs. It has to stay below a
//! millisecond, the reading of the om files taken in included.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use om_sched::core::{Core, Input};
use om_sched::job::{Admin, LocalJob, Snapshot};
use om_sched::policy::Registry;
use om_sched::random::Random;
use om_sched::settings::Settings;

#[path = "../tests/shared/heard.rs"]
mod heard;
#[path = "../tests/shared/told.rs"]
mod told;
use heard::local_job;
use told::Told;

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
        let mut told = Told::new(address(node), 200);
        // Nobody falls silent in the meantime.
        told.period = Duration::from_secs(1_000_000);
        told.capacity.effective_cpus_milli = 8000;
        told.tell(&mut core, Duration::ZERO);
    }
    Some(core)
}

fn snapshot() -> Snapshot {
    let jobs = (0..JOBS).map(|pid| LocalJob {
        cpu: Duration::from_millis(u64::from(pid) * 50),
        ..local_job(pid, address(0))
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
