//! A scheduler that has nothing to win does nothing: loads that stay as they are stop moving, and without any gain
//! nothing moves at all. Whole clusters at random.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use om_sched::policy::Registry;
use om_sim::chronicle::Chronicle;
use om_sim::setup::{Brain, Setup};
use om_sim::workload::{Arrival, Shape};
use om_sim::world::World;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

/// What happens to jobs that never end within so many seconds.
fn chronicle(nodes: &[(u32, f64)], jobs: &[(u32, u32)], places: bool, seconds: u64, seed: u64) -> Chronicle {
    let shape = |(cpus, speed): &(u32, f64)| Shape { cpus: *cpus, speed: *speed, memory_bytes: 8 << 30 };
    let mut setup = Setup::new(nodes.iter().map(shape).collect());
    if !places {
        setup.settings.start_among = 0;
    }
    let arrival = |(number, (node, threads)): (u64, &(u32, u32))| Arrival {
        // Not all at once, or they would all see the cluster empty.
        at: 2 * SECOND + number * SECOND / 20,
        node: *node,
        work_s: 1e6,
        threads: *threads,
        rss_bytes: 32 << 20,
        rhythm: None,
    };
    let workload: Vec<Arrival> = (0..).zip(jobs).map(arrival).collect();
    let brain = Brain::named("cost", Registry::stock(), &setup).unwrap();
    let mut world = World::new(&setup, &workload, brain, seed);
    world.record();
    let (figures, chronicle) = world.run_until(seconds * SECOND, &mut |_| ()).unwrap();
    assert_eq!(figures.violations, 0);
    chronicle.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_load_that_stays_stops_moving(
        nodes in prop::collection::vec((1..5u32, 0.6..1.7f64), 2..8),
        jobs in prop::collection::vec((any::<prop::sample::Index>(), 1..4u32), 1..24),
        places: bool,
        seed: u64,
    ) {
        let count = nodes.len();
        let jobs: Vec<(u32, u32)> =
            jobs.into_iter().map(|(node, threads)| (u32::try_from(node.index(count)).unwrap(), threads)).collect();
        let chronicle = chronicle(&nodes, &jobs, places, 150, seed);
        let late: Vec<_> = chronicle.journeys.iter().filter(|journey| journey.begin > 90 * SECOND).collect();
        prop_assert!(late.is_empty(), "{late:?}");
    }

    #[test]
    fn without_any_gain_nothing_moves_and_all_start_at_home(
        cpus in 1..5u32,
        counts in prop::collection::vec(0..5u32, 2..8),
        seed: u64,
    ) {
        // No node has more jobs than CPUs, and all are equally fast as far as anybody can measure.
        let nodes: Vec<(u32, f64)> = (0..counts.len()).map(|node| (cpus, 1.0 + 0.02 * (node % 4) as f64)).collect();
        let jobs: Vec<(u32, u32)> = (0..)
            .zip(&counts)
            .flat_map(|(node, count)| (0..(*count).min(cpus)).map(move |_| (node, 1)))
            .collect();
        let chronicle = chronicle(&nodes, &jobs, true, 60, seed);
        prop_assert!(chronicle.journeys.is_empty(), "{:?}", chronicle.journeys);
    }
}

#[test]
fn one_more_here_than_there_is_left_alone() {
    // Whoever goes is as badly off there, and those who stay win what those there lose.
    let jobs = [(0, 1), (0, 1), (0, 1), (1, 1), (1, 1)];
    assert!(chronicle(&[(1, 1.0), (1, 1.0)], &jobs, false, 60, 1).journeys.is_empty());
    let jobs = [(0, 1), (0, 1), (0, 1), (1, 1)];
    assert_eq!(chronicle(&[(1, 1.0), (1, 1.0)], &jobs, false, 60, 1).journeys.len(), 1);
}
