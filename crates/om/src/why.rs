//! `om why`: what the scheduler of this node thinks of a job, and what it has decided about it.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::WhyArgs;
use crate::columns::{Columns, harmless};
use crate::error::Failure;
use crate::scheduler::{CandidateSays, JobSays, Status};
use crate::units;

const HEADS: [&str; 6] = ["NODE", ">GAIN", ">STILL NEEDS", ">SLOWDOWN SAVED", ">MOVE COSTS", "VERDICT"];
/// Decisions shown.
const DECISIONS: usize = 5;

/// Explains.
pub fn run(args: &WhyArgs) -> Result<ExitCode, Failure> {
    let status = Status::ask(&args.scheduler.socket)?;
    let job = status.jobs.iter().find(|job| job.pid == args.pid);
    let decisions: Vec<_> = status.decisions().filter(|decision| decision.pid == args.pid).collect();
    if job.is_none() && decisions.is_empty() {
        let what = "the scheduler of this node knows no such job; it decides about those that run here (om ps), \
                    and that of the node where a job runs about the others";
        return Err(Failure::Job { pid: args.pid, what: what.into() });
    }
    if args.json {
        let raw: Vec<_> =
            status.decisions.iter().filter(|decision| decision["pid"] == json!(args.pid)).collect();
        println!(
            "{}",
            json!({ "policy": status.policy, "problem": status.problem, "job": job, "decisions": raw })
        );
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(problem) = &status.problem {
        println!("nothing is decided on this node: {problem}");
    }
    match job {
        Some(job) => print!("{}", explain(job, &status)),
        None => println!("{}: is not among the jobs that are decided about here now", args.pid),
    }
    for decision in decisions.iter().skip(decisions.len().saturating_sub(DECISIONS)) {
        println!("{} ago: {}", units::ago(decision.decided_ms_ago), harmless(&decision.text));
    }
    if decisions.is_empty() {
        println!("nothing has been decided about it lately");
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(job: &JobSays, status: &Status) -> String {
    let dry = if status.dry_run { ", dry run: nothing is moved" } else { "" };
    let can = match &job.refusal {
        Some(refusal) => format!("it does not move now: {}", harmless(refusal)),
        None => "it could move".to_owned(),
    };
    let head = format!(
        "{} ({}): {:.1} runnable tasks, policy {}{dry}; {can}\n",
        job.pid,
        harmless(&job.command),
        job.tasks,
        status.policy
    );
    if job.candidates.is_empty() {
        let alone = "no other node is known that it could go to\n";
        return if job.refusal.is_none() { head + alone } else { head };
    }
    let mut table = Columns::new(&HEADS);
    for candidate in &job.candidates {
        table.row(row(candidate, job.refusal.is_none()));
    }
    head + &table.to_string()
}

fn row(candidate: &CandidateSays, can_move: bool) -> Vec<String> {
    let seconds = |value: f64| format!("{value:.2} s");
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), seconds);
    let weighing = candidate.weighing;
    let verdict = match (&candidate.refusal, weighing) {
        (Some(refusal), _) => harmless(refusal),
        (None, Some(weighing)) if weighing.gain_s <= 0.0 => "not worth it".to_owned(),
        (None, Some(weighing)) if weighing.is_enough == Some(false) => "wins too little".to_owned(),
        (None, _) if !can_move => "the job does not move".to_owned(),
        (None, Some(_)) => "pays".to_owned(),
        (None, None) => "possible; the policy computes nothing".to_owned(),
    };
    vec![
        candidate.address.to_string(),
        figure(weighing.map(|weighing| weighing.gain_s)),
        figure(weighing.map(|weighing| weighing.remaining_s)),
        weighing.map_or_else(|| "-".to_owned(), |weighing| format!("{:.2}", weighing.delta_j)),
        figure(weighing.map(|weighing| weighing.cost_s)),
        verdict,
    ]
}
