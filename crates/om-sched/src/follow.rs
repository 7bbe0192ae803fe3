//! Follows a requested move to its end by what the om files say.
//!
//! ```text
//!  requested ──▶ queued, migrating ──▶ away, or no entry any more (a guest that went on): done
//!      │                 ├───────────▶ no entry any more, at home: the job ended
//!      │                 └───────────▶ where it was: failed, `result` says why
//!      └─ still where it was, and `result` has changed, or nothing happened for some seconds: failed
//! ```
//!
//! Some kernels take a request that they cannot grant and do nothing at all, hence the last case. A pure judgement of
//! what was read; the run loop reads.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::omfs::{MoveResult, Where};

use crate::Time;
use crate::core::MoveEnd;

/// A request that shows no effect for this long was a silent refusal.
const SILENT_REFUSAL: Duration = Duration::from_secs(3);

/// A requested move.
#[derive(Clone, Debug)]
pub struct Follow {
    /// Where it goes.
    pub to: IpAddr,
    /// The destination is the job's home.
    pub home: bool,
    /// When it was requested.
    pub since: Time,
    /// What `where` said before.
    pub from: Where,
    /// What `result` said before.
    pub last_result: Option<MoveResult>,
    seen_moving: bool,
}

/// What was read of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// `where` and `result`.
    At(Where, Option<MoveResult>),
    /// It has no entry any more.
    Gone,
}

impl Follow {
    /// A move requested at `since`, when the files said `from` and `last_result`.
    #[must_use]
    pub fn new(to: IpAddr, home: bool, since: Time, from: Where, last_result: Option<MoveResult>) -> Self {
        Self { to, home, since, from, last_result, seen_moving: false }
    }

    /// Judges what was read at `now`; `None` while the move goes on.
    pub fn judge(&mut self, now: Time, seen: Seen) -> Option<MoveEnd> {
        let (at, result) = match seen {
            // An own job keeps its entry wherever it is, so it has ended; a guest has gone on, or has ended.
            Seen::Gone if self.is_at_home() => return Some(MoveEnd::JobEnded),
            Seen::Gone => return Some(MoveEnd::Done { downtime: None }),
            Seen::At(at, result) => (at, result),
        };
        if matches!(at, Where::Queued | Where::Migrating) {
            self.seen_moving = true;
            return None;
        }
        let news = result.filter(|result| Some(result) != self.last_result.as_ref());
        if at != self.from {
            let downtime = match news {
                Some(MoveResult::Ok { seconds, .. }) => Duration::try_from_secs_f64(seconds).ok(),
                _ => None,
            };
            return Some(MoveEnd::Done { downtime });
        }
        match news {
            Some(MoveResult::Failed { reason, .. }) => Some(failed(reason, false)),
            _ if self.seen_moving => Some(failed("it came back, and nothing says why".to_owned(), false)),
            _ if now.saturating_sub(self.since) >= SILENT_REFUSAL => {
                Some(failed("nothing came of the request; see its stay reasons".to_owned(), true))
            }
            _ => None,
        }
    }

    /// Whether this node is the job's home: `where` reads `home`, or another node's address while it is away.
    fn is_at_home(&self) -> bool {
        self.from == Where::Home || (self.home && matches!(self.from, Where::At(at) if at != self.to))
    }
}

fn failed(reason: String, only_the_job: bool) -> MoveEnd {
    MoveEnd::Failed { reason, only_the_job }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8) -> IpAddr {
        IpAddr::from([10, 77, 0, last])
    }

    fn at(ms: u64) -> Time {
        Duration::from_millis(ms)
    }

    fn own(last_result: Option<MoveResult>) -> Follow {
        Follow::new(node(2), false, at(0), Where::Home, last_result)
    }

    fn ok(seconds: f64) -> Option<MoveResult> {
        Some(MoveResult::Ok { to: node(2), seconds })
    }

    fn no(reason: &str) -> Option<MoveResult> {
        Some(MoveResult::Failed { to: node(2), reason: reason.into() })
    }

    #[test]
    fn an_own_job_that_went_away_has_moved() {
        let mut follow = own(None);
        assert_eq!(follow.judge(at(10), Seen::At(Where::Home, None)), None);
        assert_eq!(follow.judge(at(20), Seen::At(Where::Queued, None)), None);
        assert_eq!(follow.judge(at(30), Seen::At(Where::Migrating, None)), None);
        let end = follow.judge(at(90), Seen::At(Where::At(node(2)), ok(0.05)));
        assert_eq!(end, Some(MoveEnd::Done { downtime: Some(Duration::from_millis(50)) }));
    }

    #[test]
    fn a_job_that_came_back_has_failed_for_the_reason_that_result_gives() {
        let mut follow = own(ok(0.1));
        assert_eq!(follow.judge(at(20), Seen::At(Where::Migrating, ok(0.1))), None);
        let end = follow.judge(at(30), Seen::At(Where::Home, no("no room")));
        assert_eq!(end, Some(failed("no room".into(), false)));
    }

    #[test]
    fn a_failure_faster_than_a_look_is_seen_by_its_new_result() {
        assert_eq!(own(no("old")).judge(at(9), Seen::At(Where::Home, no("old"))), None);
        let end = own(no("old")).judge(at(9), Seen::At(Where::Home, no("new")));
        assert_eq!(end, Some(failed("new".into(), false)));
    }

    #[test]
    fn a_silent_refusal_is_noticed_after_three_seconds() {
        let mut follow = own(no("old"));
        assert_eq!(follow.judge(at(2999), Seen::At(Where::Home, no("old"))), None);
        assert!(matches!(
            follow.judge(at(3000), Seen::At(Where::Home, no("old"))),
            Some(MoveEnd::Failed { only_the_job: true, .. })
        ));
    }

    #[test]
    fn a_guest_without_entry_has_gone_on_and_an_own_job_has_ended() {
        let mut guest = Follow::new(node(3), false, at(0), Where::At(node(1)), None);
        assert_eq!(guest.judge(at(5), Seen::Gone), Some(MoveEnd::Done { downtime: None }));
        let mut guest_to_home = Follow::new(node(1), true, at(0), Where::At(node(1)), None);
        assert_eq!(guest_to_home.judge(at(5), Seen::Gone), Some(MoveEnd::Done { downtime: None }));
        assert_eq!(own(None).judge(at(5), Seen::Gone), Some(MoveEnd::JobEnded));
    }

    #[test]
    fn a_job_called_home_has_arrived_when_where_says_home() {
        let mut follow = Follow::new(node(1), true, at(0), Where::At(node(2)), None);
        assert_eq!(follow.judge(at(5), Seen::At(Where::At(node(2)), None)), None);
        assert!(matches!(follow.judge(at(9), Seen::At(Where::Home, None)), Some(MoveEnd::Done { .. })));
        assert_eq!(follow.judge(at(9), Seen::Gone), Some(MoveEnd::JobEnded));
    }
}
