//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::workload::Workload;

/// Simulates a cluster of nodes that run om's scheduler, in virtual time.
#[derive(Debug, Parser)]
#[command(name = "om-sim", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the same jobs under each policy and prints a table of what came of it.
    Run(Run),
}

/// One comparison.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// How many nodes.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub nodes: u32,
    /// CPUs of a node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub cpus: u32,
    /// Memory of a node, GiB.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub memory_gib: u64,
    /// Share of all CPUs' time that the jobs need; several, separated by commas, are run one after the other.
    #[arg(long, default_value = "0.7", value_delimiter = ',')]
    pub load: Vec<f64>,
    /// For how many seconds jobs arrive; then those that are left are finished.
    #[arg(long, default_value_t = 600.0)]
    pub seconds: f64,
    /// The jobs: unix, exp, hotspot, burst or mixed.
    #[arg(long, default_value = "unix")]
    pub workload: Workload,
    /// Share of the jobs that wait for disks in between: 6 ms of CPU, 14 ms of waiting.
    #[arg(long, default_value_t = 0.0)]
    pub io: f64,
    /// Share of the jobs that wait for people in between: 20 ms of CPU, 180 ms of waiting.
    #[arg(long, default_value_t = 0.0)]
    pub interactive: f64,
    /// The policies, separated by commas: those of om-sched, and the yardsticks `lifetime-fresh`, which sees all nodes as
    /// they are, and `clairvoyant`, which also knows how long jobs will take. `all`: all of them.
    #[arg(long, default_value = "none,cost,clairvoyant", value_delimiter = ',')]
    pub policy: Vec<String>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many seeds to average over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub seeds: u64,
    /// Seconds between two reports of a node.
    #[arg(long, default_value_t = 1.0)]
    pub period: f64,
    /// Share of datagrams that are lost.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Mean delay of a datagram, milliseconds.
    #[arg(long, default_value_t = 0.3)]
    pub delay_ms: f64,
    /// How often a node dies in an hour; it is back after a minute.
    #[arg(long, default_value_t = 0.0)]
    pub failures: f64,
    /// How often a node is blocked in an hour, for a minute.
    #[arg(long, default_value_t = 0.0)]
    pub blocks: f64,
    /// Milliseconds that a start on another node takes longer than at home.
    #[arg(long, default_value_t = 10.0)]
    pub start_ms: f64,
    /// Milliseconds that every move takes, however small the job.
    #[arg(long, default_value_t = 200.0)]
    pub move_ms: f64,
    /// Megabytes that a node's link carries in a second, each way.
    #[arg(long, default_value_t = 117.0)]
    pub link_mb: f64,
    /// Every job starts where it is submitted.
    #[arg(long)]
    pub no_placement: bool,
    /// Jobs from a file, CSV (submit_s,node,cpu_s,mem_mib[,threads]) or SWF, instead of --load, --seconds and --workload.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["load", "seconds", "workload", "io", "interactive"])]
    pub trace: Option<PathBuf>,
    /// The jobs of the trace come so many times faster.
    #[arg(long, default_value_t = 1.0, requires = "trace")]
    pub trace_speed: f64,
    /// An om-sched.toml whose settings all nodes use.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Draw slowdown over load, and who ran where under the default policy or else the last one, into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}
