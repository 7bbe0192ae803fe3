//! One comparison: every policy on the same jobs, load by load and seed by seed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use om_sched::config::{Config, ConfigError};
use om_sched::policy::{PolicyError, Registry};
use serde::Serialize;
use thiserror::Error;

use crate::chronicle::Chronicle;
use crate::cli::Run;
use crate::clock::nanos;
use crate::measure::{Figures, Ratios, deviation, mean};
use crate::network::{Quality, WireError};
use crate::plot;
use crate::pooled;
use crate::progress::Progress;
use crate::setup::{Brain, Setup};
use crate::trace::{self, TraceError};
use crate::workload::{Arrival, Waiting};
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
    /// So few jobs come that there may be none.
    #[error("no job comes within --seconds {seconds} at a load of {load} with seed {seed}; let it be longer")]
    NoJobs {
        /// How long they had.
        seconds: f64,
        /// The load.
        load: f64,
        /// The seed.
        seed: u64,
    },
    /// A policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The simulation found a fault in the wire format.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The picture cannot be written.
    #[error("{}: {source}", path.display())]
    Plot {
        /// Its file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// What came of one policy at one load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub policy: String,
    /// The load; `null` for a trace.
    pub load: Option<f64>,
    /// The mean over all seeds; jobs and breaches are added up.
    #[serde(flatten)]
    pub mean: Figures,
    /// The standard deviations over the seeds.
    pub standard_deviation: Ratios,
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

/// Pooled processor sharing at one load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pooled {
    /// The load.
    pub load: f64,
    /// Its mean slowdown.
    pub mean_slowdown: f64,
}

/// The whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// How many nodes.
    pub nodes: u32,
    /// The workload's name, or the trace's.
    pub workload: String,
    /// The ideal; empty for a trace.
    pub pooled: Vec<Pooled>,
    /// One row a load and policy.
    pub policies: Vec<Row>,
}

impl Comparison {
    /// How often an invariant was broken.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.policies.iter().map(|row| row.mean.violations).sum()
    }
}

/// Runs it.
///
/// # Errors
/// [`RunError`].
pub fn compare(run: &Run, registry: &dyn Fn() -> Registry) -> Result<Comparison, RunError> {
    check(run)?;
    let setup = setup(run)?;
    let policies = policies(run, &registry());
    for policy in &policies {
        Brain::named(policy, registry(), &setup)?;
    }
    let trace = match &run.trace {
        Some(path) => Some(trace::read(path, run.nodes, run.trace_speed)?),
        None => None,
    };
    if let Some(path) = &run.plot {
        // Better now than when all has been computed.
        write(path, "")?;
    }
    let loads: Vec<Option<f64>> =
        if trace.is_some() { vec![None] } else { run.load.iter().copied().map(Some).collect() };
    let drawn = policies.iter().find(|name| *name == "cost").or(policies.last());
    let mut chronicle = None;
    let mut rows = Vec::new();
    let runs = loads.len() * policies.len() * usize::try_from(run.seeds).unwrap_or(1);
    let mut progress = Progress::new(runs);
    for load in loads.iter().copied() {
        let mut results: Vec<Vec<Seeded>> = vec![Vec::new(); policies.len()];
        for seed in run.seed..run.seed.saturating_add(run.seeds) {
            let workload = match (&trace, load) {
                (Some(jobs), _) => jobs.clone(),
                (None, load) => arrivals(run, &setup, load.unwrap_or_default(), seed),
            };
            if workload.is_empty() {
                return Err(RunError::NoJobs { seconds: run.seconds, load: load.unwrap_or_default(), seed });
            }
            for (policy, results) in policies.iter().zip(&mut results) {
                let at = load.map(|load| format!(" at load {load}")).unwrap_or_default();
                let name = format!("{policy}{at}, seed {seed}");
                let brain = Brain::named(policy, registry(), &setup)?;
                let mut world = World::new(&setup, &workload, brain, seed);
                let is_drawn = run.plot.is_some() && chronicle.is_none() && drawn == Some(policy);
                if is_drawn {
                    world.record();
                }
                let (figures, recorded) = world.run(&mut |share| progress.within(&name, share))?;
                if is_drawn {
                    chronicle = recorded.map(|it| (name, it));
                }
                results.push(Seeded { seed, figures });
                progress.done();
            }
        }
        rows.extend(policies.iter().zip(results).map(|(policy, seeds)| row(policy, load, seeds)));
    }
    progress.end();
    let cpus: u32 = setup.nodes.iter().map(|node| node.cpus).sum();
    let pooled = |load| Pooled { load, mean_slowdown: pooled::slowdown(cpus, load) };
    let comparison = Comparison {
        nodes: run.nodes,
        workload: run.trace.as_ref().map_or(run.workload.to_string(), |path| path.display().to_string()),
        // It says nothing about jobs that do not come at random.
        pooled: loads.iter().copied().flatten().map(pooled).collect(),
        policies: rows,
    };
    if let Some(path) = &run.plot {
        let drawn =
            chronicle.as_ref().map(|(name, chronicle): &(String, Chronicle)| (name.as_str(), chronicle));
        write(path, &plot::draw(&comparison, drawn))?;
    }
    Ok(comparison)
}

fn write(path: &Path, text: &str) -> Result<(), RunError> {
    fs::write(path, text).map_err(|source| RunError::Plot { path: path.to_owned(), source })
}

fn arrivals(run: &Run, setup: &Setup, load: f64, seed: u64) -> Vec<Arrival> {
    let waiting = Waiting { io: run.io, interactive: run.interactive };
    run.workload.arrivals(&setup.nodes, load, run.seconds, waiting, seed)
}

/// `all` is the stock policies, doing nothing first, and the yardsticks.
fn policies(run: &Run, registry: &Registry) -> Vec<String> {
    let others = registry.names().filter(|name| *name != "none");
    let all = ["none"].into_iter().chain(others).chain(Brain::YARDSTICKS);
    if run.policy.iter().any(|name| name == "all") {
        all.map(str::to_owned).collect()
    } else {
        run.policy.clone()
    }
}

fn row(policy: &str, load: Option<f64>, seeds: Vec<Seeded>) -> Row {
    let ratios: Vec<Ratios> = seeds.iter().map(|seeded| seeded.figures.ratios).collect();
    let sum = |count: fn(&Figures) -> u64| seeds.iter().map(|seeded| count(&seeded.figures)).sum();
    Row {
        policy: policy.to_owned(),
        load,
        mean: Figures {
            ratios: Ratios::each(&ratios, mean),
            jobs: sum(|it| it.jobs),
            lost: sum(|it| it.lost),
            violations: sum(|it| it.violations),
        },
        standard_deviation: Ratios::each(&ratios, deviation),
        seeds,
    }
}

fn check(run: &Run) -> Result<(), RunError> {
    let positive = |name, value: f64, limit: f64, range| {
        if value > 0.0 && value <= limit { Ok(()) } else { Err(RunError::Value { name, value, range }) }
    };
    for load in &run.load {
        positive("load", *load, 0.99, "more than 0 and at most 0.99")?;
    }
    positive("seconds", run.seconds, 1e7, "more than 0 and at most 10000000")?;
    positive("period", run.period, 60.0, "more than 0 and at most 60")?;
    positive("trace-speed", run.trace_speed, 1e9, "more than 0 and at most 1000000000")?;
    positive("link-mb", run.link_mb, 1e6, "more than 0 and at most 1000000")?;
    let share = |name, value: f64, limit: f64, range| {
        if (0.0..=limit).contains(&value) { Ok(()) } else { Err(RunError::Value { name, value, range }) }
    };
    share("io", run.io, 1.0, "0 to 1")?;
    share("interactive", run.interactive, 1.0 - run.io, "0 to 1, together with --io")?;
    share("loss", run.loss, 0.99, "0 to 0.99")?;
    share("delay-ms", run.delay_ms, 1000.0, "0 to 1000")?;
    share("failures", run.failures, 100.0, "0 to 100")?;
    share("blocks", run.blocks, 100.0, "0 to 100")?;
    share("start-ms", run.start_ms, 60_000.0, "0 to 60000")?;
    share("move-ms", run.move_ms, 60_000.0, "0 to 60000")
}

fn setup(run: &Run) -> Result<Setup, RunError> {
    let nodes = run.workload.nodes(run.nodes, run.cpus, run.memory_gib << 30);
    let mut setup = Setup::new(nodes);
    let mut policies = BTreeMap::new();
    // What a move costs is known from moves long ago.
    setup.settings.move_cost = Duration::from_secs_f64((run.move_ms / 1000.0).max(0.001));
    setup.settings.move_bytes_per_s = run.link_mb * 1e6;
    // So is what a start takes; a place is kept for twice as long.
    setup.settings.start_promise = Duration::from_secs_f64((2.0 * run.start_ms / 1000.0).max(0.001));
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
    setup.blocks_per_node_hour = run.blocks;
    setup.start_elsewhere_s = run.start_ms / 1000.0;
    setup.move_fixed_s = run.move_ms / 1000.0;
    setup.link_bytes_per_s = run.link_mb * 1e6;
    if run.no_placement {
        setup.settings.start_among = 0;
    }
    Ok(setup)
}
