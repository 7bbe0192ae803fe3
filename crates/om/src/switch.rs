//! `om block`, `om stay`, `om expel`, `om bring`: the node's own switches, and waiting for what they do.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use om_proto::omfs::{OmRoot, Switch, Where};

use crate::cli::{SwitchArgs, SwitchTo};
use crate::error::Failure;
use crate::job::{Job, Reader};

/// How often the jobs are looked at while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Jobs that have not begun to move by then are not going to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Throws a switch, or says how it stands.
pub fn run(root: &OmRoot, switch: Switch, args: &SwitchArgs) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::of_node(root.path(), error);
    match args.to {
        SwitchTo::Show => {
            println!("{}", if root.is_on(switch).map_err(failed)? { "on" } else { "off" });
        }
        SwitchTo::Off => root.set_admin(switch, false).map_err(failed)?,
        SwitchTo::On => {
            root.set_admin(switch, true).map_err(failed)?;
            if args.wait {
                wait(root, switch)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until no job is left that the switch wants elsewhere.
fn wait(root: &OmRoot, switch: Switch) -> Result<(), Failure> {
    let mut reader = Reader::new(root);
    let begin = Instant::now();
    let mut progress = begin;
    let mut left_before = usize::MAX;
    loop {
        let left: Vec<Job> = reader.all()?.into_iter().filter(|job| is_concerned(switch, job)).collect();
        if left.is_empty() {
            return Ok(());
        }
        if left.len() < left_before || left.iter().any(Job::is_moving) {
            (left_before, progress) = (left.len().min(left_before), Instant::now());
        }
        if progress.elapsed() > PATIENCE {
            return Err(Failure::Refused(stuck(switch, &left)));
        }
        sleep(LOOK_EVERY);
    }
}

/// Whether the switch wants this job elsewhere.
pub fn is_concerned(switch: Switch, job: &Job) -> bool {
    let is_away = !job.guest && job.place != Where::Home.to_string();
    match switch {
        Switch::Expel => job.guest,
        Switch::Bring => is_away,
        Switch::Drain => job.guest || is_away,
        Switch::Block | Switch::Stay => false,
    }
}

/// The jobs, each with what keeps it.
pub fn name_all(left: &[Job]) -> String {
    let jobs: Vec<String> = left
        .iter()
        .map(|job| match job.last_result.as_deref().filter(|result| result.starts_with("failed")) {
            _ if !job.stay_words().is_empty() => format!("{} ({})", job.pid, job.stay_words()),
            Some(result) => format!("{} ({result})", job.pid),
            None => job.pid.to_string(),
        })
        .collect();
    jobs.join(", ")
}

fn stuck(switch: Switch, left: &[Job]) -> String {
    let what = if switch == Switch::Expel { "guests are still here" } else { "jobs are still away" };
    format!("{what} and do not move: {}; {} stays on", name_all(left), switch.name())
}
