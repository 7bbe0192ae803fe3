//! `om`, the command line: starts jobs, shows nodes and jobs, moves them, and throws the node's switches.
//!
//! It decides nothing: what it shows it has from the om files, the nodes' datagrams and the scheduler's status socket,
//! and what it changes it writes into the om files.

mod cli;
mod columns;
mod drain;
mod ear;
mod error;
mod history;
mod job;
mod keygen;
mod lock;
mod manual;
mod moving;
mod node;
mod nodes;
mod omfiles;
mod ps;
mod run;
mod scheduler;
mod signals;
mod switch;
mod sys;
mod terminal;
mod top;
mod units;
mod why;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use om_proto::omfs::{OmRoot, Switch};

use crate::cli::{Cli, Command};
use crate::error::{EXIT_USAGE, Failure};

fn main() -> ExitCode {
    sys::restore_sigpipe();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain_usage(&error),
    };
    match carry_out(cli) {
        Ok(status) => status,
        Err(failure) => {
            // If nobody reads stderr, the exit status has to do.
            let _ = writeln!(io::stderr(), "om: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

/// Help and version as they were asked for; what was not understood on one line.
fn explain_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A reader that has left needs no help any more.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let first: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let first = first.join(" ");
    let what = first.strip_prefix("error: ").unwrap_or("what is to be done?");
    let _ = writeln!(io::stderr(), "om: {what}; --help shows the usage");
    ExitCode::from(EXIT_USAGE)
}

fn carry_out(cli: Cli) -> Result<ExitCode, Failure> {
    let root = || omfiles::find(cli.om_root.as_deref());
    match cli.command {
        Command::Run(args) => run::run(&OmRoot::discover(cli.om_root.as_deref()), args),
        Command::Ps(args) => ps::run(&root(), &args),
        Command::Nodes(args) => nodes::run(&args),
        Command::Top(args) => top::run(&OmRoot::discover(cli.om_root.as_deref()), &args),
        Command::Move(args) => moving::run(&root(), &args),
        Command::Lock(args) => lock::run(&root(), args.pid, true),
        Command::Unlock(args) => lock::run(&root(), args.pid, false),
        Command::Block(args) => switch::run(&root(), Switch::Block, &args),
        Command::Stay(args) => switch::run(&root(), Switch::Stay, &args),
        Command::Expel(args) => switch::run(&root(), Switch::Expel, &args),
        Command::Bring(args) => switch::run(&root(), Switch::Bring, &args),
        Command::Drain(args) => drain::run(&root(), &args),
        Command::Why(args) => why::run(&args),
        Command::History(args) => history::run(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Completions(args) => Ok(manual::completions(args.shell)),
        Command::Man(args) => manual::man_pages(&args.dir),
    }
}
