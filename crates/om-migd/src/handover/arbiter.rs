//! Home's part of a move: it alone says who has the job.
//!
//! Every stay of a job has an epoch. The node that wants the job asks for the next one; when both ends have said that
//! they are done, home grants it, and from then on the old node has nothing. Until the grant any failure aborts the move
//! and the job goes on where it was. The arbiter lives in the keeper at home and exactly as long as the job has a home,
//! so what it writes down it writes down here.
//!
//! ```text
//!                 candidate           prepared and ready, in any order
//!   settled(e) ──────────▶ moving(e+1) ──────────────────────▶ settled(e+1)     grant
//!        ▲                    │ abort, candidate lost, source lost before it is prepared, time-out
//!        └────────────────────┘                                                  abort
//! ```
//!
//! An epoch that was aborted is never granted later: the next attempt has a higher one.

/// What home has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What home says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nothing to say yet.
    Wait,
    /// The candidate may go on and prepare.
    Welcome,
    /// The candidate is not acceptable: another move goes on, or the epoch is not the next one.
    Refuse,
    /// The candidate has the job from now on, the source has it no more.
    Grant(u64),
    /// The move does not happen; the source has the job.
    Abort(u64),
}

/// Who has the job, and who wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arbiter {
    holder: u64,
    /// The last epoch that a move was attempted with.
    attempted: u64,
    moving: Option<Moving>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Moving {
    epoch: u64,
    prepared: bool,
    ready: bool,
}

impl Default for Arbiter {
    fn default() -> Self {
        Self { holder: 1, attempted: 1, moving: None }
    }
}

impl Arbiter {
    /// The epoch of the node that has the job.
    #[must_use]
    pub fn holder(&self) -> u64 {
        self.holder
    }

    /// The epoch with which the next move must be attempted.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.attempted + 1
    }

    /// The epoch of the move that goes on.
    #[must_use]
    pub fn moving(&self) -> Option<u64> {
        self.moving.as_ref().map(|moving| moving.epoch)
    }

    /// What to answer a node that asks about an epoch: granted, aborted, or not decided yet.
    #[must_use]
    pub fn decided(&self, epoch: u64) -> Output {
        match self.moving() {
            Some(moving) if moving == epoch => Output::Wait,
            _ if epoch == self.holder => Output::Grant(epoch),
            _ => Output::Abort(epoch),
        }
    }

    /// Takes in what was heard.
    pub fn handle(&mut self, input: Input) -> Output {
        match (input, &mut self.moving) {
            (Input::Candidate(epoch), None) if epoch > self.attempted => {
                self.attempted = epoch;
                self.moving = Some(Moving { epoch, prepared: false, ready: false });
                Output::Welcome
            }
            (Input::Candidate(_), _) => Output::Refuse,
            (Input::Prepared(epoch), Some(moving)) if moving.epoch == epoch => {
                moving.prepared = true;
                self.settle()
            }
            (Input::Ready(epoch), Some(moving)) if moving.epoch == epoch => {
                moving.ready = true;
                self.settle()
            }
            // A straggler asks about a move that is decided.
            (Input::Prepared(epoch) | Input::Ready(epoch) | Input::Abort(epoch), moving)
                if moving.as_ref().is_none_or(|moving| moving.epoch != epoch) =>
            {
                self.decided(epoch)
            }
            (Input::Abort(_) | Input::CandidateLost | Input::TimeOut, Some(moving)) => {
                let epoch = moving.epoch;
                self.moving = None;
                Output::Abort(epoch)
            }
            _ => Output::Wait,
        }
    }

    fn settle(&mut self) -> Output {
        match &self.moving {
            Some(Moving { epoch, prepared: true, ready: true }) => {
                self.holder = *epoch;
                self.moving = None;
                Output::Grant(self.holder)
            }
            _ => Output::Wait,
        }
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
        assert_eq!(arbiter.handle(Input::Ready(2)), Output::Abort(2));
        assert_eq!(arbiter.handle(Input::Candidate(2)), Output::Refuse);
        assert_eq!(arbiter.handle(Input::Candidate(3)), Output::Welcome);
        assert_eq!(arbiter.holder(), 1);
    }

    #[test]
    fn only_one_move_goes_on_at_a_time() {
        let mut arbiter = Arbiter::default();
        arbiter.handle(Input::Candidate(2));
        assert_eq!(arbiter.handle(Input::Candidate(3)), Output::Refuse);
        assert_eq!(arbiter.moving(), Some(2));
    }

    #[test]
    fn a_straggler_learns_what_was_decided() {
        let mut arbiter = Arbiter::default();
        arbiter.handle(Input::Candidate(2));
        arbiter.handle(Input::Prepared(2));
        arbiter.handle(Input::Ready(2));
        assert_eq!(arbiter.handle(Input::Prepared(2)), Output::Grant(2));
        assert_eq!(arbiter.handle(Input::Abort(2)), Output::Grant(2));
    }
}
