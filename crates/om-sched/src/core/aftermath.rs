//! What a move has brought: how much CPU time the job got before it, and how much it gets where it is now; and what
//! a job gets that was started elsewhere, beside what it could expect here.
//!
//! Only a job that still has an entry here can be watched: an own job wherever it is, not a guest that went on.

use std::net::IpAddr;
use std::time::Duration;

use super::Core;
use crate::Time;
use crate::history::{Outcome, Share};
use crate::job::Place;

/// For so long a job is watched after it has arrived. What a node tells of a guest is up to a second old.
const WATCH: Duration = Duration::from_secs(5);
/// A job that ends or moves on earlier tells something if it was watched for so long.
const LEAST: Duration = Duration::from_secs(2);

/// A job that has moved or was started elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    decision: u64,
    pid: u32,
    to: IpAddr,
    since: Time,
    /// What is to be completed by what it brought.
    outcome: Outcome,
    /// CPU seconds a second that it got before, or could expect here.
    before: f64,
    /// When it was seen first where it is now, and last, with what it had used.
    seen: Option<[(Time, Duration); 2]>,
}

impl Core {
    /// From now on, looks at what this job gets there.
    pub(super) fn watch(
        &mut self,
        now: Time,
        (decision, pid, to): (u64, u32, IpAddr),
        before: f64,
        outcome: Outcome,
    ) {
        self.watches.push(Watch { decision, pid, to, since: now, outcome, before, seen: None });
    }

    /// The om files were read: looks at those that have moved.
    pub(super) fn watch_moved(&mut self, now: Time) {
        let mut over = Vec::new();
        let here = self.here;
        for watch in &mut self.watches {
            let job = self.jobs.get(watch.pid).filter(|job| {
                job.place == Place::Away(watch.to) || (job.place == Place::Here && here == Some(watch.to))
            });
            match (job, &mut watch.seen) {
                (Some(job), None) => watch.seen = Some([(now, job.cpu); 2]),
                (Some(job), Some([_, last])) => *last = (now, job.cpu),
                (None, _) => {}
            }
            let Some([first, last]) = watch.seen else {
                // A job that was just started is not listed at once.
                if now.saturating_sub(watch.since) >= WATCH {
                    over.push((watch.decision, None));
                }
                continue;
            };
            let watched = last.0.saturating_sub(first.0);
            if job.is_none() || watched >= WATCH {
                let used = last.1.saturating_sub(first.1).as_secs_f64();
                let after = (watched >= LEAST).then(|| used / watched.as_secs_f64());
                over.push((watch.decision, after));
            }
        }
        for (decision, after) in over {
            let Some(position) = self.watches.iter().position(|watch| watch.decision == decision) else {
                continue;
            };
            let Watch { before, outcome, .. } = self.watches.remove(position);
            if let Some(after) = after {
                self.outcome(now, decision, outcome.with_share(Share { before, after }));
            }
        }
    }
}
