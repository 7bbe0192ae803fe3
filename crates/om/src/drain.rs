//! `om drain`: empties the node before om-migd is stopped for good.
//!
//! ```text
//! guest ──▶ home ──failed──▶ another node that takes guests, the fastest first ──failed──▶ home again, …
//! own job ─▶ home
//! ```
//!
//! om-migd itself need not be drained to be restarted or upgraded: jobs outlive it. A unit of systemd has one command
//! for both, `ExecStop`, so that this command has to tell them apart: see [`is_restarting`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use om_proto::omfs::{Destination, OmRoot, Switch};

use crate::cli::{DrainArgs, HearingArgs, SwitchTo};
use crate::ear::Ear;
use crate::error::Failure;
use crate::job::{Job, Reader};
use crate::node::NodeSeen;
use crate::switch;

/// How often the jobs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two attempts to move one job.
const TRY_EVERY: Duration = Duration::from_secs(2);
/// If om-migd does not say.
const GRACE_S: u32 = 80;

/// Empties the node, or says how it stands.
pub fn run(root: &OmRoot, args: &DrainArgs) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::of_node(root.path(), error);
    match args.to {
        SwitchTo::Show => {
            println!("{}", if root.is_on(Switch::Drain).map_err(failed)? { "on" } else { "off" });
        }
        SwitchTo::Off => root.set_admin(Switch::Drain, false).map_err(failed)?,
        SwitchTo::On => {
            if args.unless_restarting.as_deref().is_some_and(is_restarting) {
                return Ok(ExitCode::SUCCESS);
            }
            let configured = root.stop_grace_s().map_err(failed)?;
            let within = args.within.or(configured).unwrap_or(GRACE_S);
            root.set_admin(Switch::Drain, true).map_err(failed)?;
            empty(root, Duration::from_secs(within.into()), &args.hearing)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether systemd is stopping this unit only to start it again. Without systemd it is not.
fn is_restarting(unit: &str) -> bool {
    let listed = Command::new("systemctl").args(["list-jobs", "--no-legend", "--plain", unit]).output();
    listed.is_ok_and(|output| is_restart(&String::from_utf8_lossy(&output.stdout), unit))
}

/// Looks for the unit's job in the lines of `systemctl list-jobs`: number, unit, type, state.
fn is_restart(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(unit) && words.next() == Some("restart")
    })
}

/// Moves jobs until none is left that should be elsewhere.
fn empty(root: &OmRoot, within: Duration, hearing: &HearingArgs) -> Result<(), Failure> {
    let mut reader = Reader::new(root);
    let begin = Instant::now();
    // om-migd itself has asked each to go home as the first thing.
    let mut attempts: HashMap<u32, Attempt> = HashMap::new();
    loop {
        let jobs = reader.all()?;
        let left: Vec<Job> =
            jobs.into_iter().filter(|job| switch::is_concerned(Switch::Drain, job)).collect();
        if left.is_empty() {
            return Ok(());
        }
        if begin.elapsed() >= within {
            let jobs = switch::name_all(&left);
            return Err(Failure::Refused(format!("not moved within {} s: {jobs}", within.as_secs())));
        }
        for job in left.iter().filter(|job| !job.is_moving()) {
            let attempt = attempts.entry(job.pid).or_insert_with(Attempt::home);
            if attempt.since.elapsed() >= TRY_EVERY {
                *attempt = Attempt { since: Instant::now(), at_home: !attempt.at_home, ..*attempt };
                let to = attempt.destination(job, hearing);
                // What is wrong is told in the end, if it stays so.
                let _ = root.process(job.pid).request(to);
            }
        }
        sleep(LOOK_EVERY);
    }
}

/// The last attempt to move a job.
struct Attempt {
    since: Instant,
    /// It was to go home.
    at_home: bool,
    /// Where else it has been tried.
    elsewhere: usize,
}

impl Attempt {
    fn home() -> Self {
        Self { since: Instant::now(), at_home: true, elsewhere: 0 }
    }

    /// Home and the other nodes by turns; own jobs have nowhere else to go.
    fn destination(&mut self, job: &Job, hearing: &HearingArgs) -> Destination {
        if self.at_home || !job.guest {
            return Destination::Home;
        }
        let nodes = Ear::hear(hearing).map(|mut ear| ear.nodes()).unwrap_or_default();
        let others = others(&nodes, job.home_address);
        self.elsewhere += 1;
        match others.len() {
            0 => Destination::Home,
            count => Destination::Node(others[(self.elsewhere - 1) % count]),
        }
    }
}

/// Where a guest with this home can go, the best first.
fn others(nodes: &[NodeSeen], home: Option<IpAddr>) -> Vec<IpAddr> {
    let takes = |node: &&NodeSeen| !node.here && Some(node.address) != home && node.takes_guests();
    let mut rated: Vec<(f64, IpAddr)> = nodes
        .iter()
        .filter(takes)
        .map(|node| (node.slowdown_with_one_more().unwrap_or(f64::MAX), node.address))
        .collect();
    rated.sort_by(|one, other| one.0.total_cmp(&other.0));
    rated.into_iter().map(|(_, address)| address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_of_the_unit_is_told_from_its_stop() {
        let jobs = "1234 other.service   restart waiting\n1240 om-migd.service restart running\n";
        assert!(is_restart(jobs, "om-migd.service"));
        assert!(!is_restart(
            &jobs.replace("om-migd.service restart", "om-migd.service stop"),
            "om-migd.service"
        ));
        assert!(!is_restart("No jobs running.\n", "om-migd.service"));
    }
}
