//! What a move has brought: how much CPU time the job got before it, and how much it gets where it is now.
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

/// A job that has moved.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub decision: u64,
    pub pid: u32,
    pub to: IpAddr,
    pub took_ms: u64,
    pub downtime_ms: Option<u64>,
    /// CPU seconds a second that it got before.
    pub before: f64,
    /// When it was seen first where it is now, and last, with what it had used.
    pub seen: Option<[(Time, Duration); 2]>,
}

impl Core {
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
                if job.is_none() {
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
            let Watch { took_ms, downtime_ms, before, .. } = self.watches.remove(position);
            if let Some(after) = after {
                let share = Some(Share { before, after });
                self.outcome(now, decision, Outcome::Moved { took_ms, downtime_ms, share });
            }
        }
    }
}
