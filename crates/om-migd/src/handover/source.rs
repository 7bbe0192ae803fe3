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
//! A job whose memory follows it is *Lending* where another would be in doubt, and *Lent* before it is gone.
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
    /// The same, but its memory stays here and is handed out by a thread.
    Lending,
    /// It is another node's and runs there; its frozen copy here hands out memory until all has gone.
    Lent,
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
    /// Everything but its memory was sent. The thread goes on, and ends with `Served` or `Failed`.
    SentLazily,
    /// All of its memory has been handed out.
    Served,
    /// It could not be frozen, dumped or sent, or its memory not be handed out.
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
    /// Freeze the job, dump and send it, in a thread that tells how it went.
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
    /// Keep the frozen copy for the memory that the job has yet to fetch.
    Lend,
    /// Destroy what is here of it.
    Destroy,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Here,
        Self::Offering,
        Self::Sending,
        Self::Stopping,
        Self::InDoubt,
        Self::Lending,
        Self::Lent,
        Self::Gone,
    ];

    /// Whether a move goes on.
    #[must_use]
    pub fn is_moving(self) -> bool {
        self == Self::Offering || self.is_frozen()
    }

    /// Whether the job is kept frozen for a move.
    #[must_use]
    pub fn is_frozen(self) -> bool {
        matches!(self, Self::Sending | Self::Stopping) || self.is_in_doubt()
    }

    /// Whether home decides.
    #[must_use]
    pub fn is_in_doubt(self) -> bool {
        matches!(self, Self::InDoubt | Self::Lending)
    }
}

impl Input {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Wish,
        Self::Accepted,
        Self::Refused,
        Self::Sent,
        Self::SentLazily,
        Self::Served,
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
    use Action::{AskAbort, AskTarget, Break, Destroy, Lend, Offer, Report, Resume, SayPrepared, Send};
    use State::{Gone, Here, InDoubt, Lending, Lent, Offering, Sending, Stopping};
    match (input, state) {
        (Input::Wish, Here) => (Offering, &[Offer]),
        (Input::Accepted, Offering) => (Sending, &[Send]),
        (Input::Refused | Input::Aborted, Offering) => (Here, &[Report]),
        (Input::Sent, Sending) => (InDoubt, &[SayPrepared]),
        (Input::SentLazily, Sending) => (Lending, &[SayPrepared]),
        (Input::SentLazily, Stopping) => (Stopping, &[Break]),
        (Input::Failed, Sending) => (Here, &[AskAbort, Resume, Report]),
        (Input::Sent | Input::Served | Input::Failed, Stopping) => (Here, &[Resume, Report]),
        (Input::Served, Lending) => (InDoubt, &[]),
        // The target cannot run what it has not got.
        (Input::Failed, Lending) => (InDoubt, &[AskAbort]),
        (Input::Served | Input::Failed, Lent) => (Gone, &[Destroy]),
        (Input::Overdue, Sending | Stopping) => (state, &[Break]),
        (Input::Overdue, InDoubt | Lending) => (state, &[AskAbort]),
        (Input::Aborted, Sending | Lending) => (Stopping, &[Break]),
        (Input::Aborted, InDoubt) => (Here, &[Resume, Report]),
        (Input::Linked, InDoubt | Lending) => (state, &[SayPrepared]),
        (Input::Unlinked, InDoubt | Lending) => (state, &[AskTarget]),
        (Input::Ended, Here | Lent | Gone) => (Gone, &[]),
        (Input::Ended, Offering | Sending | Stopping | InDoubt | Lending) => (Gone, &[AskAbort]),
        (Input::Granted, Lending) => (Lent, &[Lend]),
        // Said again it changes nothing: the job still needs what is here.
        (Input::Granted, Lent) => (Lent, &[]),
        // Home is right, whatever this node thinks.
        (Input::Granted | Input::HomeDead, _) => (Gone, &[Destroy]),
        (
            Input::Wish
            | Input::Accepted
            | Input::Refused
            | Input::Sent
            | Input::SentLazily
            | Input::Served
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
            Input::Served | Input::Failed if self.state == State::Lent => epoch == self.attempted,
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
