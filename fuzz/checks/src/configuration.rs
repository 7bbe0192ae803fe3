//! What an administrator or a user may have written.

use std::path::Path;

use om_sched::policy::Registry;

const NODES: u32 = 5;

/// The daemons' configuration files: each is understood, or refused in one line.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("file.toml");
    match omd::config::Config::parse(text, path) {
        Ok(config) => {
            assert!(config.check().is_empty());
            let printed = config.to_toml().unwrap_or_default();
            assert_eq!(omd::config::Config::parse(&printed, path).ok(), Some(config));
        }
        Err(error) => is_one_line(&error.to_string()),
    }
    match om_migd::daemon::Config::parse(text, path) {
        Ok(_) => {}
        Err(error) => is_one_line(&error.to_string()),
    }
    match om_sched::config::Config::parse(text) {
        Ok(config) => {
            if let Err(problems) = config.check(&Registry::stock()) {
                problems.iter().for_each(|problem| is_one_line(problem));
            }
        }
        Err(error) => is_one_line(&error),
    }
}

/// The simulator's traces, in both formats.
pub fn trace(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for is_swf in [false, true] {
        match om_sim::trace::parse(text, is_swf, NODES, 2.0) {
            Ok(jobs) => {
                assert!(jobs.iter().all(|job| job.node < NODES && job.threads > 0 && job.work_s > 0.0))
            }
            Err((line, message)) => {
                assert!(line > 0);
                is_one_line(&message);
            }
        }
    }
}

fn is_one_line(message: &str) {
    assert!(!message.contains('\n'), "{message:?}");
}
