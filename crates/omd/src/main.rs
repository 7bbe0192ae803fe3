//! The omd binary: reads the command line and the configuration, and runs the daemon.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use log::error;
use om_proto::key::KeyFile;
use omd::cli::Cli;
use omd::config::Config;
use omd::run;

/// `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_target(false)
        .init();
    let config = match Config::load(cli.config.as_deref()) {
        Ok(config) => config,
        Err(problem) => {
            error!("{problem}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if cli.print_config {
        let printed = config.to_toml().map_err(std::io::Error::other);
        return match printed.and_then(|text| std::io::stdout().write_all(text.as_bytes())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                error!("cannot print the configuration: {problem}");
                ExitCode::FAILURE
            }
        };
    }
    let keys = match KeyFile::open(&config.key_file) {
        Ok(keys) => keys,
        Err(problem) => {
            error!("{problem}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if cli.check {
        return ExitCode::SUCCESS;
    }
    match run::run(cli.config, config, keys) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    }
}
