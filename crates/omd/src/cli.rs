//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Tells the other nodes what this one is like: CPUs, load, memory, guests.
///
/// Needs no privilege and no configuration. SIGTERM: says goodbye and stops. SIGHUP: reads configuration and key
/// again, and keeps the old ones if the new ones cannot be used. Log: RUST_LOG, as in RUST_LOG=debug.
///
/// Exit status: 0 stopped as asked, 1 it could not go on, 2 wrong usage, 78 wrong configuration or key.
#[derive(Clone, Debug, Parser)]
#[command(name = "omd", version)]
pub struct Cli {
    /// Configuration file [default: /etc/om/omd.toml, which need not exist]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check configuration and key, and stop
    #[arg(long)]
    pub check: bool,
    /// Print the configuration that is in force, defaults included, and stop
    #[arg(long)]
    pub print_config: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
