//! The question before a move, from both sides.
//!
//! ```text
//! asker                                   asked
//!   propose ── Ask(nonce) ───────────────▶ refuse, or promise: counted in its load until the job
//!     │◀─────────────── Answer(nonce) ──── is there or the promise runs out
//!     ├─ still worth it ── request the move
//!     └─ not any more ─── Ask(nonce, no runnable tasks) ──▶ the promise is taken back
//! ```
//!
//! Repeating a question is harmless: a nonce replaces what the same nonce of the same node asked for. A question for
//! no tasks at all takes the question back and gets no answer. [`Questions`] are this node's own, at most one a node
//! and one a job; [`Promises`] are what this node owes to others. Neither knows a policy.

use std::collections::BTreeMap;
use std::net::IpAddr;

use om_proto::offer::{Answer, Ask, Invite};

use crate::Time;
use crate::jobs::Arrival;
use crate::policy::Proposal;

/// No node gets more promises than this at once.
const PROMISES_A_NODE: usize = 8;
/// How often a question is put.
const TRIES: u32 = 2;

/// What schedulers say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Would you take a job?
    Ask(Ask),
    /// The answer.
    Answer(Answer),
    /// Send me one.
    Invite(Invite),
}

/// A question that waits for its answer.
#[derive(Clone, Debug)]
pub struct Question {
    /// What was asked.
    pub ask: Ask,
    /// Why.
    pub proposal: Proposal,
    /// Its entry in the history.
    pub decision: u64,
    /// It is to move whatever the policy thinks.
    pub is_order: bool,
    deadline: Time,
    tries: u32,
}

impl Question {
    /// A question that is being put and waits until `deadline`.
    #[must_use]
    pub fn new(ask: Ask, proposal: Proposal, decision: u64, is_order: bool, deadline: Time) -> Self {
        Self { ask, proposal, decision, is_order, deadline, tries: 1 }
    }
}

/// The questions of this node, by the node that was asked.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    open: BTreeMap<IpAddr, Question>,
}

impl Questions {
    /// Notes a question that is being sent to the proposal's node. Whatever was asked there before is forgotten.
    pub fn put(&mut self, question: Question) {
        self.open.insert(question.proposal.to, question);
    }

    /// The question that `answer` from `from` answers, which is closed by it; `None` if nobody asked.
    pub fn answered(&mut self, from: IpAddr, answer: &Answer) -> Option<Question> {
        if self.open.get(&from)?.ask.nonce != answer.nonce {
            return None;
        }
        self.open.remove(&from)
    }

    /// Takes the question to `to` back, if one is open.
    pub fn close(&mut self, to: IpAddr) -> Option<Question> {
        self.open.remove(&to)
    }

    /// Whether `to` is being asked.
    #[must_use]
    pub fn asks(&self, to: IpAddr) -> bool {
        self.open.contains_key(&to)
    }

    /// Whether some node is being asked about `pid`.
    #[must_use]
    pub fn is_about(&self, pid: u32) -> bool {
        self.open.values().any(|question| question.proposal.pid == pid)
    }

    /// All open ones.
    pub fn iter(&self) -> impl Iterator<Item = &Question> {
        self.open.values()
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// When the next one runs out.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.open.values().map(|question| question.deadline).min()
    }

    /// Of the questions that ran out: those to put again until `deadline`, and those that nobody will answer,
    /// which are closed.
    pub fn run_out(&mut self, now: Time, deadline: Time) -> (Vec<(IpAddr, Ask)>, Vec<Question>) {
        let mut again = Vec::new();
        let mut silent = Vec::new();
        let due: Vec<IpAddr> =
            self.open.iter().filter(|(_, question)| question.deadline <= now).map(|(to, _)| *to).collect();
        for to in due {
            let Some(mut question) = self.open.remove(&to) else { continue };
            if question.tries < TRIES {
                question.tries += 1;
                question.deadline = deadline;
                again.push((to, question.ask.clone()));
                self.open.insert(to, question);
            } else {
                silent.push(question);
            }
        }
        (again, silent)
    }
}

/// A promise to take a job.
#[derive(Clone, Copy, Debug)]
struct Promise {
    from: IpAddr,
    nonce: u64,
    tasks: f64,
    rss_bytes: u64,
    coming_home: bool,
    until: Time,
}

/// What this node has promised, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    kept: Vec<Promise>,
}

impl Promises {
    /// Makes a promise until `until`; one of the same node and nonce is replaced. False if the node has as many as
    /// it may: nothing has changed.
    pub fn make(&mut self, from: IpAddr, ask: &Ask, tasks: f64, until: Time) -> bool {
        self.withdraw(from, ask.nonce);
        if self.kept.iter().filter(|promise| promise.from == from).count() >= PROMISES_A_NODE {
            return false;
        }
        self.kept.push(Promise {
            from,
            nonce: ask.nonce,
            tasks,
            rss_bytes: ask.rss_bytes,
            coming_home: ask.coming_home,
            until,
        });
        true
    }

    /// Forgets a promise.
    pub fn withdraw(&mut self, from: IpAddr, nonce: u64) {
        self.kept.retain(|promise| (promise.from, promise.nonce) != (from, nonce));
    }

    /// Forgets those that have run out.
    pub fn expire(&mut self, now: Time) {
        self.kept.retain(|promise| promise.until > now);
    }

    /// Someone has arrived: the oldest promise for such a job is kept now. Who came for which promise cannot be
    /// told and makes no difference.
    pub fn arrived(&mut self, arrival: Arrival) {
        let matching = |promise: &Promise| promise.coming_home == arrival.came_home;
        if let Some(position) = self.kept.iter().position(matching) {
            self.kept.remove(position);
        }
    }

    /// Runnable tasks promised; those promised under `except` are left out.
    #[must_use]
    pub fn tasks(&self, except: Option<(IpAddr, u64)>) -> f64 {
        self.without(except).map(|promise| promise.tasks).sum()
    }

    /// Memory promised.
    #[must_use]
    pub fn rss_bytes(&self, except: Option<(IpAddr, u64)>) -> u64 {
        self.without(except).map(|promise| promise.rss_bytes).sum()
    }

    /// Guests promised.
    #[must_use]
    pub fn guests(&self, except: Option<(IpAddr, u64)>) -> u32 {
        u32::try_from(self.without(except).filter(|promise| !promise.coming_home).count()).unwrap_or(u32::MAX)
    }

    /// Whether nothing is promised.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn without(&self, except: Option<(IpAddr, u64)>) -> impl Iterator<Item = &Promise> {
        self.kept.iter().filter(move |promise| except != Some((promise.from, promise.nonce)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Time {
        Duration::from_millis(ms)
    }

    fn node(last: u8) -> IpAddr {
        IpAddr::from([10, 77, 0, last])
    }

    fn ask(nonce: u64) -> Ask {
        Ask { nonce, rss_bytes: 1 << 20, runnable_milli: 1000, cpu_features: 0, coming_home: false }
    }

    fn answer(nonce: u64) -> Answer {
        Answer {
            nonce,
            accepted: true,
            reason: String::new(),
            movable_milli: 0,
            background_milli: 0,
            effective_cpus_milli: 1000,
            speed: 1000,
            promise_ms: 3000,
        }
    }

    fn put(questions: &mut Questions, to: IpAddr, pid: u32, nonce: u64) {
        let proposal = Proposal { pid, to, reason: String::new(), weighing: None };
        questions.put(Question::new(ask(nonce), proposal, 1, false, at(300)));
    }

    #[test]
    fn only_the_node_that_was_asked_answers_and_only_once() {
        let mut questions = Questions::default();
        put(&mut questions, node(2), 7, 99);
        assert!(questions.answered(node(3), &answer(99)).is_none());
        assert!(questions.answered(node(2), &answer(98)).is_none());
        assert!(questions.is_about(7) && questions.asks(node(2)));
        assert_eq!(questions.answered(node(2), &answer(99)).map(|question| question.proposal.pid), Some(7));
        assert!(questions.answered(node(2), &answer(99)).is_none());
    }

    #[test]
    fn a_question_is_put_twice_and_then_given_up() {
        let mut questions = Questions::default();
        put(&mut questions, node(2), 7, 99);
        assert_eq!(questions.next_deadline(), Some(at(300)));
        let (again, silent) = questions.run_out(at(300), at(600));
        assert_eq!((again.len(), silent.len()), (1, 0));
        let (again, silent) = questions.run_out(at(599), at(900));
        assert_eq!((again.len(), silent.len()), (0, 0));
        let (again, silent) = questions.run_out(at(600), at(900));
        assert_eq!((again.len(), silent.len(), questions.len()), (0, 1, 0));
    }

    #[test]
    fn a_repeated_question_is_one_promise_and_a_promise_ends() {
        let mut promises = Promises::default();
        assert!(promises.make(node(2), &ask(1), 1.0, at(3000)));
        assert!(promises.make(node(2), &ask(1), 1.0, at(3300)));
        assert_eq!((promises.tasks(None), promises.guests(None)), (1.0, 1));
        assert_eq!(promises.tasks(Some((node(2), 1))), 0.0);
        promises.expire(at(3299));
        assert!(!promises.is_empty());
        promises.expire(at(3300));
        assert!(promises.is_empty());
    }

    #[test]
    fn an_arrival_redeems_the_oldest_promise_of_its_kind() {
        let mut promises = Promises::default();
        promises.make(node(2), &ask(1), 1.0, at(3000));
        promises.make(node(3), &Ask { coming_home: true, ..ask(2) }, 2.0, at(3000));
        promises.arrived(Arrival { pid: 9, came_home: true });
        assert_eq!(promises.tasks(None), 1.0);
        promises.arrived(Arrival { pid: 9, came_home: true });
        assert_eq!(promises.tasks(None), 1.0);
        promises.arrived(Arrival { pid: 8, came_home: false });
        assert!(promises.is_empty());
    }

    #[test]
    fn one_node_cannot_fill_another_with_promises() {
        let mut promises = Promises::default();
        let made = (0..100).filter(|nonce| promises.make(node(2), &ask(*nonce), 1.0, at(3000))).count();
        assert_eq!(made, 8);
        assert!(promises.make(node(3), &ask(1), 1.0, at(3000)));
    }
}
