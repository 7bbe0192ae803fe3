//! What packages ship beside the program: completions and man pages, from the definition of the command line.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::Failure;

/// Prints what a shell needs to complete the arguments.
pub fn completions(shell: Shell) -> ExitCode {
    clap_complete::generate(shell, &mut Cli::command(), "om", &mut io::stdout());
    ExitCode::SUCCESS
}

/// Writes `om.1`, `om-run.1` and so on into a directory, which is made.
pub fn man_pages(dir: &Path) -> Result<ExitCode, Failure> {
    let written = fs::create_dir_all(dir).and_then(|()| {
        let mut command = Cli::command();
        command.build();
        clap_mangen::generate_to(command, dir)
    });
    written.map_err(Failure::io(format!("write man pages into {}", dir.display())))?;
    Ok(ExitCode::SUCCESS)
}
