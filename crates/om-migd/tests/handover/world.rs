//! A cluster in which one job moves: the real machines, and around them everything that may happen to messages, threads
//! and nodes. Node 0 is the job's home.
//!
//! A message that was ever said may be heard at any later time, again and again, or never: delivering takes it from
//! nowhere. So drops, delays, repetitions and every order need no step of their own.
//!
//! What the actions do is done here to copies of the job: that is what is looked at, not what the machines believe.

use std::collections::{BTreeMap, BTreeSet};

use om_migd::handover::arbiter::{self, Arbiter, Fate, Output};
use om_migd::handover::source::{self, Source};
use om_migd::handover::target::{self, Target};

/// A node's number.
pub type Node = usize;

/// A mistake that is built in on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mistake {
    /// The target lets the job run as soon as it is restored.
    RunsWhenReady,
    /// The source lets the job run when it has been in doubt for long.
    ResumesInDoubt,
    /// The source destroys its copy once everything is sent.
    DestroysWhenPrepared,
    /// The source keeps its copy running while it is sent.
    FreezesTooLate,
    /// What home has granted is not destroyed at the source but let run.
    KeepsWhatIsGranted,
    /// Home takes what is said of any epoch for the present move's.
    MixesEpochs,
    /// Home tells a straggling source that only the last epoch was granted.
    ForgetsEarlierGrants,
    /// The source destroys a copy whose memory the job has yet to fetch.
    DestroysWhatIsLent,
    /// A target that is lost is not noticed.
    WaitsForTheLost,
}

/// One copy of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Copy {
    /// It stands still.
    Frozen,
    /// It runs.
    Running,
}

/// What one node says to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    Offer {
        from: Node,
        to: Node,
        epoch: u64,
    },
    Accepted {
        to: Node,
        epoch: u64,
    },
    Refused {
        to: Node,
        epoch: u64,
    },
    /// Everything of the job, for whoever has accepted this epoch.
    Luggage {
        epoch: u64,
    },
    Candidate {
        from: Node,
        epoch: u64,
    },
    Prepared {
        from: Node,
        epoch: u64,
    },
    Ready {
        from: Node,
        epoch: u64,
    },
    Abort {
        from: Node,
        epoch: u64,
    },
    Welcome {
        to: Node,
        epoch: u64,
    },
    Decided {
        to: Node,
        epoch: u64,
        fate: Fate,
    },
    Inquiry {
        from: Node,
        to: Node,
        epoch: u64,
    },
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Deliver(Message),
    /// Somebody wants the job moved from here to there.
    Wish(Node, Node),
    /// The connection to the target breaks before it has answered.
    OfferFails(Node),
    /// The last part has been written to the connection.
    SendLuggage(Node),
    /// The source's thread ends.
    Sent(Node),
    SendFails(Node),
    /// Everything but the memory has been written, and that is handed out from now on.
    SentLazily(Node),
    Served(Node),
    /// The target's thread ends.
    Restored(Node),
    ArrivalFails(Node),
    Overdue(Node),
    Linked(Node),
    Unlinked(Node),
    CandidateLost,
    /// The job ends, where it runs.
    Ends(Node),
    Crash(Node),
    /// Home gives the job up: the node that has it has been silent for the whole grace.
    HomeGivesUp,
    /// A guest's node gives home up.
    HomeDead(Node),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub up: bool,
    pub source: Source,
    /// Where a move from here goes.
    pub to: Node,
    target: Option<Target>,
    /// Memory of its copy is on its way to a job that runs elsewhere, or is about to.
    lends: bool,
    /// It broke off on its way.
    is_broken: bool,
    /// By epoch of the stay.
    pub copies: BTreeMap<u64, Copy>,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct World {
    mistake: Option<Mistake>,
    /// Whether memory may follow a job.
    lazily: bool,
    /// None once home has crashed or given up.
    pub arbiter: Option<Arbiter>,
    pub places: Vec<Place>,
    /// Who has, or wanted, an epoch.
    owner: BTreeMap<u64, Node>,
    pub messages: BTreeSet<Message>,
    /// Whether the job may be lost: home or the node that home has granted it has crashed, or it has ended.
    pub excused: bool,
}

impl World {
    /// A cluster of so many nodes; the job runs on node `start`, as if it had moved there.
    pub fn new(nodes: usize, start: Node, lazily: bool, mistake: Option<Mistake>) -> Self {
        let place = Place {
            up: true,
            source: Source::without(),
            to: 0,
            target: None,
            lends: false,
            is_broken: false,
            copies: BTreeMap::new(),
        };
        let mut world = Self {
            mistake,
            lazily,
            arbiter: Some(Arbiter::default()),
            places: vec![place; nodes],
            owner: BTreeMap::from([(1, start)]),
            messages: BTreeSet::new(),
            excused: false,
        };
        world.places[start].source = Source::holding(1);
        world.places[start].copies.insert(1, Copy::Running);
        world
    }

    /// Everything that may happen now but crashes, wishes and the end of the job.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = self.messages.iter().copied().map(Step::Deliver).collect();
        for (node, place) in self.places.iter().enumerate().filter(|(_, place)| place.up) {
            match place.source.state() {
                source::State::Offering => steps.push(Step::OfferFails(node)),
                source::State::Sending | source::State::Stopping => {
                    let epoch = place.source.attempted();
                    let is_out = self.messages.contains(&Message::Luggage { epoch });
                    steps.push(if is_out { Step::Sent(node) } else { Step::SendLuggage(node) });
                    steps.extend([Step::SendFails(node), Step::Overdue(node)]);
                    if is_out && self.lazily {
                        steps.push(Step::SentLazily(node));
                    }
                }
                source::State::Lending => {
                    steps.extend([Step::Served(node), Step::SendFails(node), Step::Overdue(node)]);
                    steps.extend([Step::Linked(node), Step::Unlinked(node)]);
                }
                source::State::Lent => steps.extend([Step::Served(node), Step::SendFails(node)]),
                source::State::InDoubt => {
                    steps.extend([Step::Overdue(node), Step::Linked(node), Step::Unlinked(node)]);
                }
                source::State::Here | source::State::Gone => {}
            }
            if let Some(target) = &place.target {
                match target.state() {
                    target::State::Receiving | target::State::Stopping => {
                        if self.messages.contains(&Message::Luggage { epoch: target.epoch() }) {
                            steps.push(Step::Restored(node));
                        }
                        steps.push(Step::ArrivalFails(node));
                    }
                    target::State::Preparing => steps.push(Step::ArrivalFails(node)),
                    target::State::Ready => steps.push(Step::Linked(node)),
                    target::State::Here | target::State::Gone => {}
                }
            }
            if self.arbiter.is_none() && node != 0 {
                steps.push(Step::HomeDead(node));
            }
        }
        if self.arbiter.as_ref().is_some_and(|arbiter| arbiter.moving().is_some()) {
            steps.push(Step::CandidateLost);
        }
        steps
    }

    /// The moves that may be wished for now.
    pub fn wishes(&self) -> Vec<Step> {
        let nodes = 0..self.places.len();
        let at = nodes.clone().find(|node| self.places[*node].source.state() == source::State::Here);
        let Some(at) = at else { return Vec::new() };
        nodes.filter(|to| *to != at).map(|to| Step::Wish(at, to)).collect()
    }

    /// The crashes that may happen now.
    pub fn crashes(&self) -> Vec<Step> {
        (0..self.places.len()).filter(|node| self.places[*node].up).map(Step::Crash).collect()
    }

    /// The job's end, where it runs.
    pub fn ends(&self) -> Vec<Step> {
        (0..self.places.len()).filter(|node| self.running(*node) > 0).map(Step::Ends).collect()
    }

    /// Lets something happen.
    pub fn apply(&mut self, step: Step) {
        match step {
            Step::Deliver(message) => self.deliver(message),
            Step::Wish(node, to) => {
                let attempted = match (&self.arbiter, node) {
                    (Some(arbiter), 0) => arbiter.attempted(),
                    _ => 0,
                };
                let epoch = attempted.max(self.places[node].source.attempted()) + 1;
                self.places[node].to = to;
                self.source_hears(node, epoch, source::Input::Wish);
            }
            Step::OfferFails(node) => self.source_handles(node, source::Input::Refused),
            Step::SendLuggage(node) => {
                let epoch = self.places[node].source.attempted();
                self.messages.insert(Message::Luggage { epoch });
            }
            Step::Sent(node) => self.source_handles(node, source::Input::Sent),
            Step::SentLazily(node) => {
                self.places[node].lends = true;
                self.source_handles(node, source::Input::SentLazily);
            }
            Step::Served(node) => {
                self.places[node].lends = false;
                self.source_handles(node, source::Input::Served);
            }
            Step::SendFails(node) => {
                // Memory that cannot be fetched any more ends the job where it runs.
                let is_granted = self.holder() != Some(node);
                let place = &mut self.places[node];
                self.excused |= place.lends && is_granted;
                place.is_broken = std::mem::take(&mut place.lends);
                self.source_handles(node, source::Input::Failed);
            }
            Step::Restored(node) => {
                if let Some(target) = &self.places[node].target {
                    let epoch = target.epoch();
                    self.places[node].copies.insert(epoch, Copy::Frozen);
                    self.target_handles(node, target::Input::Restored);
                }
            }
            Step::ArrivalFails(node) => self.target_handles(node, target::Input::Failed),
            Step::Overdue(node) => self.source_handles(node, source::Input::Overdue),
            Step::Linked(node) => {
                self.source_handles(node, source::Input::Linked);
                self.target_handles(node, target::Input::Linked);
            }
            Step::Unlinked(node) => self.source_handles(node, source::Input::Unlinked),
            Step::CandidateLost => {
                if self.mistake != Some(Mistake::WaitsForTheLost) {
                    self.arbitrate(arbiter::Input::CandidateLost);
                }
            }
            Step::Ends(node) => {
                self.excused = true;
                let held = self.places[node].source.held();
                self.places[node].copies.remove(&held);
                self.source_handles(node, source::Input::Ended);
            }
            Step::Crash(node) => {
                let lends = self.places[node].lends;
                self.excused |= node == 0 || self.holder() == Some(node) || lends;
                if node == 0 {
                    self.arbiter = None;
                }
                let place = &mut self.places[node];
                place.up = false;
                place.copies.clear();
                place.source = Source::without();
                place.target = None;
            }
            Step::HomeGivesUp => {
                self.excused = true;
                self.arbiter = None;
                // Home's keeper ends, and with it what it has of the job.
                self.target_handles(0, target::Input::HomeDead);
                self.source_handles(0, source::Input::HomeDead);
            }
            Step::HomeDead(node) => {
                self.target_handles(node, target::Input::HomeDead);
                self.source_handles(node, source::Input::HomeDead);
            }
        }
    }

    /// The node that has the job, as home has decided.
    pub fn holder(&self) -> Option<Node> {
        let holder = self.arbiter.as_ref()?.holder();
        self.owner.get(&holder).copied()
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Offer { from, to, epoch } => {
                let place = &self.places[to];
                if !place.up {
                    return;
                }
                // A keeper takes one offer, and none while it has the job.
                let is_free = place.source.state() == source::State::Gone
                    && place.target.as_ref().is_none_or(|target| {
                        matches!(target.state(), target::State::Gone | target::State::Here)
                            && target.epoch() < epoch
                    });
                if is_free {
                    if to != 0 {
                        // An earlier guest's keeper has ended.
                        self.places[to].source = Source::without();
                    }
                    self.places[to].target = Some(Target::preparing(epoch));
                    self.messages.insert(Message::Candidate { from: to, epoch });
                } else {
                    self.messages.insert(Message::Refused { to: from, epoch });
                }
            }
            Message::Accepted { to, epoch } => self.source_hears(to, epoch, source::Input::Accepted),
            Message::Refused { to, epoch } => self.source_hears(to, epoch, source::Input::Refused),
            Message::Luggage { .. } => {}
            Message::Candidate { from, epoch } => {
                self.owner.insert(epoch, from);
                self.arbitrate(arbiter::Input::Candidate(epoch));
            }
            Message::Prepared { epoch, .. } => self.arbitrate(arbiter::Input::Prepared(epoch)),
            Message::Ready { epoch, .. } => self.arbitrate(arbiter::Input::Ready(epoch)),
            Message::Abort { epoch, .. } => self.arbitrate(arbiter::Input::Abort(epoch)),
            Message::Welcome { to, epoch } => self.target_hears(to, epoch, target::Input::Built),
            Message::Decided { to, epoch, fate: Fate::Granted } => {
                self.target_hears(to, epoch, target::Input::Granted);
                self.source_hears(to, epoch, source::Input::Granted);
            }
            Message::Decided { to, epoch, fate: Fate::Aborted } => {
                self.target_hears(to, epoch, target::Input::Aborted);
                self.source_hears(to, epoch, source::Input::Aborted);
            }
            Message::Inquiry { from, to, epoch } => {
                let place = &self.places[to];
                let fate = match &place.target {
                    Some(target) if target.epoch() == epoch && target.state() != target::State::Here => {
                        target.fate()
                    }
                    _ => (place.source.held() >= epoch).then_some(Fate::Granted),
                };
                if let Some(fate) = fate {
                    self.messages.insert(Message::Decided { to: from, epoch, fate });
                }
            }
        }
    }

    fn arbitrate(&mut self, input: arbiter::Input) {
        let Some(arbiter) = &mut self.arbiter else { return };
        let moving = arbiter.moving();
        let input = match (self.mistake, input, moving) {
            (Some(Mistake::MixesEpochs), arbiter::Input::Prepared(_), Some(epoch)) => {
                arbiter::Input::Prepared(epoch)
            }
            (Some(Mistake::MixesEpochs), arbiter::Input::Ready(_), Some(epoch)) => {
                arbiter::Input::Ready(epoch)
            }
            _ => input,
        };
        let before = arbiter.holder();
        let output = arbiter.handle(input);
        let target = |epoch: u64| self.owner[&epoch];
        match (output, input) {
            (Output::Wait, _) => {}
            (Output::Welcome, arbiter::Input::Candidate(epoch)) => {
                self.messages.insert(Message::Welcome { to: target(epoch), epoch });
            }
            (Output::Grant(epoch), _) => {
                // A target that has died since it was ready, and is not known to.
                let from = &self.places[target(before)];
                self.excused |= !self.places[target(epoch)].up || from.is_broken || from.lends && !from.up;
                self.tell(&[target(epoch), target(before)], epoch, Fate::Granted);
            }
            (Output::Abort(epoch), _) => self.tell(&[target(epoch), target(before)], epoch, Fate::Aborted),
            (Output::Welcome | Output::Refuse, _) => {
                if let arbiter::Input::Candidate(epoch) = input {
                    self.tell(&[target(epoch)], epoch, Fate::Aborted);
                }
            }
            (Output::Tell(epoch, fate), arbiter::Input::Candidate(_) | arbiter::Input::Ready(_)) => {
                self.tell(&[target(epoch)], epoch, fate);
            }
            (Output::Tell(epoch, fate), _) => {
                // Who holds the job below this epoch is the one that asks.
                let asker = self.owner.range(..epoch).map(|(_, node)| *node).collect::<Vec<_>>();
                let forgets = self.mistake == Some(Mistake::ForgetsEarlierGrants)
                    && self.arbiter.as_ref().is_some_and(|arbiter| arbiter.holder() != epoch);
                self.tell(&asker, epoch, if forgets { Fate::Aborted } else { fate });
            }
        }
    }

    fn tell(&mut self, nodes: &[Node], epoch: u64, fate: Fate) {
        self.messages.extend(nodes.iter().map(|to| Message::Decided { to: *to, epoch, fate }));
    }

    fn source_hears(&mut self, node: Node, epoch: u64, input: source::Input) {
        if self.places[node].up {
            let actions = self.places[node].source.hear(epoch, input);
            self.act_as_source(node, actions, input);
        }
    }

    fn source_handles(&mut self, node: Node, input: source::Input) {
        if self.places[node].up {
            let actions = self.places[node].source.handle(input);
            self.act_as_source(node, actions, input);
        }
    }

    fn act_as_source(&mut self, node: Node, actions: &[source::Action], input: source::Input) {
        use source::Action;
        let place = &mut self.places[node];
        let (epoch, held, to) = (place.source.attempted(), place.source.held(), place.to);
        for action in actions {
            match action {
                Action::Offer => drop(self.messages.insert(Message::Offer { from: node, to, epoch })),
                Action::Send => {
                    if self.mistake != Some(Mistake::FreezesTooLate) {
                        place.copies.insert(held, Copy::Frozen);
                    }
                }
                Action::SayPrepared => {
                    self.messages.insert(Message::Prepared { from: node, epoch });
                    if self.mistake == Some(Mistake::DestroysWhenPrepared) {
                        place.copies.remove(&held);
                    }
                }
                Action::AskTarget => drop(self.messages.insert(Message::Inquiry { from: node, to, epoch })),
                Action::AskAbort => {
                    self.messages.insert(Message::Abort { from: node, epoch });
                    if self.mistake == Some(Mistake::ResumesInDoubt) && input == source::Input::Overdue {
                        place.copies.insert(held, Copy::Running);
                    }
                }
                Action::Resume => {
                    (place.lends, place.is_broken) = (false, false);
                    place.copies.insert(held, Copy::Running);
                }
                Action::Lend if self.mistake == Some(Mistake::DestroysWhatIsLent) => {
                    place.copies.remove(&held);
                }
                Action::Lend => {}
                Action::Destroy if self.mistake == Some(Mistake::KeepsWhatIsGranted) => {
                    place.copies.values_mut().for_each(|copy| *copy = Copy::Running);
                }
                Action::Destroy => drop(place.copies.remove(&held)),
                Action::Break | Action::Report => {}
            }
        }
    }

    fn target_hears(&mut self, node: Node, epoch: u64, input: target::Input) {
        if self.places[node].up
            && let Some(target) = &mut self.places[node].target
        {
            let actions = target.hear(epoch, input);
            self.act_as_target(node, actions);
        }
    }

    fn target_handles(&mut self, node: Node, input: target::Input) {
        if self.places[node].up
            && let Some(target) = &mut self.places[node].target
        {
            let actions = target.handle(input);
            self.act_as_target(node, actions);
        }
    }

    fn act_as_target(&mut self, node: Node, actions: &[target::Action]) {
        use target::Action;
        let place = &mut self.places[node];
        let Some(epoch) = place.target.as_ref().map(Target::epoch) else { return };
        for action in actions {
            match action {
                Action::Receive => {
                    let from = self.messages.iter().find_map(|message| match *message {
                        Message::Offer { from, to, epoch: of } if to == node && of == epoch => Some(from),
                        _ => None,
                    });
                    self.messages.extend(from.map(|to| Message::Accepted { to, epoch }));
                }
                Action::SayReady => {
                    self.messages.insert(Message::Ready { from: node, epoch });
                    if self.mistake == Some(Mistake::RunsWhenReady) {
                        place.copies.insert(epoch, Copy::Running);
                    }
                }
                Action::AskAbort => drop(self.messages.insert(Message::Abort { from: node, epoch })),
                Action::Run => {
                    place.copies.insert(epoch, Copy::Running);
                    place.source = Source::holding(epoch);
                }
                Action::Destroy => drop(place.copies.remove(&epoch)),
                Action::Unblock => {}
            }
        }
    }

    fn running(&self, node: Node) -> usize {
        self.places[node].copies.values().filter(|copy| **copy == Copy::Running).count()
    }

    /// What must hold at every moment.
    pub fn check(&self) -> Result<(), String> {
        let copies = |wanted: Option<Copy>| {
            let all = self.places.iter().flat_map(|place| place.copies.values());
            all.filter(|copy| wanted.is_none_or(|wanted| **copy == wanted)).count()
        };
        match copies(Some(Copy::Running)) {
            0 | 1 => {}
            more => return Err(format!("{more} copies run")),
        }
        let owed = |place: &&Place| place.lends && !place.copies.contains_key(&place.source.held());
        if self.places.iter().any(|place| owed(&place)) && !self.excused {
            return Err("memory is gone that the job has yet to fetch".to_owned());
        }
        if copies(None) == 0 && !self.excused {
            return Err("no copy is left".to_owned());
        }
        Ok(())
    }
}
