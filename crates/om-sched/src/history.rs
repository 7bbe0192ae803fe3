//! The decisions of the recent past: what was to move where, with which figures, and what became of it.
//!
//! A ring, so that its size is bounded whatever happens. It feeds `om why` and `om history` and decides nothing.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::Time;
use crate::figures::Figures;
use crate::view::Weighing;

/// What became of a decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Outcome {
    /// The node has been asked.
    Asked,
    /// The node does not want it.
    Refused {
        /// Its own words.
        reason: String,
    },
    /// The node did not answer.
    Unanswered,
    /// On second thoughts, with fresh figures, it is not worth it.
    Dropped {
        /// Why not.
        reason: String,
    },
    /// The request is written.
    Requested,
    /// The job is there.
    Moved {
        /// From the request to the arrival.
        took_ms: u64,
        /// For how long the job stood still; `None` if that was not told.
        downtime_ms: Option<u64>,
        /// What it has brought, once that could be seen.
        share: Option<Share>,
    },
    /// A new job was to begin there, on the node that `to` names.
    Started {
        /// How many nodes were asked.
        asked: usize,
        /// For how long the job waited for their answers.
        took_ms: u64,
        /// What it could expect here and what it got there, once that could be seen.
        share: Option<Share>,
    },
    /// The job ended before its move was over.
    Ended,
    /// The job stayed where it was.
    Failed {
        /// Why.
        reason: String,
    },
    /// `--dry-run`: it would have been asked for.
    WouldMove,
}

/// How much CPU time a job got before a move and since, seconds a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Before; what it could expect here, if it was started there.
    pub before: f64,
    /// Since it arrived.
    pub after: f64,
}

impl Outcome {
    /// Whether nothing more will become of it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Asked | Self::Requested)
    }

    /// The same, with what it brought.
    #[must_use]
    pub fn with_share(self, brought: Share) -> Self {
        let share = Some(brought);
        match self {
            Self::Moved { took_ms, downtime_ms, .. } => Self::Moved { took_ms, downtime_ms, share },
            Self::Started { asked, took_ms, .. } => Self::Started { asked, took_ms, share },
            other => other,
        }
    }
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Counts up from 1.
    pub id: u64,
    /// When it was made.
    #[serde(skip)]
    pub at: Time,
    /// When its outcome last changed.
    #[serde(skip)]
    pub changed: Time,
    /// The job's entry in the om files.
    pub pid: u32,
    /// Its command.
    pub command: String,
    /// This node.
    pub from: IpAddr,
    /// Where it was to go.
    pub to: IpAddr,
    /// Why, in plain words.
    pub reason: String,
    /// What was computed, if anything was.
    pub weighing: Option<Weighing>,
    /// Its resident memory.
    pub rss_bytes: u64,
    /// What became of it.
    pub outcome: Outcome,
}

impl fmt::Display for Decision {
    /// One line that a person can read, with all figures.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) to {}: ", self.pid, short(&self.command), self.to)?;
        match &self.outcome {
            Outcome::Asked => f.write_str("asking")?,
            Outcome::Refused { reason } => write!(f, "refused there: {reason}")?,
            Outcome::Unanswered => f.write_str("no answer")?,
            Outcome::Dropped { reason } => write!(f, "dropped: {reason}")?,
            Outcome::Requested => f.write_str("moving")?,
            Outcome::Moved { took_ms, downtime_ms, share } => {
                write!(f, "moved in {took_ms} ms")?;
                if let Some(downtime) = downtime_ms {
                    write!(f, ", stood still for {downtime} ms")?;
                }
                if let (Some(_), Some(weighing)) = (downtime_ms, &self.weighing) {
                    write!(f, " ({:.0} expected)", weighing.cost_s * 1000.0)?;
                }
                if let Some(Share { before, after }) = share {
                    write!(f, ", got {before:.2} CPUs before and {after:.2} since")?;
                }
            }
            Outcome::Started { asked, took_ms, share } => {
                let place = if self.to == self.from { "here" } else { "there" };
                write!(f, "starts {place}, {asked} asked in {took_ms} ms")?;
                if let Some(Share { after, .. }) = share {
                    write!(f, ", got {after:.2} CPUs")?;
                }
            }
            Outcome::Ended => f.write_str("ended before its move was over")?,
            Outcome::Failed { reason } => write!(f, "stays, the move failed: {reason}")?,
            Outcome::WouldMove => f.write_str("would move (dry run)")?,
        }
        write!(f, "; {}", self.reason)?;
        if let Some(weighing) = &self.weighing {
            let (here, there) = (weighing.here, weighing.there);
            write!(
                f,
                " (it may need another {:.2} s of CPU, each of them saves {:.2} s; {:.1} tasks, {} MiB; here {}, there {})",
                weighing.remaining_s,
                weighing.delta_j,
                weighing.tasks,
                self.rss_bytes >> 20,
                node_in_words(&here),
                node_in_words(&there),
            )?;
        }
        Ok(())
    }
}

/// How busy a node is, in a few words.
fn node_in_words(figures: &Figures) -> String {
    let speed = figures.speed * 1000.0;
    let others = format!(" and {:.1} others", figures.background);
    let others = if figures.background < 0.05 { "" } else { &others };
    format!("{:.1} of jobs{others} on {:.1} CPUs of speed {speed:.0}", figures.movable, figures.cpus)
}

/// The first words of a command line, without anything that could disturb a terminal or a log.
fn short(command: &str) -> String {
    let clean: String = command.chars().map(|c| if c.is_control() { ' ' } else { c }).take(40).collect();
    if clean.len() < command.len() { format!("{}…", clean.trim_end()) } else { clean }
}

/// The ring.
#[derive(Clone, Debug)]
pub struct History {
    ring: VecDeque<Decision>,
    limit: usize,
    next_id: u64,
}

impl History {
    /// A ring of `limit` decisions.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { ring: VecDeque::new(), limit: limit.max(1), next_id: 1 }
    }

    /// Changes how many are kept.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
        while self.ring.len() > self.limit {
            self.ring.pop_front();
        }
    }

    /// Records a decision and gives it its number.
    pub fn record(&mut self, mut decision: Decision) -> &Decision {
        decision.id = self.next_id;
        self.next_id += 1;
        while self.ring.len() >= self.limit {
            self.ring.pop_front();
        }
        self.ring.push_back(decision);
        &self.ring[self.ring.len() - 1]
    }

    /// Says what became of a decision; `None` if it has left the ring.
    pub fn update(&mut self, now: Time, id: u64, outcome: Outcome) -> Option<&Decision> {
        let decision = self.ring.iter_mut().rev().find(|decision| decision.id == id)?;
        decision.outcome = outcome;
        decision.changed = now;
        Some(decision)
    }

    /// Replaces what was computed for a decision, since fresh figures came.
    pub fn reweigh(&mut self, id: u64, reason: &str, weighing: Option<Weighing>) {
        if let Some(decision) = self.ring.iter_mut().rev().find(|decision| decision.id == id) {
            reason.clone_into(&mut decision.reason);
            decision.weighing = weighing;
        }
    }

    /// All that are kept, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.ring.iter()
    }

    /// The last decision about a job that is younger than `within`, if there is one.
    #[must_use]
    pub fn last_of(&self, now: Time, pid: u32, within: Duration) -> Option<&Decision> {
        let recent = |decision: &&Decision| now.saturating_sub(decision.at) <= within;
        self.ring.iter().rev().take_while(recent).find(|decision| decision.pid == pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(pid: u32) -> Decision {
        Decision {
            id: 0,
            at: Time::ZERO,
            changed: Time::ZERO,
            pid,
            command: "bzip2 -9 a\nvery long list of files that goes on and on".into(),
            from: IpAddr::from([10, 77, 0, 1]),
            to: IpAddr::from([10, 77, 0, 2]),
            reason: "saves 1.50 s".into(),
            weighing: None,
            rss_bytes: 1 << 20,
            outcome: Outcome::Asked,
        }
    }

    #[test]
    fn the_ring_never_grows_past_its_limit_and_keeps_the_latest() {
        let mut history = History::new(3);
        for pid in 0..10 {
            history.record(decision(pid));
        }
        assert_eq!(history.iter().map(|it| it.pid).collect::<Vec<_>>(), vec![7, 8, 9]);
        assert_eq!(history.update(Time::ZERO, 1, Outcome::Unanswered), None);
        assert!(history.update(Time::ZERO, 9, Outcome::Unanswered).is_some());
        history.set_limit(1);
        assert_eq!(history.iter().count(), 1);
    }

    #[test]
    fn a_decision_is_one_line_whatever_the_command_is() {
        let line = decision(7).to_string();
        assert_eq!(line, "7 (bzip2 -9 a very long list of files that…) to 10.77.0.2: asking; saves 1.50 s");
    }
}
