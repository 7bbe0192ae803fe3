//! The example works: as a daemon's policy and in the simulator.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::fs;
use std::process::Command;

use om_sim::measure::Figures;
use om_sim::setup::{Brain, Setup};
use om_sim::workload::{Arrival, Workload};
use om_sim::world::World;

/// Four jobs of user 1000 on one of four nodes, placed at their start or only moved later.
fn simulate(rules: &str, places: bool) -> Figures {
    let mut setup = Setup::new(Workload::Unix.nodes(4, 1, 8 << 30));
    if !places {
        setup.settings.start_among = 0;
    }
    setup.policies.insert("rules".to_owned(), rules.parse().unwrap());
    let job =
        Arrival { at: 5_000_000_000, node: 0, work_s: 60.0, threads: 1, rss_bytes: 1 << 20, rhythm: None };
    let brain = Brain::named("rules", example_rules::registry(), &setup).unwrap();
    World::new(&setup, &[job; 4], brain, 1).run(&mut |_| ()).unwrap().0
}

#[test]
fn without_rules_jobs_are_spread() {
    let figures = simulate("", false);
    assert!(figures.ratios.mean_slowdown < 1.2, "{figures:?}");
}

#[test]
fn jobs_of_a_user_who_stays_stay() {
    let figures = simulate("[[rule]]\nuser = 1000\nnodes = []\n", false);
    assert!((figures.ratios.mean_slowdown - 4.0).abs() < 0.01, "{figures:?}");
}

#[test]
fn jobs_of_a_user_who_stays_start_where_they_are() {
    assert!(simulate("", true).ratios.mean_slowdown < 1.1);
    let figures = simulate("[[rule]]\nuser = 1000\nnodes = []\n", true);
    assert!((figures.ratios.mean_slowdown - 4.0).abs() < 0.01, "{figures:?}");
}

#[test]
fn jobs_go_where_they_may() {
    // One of the three other nodes: two stay, two go there.
    let figures = simulate("[[rule]]\nnodes = [\"10.0.0.3\"]\n", false);
    assert!((figures.ratios.mean_slowdown - 2.0).abs() < 0.1, "{figures:?}");
}

#[test]
fn the_binary_checks_its_rules() {
    let file = std::env::temp_dir().join(format!("om-example-rules-{}.toml", std::process::id()));
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_example-rules"));
        command.arg("--check").arg("--config").arg(&file).output().unwrap()
    };
    let good =
        check("policy = \"rules\"\n[[policies.rules.rule]]\ncommand = \"cc\"\nnodes-with-mib = 4096\n");
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let bad = check("policy = \"rules\"\n[[policies.rules.rule]]\nsize = 3\n");
    assert_eq!(bad.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("unknown field `size`"));
    fs::remove_file(&file).unwrap();
}
