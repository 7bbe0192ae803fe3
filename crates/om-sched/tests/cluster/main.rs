//! What the schedulers of a whole cluster do together, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "../shared/heard.rs"]
mod heard;
mod sim;
#[path = "../shared/told.rs"]
mod told;

use std::time::Duration;

use om_sched::Time;
use om_sched::job::Admin;
use om_sched::policy::{Nothing, Policy, Proposal};
use om_sched::random::Random;
use om_sched::view::View;
use proptest::prelude::*;

use sim::{Job, Sim};

const TWO: [(f64, f64); 2] = [(1.0, 1.0); 2];

/// Jobs of 20 to 40 s that one user starts on node 0 within a second.
fn burst(count: u64) -> impl Iterator<Item = Job> {
    (0..count).map(|number| Job::new(0, 5000 + number * 150, 20.0 + (number * 7 % 5) as f64 * 5.0))
}

#[test]
fn a_burst_on_one_of_two_nodes_is_soon_split_evenly() {
    for count in 4..=6u64 {
        for seed in 0..10 {
            let mut sim = Sim::new(&TWO, seed);
            sim.add(burst(count));
            sim.run_for(10.0);
            let first = sim.moved[0].at.as_secs_f64() - 5.0;
            assert!(first <= 2.0, "{count} jobs, seed {seed}: first move after {first} s");
            let counts = sim.counts();
            assert!(counts[0].abs_diff(counts[1]) <= 1, "{count} jobs, seed {seed}: {counts:?} after 5 s");
            assert_eq!(sim.moved.len() as u64, count / 2, "{count} jobs, seed {seed}: {:?}", sim.moved);
        }
    }
}

#[test]
fn a_burst_ends_nearly_twice_as_early_on_two_nodes_as_on_one() {
    for count in 4..=6 {
        let mut alone = Sim::with_policy(&TWO, 1, || Box::new(Nothing));
        alone.add(burst(count));
        alone.run_to_the_end(600.0);
        let mut together = Sim::new(&TWO, 1);
        together.add(burst(count));
        together.run_to_the_end(600.0);
        let speedup = (alone.makespan_s() - 5.0) / (together.makespan_s() - 5.0);
        assert!(speedup > 1.7, "{count} jobs: speedup {speedup:.2}, {:?}", together.moved);
        assert!(together.moved.len() as u64 <= count, "{:?}", together.moved);
    }
}

#[test]
fn when_one_side_is_done_earlier_work_comes_over() {
    for seed in 0..10 {
        let mut sim = Sim::new(&TWO, seed);
        sim.add([40.0, 40.0, 40.0].map(|work| Job::new(0, 0, work)));
        sim.add([8.0, 8.0, 8.0].map(|work| Job::new(1, 0, work)));
        sim.run_for(23.0);
        assert_eq!(sim.moved.len(), 0, "seed {seed}: nothing to win before: {:?}", sim.moved);
        sim.run_for(5.0);
        assert_eq!(sim.moved.len(), 1, "seed {seed}: {:?}", sim.moved);
        sim.run_to_the_end(300.0);
        assert!(sim.makespan_s() < 80.0, "seed {seed}: {:?} {:?}", sim.makespan_s(), sim.moved);
    }
}

#[test]
fn eight_nodes_share_what_starts_on_one() {
    for seed in 0..10 {
        let mut sim = Sim::new(&[(1.0, 1.0); 8], seed);
        sim.add((0..24).map(|number| Job::new(0, 2000 + number * 40, 60.0)));
        sim.run_for(17.0);
        let counts = sim.counts();
        assert!(counts.iter().all(|count| (2..=4).contains(count)), "seed {seed}: {counts:?}");
        let moves = sim.moved.len();
        sim.run_for(20.0);
        assert!(sim.moved.len() <= moves + 2, "seed {seed}: steady load goes on moving: {:?}", sim.moved);
        assert!(sim.moved.len() <= 26, "seed {seed}: {:?}", sim.moved);
    }
}

#[test]
fn eight_loaded_nodes_do_not_stampede_the_one_that_is_idle() {
    for seed in 0..10 {
        let mut sim = Sim::new(&[(1.0, 1.0); 8], seed);
        sim.add((0..21).map(|number| Job::new(number % 7, 100, 60.0)));
        sim.run_for(20.0);
        let counts = sim.counts();
        assert!((2..=3).contains(&counts[7]), "seed {seed}: {counts:?}");
        assert!(sim.moved.len() <= 3, "seed {seed}: {:?}", sim.moved);
    }
}

#[test]
fn steady_even_load_moves_nothing() {
    for seed in 0..10 {
        let mut sim = Sim::new(&[(1.0, 1.0); 4], seed);
        sim.nodes[0].background = 1;
        sim.add((0..4).flat_map(|node| (0..3 - u64::from(node == 0)).map(move |_| Job::new(node, 0, 500.0))));
        sim.run_for(60.0);
        assert!(sim.moved.is_empty(), "seed {seed}: {:?}", sim.moved);
    }
}

#[test]
fn a_job_alone_moves_only_to_a_faster_node_and_stays_there() {
    let mut sim = Sim::new(&[(1.0, 1.0), (4.0, 1.0), (1.0, 1.05)], 3);
    sim.add([Job::new(0, 0, 60.0)]);
    sim.run_for(30.0);
    assert!(sim.moved.is_empty(), "{:?}", sim.moved);
    let mut sim = Sim::new(&[(1.0, 1.0), (1.0, 1.6)], 3);
    sim.add([Job::new(0, 0, 60.0)]);
    sim.run_to_the_end(100.0);
    assert_eq!(sim.moved.len(), 1, "{:?}", sim.moved);
}

#[test]
fn tasks_of_one_job_count_and_move_together() {
    let mut sim = Sim::new(&[(1.0, 1.0), (4.0, 1.0)], 1);
    sim.add([Job { tasks: 4, ..Job::new(0, 0, 100.0) }]);
    sim.run_to_the_end(60.0);
    assert_eq!(sim.moved.len(), 1, "{:?}", sim.moved);
}

#[test]
fn a_silent_scheduler_gets_no_job() {
    let mut sim = Sim::new(&TWO, 1).lossy(1000);
    // Its reports are lost too, so it is not even known.
    sim.add(burst(6));
    sim.run_for(30.0);
    assert!(sim.moved.is_empty());
}

#[test]
fn a_lossy_network_delays_and_breaks_nothing() {
    for seed in 0..10 {
        let mut sim = Sim::new(&[(1.0, 1.0); 3], seed).lossy(200);
        sim.add(burst(6));
        sim.run_for(20.0);
        let counts = sim.counts();
        assert_eq!(counts, vec![2, 2, 2], "seed {seed}");
        sim.run_to_the_end(300.0);
    }
}

#[test]
fn a_node_to_which_moves_fail_is_left_in_peace_for_longer_and_longer() {
    let mut sim = Sim::new(&[(1.0, 1.0); 2], 1);
    sim.broken = Some(1);
    sim.add((0..6).map(|_| Job::new(0, 0, 100.0)));
    sim.run_for(60.0);
    assert!((2..=5).contains(&sim.moved.len()), "{:?}", sim.moved);
}

#[test]
fn guests_are_sent_home_when_told_and_own_jobs_called_home() {
    let mut sim = Sim::new(&TWO, 1);
    sim.add((0..4).map(|_| Job::new(0, 0, 100.0)));
    sim.run_for(10.0);
    assert_eq!(sim.counts(), vec![2, 2]);
    sim.nodes[1].admin = Admin { expel: true, ..Admin::default() };
    sim.run_for(10.0);
    assert_eq!(sim.counts(), vec![4, 0]);
    sim.nodes[1].admin = Admin::default();
    sim.run_for(15.0);
    assert_eq!(sim.counts(), vec![2, 2]);
    sim.nodes[0].admin = Admin { bring: true, ..Admin::default() };
    sim.run_for(10.0);
    assert_eq!(sim.counts(), vec![4, 0]);
}

#[test]
fn nothing_goes_to_nodes_that_take_nothing() {
    let mut sim = Sim::new(&[(1.0, 1.0); 5], 1);
    sim.nodes[1].monitoring = true;
    sim.nodes[2].admin.block = true;
    sim.nodes[3].guest_limit = 0;
    sim.add((0..8).map(|_| Job::new(0, 3000, 100.0)));
    sim.run_for(2.5);
    sim.kill(4);
    // The dead node is a target until its reports are missed; what is sent there fails and stays here.
    sim.run_for(30.0);
    assert_eq!(sim.counts(), vec![8, 0, 0, 0, 0]);
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = || {
        let mut sim = Sim::new(&[(1.0, 1.0); 4], 9).lossy(50);
        sim.add((0..12).map(|number| Job::new(0, number * 30, 20.0)));
        sim.run_to_the_end(300.0);
        sim.moved.iter().map(|it| (it.at, it.job, it.from, it.to)).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

/// Proposes whatever comes to its mind, sensible or not, and sticks to it.
struct Wild;

impl Policy for Wild {
    fn decide(&mut self, _now: Time, view: &View, random: &mut Random) -> Vec<Proposal> {
        let pids: Vec<u32> = view.jobs.iter().map(|job| job.pid).chain(95..125).collect();
        let propose = |random: &mut Random| Proposal {
            pid: pids[random.below(pids.len())],
            to: sim::address(random.below(7)),
            reason: "why not".into(),
            weighing: None,
        };
        (0..10).map(|_| propose(random)).collect()
    }
}

fn any_job(nodes: usize) -> impl Strategy<Value = Job> {
    (0..nodes, 0..8000u64, 0.1..30.0f64, 1..4u32, 1..200u64, prop::bool::weighted(0.1)).prop_map(
        |(home, start_ms, work_s, tasks, mib, locked)| Job {
            home,
            start: Duration::from_millis(start_ms),
            work_s,
            tasks,
            rss_bytes: mib << 20,
            locked,
        },
    )
}

fn any_cluster() -> impl Strategy<Value = (Vec<(f64, f64)>, Vec<Job>)> {
    prop::collection::vec((1..5u32, 5..15u32), 2..6).prop_flat_map(|nodes| {
        let count = nodes.len();
        let nodes: Vec<(f64, f64)> =
            nodes.iter().map(|(cpus, speed)| (f64::from(*cpus), f64::from(*speed) / 10.0)).collect();
        (Just(nodes), prop::collection::vec(any_job(count), 0..20))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The simulated cluster checks every single move; here is what must hold over whole runs.
    #[test]
    fn whatever_the_cluster_jobs_end_and_moves_stay_few(
        (nodes, jobs) in any_cluster(),
        seed: u64,
        loss in prop_oneof![Just(0u64), 0..300u64],
        blocked in prop::option::of(0usize..6),
        silent in prop::option::of(0usize..6),
    ) {
        let mut sim = Sim::new(&nodes, seed).lossy(loss);
        if let Some(blocked) = blocked.filter(|index| *index < nodes.len()) {
            sim.nodes[blocked].admin.block = true;
        }
        if let Some(silent) = silent.filter(|index| *index < nodes.len()) {
            sim.nodes[silent].monitoring = true;
        }
        let count = jobs.len();
        sim.add(jobs);
        sim.run_to_the_end(1500.0);
        prop_assert!(sim.moved.len() <= 4 * count + 4, "{} moves of {} jobs", sim.moved.len(), count);
    }

    /// The guard holds whatever a policy wants: the simulated cluster checks every move.
    #[test]
    fn no_policy_can_bypass_the_guard(
        (nodes, jobs) in any_cluster(),
        seed: u64,
        switches in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), 0u32..4), 6),
        dies in prop::option::of(0usize..6),
    ) {
        let mut sim = Sim::with_policy(&nodes, seed, || Box::new(Wild));
        for (node, (block, stay, monitoring, guest_limit)) in sim.nodes.iter_mut().zip(switches) {
            node.admin = Admin { block, stay, ..Admin::default() };
            node.monitoring = monitoring;
            node.guest_limit = guest_limit;
        }
        sim.add(jobs);
        sim.run_for(10.0);
        if let Some(dies) = dies.filter(|index| *index < nodes.len()) {
            sim.kill(dies);
        }
        sim.run_for(20.0);
    }

    /// Jobs that never end: whatever is moved is moved soon, then there is peace.
    #[test]
    fn steady_load_stops_moving(
        nodes in 2usize..8,
        homes in prop::collection::vec(0usize..8, 1..24),
        seed: u64,
    ) {
        let mut sim = Sim::new(&vec![(1.0, 1.0); nodes], seed);
        sim.add(homes.iter().map(|home| Job::new(home % nodes, 500, 10_000.0)));
        sim.run_for(30.0);
        let moves = sim.moved.len();
        let counts = sim.counts();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{counts:?}");
        sim.run_for(30.0);
        prop_assert_eq!(sim.moved.len(), moves, "{:?}", &sim.moved);
    }
}
