//! The scheduler of om, as a library: it listens to what nodes tell and decides which job moves where.
//!
//! The part that decides is pure ([`core::Core`]): inputs with a time go in, outputs come out, and a simulator drives
//! the same code as the daemon. What it is best to move is a [`policy::Policy`]'s to say; what may be moved at all
//! is the [`guard`]'s, whatever the policy. The daemon around them owns the clock, the sockets and the om files.
//!
//! This crate does not know how a process is moved: it writes an address into `where` and looks what comes of it.
//!
//! A scheduler of one's own is a binary that adds a policy to the registry:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use om_sched::Time;
//! use om_sched::policy::{Policy, Proposal, Registry};
//! use om_sched::random::Random;
//! use om_sched::view::View;
//!
//! /// Sends the first job that may move to the first node that may take it.
//! struct First;
//!
//! impl Policy for First {
//!     fn decide(&mut self, _now: Time, view: &View, _random: &mut Random) -> Vec<Proposal> {
//!         let allowed = view.jobs.iter().flat_map(|job| view.targets.iter().map(move |target| (job, target)));
//!         allowed
//!             .filter(|(job, target)| view.allows(job, target).is_ok())
//!             .take(1)
//!             .map(|(job, target)| Proposal {
//!                 pid: job.pid,
//!                 to: target.address,
//!                 reason: "first come, first served".to_owned(),
//!                 weighing: None,
//!             })
//!             .collect()
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     om_sched::main(&Registry::stock().with("first", |_settings| Ok(Box::new(First))))
//! }
//! ```

pub mod cli;
pub mod codec;
pub mod config;
pub mod core;
pub mod document;
pub mod figures;
pub mod follow;
pub mod guard;
pub mod history;
pub mod job;
pub mod jobs;
pub mod limit;
pub mod local;
pub mod net;
pub mod node;
pub mod nodes;
pub mod offer;
pub mod policy;
pub mod price;
pub mod random;
pub mod reading;
pub mod run;
pub mod settings;
pub mod start;
pub mod start_socket;
pub mod status;
pub mod view;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::config::Config;
use crate::policy::Registry;
use crate::run::RunError;

/// A moment: time since some moment that whoever drives the core has chosen. It never goes back.
pub type Time = std::time::Duration;

/// Exit status for a configuration that cannot be used, as sysexits.h has it.
const EXIT_CONFIG: u8 = 78;

/// A whole scheduler with the policies of `registry`: reads the command line and runs until it is told to stop.
#[must_use]
pub fn main(registry: &Registry) -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    if cli.check || cli.print_config {
        return show_config(&cli, registry);
    }
    match run::run(&cli, registry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            match error {
                RunError::Config(_) | RunError::Key(_) => ExitCode::from(EXIT_CONFIG),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn show_config(cli: &Cli, registry: &Registry) -> ExitCode {
    let config = match Config::load(cli.config.as_deref()) {
        Ok(config) => cli.over(config),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if cli.print_config {
        match toml::to_string(&config) {
            Ok(text) => print!("{text}"),
            Err(error) => eprintln!("{error}"),
        }
    }
    match config.check(registry) {
        Ok(_) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// Compiles what docs/writing-a-scheduler.md shows.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/writing-a-scheduler.md")]
struct WritingAScheduler;
