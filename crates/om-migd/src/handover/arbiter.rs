//! Home's part of a move: it alone says who has the job.
//!
//! ```text
//!   Settled ──Candidate──▶ Open ──Prepared──▶ Prepared
//!      ▲  ▲                 │ Ready              │ Ready: grant
//!      │  │                 ▼                    │
//!      │  │               Ready ──Prepared: grant┤
//!      │  └──────────────────────────────────────┘
//!      └── from each: Abort, candidate lost or asking again, time-out: abort
//! ```
//!
//! The node that wants the job asks for the next epoch; when both ends have said that they are done, home grants it, and
//! from then on the old node has nothing. An epoch that was refused or aborted is never granted: the next attempt has a
//! higher one.
//! The arbiter lives in the keeper at home and exactly as long as the job has a home, so what it writes down it writes
//! down here.

use serde::{Deserialize, Serialize};

/// Where home stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// No move goes on.
    Settled,
    /// A candidate prepares.
    Open,
    /// The source has sent everything and waits.
    Prepared,
    /// The target has restored everything, frozen, and waits.
    Ready,
}

/// What home hears, or finds, and of which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// A node wants to become the holder at this epoch.
    Candidate(u64),
    /// The source has sent everything and waits.
    Prepared(u64),
    /// The target has restored everything, frozen, and waits.
    Ready(u64),
    /// Source or target cannot go on.
    Abort(u64),
    /// The target cannot be reached any more.
    CandidateLost,
    /// The move has taken too long.
    TimeOut,
}

/// The same, seen from the move that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// A candidate for an epoch that was never attempted.
    Candidate,
    /// The candidate says again that it wants this epoch: what it knew of its link is lost.
    CandidateAgain,
    /// The source is done.
    Prepared,
    /// The target is done.
    Ready,
    /// One of them is not.
    Abort,
    /// The candidate's link is broken.
    CandidateLost,
    /// The move has taken too long.
    TimeOut,
    /// A straggler speaks of an epoch that is decided.
    Straggler,
}

/// What home does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The candidate may go on and prepare.
    Welcome,
    /// The candidate may not: another move goes on.
    Refuse,
    /// The candidate has the job from now on, the source has it no more; both are told.
    Grant,
    /// The move does not happen; both are told.
    Abort,
    /// Who asks is told what was decided.
    Tell,
}

/// What home says, and of which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Output {
    /// Nothing to say yet.
    Wait,
    /// [`Action::Welcome`].
    Welcome,
    /// [`Action::Refuse`].
    Refuse,
    /// [`Action::Grant`].
    Grant(u64),
    /// [`Action::Abort`].
    Abort(u64),
    /// [`Action::Tell`]: the epoch's fate.
    Tell(u64, Fate),
}

/// What was decided, for who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Fate {
    /// The move was made: the target has the job, the source has nothing.
    Granted,
    /// It was not: the source has the job, the target has nothing.
    Aborted,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Settled, Self::Open, Self::Prepared, Self::Ready];
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Candidate,
        Self::CandidateAgain,
        Self::Prepared,
        Self::Ready,
        Self::Abort,
        Self::CandidateLost,
        Self::TimeOut,
        Self::Straggler,
    ];
}

/// The whole table.
#[must_use]
pub fn step(state: State, event: Event) -> (State, Option<Action>) {
    use State::{Open, Prepared, Ready, Settled};
    match (event, state) {
        (Event::Candidate, Settled) => (Open, Some(Action::Welcome)),
        (Event::Candidate, _) => (state, Some(Action::Refuse)),
        (Event::Prepared, Open) => (Prepared, None),
        (Event::Ready, Open) => (Ready, None),
        (Event::Prepared, Ready) | (Event::Ready, Prepared) => (Settled, Some(Action::Grant)),
        (
            Event::CandidateAgain | Event::Abort | Event::CandidateLost | Event::TimeOut,
            Open | Prepared | Ready,
        ) => (Settled, Some(Action::Abort)),
        (Event::Straggler, _) => (state, Some(Action::Tell)),
        (
            Event::CandidateAgain
            | Event::Prepared
            | Event::Ready
            | Event::Abort
            | Event::CandidateLost
            | Event::TimeOut,
            _,
        ) => (state, None),
    }
}

/// Who has the job, and who wants it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arbiter {
    state: State,
    holder: u64,
    /// The epoch of the move that goes on, or of the last one.
    moving: u64,
    /// The highest epoch that a node has asked for.
    attempted: u64,
}

impl Default for Arbiter {
    fn default() -> Self {
        Self { state: State::Settled, holder: 1, moving: 1, attempted: 1 }
    }
}

impl Arbiter {
    /// The epoch of the node that has the job.
    #[must_use]
    pub fn holder(&self) -> u64 {
        self.holder
    }

    /// The highest epoch that a node has asked for. None up to it is begun any more.
    #[must_use]
    pub fn attempted(&self) -> u64 {
        self.attempted
    }

    /// The epoch of the move that goes on.
    #[must_use]
    pub fn moving(&self) -> Option<u64> {
        (self.state != State::Settled).then_some(self.moving)
    }

    /// Takes in what was heard or found.
    pub fn handle(&mut self, input: Input) -> Output {
        let epoch = match input {
            Input::Candidate(epoch) | Input::Prepared(epoch) | Input::Ready(epoch) | Input::Abort(epoch) => {
                epoch
            }
            Input::CandidateLost | Input::TimeOut => self.moving,
        };
        let event = match input {
            Input::CandidateLost => Event::CandidateLost,
            Input::TimeOut => Event::TimeOut,
            Input::Candidate(_) if epoch > self.attempted => Event::Candidate,
            _ if self.moving() != Some(epoch) => Event::Straggler,
            Input::Candidate(_) => Event::CandidateAgain,
            Input::Prepared(_) => Event::Prepared,
            Input::Ready(_) => Event::Ready,
            Input::Abort(_) => Event::Abort,
        };
        let (state, action) = step(self.state, event);
        self.state = state;
        if event == Event::Candidate {
            self.attempted = epoch;
        }
        match action {
            None => Output::Wait,
            Some(Action::Welcome) => {
                self.moving = epoch;
                Output::Welcome
            }
            Some(Action::Refuse) => Output::Refuse,
            Some(Action::Grant) => {
                self.holder = epoch;
                Output::Grant(epoch)
            }
            Some(Action::Abort) => Output::Abort(epoch),
            Some(Action::Tell) => Output::Tell(epoch, self.fate(input, epoch)),
        }
    }

    /// What a straggler is told of an epoch that is decided.
    fn fate(&self, asked: Input, epoch: u64) -> Fate {
        let granted = match asked {
            // A target has the job at this epoch or not at all.
            Input::Candidate(_) | Input::Ready(_) => epoch == self.holder,
            // A source has lost it with this epoch, or with a later one if the job has moved on since.
            _ => epoch <= self.holder,
        };
        if granted { Fate::Granted } else { Fate::Aborted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_granted_when_both_ends_are_done_in_either_order() {
        for order in [[Input::Prepared(2), Input::Ready(2)], [Input::Ready(2), Input::Prepared(2)]] {
            let mut arbiter = Arbiter::default();
            assert_eq!(arbiter.handle(Input::Candidate(2)), Output::Welcome);
            assert_eq!(arbiter.handle(order[0]), Output::Wait);
            assert_eq!(arbiter.handle(order[1]), Output::Grant(2));
            assert_eq!(arbiter.holder(), 2);
        }
    }

    #[test]
    fn an_aborted_epoch_is_never_granted() {
        let mut arbiter = Arbiter::default();
        arbiter.handle(Input::Candidate(2));
        arbiter.handle(Input::Prepared(2));
        assert_eq!(arbiter.handle(Input::CandidateLost), Output::Abort(2));
        assert_eq!(arbiter.handle(Input::Ready(2)), Output::Tell(2, Fate::Aborted));
        assert_eq!(arbiter.handle(Input::Candidate(2)), Output::Tell(2, Fate::Aborted));
        assert_eq!(arbiter.handle(Input::Candidate(3)), Output::Welcome);
        assert_eq!(arbiter.holder(), 1);
    }

    #[test]
    fn only_one_move_goes_on_at_a_time() {
        let mut arbiter = Arbiter::default();
        arbiter.handle(Input::Candidate(2));
        assert_eq!(arbiter.handle(Input::Candidate(3)), Output::Refuse);
        assert_eq!(arbiter.moving(), Some(2));
        arbiter.handle(Input::CandidateLost);
        assert_eq!(arbiter.handle(Input::Candidate(3)), Output::Tell(3, Fate::Aborted), "it was told so");
    }

    #[test]
    fn a_candidate_that_asks_again_has_lost_its_link_and_the_move() {
        let mut arbiter = Arbiter::default();
        arbiter.handle(Input::Candidate(2));
        assert_eq!(arbiter.handle(Input::Candidate(2)), Output::Abort(2));
        assert_eq!(arbiter.moving(), None);
    }

    #[test]
    fn a_straggler_learns_what_was_decided() {
        let mut arbiter = Arbiter::default();
        arbiter.handle(Input::Candidate(2));
        arbiter.handle(Input::Prepared(2));
        arbiter.handle(Input::Ready(2));
        assert_eq!(arbiter.handle(Input::Prepared(2)), Output::Tell(2, Fate::Granted));
        assert_eq!(arbiter.handle(Input::Abort(2)), Output::Tell(2, Fate::Granted));
    }

    #[test]
    fn a_source_that_was_away_while_the_job_moved_twice_has_lost_it() {
        let mut arbiter = Arbiter::default();
        for epoch in [2, 3] {
            arbiter.handle(Input::Candidate(epoch));
            arbiter.handle(Input::Prepared(epoch));
            arbiter.handle(Input::Ready(epoch));
        }
        assert_eq!(arbiter.handle(Input::Prepared(2)), Output::Tell(2, Fate::Granted));
        assert_eq!(arbiter.handle(Input::Ready(2)), Output::Tell(2, Fate::Aborted));
    }
}
