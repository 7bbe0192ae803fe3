//! The source's part of a move: the node that has the job.
//!
//! ```text
//!        Wish            Accepted                  Sent              Granted
//!  Here ──────▶ Offering ────────▶ Sending ──────────────▶ InDoubt ─────────▶ Gone
//!   ▲              │ Refused          │ Failed  │ Aborted      │ Aborted
//!   │◀─────────────┘                  │         ▼              │
//!   │◀────────────────────────────────┘     Stopping           │
//!   │◀───────────────────────────────────────── ┘ Sent, Failed │
//!   └◀─────────────────────────────────────────────────────────┘
//! ```
//!
//! Until it has said *prepared* it may stay by itself. From then on, in doubt, it does nothing, however long it takes,
//! until home has said who has the job.

/// How the job stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It runs here, and nothing goes on.
    Here,
    /// It runs here; a target was asked to take it.
    Offering,
    /// It is frozen, and is dumped and sent by a thread.
    Sending,
    /// The same, but the move is off: CRIU is not disturbed, so the thread's end is waited for.
    Stopping,
    /// It is frozen and sent; home decides.
    InDoubt,
    /// It is not here, or not any more.
    Gone,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// The job is to move.
    Wish,
    /// The target takes it.
    Accepted,
    /// The target does not take it, or does not answer.
    Refused,
    /// Everything was sent.
    Sent,
    /// It could not be frozen, dumped or sent.
    Failed,
    /// It has been frozen for too long.
    Overdue,
    /// Home has granted the job to another node.
    Granted,
    /// Home has aborted the move.
    Aborted,
    /// There is a link home again.
    Linked,
    /// There has been no link home for a while.
    Unlinked,
    /// The job's last process has ended.
    Ended,
    /// Home has been silent for the whole grace, and counts as dead.
    HomeDead,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Ask the target, in a thread that ends with `Accepted` or `Refused`.
    Offer,
    /// Freeze the job, dump and send it, in a thread that ends with `Sent` or `Failed`.
    Send,
    /// Break the connection to the target, so that what waits for it fails.
    Break,
    /// Tell home that everything is sent and that nothing happens here before it answers.
    SayPrepared,
    /// Ask the target what home has told it.
    AskTarget,
    /// Ask home to abort the move.
    AskAbort,
    /// Let the job run on as if nothing had happened.
    Resume,
    /// Write into `result` why it was not moved.
    Report,
    /// Destroy what is here of it.
    Destroy,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Here, Self::Offering, Self::Sending, Self::Stopping, Self::InDoubt, Self::Gone];

    /// Whether a move goes on.
    #[must_use]
    pub fn is_moving(self) -> bool {
        self == Self::Offering || self.is_frozen()
    }

    /// Whether the job is kept frozen for a move.
    #[must_use]
    pub fn is_frozen(self) -> bool {
        matches!(self, Self::Sending | Self::Stopping | Self::InDoubt)
    }
}

impl Input {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Wish,
        Self::Accepted,
        Self::Refused,
        Self::Sent,
        Self::Failed,
        Self::Overdue,
        Self::Granted,
        Self::Aborted,
        Self::Linked,
        Self::Unlinked,
        Self::Ended,
        Self::HomeDead,
    ];
}

/// The whole table.
#[must_use]
pub fn step(state: State, input: Input) -> (State, &'static [Action]) {
    use Action::{AskAbort, AskTarget, Break, Destroy, Offer, Report, Resume, SayPrepared, Send};
    use State::{Gone, Here, InDoubt, Offering, Sending, Stopping};
    match (input, state) {
        (Input::Wish, Here) => (Offering, &[Offer]),
        (Input::Accepted, Offering) => (Sending, &[Send]),
        (Input::Refused | Input::Aborted, Offering) => (Here, &[Report]),
        (Input::Sent, Sending) => (InDoubt, &[SayPrepared]),
        (Input::Failed, Sending) => (Here, &[AskAbort, Resume, Report]),
        (Input::Sent | Input::Failed, Stopping) => (Here, &[Resume, Report]),
        (Input::Overdue, Sending | Stopping) => (state, &[Break]),
        (Input::Overdue, InDoubt) => (InDoubt, &[AskAbort]),
        (Input::Aborted, Sending) => (Stopping, &[Break]),
        (Input::Aborted, InDoubt) => (Here, &[Resume, Report]),
        (Input::Linked, InDoubt) => (InDoubt, &[SayPrepared]),
        (Input::Unlinked, InDoubt) => (InDoubt, &[AskTarget]),
        (Input::Ended, Here | Gone) => (Gone, &[]),
        (Input::Ended, Offering | Sending | Stopping | InDoubt) => (Gone, &[AskAbort]),
        // Home is right, whatever this node thinks.
        (Input::Granted | Input::HomeDead, _) => (Gone, &[Destroy]),
        (
            Input::Wish
            | Input::Accepted
            | Input::Refused
            | Input::Sent
            | Input::Failed
            | Input::Overdue
            | Input::Aborted
            | Input::Linked
            | Input::Unlinked,
            _,
        ) => (state, &[]),
    }
}

/// The machine with its epochs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    state: State,
    held: u64,
    attempted: u64,
}

impl Source {
    /// A node that has not got the job.
    #[must_use]
    pub fn without() -> Self {
        Self { state: State::Gone, held: 0, attempted: 0 }
    }

    /// A node that has the job from this epoch on.
    #[must_use]
    pub fn holding(epoch: u64) -> Self {
        Self { state: State::Here, held: epoch, attempted: epoch }
    }

    /// How the job stands here.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The epoch of the last stay here; 0 if there was none.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// The epoch of the move that goes on.
    #[must_use]
    pub fn moving(&self) -> Option<u64> {
        self.state.is_moving().then_some(self.attempted)
    }

    /// The epoch of the last move that was attempted from here; it is never attempted again.
    #[must_use]
    pub fn attempted(&self) -> u64 {
        self.attempted
    }

    /// Takes in what has to do with one epoch: the wish to begin it, or what was heard of it.
    #[must_use]
    pub fn hear(&mut self, epoch: u64, input: Input) -> &'static [Action] {
        let concerns = match input {
            Input::Wish => self.state == State::Here && epoch > self.attempted,
            Input::Granted => epoch > self.held,
            _ => self.moving() == Some(epoch),
        };
        if !concerns {
            return &[];
        }
        if input == Input::Wish {
            self.attempted = epoch;
        }
        self.handle(input)
    }

    /// Takes in what has to do with no epoch.
    #[must_use]
    pub fn handle(&mut self, input: Input) -> &'static [Action] {
        let (state, actions) = step(self.state, input);
        self.state = state;
        actions
    }
}
