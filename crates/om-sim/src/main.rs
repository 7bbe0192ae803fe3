//! om-sim: compares scheduling policies on a simulated cluster.

use std::process::ExitCode;

use clap::Parser;
use om_sched::policy::Registry;
use om_sim::cli::{Cli, Command};
use om_sim::run::{RunError, compare};

/// Exit status for a command line that makes no sense.
const EXIT_USAGE: u8 = 2;
/// Exit status for a configuration that cannot be used, as sysexits.h has it.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let Command::Run(run) = Cli::parse().command;
    match compare(&run, &Registry::stock) {
        Ok(comparison) if run.json => match serde_json::to_string(&comparison) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("om-sim: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(comparison) => {
            print!("{comparison}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("om-sim: {error}");
            match error {
                RunError::Config(_) => ExitCode::from(EXIT_CONFIG),
                RunError::Value { .. } | RunError::Policy(_) => ExitCode::from(EXIT_USAGE),
                RunError::Wire(_) | RunError::Trace(_) => ExitCode::FAILURE,
            }
        }
    }
}
