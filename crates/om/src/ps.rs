//! `om ps`: the jobs of this node.

use std::process::ExitCode;

use om_proto::omfs::OmRoot;
use serde_json::json;

use crate::cli::PsArgs;
use crate::columns::{Columns, harmless};
use crate::error::Failure;
use crate::job::{Job, Reader};
use crate::units;

const HEADS: [&str; 9] = [">PID", "USER", "WHERE", "STATE", ">CPU", ">MEM", ">MOVES", "STAY", "COMMAND"];
const ALL_HEADS: [&str; 15] = [
    ">PID", "JOB", "USER", "HOME", "WHERE", "MAY RUN", "STATE", ">CPU", ">RUN", ">MEM", ">THREADS", ">AGE",
    ">MOVES", "STAY", "COMMAND",
];

/// Lists the jobs.
pub fn run(root: &OmRoot, args: &PsArgs) -> Result<ExitCode, Failure> {
    let jobs = Reader::new(root).all()?;
    if args.json {
        println!("{}", json!({ "jobs": jobs }));
    } else if jobs.is_empty() {
        println!("no jobs on this node; om run CMD starts one");
    } else if args.all {
        print!("{}", table_of_all(&jobs));
    } else {
        print!("{}", table(&jobs).cut_at_terminal());
    }
    Ok(ExitCode::SUCCESS)
}

/// The jobs, a line each.
pub fn table(jobs: &[Job]) -> Columns {
    let mut table = Columns::new(&HEADS);
    for job in jobs {
        table.row(vec![
            job.pid.to_string(),
            user(job),
            job.place_in_words(),
            or_dash(job.state.clone()),
            or_dash(job.cpu_us.map(units::cpu_time)),
            or_dash(job.rss_bytes.map(units::bytes)),
            or_dash(job.moves),
            or_dash(Some(job.stay_words()).filter(|words| !words.is_empty())),
            command(job),
        ]);
    }
    table
}

fn table_of_all(jobs: &[Job]) -> Columns {
    let mut table = Columns::new(&ALL_HEADS);
    for job in jobs {
        let stay = job.stay_reasons.join("; ");
        table.row(vec![
            job.pid.to_string(),
            or_dash(job.job.clone()),
            user(job),
            or_dash(job.home_address),
            job.place_in_words(),
            Some(job.bounds_in_words())
                .filter(|words| !words.is_empty())
                .unwrap_or_else(|| "anywhere".into()),
            or_dash(job.state.clone()),
            or_dash(job.cpu_us.map(units::cpu_time)),
            or_dash(job.runnable),
            or_dash(job.rss_bytes.map(units::bytes)),
            or_dash(job.threads),
            or_dash(job.age_ms.map(units::ago)),
            or_dash(job.moves),
            or_dash(Some(harmless(&stay)).filter(|stay| !stay.is_empty())),
            command(job),
        ]);
    }
    table
}

fn user(job: &Job) -> String {
    or_dash(job.user.clone().or_else(|| job.uid.map(|uid| uid.to_string())))
}

fn command(job: &Job) -> String {
    or_dash(job.command.as_deref().map(harmless))
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
