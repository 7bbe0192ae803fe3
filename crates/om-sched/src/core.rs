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
mod explain;
mod orders;
mod starting;
mod viewing;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use om_proto::offer::{Answer, Ask};
use om_proto::omfs::Bounds;

pub use explain::{CandidateSays, JobSays, NodeSays};

use crate::Time;
use crate::figures::{Figures, to_milli};
use crate::guard::{self, Refusal};
use crate::history::{Decision, History, Outcome};
use crate::job::Snapshot;
use crate::jobs::Jobs;
use crate::node::{Node, Report};
use crate::nodes::{Heard, Nodes, Reports};
use crate::offer::{Offer, Promises, Question, Questions};
use crate::policy::{Event, Policy, Proposal};
use crate::price::{Price, PriceLine};
use crate::random::Random;
use crate::settings::Settings;
use crate::start::Starts;
use crate::view::{Job, View, Weighing};

/// A reading of the om files that is older than this is not fresh enough to answer with.
const FRESH_READING: Duration = Duration::from_millis(10);
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
        /// Runnable tasks that it will have, as far as anybody can tell.
        tasks: f64,
        /// Where it may run.
        bounds: Bounds,
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
            Input::Starting { ticket, tasks, bounds } => self.handle_starting(now, ticket, tasks, bounds),
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

    fn handle_answer(&mut self, now: Time, from: IpAddr, answer: &Answer) {
        let Some(question) = self.questions.answered(from, answer) else {
            self.hear_start_answer(now, from, answer);
            return;
        };
        if let (Some(node), Some(figures)) = (self.nodes.known_mut(from), Figures::from_answer(answer)) {
            node.forget_inbound(question.proposal.pid);
            node.hear_figures(now, figures);
            self.note_speaker(now, from);
        }
        if answer.accepted {
            self.decide_again(now, question);
        } else {
            self.forget_inbound(from, question.proposal.pid);
            let reason: String = answer.reason.chars().filter(|c| !c.is_control()).take(120).collect();
            self.rest(now, from, REST_AFTER_REFUSAL, &format!("it refused: {reason}"));
            self.outcome(now, question.decision, Outcome::Refused { reason });
        }
        self.round(now);
    }

    fn note_speaker(&mut self, now: Time, address: IpAddr) {
        self.speakers.push_back((now, address));
        if self.speakers.len() > SPEAKERS {
            self.speakers.pop_front();
        }
    }

    /// The node would take the job: is it still right to send it, on the figures that it gave?
    fn decide_again(&mut self, now: Time, question: Question) {
        let Proposal { pid, to, .. } = question.proposal;
        let verdict = self.view(now, Some((pid, to)), None).map_err(|refusal| refusal.to_string()).and_then(
            |mut view| {
                if question.is_order {
                    // Where it can be nowhere else, a job comes home even if it is not wanted there.
                    let homeward = view.jobs.iter_mut().filter(|job| job.home == to);
                    homeward.for_each(|job| job.bounds = Bounds::default());
                }
                self.recheck(now, &view, pid, to)?;
                if question.is_order {
                    return Ok(question.proposal.clone());
                }
                self.policy.confirm(now, &view, &question.proposal)
            },
        );
        match verdict {
            Ok(proposal) if (proposal.pid, proposal.to) == (pid, to) => {
                self.history.reweigh(question.decision, &proposal.reason, proposal.weighing);
                self.request(now, pid, to, question.decision, Some(question.ask.nonce));
            }
            verdict => {
                let reason = verdict.err().unwrap_or_else(|| "the policy changed its mind".to_owned());
                self.take_back(&question);
                self.outcome(now, question.decision, Outcome::Dropped { reason });
            }
        }
    }

    /// Says exactly what the guard has against a move that it allowed a moment ago.
    fn recheck(&self, now: Time, view: &View, pid: u32, to: IpAddr) -> Result<(), String> {
        let job = view.jobs.iter().find(|job| job.pid == pid).ok_or_else(|| {
            self.jobs
                .get(pid)
                .and_then(|job| self.check_job(now, job, true).err())
                .unwrap_or(Refusal::NotHere)
                .to_string()
        })?;
        let target = view.targets.iter().find(|target| target.address == to).ok_or_else(|| {
            let own = self.own(now).map_err(|refusal| refusal.to_string());
            match (own, self.nodes.get(to)) {
                (Ok(own), Some(node)) => {
                    guard::check_node(now, &own, &node).err().unwrap_or(Refusal::Untold).to_string()
                }
                (Err(refusal), _) => refusal,
                (_, None) => "it is not heard any more".to_owned(),
            }
        })?;
        view.allows(job, target).map_err(|refusal| refusal.to_string())
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
                self.watches.push(aftermath::Watch {
                    decision: ended.decision,
                    pid,
                    to: ended.to,
                    took_ms,
                    downtime_ms,
                    before: ended.share,
                    seen: None,
                });
                self.outcome(now, ended.decision, Outcome::Moved { took_ms, downtime_ms, share: None });
            }
            MoveEnd::Failed { reason, only_the_job } => {
                self.forget_inbound(ended.to, pid);
                if let Some(nonce) = ended.nonce {
                    self.withdraw(ended.to, nonce);
                }
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

    /// One round: lets the policy propose, and asks the nodes that it chose.
    fn round(&mut self, now: Time) {
        if self.jobs.read_at().is_none() || self.free_slots() == 0 {
            return;
        }
        let among = self.sample(now);
        let Ok(view) = self.view(now, None, among.as_deref()) else { return };
        if view.jobs.is_empty() || view.targets.is_empty() {
            return;
        }
        let proposals = self.policy.decide(now, &view, &mut self.random);
        for proposal in proposals {
            if self.free_slots() == 0 {
                return;
            }
            let job = view.jobs.iter().find(|job| job.pid == proposal.pid);
            let target = view.targets.iter().find(|target| target.address == proposal.to);
            // A policy that names what it was not shown, or the same twice, is not followed.
            let (Some(job), Some(target)) = (job, target) else { continue };
            if self.is_under_way(job.pid) || self.questions.asks(target.address) {
                continue;
            }
            if view.allows(job, target).is_err() {
                continue;
            }
            if self.settings.dry_run {
                self.tell_only(now, job, proposal);
            } else {
                self.ask(now, job, proposal, false);
            }
        }
    }

    fn tell_only(&mut self, now: Time, job: &Job, proposal: Proposal) {
        let told = self.history.last_of(now, job.pid, TELL_AGAIN);
        if told.is_some_and(|told| told.to == proposal.to) {
            return;
        }
        let to = proposal.to;
        self.record(now, job.pid, to, proposal.reason, proposal.weighing, Outcome::WouldMove);
    }

    fn ask(&mut self, now: Time, job: &Job, proposal: Proposal, is_order: bool) {
        let ask = Ask {
            nonce: self.random.bits(),
            rss_bytes: job.rss_bytes,
            // No tasks at all would take the question back.
            runnable_milli: to_milli(job.tasks).max(1),
            cpu_features: job.cpu_features,
            coming_home: job.home == proposal.to,
        };
        let to = proposal.to;
        let decision =
            self.record(now, job.pid, to, proposal.reason.clone(), proposal.weighing, Outcome::Asked);
        if let Some(node) = self.nodes.known_mut(to) {
            node.expect(now, job.pid, job.tasks);
        }
        self.outputs.push_back(Output::Send { to, offer: Offer::Ask(ask.clone()) });
        let question = Question::new(ask, proposal, decision, is_order, now + self.settings.ask_timeout);
        self.questions.put(question);
    }

    fn request(&mut self, now: Time, pid: u32, to: IpAddr, decision: u64, nonce: Option<u64>) {
        let Some(job) = self.jobs.get(pid) else { return };
        let (rss_bytes, home) = (job.rss_bytes, job.home == to || (job.is_own && self.here == Some(to)));
        let tasks = self.jobs.tasks(pid);
        if let Some(node) = self.nodes.known_mut(to) {
            node.expect(now, pid, tasks);
        }
        let share = self.jobs.share(pid);
        self.moves.insert(pid, Move { to, since: now, rss_bytes, decision, nonce, share });
        self.outputs.push_back(Output::Move { pid, to, home });
        self.outcome(now, decision, Outcome::Requested);
    }

    fn is_under_way(&self, pid: u32) -> bool {
        self.moves.contains_key(&pid) || self.questions.is_about(pid)
    }

    fn free_slots(&self) -> usize {
        self.settings.max_moves.saturating_sub(self.questions.len() + self.moves.len())
    }

    fn rest(&mut self, now: Time, address: IpAddr, base: Duration, reason: &str) {
        let in_a_row = self.rests.get(&address).map_or(0, |rest| rest.in_a_row);
        let until = now + growing(base, in_a_row);
        self.rests.insert(address, Rest { until, in_a_row: in_a_row + 1, reason: reason.to_owned() });
    }

    fn take_back(&mut self, question: &Question) {
        self.forget_inbound(question.proposal.to, question.proposal.pid);
        self.withdraw(question.proposal.to, question.ask.nonce);
    }

    fn withdraw(&mut self, to: IpAddr, nonce: u64) {
        let ask = Ask { nonce, rss_bytes: 0, runnable_milli: 0, cpu_features: 0, coming_home: false };
        self.outputs.push_back(Output::Send { to, offer: Offer::Ask(ask) });
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
        let decision = self.history.record(Decision {
            id: 0,
            at: now,
            changed: now,
            pid,
            command: job.map(|job| job.command.clone()).unwrap_or_default(),
            from: self.here.unwrap_or(to),
            to,
            reason,
            weighing,
            rss_bytes: job.map_or(0, |job| job.rss_bytes),
            outcome,
        });
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
