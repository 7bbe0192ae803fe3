//! The default policy: the least total time in system, priced in seconds.
//!
//! ```text
//! ΔJ(i→t) = [H_i(L_i) − H_i(L_i − n)] − [H_t(L_t + n) − H_t(L_t)]
//! R       = s_i · (CPU seconds used) / n
//! gain    = R · ΔJ − C            choose the greatest gain / C; never one that is not positive
//! ```
//!
//! n is the number of the job's runnable tasks, which move together; see [`crate::figures`] for H. What a job has
//! used is the best guess of what it still needs (the median residual life of UNIX processes is their age), each
//! of its n tasks needs an nth of it. docs/policy.md derives this and says what the settings trade.
//!
//! What is won is a guess: the job may end sooner, and others that start or end may have evened the nodes out without it.
//! What is paid is certain. So the gain has to be `min-return` times the cost, which the simulator says pays.
//!
//! Loads are averages of samples and speeds are measurements, so a gain that drowns in their noise is no gain:
//! `min-benefit` and `speed-tolerance` say what noise is. A node short of memory sends something away whatever
//! ΔJ says.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{Policy, Proposal};
use crate::Time;
use crate::figures::Figures;
use crate::random::Random;
use crate::view::{Here, Job, Target, View, Weighing};

/// A job with fewer runnable tasks than this sleeps: moving it for the CPU's sake wins nothing.
const ASLEEP_TASKS: f64 = 0.1;

/// `[policies.cost]` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CostSettings {
    /// Up to this many nodes all are considered, from there on `sample` of them at random. More finds a better
    /// node and takes longer. 1 to 100,000.
    pub all_nodes_up_to: usize,
    /// How many nodes are considered in a larger cluster. 1 to 100,000.
    pub sample: usize,
    /// The least share of the job's own remaining time that a move has to save, 0 to 1. Less follows every
    /// fluctuation of the load, more leaves small imbalances alone.
    pub min_benefit: f64,
    /// How many times its cost a move has to win beyond that cost, 0 to 100. More moves less, and only what has
    /// lived longer.
    pub min_return: f64,
    /// A node that is faster by no more than this share counts as equally fast, 0 to 1.
    pub speed_tolerance: f64,
}

impl Default for CostSettings {
    fn default() -> Self {
        Self { all_nodes_up_to: 64, sample: 16, min_benefit: 0.05, min_return: 4.0, speed_tolerance: 0.15 }
    }
}

/// The policy; it keeps nothing between rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    settings: CostSettings,
}

impl Cost {
    /// A policy with these settings.
    ///
    /// # Errors
    /// A message for people if they make no sense.
    pub fn new(settings: CostSettings) -> Result<Self, String> {
        let mut problems = Vec::new();
        for (name, value) in [("all-nodes-up-to", settings.all_nodes_up_to), ("sample", settings.sample)] {
            if !(1..=100_000).contains(&value) {
                problems.push(format!("{name} = {value}: must be 1 to 100000"));
            }
        }
        for (name, value) in
            [("min-benefit", settings.min_benefit), ("speed-tolerance", settings.speed_tolerance)]
        {
            if !(0.0..=1.0).contains(&value) {
                problems.push(format!("{name} = {value}: must be 0 to 1"));
            }
        }
        if !(0.0..=100.0).contains(&settings.min_return) {
            problems.push(format!("min-return = {}: must be 0 to 100", settings.min_return));
        }
        if problems.is_empty() { Ok(Self { settings }) } else { Err(problems.join("; ")) }
    }

    /// The nodes to consider, in random order so that equal ones are not always taken from the front. Those that
    /// spoke up just now and the homes of guests are always among them.
    fn candidates(&self, view: &View, random: &mut Random) -> Vec<Target> {
        let mut targets = view.targets.clone();
        random.shuffle(&mut targets);
        if targets.len() > self.settings.all_nodes_up_to {
            let is_home = |target: &Target| view.jobs.iter().any(|job| job.home == target.address);
            // A stable sort: the random order stays within each half.
            targets.sort_by_key(|target| !(target.fresh || is_home(target)));
            let preferred = targets.iter().take_while(|target| target.fresh || is_home(target)).count();
            targets.truncate(self.settings.sample.max(preferred));
        }
        targets
    }

    /// The other node's figures; it counts as no faster than this one if the measured difference is within the tolerance. One
    /// that is slower counts as what it is: if slower nodes were taken for equal, a job could go in a circle of nodes each of
    /// which is as good as the one before. So every move lowers the sum of all slowdowns, and that cannot go on for ever.
    fn tolerant(&self, here: Figures, there: Figures) -> Figures {
        let is_equal = (1.0..=1.0 + self.settings.speed_tolerance).contains(&(there.speed / here.speed));
        if is_equal { Figures { speed: here.speed, ..there } } else { there }
    }

    fn weigh_pair(&self, here: Figures, job: &Job, there: Figures) -> Weighing {
        let tasks = job.tasks;
        let there = self.tolerant(here, there);
        let delta_j = here.relief(tasks) - there.burden(tasks);
        let remaining_s = job.cpu_s * here.speed / tasks.max(ASLEEP_TASKS);
        let cost_s = job.move_cost_s;
        let gain_s = remaining_s * delta_j - cost_s;
        let own_time = tasks * here.slowdown(here.load());
        let is_enough =
            gain_s > self.settings.min_return * cost_s && delta_j >= self.settings.min_benefit * own_time;
        Weighing { tasks, delta_j, remaining_s, cost_s, gain_s, is_enough, here, there }
    }

    fn balance(&self, view: &View, targets: &[Target]) -> Vec<Proposal> {
        let mut here = view.here.figures;
        let mut proposals: Vec<Proposal> = Vec::new();
        while proposals.len() < view.free_slots {
            let mut best: Option<(f64, &Job, &Target, Weighing)> = None;
            for job in view.jobs.iter().filter(|job| job.tasks >= ASLEEP_TASKS) {
                if proposals.iter().any(|taken| taken.pid == job.pid) {
                    continue;
                }
                for target in targets {
                    if proposals.iter().any(|taken| taken.to == target.address) {
                        continue;
                    }
                    let weighing = self.weigh_pair(here, job, target.figures);
                    let score = weighing.gain_s / weighing.cost_s;
                    if best.as_ref().is_some_and(|best| score <= best.0)
                        || !weighing.is_enough
                        || view.allows(job, target).is_err()
                    {
                        continue;
                    }
                    best = Some((score, job, target, weighing));
                }
            }
            let Some((_, job, target, weighing)) = best else { break };
            here.movable = (here.movable - job.tasks).max(0.0);
            proposals.push(propose(job, target, weighing));
        }
        proposals
    }

    /// The cheapest job that frees what is missing, or the largest if none does, to the least loaded node with
    /// room for it.
    fn relieve_memory(&self, view: &View, targets: &[Target]) -> Option<Proposal> {
        let short = view.here.memory_short_bytes;
        let mut jobs: Vec<&Job> = view.jobs.iter().filter(|job| job.rss_bytes > 0).collect();
        jobs.sort_by(|one, other| {
            let enough = |job: &Job| job.rss_bytes >= short;
            match (enough(one), enough(other)) {
                (true, true) => by(one.move_cost_s, other.move_cost_s),
                (false, false) => other.rss_bytes.cmp(&one.rss_bytes),
                (one, other) => other.cmp(&one),
            }
            .then(one.pid.cmp(&other.pid))
        });
        jobs.into_iter().find_map(|job| {
            let target = targets
                .iter()
                .filter(|target| view.allows(job, target).is_ok())
                .min_by(|one, other| by(one.figures.burden(job.tasks), other.figures.burden(job.tasks)))?;
            let weighing = self.weigh_pair(view.here.figures, job, target.figures);
            Some(Proposal {
                reason: format!(
                    "this node is short of {} MiB of memory, the job frees {} MiB",
                    short >> 20,
                    job.rss_bytes >> 20
                ),
                ..propose(job, target, weighing)
            })
        })
    }
}

impl Policy for Cost {
    fn wants(&self, nodes: usize) -> usize {
        if nodes > self.settings.all_nodes_up_to { self.settings.sample } else { nodes }
    }

    fn has_hope(&self, here: &Here, jobs: &[Job], fastest: f64) -> bool {
        let best = Figures { movable: 0.0, background: 0.0, cpus: f64::INFINITY, speed: fastest };
        let hopes =
            |job: &Job| job.tasks >= ASLEEP_TASKS && self.weigh_pair(here.figures, job, best).is_enough;
        here.memory_short_bytes > 0 || jobs.iter().any(hopes)
    }

    fn decide(&mut self, _now: Time, view: &View, random: &mut Random) -> Vec<Proposal> {
        let targets = self.candidates(view, random);
        if view.here.memory_short_bytes > 0
            && let Some(proposal) = self.relieve_memory(view, &targets)
        {
            return vec![proposal];
        }
        self.balance(view, &targets)
    }

    fn confirm(&mut self, _now: Time, view: &View, proposal: &Proposal) -> Result<Proposal, String> {
        let job =
            view.jobs.iter().find(|job| job.pid == proposal.pid).ok_or("the job may not move any more")?;
        let target = view
            .targets
            .iter()
            .find(|target| target.address == proposal.to)
            .ok_or("the node may not be used any more")?;
        let weighing = self.weigh_pair(view.here.figures, job, target.figures);
        if view.here.memory_short_bytes > 0 {
            return Ok(Proposal { weighing: Some(weighing), ..proposal.clone() });
        }
        if weighing.is_enough {
            return Ok(propose(job, target, weighing));
        }
        Err(format!(
            "on the node's fresh figures nothing is won: {:.2} s saved, {:.2} s paid",
            weighing.gain_s + weighing.cost_s,
            weighing.cost_s
        ))
    }

    fn weigh(&self, view: &View, job: &Job, target: &Target) -> Option<Weighing> {
        Some(self.weigh_pair(view.here.figures, job, target.figures))
    }
}

fn propose(job: &Job, target: &Target, weighing: Weighing) -> Proposal {
    Proposal {
        pid: job.pid,
        to: target.address,
        reason: format!(
            "saves all jobs {:.2} s for a move of {:.2} s",
            weighing.gain_s + weighing.cost_s,
            weighing.cost_s
        ),
        weighing: Some(weighing),
    }
}

fn by(one: f64, other: f64) -> Ordering {
    one.total_cmp(&other)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::scene::{figures, job, target, view};
    use super::*;

    fn decide(view: &View) -> Vec<Proposal> {
        Cost::default().decide(Time::ZERO, view, &mut Random::from_seed(3))
    }

    #[test]
    fn the_gain_is_that_of_the_design() {
        let view = view((1..=4).map(|pid| job(pid, 0.25)).collect(), vec![target(2, 0.0)]);
        let proposals = decide(&view);
        assert_eq!(proposals.len(), 1);
        let weighing = proposals[0].weighing.unwrap();
        assert_eq!((weighing.delta_j, weighing.remaining_s), (6.0, 0.25));
        assert!((weighing.gain_s - 1.3).abs() < 1e-9);
    }

    #[test]
    fn a_job_that_has_used_less_than_its_move_costs_stays() {
        let jobs = |cpu_s| (1..=4).map(|pid| job(pid, cpu_s)).collect();
        // 6 is saved for each second that it still needs, 0.2 is paid, four times that has to be won.
        assert_eq!(decide(&view(jobs(0.166), vec![target(2, 0.0)])), vec![]);
        assert_eq!(decide(&view(jobs(0.167), vec![target(2, 0.0)])).len(), 1);
    }

    #[test]
    fn one_round_sends_to_different_nodes_and_counts_what_it_has_sent() {
        let jobs = (1..=4).map(|pid| job(pid, 2.0)).collect();
        let targets = (2..=6).map(|last| target(last, 0.0)).collect();
        let proposals = decide(&view(jobs, targets));
        // The fourth is alone by then and stays.
        assert_eq!(proposals.len(), 3);
        let mut nodes: Vec<IpAddr> = proposals.iter().map(|proposal| proposal.to).collect();
        nodes.sort_unstable();
        nodes.dedup();
        assert_eq!(nodes.len(), 3);
    }

    #[test]
    fn the_job_that_has_used_most_goes_first_and_a_costly_one_later() {
        let mut heavy = job(3, 4.0);
        heavy.move_cost_s = 3.0;
        let proposals = decide(&view(vec![job(1, 1.0), job(2, 2.0), heavy], vec![target(2, 0.0)]));
        assert_eq!(proposals[0].pid, 2);
    }

    #[test]
    fn tasks_of_one_job_move_together() {
        let mut threads = job(1, 4.0);
        threads.tasks = 4.0;
        let jobs = vec![threads, job(2, 1.0), job(3, 1.0), job(4, 1.0)];
        let proposals = decide(&view(jobs, vec![target(2, 0.0)]));
        let weighing = proposals[0].weighing.unwrap();
        assert_eq!((proposals[0].pid, weighing.delta_j, weighing.remaining_s), (1, 24.0, 1.0));
    }

    #[test]
    fn sleeping_jobs_and_balanced_nodes_are_left_alone() {
        let mut sleeper = job(1, 100.0);
        sleeper.tasks = 0.05;
        assert_eq!(decide(&view(vec![sleeper, job(2, 5.0)], vec![target(2, 0.0)])), vec![]);
        let jobs = (1..=3).map(|pid| job(pid, 50.0)).collect();
        assert_eq!(decide(&view(jobs, vec![target(2, 2.0)])), vec![]);
    }

    #[test]
    fn speeds_within_the_tolerance_count_as_equal() {
        let faster = |speed| Target { figures: Figures { speed, ..figures(0.0) }, ..target(2, 0.0) };
        assert_eq!(decide(&view(vec![job(1, 100.0)], vec![faster(1.14)])), vec![]);
        assert_eq!(decide(&view(vec![job(1, 100.0)], vec![faster(1.5)])).len(), 1);
    }

    #[test]
    fn a_gain_that_is_gone_on_the_fresh_figures_is_not_confirmed() {
        let jobs: Vec<Job> = (1..=4).map(|pid| job(pid, 1.0)).collect();
        let stale = view(jobs.clone(), vec![target(2, 0.0)]);
        let proposal = decide(&stale).remove(0);
        let fresh = view(jobs.clone(), vec![target(2, 4.0)]);
        let refusal = Cost::default().confirm(Time::ZERO, &fresh, &proposal).unwrap_err();
        assert!(refusal.starts_with("on the node's fresh figures nothing is won"), "{refusal}");
        assert!(Cost::default().confirm(Time::ZERO, &view(jobs, vec![target(2, 1.0)]), &proposal).is_ok());
    }

    #[test]
    fn a_node_short_of_memory_sends_the_cheapest_job_that_frees_enough() {
        let sized = |pid, mib: u64| Job {
            rss_bytes: mib << 20,
            move_cost_s: 0.2 + mib as f64 / 100.0,
            ..job(pid, 1.0)
        };
        let mut view = view(vec![sized(1, 50), sized(2, 900), sized(3, 300)], vec![target(2, 5.0)]);
        view.here.memory_short_bytes = 200 << 20;
        assert_eq!(decide(&view)[0].pid, 3);
        view.here.memory_short_bytes = 1 << 30;
        assert_eq!(decide(&view)[0].pid, 2);
    }

    #[test]
    fn a_large_cluster_is_sampled_but_who_spoke_up_is_always_considered() {
        let mut targets: Vec<Target> = (2..=200).map(|last| target(last, 50.0)).collect();
        targets[150].fresh = true;
        let mut random = Random::from_seed(1);
        let chosen = Cost::default().candidates(&view(vec![], targets.clone()), &mut random);
        assert_eq!(chosen.len(), 16);
        assert!(chosen.iter().any(|target| target.fresh));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_proposed_there_was_hope_of(
            jobs in proptest::collection::vec((0.01..20.0f64, 0.05..4.0f64, 0.01..3.0f64), 1..5),
            targets in proptest::collection::vec((0.0..5.0f64, 0.3..3.0f64, 0.5..8.0f64), 1..5),
            (background, speed, short) in (0.0..3.0f64, 0.3..3.0f64, 0..2u64),
        ) {
            let jobs: Vec<Job> = jobs.into_iter().zip(1..).map(|((cpu_s, tasks, move_cost_s), pid)| {
                Job { tasks, move_cost_s, ..job(pid, cpu_s) }
            }).collect();
            let fastest = targets.iter().map(|(_, speed, _)| *speed).fold(speed, f64::max);
            let targets: Vec<Target> = targets.into_iter().zip(2..).map(|((movable, speed, cpus), last)| {
                Target { figures: Figures { movable, background: 0.0, cpus, speed }, ..target(last, 0.0) }
            }).collect();
            let mut view = view(jobs, targets);
            view.here.figures = Figures { background, speed, ..view.here.figures };
            view.here.memory_short_bytes = short;
            if !decide(&view).is_empty() {
                proptest::prop_assert!(Cost::default().has_hope(&view.here, &view.jobs, fastest));
            }
        }
    }

    #[test]
    fn a_job_alone_on_the_fastest_node_has_no_hope_and_two_have() {
        let hope = |count: u32| {
            let view = view((1..=count).map(|pid| job(pid, 100.0)).collect(), vec![]);
            Cost::default().has_hope(&view.here, &view.jobs, 1.0)
        };
        assert_eq!((hope(1), hope(2)), (false, true));
    }

    #[test]
    fn settings_out_of_range_are_all_reported() {
        let settings = CostSettings { sample: 0, min_benefit: 7.0, ..CostSettings::default() };
        let message = Cost::new(settings).unwrap_err();
        assert!(message.contains("sample = 0") && message.contains("min-benefit = 7"), "{message}");
    }
}
