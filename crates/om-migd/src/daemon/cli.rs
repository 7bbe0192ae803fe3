//! The command line, and the other modes in which this program runs.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use om_proto::key::KeyError;

use super::config::Config;
use super::run;
use crate::{hook, keeper, launcher, nest};

/// Serves the om files (`where`, `stay`, `lock`…) of the jobs on this node, starts jobs for `om run`, and moves them
/// between nodes.
#[derive(Debug, Parser)]
#[command(name = "om-migd", version)]
struct Arguments {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/om/migd.toml")]
    config: PathBuf,
    /// Check the configuration and exit
    #[arg(long)]
    check: bool,
    /// Print the configuration in force, defaults included, and exit
    #[arg(long)]
    print_config: bool,
    #[command(subcommand)]
    mode: Option<Mode>,
}

/// What om-migd starts itself as.
#[derive(Clone, Debug, Subcommand)]
enum Mode {
    /// Keeps one job
    #[command(hide = true)]
    Keeper,
    /// Makes the mount namespace of one stay of a job
    #[command(hide = true)]
    Nest,
    /// Waits to become CRIU
    #[command(hide = true)]
    Launcher,
    /// Finds out what CRIU can do with this kernel
    #[command(hide = true)]
    KernelFacts { criu: PathBuf },
}

/// The whole program; returns the exit status.
#[must_use]
pub fn main() -> i32 {
    // First, because a job stands still for it.
    if let Ok(action) = std::env::var(hook::ACTION) {
        return hook::main(&action);
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info,fuser=warn"))
        .format_timestamp_millis()
        .init();
    let arguments = Arguments::parse();
    match arguments.mode {
        Some(Mode::Keeper) => return keeper::main(),
        Some(Mode::Nest) => return nest::main(),
        Some(Mode::Launcher) => return launcher::main(),
        Some(Mode::KernelFacts { criu }) => return nest::find_kernel_facts(&criu),
        None => {}
    }
    let named = std::env::args().any(|argument| argument.starts_with("--config"));
    let config = match Config::load(&arguments.config, named) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("om-migd: {error}");
            return 78;
        }
    };
    if arguments.print_config {
        print!("{}", toml::to_string(&config).unwrap_or_default());
        return 0;
    }
    if arguments.check {
        return 0;
    }
    match run::run(&config) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("om-migd: {error}");
            // A key that cannot be used is a matter of configuration.
            if error.get_ref().is_some_and(|inner| inner.is::<KeyError>()) { 78 } else { 1 }
        }
    }
}
