//! `om history`: what the scheduler of this node has decided lately, the oldest first.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::HistoryArgs;
use crate::columns::harmless;
use crate::error::Failure;
use crate::scheduler::Status;
use crate::units;

/// Prints the decisions.
pub fn run(args: &HistoryArgs) -> Result<ExitCode, Failure> {
    let status = Status::ask(&args.scheduler.socket)?;
    let skip = status.decisions.len().saturating_sub(args.last.unwrap_or(usize::MAX));
    if args.json {
        println!("{}", json!({ "policy": status.policy, "decisions": &status.decisions[skip..] }));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(problem) = &status.problem {
        println!("nothing is decided on this node: {problem}");
    }
    if status.decisions.is_empty() {
        println!("nothing has been decided yet (policy {})", status.policy);
    }
    for decision in status.decisions().skip(skip) {
        println!("{:>4} ago  {}", units::ago(decision.decided_ms_ago), harmless(&decision.text));
    }
    Ok(ExitCode::SUCCESS)
}
