//! What is told, when, and to whom.
//!
//! ```text
//!            timeout                    sample                      send
//!   idle ───────────────▶ sampling ───────────────▶ idle      ┌──▶ report: what changes; now and then the rest
//!    │  ask: answer due within ANSWER_WITHIN                  ├──▶ ask: once at the start and on a new network
//!    └─ stop ─▶ stopped: nothing is told any more             └──▶ goodbye
//! ```
//!
//! Contract: after each `handle_*` drain [`Core::poll_output`], then sleep until [`Core::poll_timeout`]. Times are
//! counted from any point the caller likes and must not go backwards. There is no clock, socket, file or global
//! random generator in here.
//!
//! Invariants: two reports of one node are never closer than its answers' rate limit allows, whoever asks; every
//! datagram has a greater sequence than the one before; nothing follows a goodbye.

mod jitter;
mod load;
mod rhythm;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use om_proto::key::ClusterKeys;
use om_proto::proof::{ECHO_LIMIT, Echo, Nonce};
use om_proto::report::{Capacity, Identity, Machine};
use om_proto::wire::{DatagramWriter, Header, Kind, MAX_DATAGRAM, Section};

use jitter::Jitter;
use load::Smoothed;
use rhythm::{AskBudget, Rhythm};

pub use load::Sample;

/// An answer to a question leaves at a random moment within this time, so that a thousand nodes that answer one
/// question do so evenly within a quarter of a second.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(200);
/// A sample that is no older serves for an answer as well.
const SAMPLE_LASTS: Duration = Duration::from_millis(250);
/// Askers that are answered one by one; more are answered by the group's copy only.
const ASKER_LIMIT: usize = 8;
/// Challenges that wait for the next report, which takes [`ECHO_LIMIT`] of them: this many make it sixteen datagrams.
const CHALLENGE_LIMIT: usize = 16 * ECHO_LIMIT;

/// What an administrator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The time between two reports: 0.1 to 60 s.
    pub period: Duration,
    /// How long the smoothed loads take to follow the greater part of a step in their slow direction.
    pub smoothing: Duration,
}

/// Whom a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Everybody, by whichever transport is configured.
    All,
    /// One node that asked by unicast.
    One(IpAddr),
}

/// What the loop has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Take a sample and hand it to [`Core::handle_sample`] at once.
    Sample,
    /// Send these bytes.
    Send {
        /// A whole datagram.
        bytes: Vec<u8>,
        /// Whom to.
        route: Route,
    },
}

/// The daemon's state between two events.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    keys: ClusterKeys,
    name: IpAddr,
    epoch: u64,
    sequence: u64,
    identity: Identity,
    machine: Machine,
    jitter: Jitter,
    rhythm: Rhythm,
    budget: AskBudget,
    smoothed: Smoothed,
    /// The newest sample and when it was taken.
    sample: Option<(Duration, Sample)>,
    /// The capacity that was told last.
    told_capacity: Option<Capacity>,
    next_report: Duration,
    answer: Option<Answer>,
    /// What members have asked since the last report, to be repeated in the next one.
    challenges: Vec<Nonce>,
    sampling: bool,
    stopped: bool,
    outputs: VecDeque<Output>,
}

/// An answer that somebody waits for.
#[derive(Debug)]
struct Answer {
    due: Duration,
    to: Vec<IpAddr>,
    to_all: bool,
}

/// What the daemon knows of itself and does not change while it runs, except by a rename.
#[derive(Clone, Debug)]
pub struct Node {
    /// The address that names the node.
    pub name: IpAddr,
    /// Greater than that of every earlier start.
    pub epoch: u64,
    /// Who it is.
    pub identity: Identity,
    /// What seldom changes.
    pub machine: Machine,
    /// Makes this node's jitter differ from every other node's.
    pub seed: u64,
}

impl Core {
    /// A daemon that asks and reports at once.
    #[must_use]
    pub fn new(now: Duration, settings: Settings, keys: ClusterKeys, node: Node) -> Self {
        let mut core = Self {
            settings,
            keys,
            name: node.name,
            epoch: node.epoch,
            sequence: 0,
            identity: node.identity,
            machine: node.machine,
            jitter: Jitter::new(node.seed),
            rhythm: Rhythm::new(settings.period),
            budget: AskBudget::new(now),
            smoothed: Smoothed::default(),
            sample: None,
            told_capacity: None,
            next_report: now,
            answer: None,
            challenges: Vec::new(),
            sampling: false,
            stopped: false,
            outputs: VecDeque::new(),
        };
        core.send(Kind::Ask, Route::All, |_| {});
        core
    }

    /// A sample was taken at `now`, because [`Output::Sample`] wanted one.
    pub fn handle_sample(&mut self, now: Duration, mut sample: Sample) {
        self.sampling = false;
        if self.stopped {
            return;
        }
        self.smoothed.follow(now, &mut sample.load, self.settings.smoothing);
        if self.told_capacity.as_ref() != Some(&sample.capacity) {
            self.rhythm.everything_soon();
        }
        self.sample = Some((now, sample));
        self.tell(now);
    }

    /// Somebody asked. `from` is the asker's address if the question came to this node alone, else `None`. The
    /// answer goes to everybody who listens, and to the asker.
    ///
    /// A challenge, which only a member can put, waits for the next report if this question gets no answer of its own:
    /// so nobody who floods this node with questions keeps it from proving itself within a period.
    pub fn handle_ask(&mut self, now: Duration, from: Option<IpAddr>, challenge: Option<Nonce>) {
        if self.stopped {
            return;
        }
        if let Some(nonce) = challenge
            && self.challenges.len() < CHALLENGE_LIMIT
            && !self.challenges.contains(&nonce)
        {
            self.challenges.push(nonce);
        }
        if self.answer.is_none() {
            if !self.budget.take(now) {
                return;
            }
            let due = now + self.jitter.within(ANSWER_WITHIN);
            self.answer = Some(Answer { due, to: Vec::new(), to_all: false });
        }
        let Some(answer) = &mut self.answer else { return };
        answer.to_all |= challenge.is_some();
        match from {
            Some(asker) if !answer.to.contains(&asker) && answer.to.len() < ASKER_LIMIT => {
                answer.to.push(asker)
            }
            Some(_) => {}
            None => answer.to_all = true,
        }
    }

    /// Host name, addresses or machine may have changed; if they have, everything is told at once.
    pub fn handle_node(&mut self, now: Duration, identity: Identity, machine: Machine) {
        if self.identity != identity || self.machine != machine {
            (self.identity, self.machine) = (identity, machine);
            self.tell_everything_soon(now);
        }
    }

    /// An interface or address has come: whoever is there has not heard this node yet, and the other way round.
    pub fn handle_new_network(&mut self, now: Duration) {
        if !self.stopped {
            self.send(Kind::Ask, Route::All, |_| {});
            self.tell_everything_soon(now);
        }
    }

    /// The node goes by another address from now on. Under the old one it says goodbye.
    pub fn handle_rename(&mut self, now: Duration, name: IpAddr) {
        if self.name != name && !self.stopped {
            self.send(Kind::Goodbye, Route::All, |_| {});
            self.name = name;
            self.tell_everything_soon(now);
        }
    }

    /// The configuration was read again.
    pub fn handle_settings(&mut self, now: Duration, settings: Settings, keys: ClusterKeys) {
        self.settings = settings;
        self.keys = keys;
        self.rhythm = Rhythm::new(settings.period);
        self.identity.period_ms = millis(settings.period);
        self.tell_everything_soon(now);
    }

    /// The cluster key has changed.
    pub fn handle_keys(&mut self, now: Duration, keys: ClusterKeys) {
        self.keys = keys;
        self.tell_everything_soon(now);
    }

    /// The daemon stops: a goodbye, and nothing after it.
    pub fn handle_stop(&mut self) {
        if !self.stopped {
            self.outputs.clear();
            self.send(Kind::Goodbye, Route::All, |_| {});
            self.stopped = true;
        }
    }

    /// The time that [`Self::poll_timeout`] gave has come; earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.stopped || self.sampling || self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        let report_is_due = now >= self.next_report;
        let is_fresh =
            self.sample.as_ref().is_some_and(|(taken, _)| now.saturating_sub(*taken) <= SAMPLE_LASTS);
        if is_fresh && !report_is_due {
            self.tell(now);
        } else {
            self.sampling = true;
            self.outputs.push_back(Output::Sample);
        }
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.stopped || self.sampling {
            return None;
        }
        Some(self.answer.as_ref().map_or(self.next_report, |answer| answer.due.min(self.next_report)))
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether a header is this daemon's own: its group's datagrams come back to it.
    #[must_use]
    pub fn is_own(&self, header: &Header) -> bool {
        header.sender == self.name && header.epoch == self.epoch
    }

    fn tell_everything_soon(&mut self, now: Duration) {
        self.rhythm.everything_soon();
        self.next_report = now;
    }

    /// Sends the report that is due, the answer that is due, or one datagram for both.
    fn tell(&mut self, now: Duration) {
        let report_is_due = now >= self.next_report;
        let answer = match self.answer.take() {
            Some(answer) if answer.due <= now || report_is_due => Some(answer),
            waiting => {
                self.answer = waiting;
                None
            }
        };
        let to_all = report_is_due || answer.as_ref().is_some_and(|answer| answer.to_all);
        if answer.is_some() {
            self.rhythm.everything_soon();
        }
        if to_all || answer.is_some() {
            let askers = answer.map(|answer| answer.to).unwrap_or_default();
            self.send_report(to_all, &askers);
        }
        if report_is_due {
            self.next_report = now + self.jitter.around(self.settings.period);
        }
    }

    fn send_report(&mut self, to_all: bool, askers: &[IpAddr]) {
        let Some((_, sample)) = self.sample.clone() else { return };
        let mut echoes = Vec::new();
        if to_all {
            let challenges = std::mem::take(&mut self.challenges);
            echoes.extend(challenges.chunks(ECHO_LIMIT).map(|nonces| Echo { nonces: nonces.to_vec() }));
        }
        self.send_part(&sample, to_all, askers, echoes.pop().as_ref());
        for echo in echoes {
            self.send_part(&sample, true, &[], Some(&echo));
        }
    }

    fn send_part(&mut self, sample: &Sample, to_all: bool, askers: &[IpAddr], echo: Option<&Echo>) {
        let parts = self.rhythm.next();
        let (identity, machine) = (self.identity.clone(), self.machine.clone());
        let bytes = self.datagram(Kind::Report, |writer| {
            // What a scheduler needs most comes first: what does not fit is left out.
            put(writer, Some(&sample.load));
            put(writer, Some(&sample.memory));
            put(writer, sample.migration.as_ref());
            put(writer, echo);
            put(writer, parts.identity.then_some(&sample.capacity));
            put(writer, parts.identity.then_some(&identity));
            put(writer, parts.machine.then_some(&machine));
        });
        if parts.identity {
            self.told_capacity = Some(sample.capacity.clone());
        }
        for asker in askers {
            self.outputs.push_back(Output::Send { bytes: bytes.clone(), route: Route::One(*asker) });
        }
        if to_all {
            self.outputs.push_back(Output::Send { bytes, route: Route::All });
        }
    }

    fn send(&mut self, kind: Kind, route: Route, fill: impl FnOnce(&mut DatagramWriter<'_>)) {
        let bytes = self.datagram(kind, fill);
        self.outputs.push_back(Output::Send { bytes, route });
    }

    fn datagram(&mut self, kind: Kind, fill: impl FnOnce(&mut DatagramWriter<'_>)) -> Vec<u8> {
        self.sequence += 1;
        let header = Header {
            kind,
            flags: 0,
            key_id: 0,
            epoch: self.epoch,
            sequence: self.sequence,
            sender: self.name,
        };
        let mut buffer = [0; MAX_DATAGRAM];
        let mut writer = DatagramWriter::new(&mut buffer, header);
        fill(&mut writer);
        writer.finish(&self.keys).to_vec()
    }
}

/// Adds a section if there is one and it fits.
fn put<S: Section>(writer: &mut DatagramWriter<'_>, section: Option<&S>) {
    if let Some(section) = section {
        // Texts and lists are bounded where they are read, so that a full report always fits.
        let _ = writer.section(section);
    }
}

/// Whole milliseconds, as the wire has them.
#[must_use]
pub fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
