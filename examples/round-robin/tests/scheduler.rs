//! The example works: as a daemon's policy and in the simulator.

use std::process::Command;

use om_sim::clock::Nanos;
use om_sim::setup::{Brain, Setup};
use om_sim::workload::{Arrival, Workload};
use om_sim::world::World;

#[test]
fn the_binary_knows_its_policy() {
    let run = |policy: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_example-round-robin"));
        command.args(["--check", "--policy", policy]).output().unwrap()
    };
    assert!(run("round-robin").status.success());
    let unknown = run("round-robbin");
    assert_eq!(unknown.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("round-robin"));
}

#[test]
fn four_jobs_on_one_node_end_up_on_four() {
    let mut setup = Setup::new(Workload::Unix.nodes(4, 1, 8 << 30));
    setup.settings.start_among = 0;
    let job = |at: Nanos| Arrival { at, node: 0, work_s: 60.0, threads: 1, rss_bytes: 1 << 20, rhythm: None };
    let jobs: Vec<Arrival> = (0..4).map(|number| job(5_000_000_000 + number)).collect();
    let brain = Brain::named("round-robin", example_round_robin::registry(), &setup).unwrap();
    let figures = World::new(&setup, &jobs, brain, 1).run(&mut |_| ()).unwrap().0;
    assert!(figures.ratios.mean_slowdown < 1.2, "{figures:?}");
    assert_eq!(figures.violations, 0);
}
