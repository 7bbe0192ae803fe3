//! `om lock` and `om unlock`: pins a job where it is, or lets it go.

use std::process::ExitCode;

use om_proto::omfs::{OmError, OmRoot};

use crate::error::Failure;

/// Pins the job, or lets it go.
pub fn run(root: &OmRoot, pid: u32, locked: bool) -> Result<ExitCode, Failure> {
    root.process(pid).set_locked(locked).map_err(|error| match error {
        OmError::Unsupported { .. } => Failure::Job {
            pid,
            what: "this kernel's om files have no lock; a scheduler's own configuration may keep the job"
                .into(),
        },
        other => Failure::of_job(root.path(), pid, other),
    })?;
    Ok(ExitCode::SUCCESS)
}
