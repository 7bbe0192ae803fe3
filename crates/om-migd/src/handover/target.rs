//! The target's part of a move: the node to which the job is to go.
//!
//! ```text
//!              Built              Restored          Granted
//!  Preparing ────────▶ Receiving ──────────▶ Ready ─────────▶ Here
//!     │ Failed            │ Failed             │ Aborted
//!     ├───────────────────┴────────────────────┴────────────▶ Gone
//!     │ Aborted           │ Aborted                            ▲
//!     └───────────────────┴──▶ Stopping ───────────────────────┘
//!                                       Built, Restored, Failed
//! ```
//!
//! Its copy is restored frozen and runs when home has granted it, no sooner. Before it has said *ready* it may give up by
//! itself; home can then grant nothing any more.

use super::arbiter::Fate;

/// How the job stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// A thread makes what the job needs here and asks home's leave, while the job runs at the source.
    Preparing,
    /// A thread receives and restores it.
    Receiving,
    /// The move is off: CRIU is not disturbed, so the thread's end is waited for.
    Stopping,
    /// It is restored, frozen; home decides.
    Ready,
    /// It runs here.
    Here,
    /// Nothing of it is here.
    Gone,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// Everything that it needs is here, and home has given leave.
    Built,
    /// It is restored, frozen.
    Restored,
    /// It cannot be prepared, received or restored.
    Failed,
    /// Home has granted the job to this node.
    Granted,
    /// Home has aborted the move.
    Aborted,
    /// There is a link home again.
    Linked,
    /// Home has been silent for the whole grace, and counts as dead.
    HomeDead,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Accept the offer, receive and restore the job, in a thread that ends with `Restored` or `Failed`.
    Receive,
    /// Give whoever waits for files of home an error, so that the thread ends.
    Unblock,
    /// Tell home that the job is restored and that nothing happens here before it answers.
    SayReady,
    /// Tell home that the move must not happen.
    AskAbort,
    /// Let the job run.
    Run,
    /// Destroy what is here of it.
    Destroy,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Preparing, Self::Receiving, Self::Stopping, Self::Ready, Self::Here, Self::Gone];
}

impl Input {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Built,
        Self::Restored,
        Self::Failed,
        Self::Granted,
        Self::Aborted,
        Self::Linked,
        Self::HomeDead,
    ];
}

/// The whole table.
#[must_use]
pub fn step(state: State, input: Input) -> (State, &'static [Action]) {
    use Action::{AskAbort, Destroy, Receive, Run, SayReady, Unblock};
    use State::{Gone, Here, Preparing, Ready, Receiving, Stopping};
    match (input, state) {
        (Input::Built, Preparing) => (Receiving, &[Receive]),
        (Input::Restored, Receiving) => (Ready, &[SayReady]),
        (Input::Failed, Preparing | Receiving) => (Gone, &[AskAbort, Destroy]),
        (Input::Built | Input::Restored | Input::Failed, Stopping) => (Gone, &[Destroy]),
        (Input::Granted, Ready) => (Here, &[Run]),
        (Input::Aborted, Preparing | Receiving) => (Stopping, &[Unblock]),
        (Input::Aborted, Ready) => (Gone, &[Destroy]),
        // A thread may wait for files of home for ever.
        (Input::HomeDead, Preparing | Receiving | Stopping | Ready) => (Gone, &[Destroy]),
        (Input::Linked, Ready) => (Ready, &[SayReady]),
        (
            Input::Built
            | Input::Restored
            | Input::Failed
            | Input::Granted
            | Input::Aborted
            | Input::Linked
            | Input::HomeDead,
            _,
        ) => (state, &[]),
    }
}

/// The machine with its epoch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    state: State,
    epoch: u64,
}

impl Target {
    /// A node that has been offered the job for this epoch and prepares for it.
    #[must_use]
    pub fn preparing(epoch: u64) -> Self {
        Self { state: State::Preparing, epoch }
    }

    /// How the job stands here.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The epoch that this node would get.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What a source in doubt is told that cannot reach home; nothing while this node is in doubt itself.
    #[must_use]
    pub fn fate(&self) -> Option<Fate> {
        match self.state {
            State::Preparing | State::Receiving | State::Ready => None,
            State::Here => Some(Fate::Granted),
            // It has never been ready, and never will be.
            State::Stopping => Some(Fate::Aborted),
            State::Gone => None,
        }
    }

    /// Takes in what was heard of an epoch.
    #[must_use]
    pub fn hear(&mut self, epoch: u64, input: Input) -> &'static [Action] {
        if epoch == self.epoch { self.handle(input) } else { &[] }
    }

    /// Takes in what has to do with no epoch.
    #[must_use]
    pub fn handle(&mut self, input: Input) -> &'static [Action] {
        let (state, actions) = step(self.state, input);
        self.state = state;
        actions
    }
}
