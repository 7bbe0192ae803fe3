//! The command line of a scheduler binary. What it says outranks the configuration file.

use std::path::PathBuf;

use clap::Parser;

use crate::config::Config;

/// Listens to the nodes of the cluster and decides which job moves where.
///
/// Exit status: 0 stopped or checked, 1 failed, 2 wrong usage, 78 wrong configuration.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Configuration file [default: /etc/om/om-sched.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration, say all that is wrong with it, and exit
    #[arg(long)]
    pub check: bool,
    /// Print the configuration that would be used, and exit
    #[arg(long)]
    pub print_config: bool,
    /// Only tell what would be moved; move nothing, ask nobody, answer nobody
    #[arg(long)]
    pub dry_run: bool,
    /// Where the om files are [default: $OM_ROOT, /proc if this kernel has them, else /run/om/proc]
    #[arg(long, value_name = "DIR")]
    pub om_root: Option<PathBuf>,
    /// The policy that decides [default: cost]
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
}

impl Cli {
    /// The configuration as the command line wants it.
    #[must_use]
    pub fn over(&self, mut config: Config) -> Config {
        config.dry_run |= self.dry_run;
        if let Some(root) = &self.om_root {
            config.om_root = Some(root.clone());
        }
        if let Some(policy) = &self.policy {
            config.policy.clone_from(policy);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_outranks_the_file() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["om-sched", "--dry-run", "--policy", "none", "--om-root", "/x"]);
        let config = cli.over(Config::default());
        assert!(config.dry_run);
        assert_eq!((config.policy.as_str(), config.om_root), ("none", Some(PathBuf::from("/x"))));
    }
}
