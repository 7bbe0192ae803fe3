//! The scheduler's state machine: everything it hears goes in with a time, everything it wants done comes out.
//!
//! ```text
//!  reports, om files, offers, ends of moves ──▶ handle(now, input) ──▶ poll_output(): send, move, decided
//!                           poll_timeout() ──▶ handle_timeout(now)
//!
//!  a job:   here ──▶ asked about ──▶ requested ──▶ moved | failed
//!             ▲          │ refused, no answer, not worth it any more
//!             └──────────┘
//! ```
//!
//! No clock, file, socket, thread or random generator of its own, and no order that differs from run to run: the
//! same inputs give the same outputs. After each `handle*` the caller takes all outputs, then sleeps until the time
//! that [`Core::poll_timeout`] names. Times are durations since any moment that the caller likes.
//!
//! A round of decisions follows each reading of the om files (but not more often than every 100 ms), each end of a question
//! or move, and each invitation.
//! What is under way counts as done: a job that is being asked about is no load here any more and is load there.

mod aftermath;
mod answering;
mod asking;
mod explain;
mod orders;
mod starting;
mod viewing;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

pub use explain::{CandidateSays, JobSays, NodeSays};

use crate::Time;
use crate::figures::Figures;
use crate::guard;
use crate::history::{Decision, History, Outcome};
use crate::job::Snapshot;
use crate::jobs::Jobs;
use crate::node::{Node, Report};
use crate::nodes::{Heard, Nodes, Reports};
use crate::offer::{Offer, Promises, Questions};
use crate::policy::{Event, Policy};
use crate::price::{Price, PriceLine};
use crate::random::Random;
use crate::settings::Settings;
use crate::start::{NewJob, Starts};
use crate::view::Weighing;

/// A reading of the om files that is older than this is not fresh enough to answer with.
const FRESH_READING: Duration = Duration::from_millis(2);
/// The longest rest after failures, of a node or a job.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// How long a node rests that refused, times two for each refusal in a row.
const REST_AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// How long a node rests that kept silent, times two for each time in a row.
const REST_AFTER_SILENCE: Duration = Duration::from_secs(2);
/// How long a node rests to which a move failed, and a job whose move failed, times two for each time in a row.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// So many of those that gave figures are remembered.
const SPEAKERS: usize = 16;
/// How often nodes that have gone are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(1);
/// While other nodes ask, the om files are read far more often than there is anything new to decide.
const DECIDE_EVERY: Duration = Duration::from_millis(100);
/// In a dry run the same decision is told again only after this long.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What the core is told.
#[derive(Debug)]
pub enum Input<'a> {
    /// The address that names this node.
    Here(IpAddr),
    /// A node's report, this node's own included.
    Report(Report<'a>),
    /// A node has said goodbye.
    Goodbye(IpAddr),
    /// The om files were read.
    Snapshot(Snapshot),
    /// The om files cannot be read: no migration daemon.
    NoSnapshot,
    /// Another scheduler has spoken.
    Offer {
        /// The address that names its node.
        from: IpAddr,
        /// Whether its MAC was made with a key of the cluster.
        authenticated: bool,
        /// What it said.
        offer: Offer,
    },
    /// Somebody wants to start a job and asks where; [`Output::Start`] answers, at once or soon.
    Starting {
        /// Tells it from other jobs that are being started.
        ticket: u64,
        /// What is known of it.
        job: NewJob,
    },
    /// A move that the core requested is over.
    MoveEnded {
        /// The job.
        pid: u32,
        /// How it ended.
        end: MoveEnd,
    },
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveEnd {
    /// The job is there.
    Done {
        /// For how long it stood still; `None` if that was not told.
        downtime: Option<Duration>,
    },
    /// The job goes on where it was.
    Failed {
        /// Why, in a few plain words.
        reason: String,
        /// The other node has no part in it, so it need not rest.
        only_the_job: bool,
    },
    /// The job ended first.
    JobEnded,
}

/// What the core wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Say this to the scheduler of that node.
    Send {
        /// The address that names the node.
        to: IpAddr,
        /// What to say.
        offer: Offer,
    },
    /// Write this job's destination and follow it: [`Input::MoveEnded`] has to come.
    Move {
        /// The job's entry in the om files.
        pid: u32,
        /// The node.
        to: IpAddr,
        /// The node is the job's home.
        home: bool,
    },
    /// Start this job there, and here if that fails.
    Start {
        /// The job, as it was named when it was asked for.
        ticket: u64,
        /// The node; `None`: here.
        to: Option<IpAddr>,
    },
    /// A decision was made, or something has become of one. For the log; all are in [`Core::history`] too.
    Decided(Box<Decision>),
}

/// A requested move.
#[derive(Clone, Debug)]
struct Move {
    to: IpAddr,
    since: Time,
    rss_bytes: u64,
    decision: u64,
    /// The question whose promise this redeems; `None` if nobody was asked.
    nonce: Option<u64>,
    /// CPU seconds a second that the job has got here.
    share: f64,
}

/// A node that is left in peace for a while.
#[derive(Clone, Debug)]
struct Rest {
    until: Time,
    in_a_row: u32,
    reason: String,
}

/// The scheduler of one node.
pub struct Core {
    settings: Settings,
    policy: Box<dyn Policy>,
    random: Random,
    here: Option<IpAddr>,
    nodes: Nodes,
    jobs: Jobs,
    questions: Questions,
    promises: Promises,
    moves: BTreeMap<u32, Move>,
    /// Jobs that have moved a moment ago.
    watches: Vec<aftermath::Watch>,
    rests: BTreeMap<IpAddr, Rest>,
    price: Price,
    history: History,
    outputs: VecDeque<Output>,
    invited: Option<Time>,
    starts: Starts,
    forgot: Option<Time>,
    /// When a reading last brought about a round.
    decided: Option<Time>,
    /// Who gave figures last, and when.
    speakers: VecDeque<(Time, IpAddr)>,
    /// The load of this node's own user, if it was seen.
    owner: Option<orders::OwnerLoad>,
}

impl Core {
    /// A scheduler that knows nothing yet. All its chance comes from `random`.
    #[must_use]
    pub fn new(settings: Settings, policy: Box<dyn Policy>, random: Random) -> Self {
        Self::with_reports(settings, policy, random, Box::new(Heard::default()))
    }

    /// The same; what nodes report is looked up in `reports`.
    #[must_use]
    pub fn with_reports(
        settings: Settings,
        policy: Box<dyn Policy>,
        random: Random,
        reports: Box<dyn Reports>,
    ) -> Self {
        Self {
            policy,
            random,
            here: None,
            nodes: Nodes::new(reports),
            jobs: Jobs::default(),
            questions: Questions::default(),
            promises: Promises::default(),
            moves: BTreeMap::new(),
            watches: Vec::new(),
            rests: BTreeMap::new(),
            price: Price::new(settings.move_cost, settings.move_bytes_per_s),
            history: History::new(settings.history),
            outputs: VecDeque::new(),
            invited: None,
            starts: Starts::default(),
            forgot: None,
            decided: None,
            speakers: VecDeque::new(),
            owner: None,
            settings,
        }
    }

    /// Goes on with other settings and another policy; what is under way and what was learned stays.
    pub fn reconfigure(&mut self, settings: Settings, policy: Box<dyn Policy>) {
        self.history.set_limit(settings.history);
        self.settings = settings;
        self.policy = policy;
    }

    /// The cluster key has come or gone.
    pub fn set_has_key(&mut self, has_key: bool) {
        self.settings.has_key = has_key;
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        self.promises.expire(now);
        match input {
            Input::Here(address) => self.here = Some(address),
            Input::Report(report) => self.hear(now, &report),
            Input::Goodbye(address) => self.forget_node(now, address),
            Input::Snapshot(snapshot) => self.handle_snapshot(now, snapshot),
            Input::NoSnapshot => self.jobs.lose(),
            Input::Offer { from, authenticated, offer } => self.handle_offer(now, from, authenticated, offer),
            Input::Starting { ticket, job } => self.handle_starting(now, ticket, job),
            Input::MoveEnded { pid, end } => self.handle_move_end(now, pid, end),
        }
    }

    /// Does what time alone brings about: questions run out, silent nodes are forgotten.
    pub fn handle_timeout(&mut self, now: Time) {
        self.promises.expire(now);
        self.end_starts(now);
        let (again, silent) = self.questions.run_out(now, now + self.settings.ask_timeout);
        for (to, ask) in again {
            self.outputs.push_back(Output::Send { to, offer: Offer::Ask(ask) });
        }
        if silent.is_empty() {
            return;
        }
        for question in silent {
            let to = question.proposal.to;
            self.take_back(&question);
            self.rest(now, to, REST_AFTER_SILENCE, "it did not answer; does om-sched run there?");
            self.outcome(now, question.decision, Outcome::Unanswered);
        }
        self.round(now);
    }

    /// The next thing to be done; call until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called at the latest; `None`: not before the next input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.questions.next_deadline().into_iter().chain(self.starts.next_deadline()).min()
    }

    /// Whether the om files are worth reading more often than usual, since something is going on.
    #[must_use]
    pub fn is_busy(&self, now: Time) -> bool {
        !self.questions.is_empty()
            || !self.moves.is_empty()
            || !self.promises.is_empty()
            || self.jobs.is_changing(now)
    }

    /// Whether the om files should be read again before an offer is handed in, so that what is answered and decided
    /// on it is fresh.
    #[must_use]
    pub fn wants_reading(&self, now: Time) -> bool {
        self.jobs.read_at().is_none_or(|read| now.saturating_sub(read) > FRESH_READING)
    }

    /// The decisions of the recent past.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What a move costs, as far as that was learned.
    #[must_use]
    pub fn price(&self) -> PriceLine {
        self.price.line()
    }

    fn hear(&mut self, now: Time, report: &Report<'_>) {
        // Whoever has the key cannot be talked over by somebody without.
        let is_spoken_for = |node: Node<'_>| node.authenticated && !node.is_stale(now);
        if self.settings.has_key
            && !report.authenticated
            && self.nodes.get(report.address).is_some_and(is_spoken_for)
        {
            return;
        }
        self.nodes.hear(now, report);
        if self.here == Some(report.address)
            && let Some(runnable) = self.nodes.get(report.address).and_then(|node| node.own_view)
        {
            self.jobs.hear_own_load(runnable);
        }
    }

    fn forget_node(&mut self, now: Time, address: IpAddr) {
        self.nodes.forget(address);
        self.rests.remove(&address);
        if let Some(question) = self.questions.close(address) {
            self.outcome(now, question.decision, Outcome::Unanswered);
        }
    }

    fn handle_snapshot(&mut self, now: Time, snapshot: Snapshot) {
        for arrival in self.jobs.read(now, snapshot) {
            self.promises.arrived(arrival);
        }
        if self.forgot.is_none_or(|forgot| now.saturating_sub(forgot) >= FORGET_EVERY) {
            self.forgot = Some(now);
            self.nodes.forget_gone(now);
        }
        if self.decided.is_some_and(|decided| now.saturating_sub(decided) < DECIDE_EVERY) {
            return;
        }
        self.decided = Some(now);
        self.rests.retain(|_, rest| now < rest.until + LONGEST_REST);
        self.watch_moved(now);
        self.follow_orders(now);
        self.round(now);
        self.invite(now);
    }

    fn handle_offer(&mut self, now: Time, from: IpAddr, authenticated: bool, offer: Offer) {
        if self.here.is_none_or(|here| here == from) || (self.settings.has_key && !authenticated) {
            return;
        }
        match offer {
            Offer::Ask(ask) => self.handle_ask(now, from, &ask),
            Offer::Answer(answer) => self.handle_answer(now, from, &answer),
            Offer::Invite(invite) => {
                if let (Some(node), Some(figures)) =
                    (self.nodes.known_mut(from), Figures::from_answer(&invite.figures))
                {
                    node.hear_figures(now, figures);
                    self.note_speaker(now, from);
                    self.round(now);
                }
            }
        }
    }

    fn note_speaker(&mut self, now: Time, address: IpAddr) {
        self.speakers.push_back((now, address));
        if self.speakers.len() > SPEAKERS {
            self.speakers.pop_front();
        }
    }

    fn handle_move_end(&mut self, now: Time, pid: u32, end: MoveEnd) {
        let Some(ended) = self.moves.remove(&pid) else { return };
        let took_ms = guard::millis(now.saturating_sub(ended.since));
        match end {
            MoveEnd::Done { downtime } => {
                if let Some(downtime) = downtime {
                    self.price.learn(ended.rss_bytes, downtime);
                }
                if let Some(node) = self.nodes.known_mut(ended.to) {
                    node.arrived(now, pid);
                }
                if let Some(tracked) = self.jobs.tracked_mut(pid) {
                    tracked.failures = 0;
                }
                self.rests.remove(&ended.to);
                // Until the om files are read again nobody shall take it for a job that is still here.
                self.jobs.left(pid, ended.to);
                self.policy
                    .observe(now, &Event::Moved { pid, to: ended.to, rss_bytes: ended.rss_bytes, downtime });
                let downtime_ms = downtime.map(guard::millis);
                let outcome = Outcome::Moved { took_ms, downtime_ms, share: None };
                self.watch(now, (ended.decision, pid, ended.to), ended.share, outcome.clone());
                self.outcome(now, ended.decision, outcome);
            }
            MoveEnd::JobEnded => {
                self.take_back_move(pid, &ended);
                self.jobs.ended(pid);
                self.outcome(now, ended.decision, Outcome::Ended);
            }
            MoveEnd::Failed { reason, only_the_job } => {
                self.take_back_move(pid, &ended);
                if !only_the_job {
                    self.rest(now, ended.to, REST_AFTER_FAILURE, &format!("a move to it failed: {reason}"));
                }
                if let Some(tracked) = self.jobs.tracked_mut(pid) {
                    tracked.rests_until = Some(now + growing(REST_AFTER_FAILURE, tracked.failures));
                    tracked.failures += 1;
                }
                self.policy.observe(now, &Event::Failed { pid, to: ended.to, reason: &reason });
                self.outcome(now, ended.decision, Outcome::Failed { reason });
            }
        }
        self.round(now);
    }

    /// The job does not come: the other node need not keep a place for it.
    fn take_back_move(&mut self, pid: u32, ended: &Move) {
        self.forget_inbound(ended.to, pid);
        if let Some(nonce) = ended.nonce {
            self.withdraw(ended.to, nonce);
        }
    }

    fn rest(&mut self, now: Time, address: IpAddr, base: Duration, reason: &str) {
        let in_a_row = self.rests.get(&address).map_or(0, |rest| rest.in_a_row);
        let until = now + growing(base, in_a_row);
        self.rests.insert(address, Rest { until, in_a_row: in_a_row + 1, reason: reason.to_owned() });
    }

    fn forget_inbound(&mut self, to: IpAddr, pid: u32) {
        if let Some(node) = self.nodes.known_mut(to) {
            node.forget_inbound(pid);
        }
    }

    fn record(
        &mut self,
        now: Time,
        pid: u32,
        to: IpAddr,
        reason: String,
        weighing: Option<Weighing>,
        outcome: Outcome,
    ) -> u64 {
        let job = self.jobs.get(pid);
        let command = job.map(|job| job.command.clone()).unwrap_or_default();
        let rss_bytes = job.map_or(0, |job| job.rss_bytes);
        let from = self.here.unwrap_or(to);
        let (id, at, changed) = (0, now, now);
        self.tell_decision(Decision {
            id,
            at,
            changed,
            pid,
            command,
            from,
            to,
            reason,
            weighing,
            rss_bytes,
            outcome,
        })
    }

    fn tell_decision(&mut self, decision: Decision) -> u64 {
        let decision = self.history.record(decision);
        self.outputs.push_back(Output::Decided(Box::new(decision.clone())));
        decision.id
    }

    fn outcome(&mut self, now: Time, decision: u64, outcome: Outcome) {
        if let Some(decision) = self.history.update(now, decision, outcome) {
            self.outputs.push_back(Output::Decided(Box::new(decision.clone())));
        }
    }
}

/// `base`, doubled for each time in a row, up to the longest rest.
fn growing(base: Duration, in_a_row: u32) -> Duration {
    base.saturating_mul(1 << in_a_row.min(10)).min(LONGEST_REST)
}
