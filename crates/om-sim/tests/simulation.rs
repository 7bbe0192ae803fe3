//! Whole simulations, short ones: what has to hold whatever the seed.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use clap::Parser;
use om_sched::policy::Registry;
use om_sim::cli::{Cli, Command};
use om_sim::measure::Figures;
use om_sim::run::{Comparison, compare};

fn comparison(line: &str) -> Comparison {
    let Command::Run(run) =
        Cli::try_parse_from(format!("om-sim run {line}").split_whitespace()).unwrap().command;
    compare(&run, &Registry::stock).unwrap()
}

fn figures(line: &str) -> Figures {
    comparison(line).policies[0].mean
}

#[test]
fn the_same_seed_gives_the_same_figures_and_another_gives_others() {
    let line = "--nodes 8 --seconds 60 --loss 0.02 --policy cost --json --seed";
    assert_eq!(comparison(&format!("{line} 7")), comparison(&format!("{line} 7")));
    assert_ne!(comparison(&format!("{line} 7")), comparison(&format!("{line} 8")));
}

/// Changes with every change of what is decided. Then it is to be looked at, and written anew with the command that
/// the test tells.
const GOLDEN: &str = include_str!("golden/small.json");

#[test]
fn a_seed_gives_these_figures_on_every_machine() {
    let line = "--nodes 4 --seconds 30 --load .6,.9 --policy all --seed 7 --seeds 2 --loss 0.01 --blocks 30 --io 0.2";
    let text = serde_json::to_string(&comparison(line)).unwrap();
    assert_eq!(text, GOLDEN.trim(), "om-sim run {line} --json");
}

#[test]
fn one_node_without_moves_is_plain_processor_sharing() {
    // The mean slowdown of M/G/1 processor sharing is 1 / (1 − ρ), whatever the sizes.
    let figures = figures("--nodes 64 --workload exp --load 0.5 --seconds 2000 --policy none --no-placement");
    assert!((figures.ratios.total_time_over_work - 2.0).abs() < 0.1, "{figures:?}");
}

#[test]
fn no_invariant_is_broken_by_any_policy_under_loss_and_failures() {
    for workload in ["unix", "hotspot", "burst", "mixed"] {
        for policy in ["cost", "mosix", "lifetime", "spread"] {
            let common = format!("--nodes 8 --seconds 40 --load 0.8 --workload {workload} --policy {policy}");
            for more in [
                "--interactive 0.1",
                "--loss 0.2 --delay-ms 5 --failures 20 --blocks 60",
                "--no-placement --period 3 --io 0.3",
            ] {
                let figures = figures(&format!("{common} {more}"));
                assert_eq!(figures.violations, 0, "{common} {more}");
                assert!(
                    figures.jobs > 200 && figures.ratios.moves_per_1000_jobs > 0.0,
                    "{common} {more}: {figures:?}"
                );
            }
        }
    }
}

#[test]
fn every_job_ends_once() {
    let figures = figures("--nodes 8 --seconds 60 --failures 60 --loss 0.1 --policy cost --seed 3");
    assert_eq!(figures.violations, 0);
    let arrivals = comparison("--nodes 8 --seconds 60 --policy none --seed 3").policies[0].mean.jobs;
    assert_eq!(figures.jobs + figures.lost, arrivals);
    assert!(figures.lost > 0);
}

#[test]
fn the_default_policy_is_far_better_than_none_and_close_to_the_clairvoyant() {
    let line = "--nodes 16 --seconds 200 --load 0.7 --seeds 2 --policy none,cost,clairvoyant";
    let rows = comparison(line).policies;
    let time = |index: usize| rows[index].mean.ratios.total_time_over_work;
    assert!(time(1) < 0.7 * time(0), "{rows:?}");
    assert!(time(1) < 1.1 * time(2), "{rows:?}");
}

#[test]
fn a_hot_spot_is_spread() {
    let figures = figures("--nodes 16 --seconds 60 --load 0.6 --workload hotspot --policy cost");
    assert!(figures.ratios.total_time_over_work < 1.5, "{figures:?}");
}

#[test]
fn an_unknown_policy_lists_the_known_ones() {
    let Command::Run(run) = Cli::try_parse_from(["om-sim", "run", "--policy", "mosxi"]).unwrap().command;
    let error = compare(&run, &Registry::stock).unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown policy 'mosxi'; there are: cost, lifetime, mosix, none, spread, lifetime-fresh, clairvoyant"
    );
}
