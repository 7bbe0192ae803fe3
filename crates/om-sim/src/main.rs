//! om-sim: compares scheduling policies on a simulated cluster.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use om_sched::policy::Registry;
use om_sim::cli::{Cli, Command};
use om_sim::run::{Comparison, RunError, compare};

/// Exit status for a command line that makes no sense.
const EXIT_USAGE: u8 = 2;
/// Exit status for a configuration that cannot be used, as sysexits.h has it.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let Command::Run(run) = Cli::parse().command;
    match compare(&run, &Registry::stock) {
        Ok(comparison) => report(&comparison, run.json),
        Err(error) => {
            eprintln!("om-sim: {error}");
            match error {
                RunError::Config(_) => ExitCode::from(EXIT_CONFIG),
                RunError::Value { .. } | RunError::NoJobs { .. } | RunError::Policy(_) => {
                    ExitCode::from(EXIT_USAGE)
                }
                RunError::Wire(_) | RunError::Trace(_) | RunError::Plot { .. } => ExitCode::FAILURE,
            }
        }
    }
}

fn report(comparison: &Comparison, json: bool) -> ExitCode {
    let text = if json {
        serde_json::to_string(comparison).map(|text| text + "\n").map_err(io::Error::from)
    } else {
        Ok(comparison.to_string())
    };
    if let Err(error) = text.and_then(|text| io::stdout().write_all(text.as_bytes())) {
        eprintln!("om-sim: {error}");
        return ExitCode::FAILURE;
    }
    match comparison.violations() {
        0 => ExitCode::SUCCESS,
        count => {
            eprintln!("om-sim: invariants were broken {count} times; see above");
            ExitCode::FAILURE
        }
    }
}
