//! What om-sched tells on its status socket: one JSON document for each connection.
//!
//! Fields that this release does not know are passed over, and those that the scheduler does not tell are empty, so that
//! one's own scheduler may tell less.

use std::io::{ErrorKind, Read as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::error::Failure;

/// The version of the document that is understood.
const VERSION: u64 = 1;
/// A scheduler that does not answer by then does not answer.
const PATIENCE: Duration = Duration::from_secs(6);
/// Far more than a document of ten thousand nodes.
const LIMIT: u64 = 64 << 20;

/// The document, as far as `om` uses it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Changes if a field has to change its meaning.
    pub version: u64,
    /// The policy's name.
    pub policy: String,
    /// Nothing is moved.
    pub dry_run: bool,
    /// Why nothing at all can be decided.
    pub problem: Option<String>,
    /// The nodes that it hears.
    pub nodes: Vec<NodeName>,
    /// The jobs that it decides about.
    pub jobs: Vec<JobSays>,
    /// Its decisions, the oldest first, as they came.
    pub decisions: Vec<Value>,
}

/// How a node is called.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeName {
    /// The address that names it.
    pub address: IpAddr,
    #[serde(default)]
    identity: Option<Identity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Identity {
    host_name: String,
    addresses: Vec<IpAddr>,
}

impl NodeName {
    /// Whether that is its host name.
    pub fn is_called(&self, name: &str) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.host_name == name)
    }

    /// Whether that is one of its addresses.
    pub fn has(&self, address: IpAddr) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.addresses.contains(&address))
    }
}

/// What is thought of a job.
#[derive(Clone, Debug, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub struct JobSays {
    /// Its entry in the om files.
    pub pid: u32,
    /// Its command.
    pub command: String,
    /// Runnable tasks, averaged.
    pub tasks: f64,
    /// Why it cannot move now.
    pub refusal: Option<String>,
    /// Where it could go, the best first.
    pub candidates: Vec<CandidateSays>,
}

/// What is thought of a job on a node.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
pub struct CandidateSays {
    /// The node.
    pub address: IpAddr,
    /// What the policy computes.
    #[serde(default)]
    pub weighing: Option<Weighing>,
    /// Why the job cannot go there.
    #[serde(default)]
    pub refusal: Option<String>,
}

/// The figures of a decision, in seconds and slowdowns.
#[derive(Clone, Copy, Debug, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub struct Weighing {
    /// Runnable tasks that would move.
    pub tasks: f64,
    /// Slowdown saved, summed over all jobs of both nodes.
    pub delta_j: f64,
    /// CPU seconds that each task is expected still to need.
    pub remaining_s: f64,
    /// Seconds that the move takes.
    pub cost_s: f64,
    /// What is gained.
    pub gain_s: f64,
    /// Whether that is enough for the policy, if it tells.
    pub is_enough: Option<bool>,
}

/// What `om` shows of a decision.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DecisionSays {
    /// The job's entry.
    pub pid: u32,
    /// How long ago it was made.
    pub decided_ms_ago: u64,
    /// All of it, for people.
    pub text: String,
}

impl Status {
    /// Asks the scheduler.
    ///
    /// # Errors
    /// [`Failure::NoScheduler`] with what to do.
    pub fn ask(socket: &Path) -> Result<Self, Failure> {
        let no_scheduler = |why: String| Failure::NoScheduler { socket: socket.to_owned(), why };
        let mut stream = UnixStream::connect(socket).map_err(|error| {
            no_scheduler(match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    "it is not running; start it (systemctl start om-sched)".to_owned()
                }
                _ => error.to_string(),
            })
        })?;
        let mut text = String::new();
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.by_ref().take(LIMIT).read_to_string(&mut text))
            .map_err(|error| match error.kind() {
                ErrorKind::WouldBlock => no_scheduler("it does not answer".to_owned()),
                _ => no_scheduler(error.to_string()),
            })?;
        let status: Self = serde_json::from_str(&text)
            .map_err(|error| no_scheduler(format!("its answer is not understood: {error}")))?;
        if status.version != VERSION {
            return Err(no_scheduler("it is of another release than om; install the same".to_owned()));
        }
        Ok(status)
    }

    /// The decisions as `om` shows them, the oldest first.
    pub fn decisions(&self) -> impl Iterator<Item = DecisionSays> + '_ {
        self.decisions.iter().filter_map(|value| DecisionSays::deserialize(value).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_may_say_more_and_less() {
        let text = r#"{"version":1,"policy":"cost","new":[1],"jobs":[{"pid":7,"candidates":[{"address":"10.0.0.2",
            "weighing":{"gain_s":1.5,"here":{"cpus":1}}}]}],"decisions":[{"pid":7,"text":"moved","decided_ms_ago":3}]}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(status.jobs[0].candidates[0].weighing.unwrap().gain_s.to_string(), "1.5");
        assert_eq!(status.decisions().next().unwrap().text, "moved");
    }
}
