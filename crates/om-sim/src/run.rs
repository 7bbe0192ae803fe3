//! One comparison: every policy on the same jobs, seed by seed.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use om_sched::config::{Config, ConfigError};
use om_sched::policy::{PolicyError, Registry};
use serde::Serialize;
use thiserror::Error;

use crate::cli::Run;
use crate::clock::nanos;
use crate::measure::Figures;
use crate::network::{Quality, WireError};
use crate::pooled;
use crate::setup::{Brain, Setup};
use crate::trace::{self, TraceError};
use crate::world::World;

/// Why there is no result.
#[derive(Debug, Error)]
pub enum RunError {
    /// A number that makes no sense.
    #[error("--{name} {value}: must be {range}")]
    Value {
        /// The flag.
        name: &'static str,
        /// What was given.
        value: f64,
        /// What would make sense.
        range: &'static str,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The simulation found a fault in the wire format.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What came of one policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub policy: String,
    /// The mean over all seeds.
    #[serde(flatten)]
    pub mean: Figures,
    /// The standard deviation over the seeds of total time by work.
    pub total_time_over_work_sd: f64,
    /// Each seed by itself.
    pub seeds: Vec<Seeded>,
}

/// What came of one seed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seeded {
    /// The seed.
    pub seed: u64,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// How many nodes.
    pub nodes: u32,
    /// The load.
    pub load: f64,
    /// The workload's name.
    pub workload: String,
    /// The slowdown of pooled processor sharing; `null` for a trace.
    pub pooled_slowdown: Option<f64>,
    /// One row a policy.
    pub policies: Vec<Row>,
}

/// Runs it.
///
/// # Errors
/// [`RunError`].
pub fn compare(run: &Run, registry: &dyn Fn() -> Registry) -> Result<Comparison, RunError> {
    check(run)?;
    let setup = setup(run)?;
    for policy in &run.policy {
        Brain::named(policy, registry(), &setup)?;
    }
    let trace = match &run.trace {
        Some(path) => Some(trace::read(path, run.nodes, run.trace_speed)?),
        None => None,
    };
    let mut results: Vec<Vec<Seeded>> = vec![Vec::new(); run.policy.len()];
    for seed in run.seed..run.seed + run.seeds {
        let workload = match &trace {
            Some(jobs) => jobs.clone(),
            None => run.workload.arrivals(&setup.nodes, run.load, run.seconds, seed),
        };
        for (policy, results) in run.policy.iter().zip(&mut results) {
            progress(&format!("seed {seed}: {policy}"));
            let brain = Brain::named(policy, registry(), &setup)?;
            let figures = World::new(&setup, &workload, brain, seed).run()?;
            results.push(Seeded { seed, figures });
        }
    }
    progress("");
    let cpus: u32 = setup.nodes.iter().map(|node| node.cpus).sum();
    // Pooled processor sharing says nothing about jobs that do not come at random.
    let pooled_slowdown = trace.is_none().then(|| pooled::slowdown(cpus, run.load));
    let rows = run.policy.iter().zip(results).map(|(policy, seeds)| Row {
        policy: policy.clone(),
        mean: mean(&seeds),
        total_time_over_work_sd: deviation(&seeds, |figures| figures.total_time_over_work),
        seeds,
    });
    Ok(Comparison {
        nodes: run.nodes,
        load: run.load,
        workload: run.trace.as_ref().map_or(run.workload.to_string(), |path| path.display().to_string()),
        pooled_slowdown,
        policies: rows.collect(),
    })
}

/// Says what is being done to whoever waits at a terminal.
fn progress(what: &str) {
    let mut out = io::stderr();
    if out.is_terminal() {
        // Nobody is hurt if it cannot be said.
        let _ = write!(out, "\r\x1b[K{what}").and_then(|()| out.flush());
    }
}

fn check(run: &Run) -> Result<(), RunError> {
    let positive = |name, value: f64, limit: f64, range| {
        if value > 0.0 && value <= limit { Ok(()) } else { Err(RunError::Value { name, value, range }) }
    };
    positive("load", run.load, 0.99, "more than 0 and at most 0.99")?;
    positive("seconds", run.seconds, 1e7, "more than 0 and at most 10000000")?;
    positive("period", run.period, 60.0, "more than 0 and at most 60")?;
    positive("trace-speed", run.trace_speed, 1e9, "more than 0")?;
    let share = |name, value: f64, limit: f64, range| {
        if (0.0..=limit).contains(&value) { Ok(()) } else { Err(RunError::Value { name, value, range }) }
    };
    share("loss", run.loss, 0.99, "0 to 0.99")?;
    share("delay-ms", run.delay_ms, 1000.0, "0 to 1000")?;
    share("failures", run.failures, 100.0, "0 to 100")?;
    share("start-ms", run.start_ms, 60_000.0, "0 to 60000")
}

fn setup(run: &Run) -> Result<Setup, RunError> {
    let nodes = run.workload.nodes(run.nodes, run.cpus, run.memory_gib << 30);
    let mut setup = Setup::new(nodes);
    let mut policies = BTreeMap::new();
    if let Some(path) = &run.config {
        let config = Config::load(Some(path))?;
        setup.settings = config.settings(false);
        setup.settings.allow_without_key = true;
        setup.settings.history = setup.settings.history.min(32);
        setup.read_every = config.poll_ms * 1_000_000;
        setup.read_every_busy = config.busy_poll_ms * 1_000_000;
        policies = config.policies;
    }
    setup.policies = policies;
    setup.period = nanos(run.period);
    setup.quality = Quality { delay_s: run.delay_ms / 1000.0, loss: run.loss };
    setup.failures_per_node_hour = run.failures;
    setup.start_elsewhere_s = run.start_ms / 1000.0;
    if run.no_placement {
        setup.settings.start_among = 0;
    }
    Ok(setup)
}

fn average(seeds: &[Seeded], figure: impl Fn(&Figures) -> f64) -> f64 {
    seeds.iter().map(|seeded| figure(&seeded.figures)).sum::<f64>() / seeds.len().max(1) as f64
}

fn deviation(seeds: &[Seeded], figure: impl Fn(&Figures) -> f64) -> f64 {
    let mean = average(seeds, &figure);
    let squares: f64 = seeds.iter().map(|seeded| (figure(&seeded.figures) - mean).powi(2)).sum();
    (squares / (seeds.len().max(2) - 1) as f64).sqrt()
}

fn mean(seeds: &[Seeded]) -> Figures {
    Figures {
        mean_slowdown: average(seeds, |it| it.mean_slowdown),
        bounded_slowdown: average(seeds, |it| it.bounded_slowdown),
        total_time_over_work: average(seeds, |it| it.total_time_over_work),
        p99_slowdown: average(seeds, |it| it.p99_slowdown),
        moves_per_1000_jobs: average(seeds, |it| it.moves_per_1000_jobs),
        starts_elsewhere_per_1000_jobs: average(seeds, |it| it.starts_elsewhere_per_1000_jobs),
        frozen_share: average(seeds, |it| it.frozen_share),
        makespan_over_bound: average(seeds, |it| it.makespan_over_bound),
        jobs: seeds.iter().map(|seeded| seeded.figures.jobs).sum(),
        lost: seeds.iter().map(|seeded| seeded.figures.lost).sum(),
        violations: seeds.iter().map(|seeded| seeded.figures.violations).sum(),
    }
}
