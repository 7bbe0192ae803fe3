//! The keeper's main thread: what it knows, and what it does when something happens.

use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use om_proto::control::{Keyboard, Reply, Request};

use super::arrive::Arrival;
use super::depart::Departure;
use super::event::Event;
use super::guest::Guest;
use super::home::{Candidate, Holder, Home};
use super::memory::Guard;
use super::residence::{Ends, Residence};
use super::threads;
use crate::handover::arbiter;
use crate::handover::source::Source;
use crate::inspect;
use crate::net::identity::Identity;
use crate::net::message::{FromHome, JobSpec, Luggage, Newborn, ToHome};
use crate::net::preamble::Purpose;
use crate::snapshot::{Birth, Command};

/// How often a keeper looks at what no event tells: the deputy's state, the job's figures, time-outs.
const TICK: Duration = Duration::from_millis(500);
/// How long a move may take before home aborts it.
const MOVE_LIMIT: Duration = Duration::from_secs(600);
/// How long a wish that was passed on counts as queued if nothing is heard of it.
const RELAY_LIMIT: Duration = Duration::from_secs(10);

/// What this node is to the job.
pub enum Side {
    /// Its home.
    Home(Box<Home>),
    /// Where it is a guest.
    Guest(Box<Guest>),
}

/// The keeper.
pub struct Keeper {
    pub(super) birth: Birth,
    pub(super) identity: Option<Identity>,
    pub(super) spec: JobSpec,
    pub(super) side: Side,
    pub(super) events: Sender<Event>,
    pub(super) inbox: Receiver<Event>,
    pub(super) daemons: Vec<UnixStream>,
    /// One of them does not know how the job stands now.
    pub(super) untold: bool,
    /// The job, while it is on this node.
    pub(super) residence: Option<Arc<Residence>>,
    /// Whether the job is here, and how far it is on its way away.
    pub(super) source: Source,
    /// At home: the job, as long as it has not begun.
    pub(super) unborn: Option<Newborn>,
    /// A move away from this node.
    pub(super) departure: Option<Departure>,
    /// Its frozen copy, out of which memory is handed to the node where it runs now.
    pub(super) lent: Option<Arc<Residence>>,
    /// The node from which its memory is still coming, and what guards the job meanwhile: it cannot move on.
    pub(super) fetching: Option<(IpAddr, Guard)>,
    /// A move to this node.
    pub(super) arrival: Option<Arrival>,
    /// Since when home has had a move going on.
    pub(super) moving_since: Option<Instant>,
    /// At home: since when the guest's node has been silent.
    pub(super) guest_lost: Option<Instant>,
    /// Another node is being asked what it knows.
    pub(super) inquiring: bool,
    /// CPU time used before this stay.
    pub(super) cpu_before: (u64, u64),
    pub(super) moves: u64,
    pub(super) locked: bool,
    /// The user has stopped `om run`, and the job with it.
    pub(super) stopped: bool,
    /// The kernel has refused to freeze the job or to let it run.
    refused: bool,
    /// The command is stopped by a signal.
    pub(super) command_stopped: bool,
    /// At home: whose the keyboard of the user's terminal is.
    pub(super) keyboard: Keyboard,
    pub(super) result: Option<String>,
    pub(super) moved_us: u64,
    pub(super) downtime_us: u64,
    /// How the command ended, if it has.
    pub(super) command_ended: Option<i32>,
    /// On a guest's node: how many signals were given to the job here.
    pub(super) signals_taken: u64,
    /// On a guest's node: signals for a job that may be about to leave.
    pub(super) held_signals: Vec<FromHome>,
    /// At home: what the job is to be told once it is somewhere again.
    pub(super) deferred: Vec<FromHome>,
    /// At home: the user's wish to move on was passed to where the job is.
    pub(super) relayed: Option<Instant>,
    next_link: u64,
    pub(super) finished: bool,
}

impl Keeper {
    /// A keeper that has nothing yet.
    pub fn new(
        birth: Birth,
        identity: Option<Identity>,
        spec: JobSpec,
        side: Side,
        events: Sender<Event>,
        inbox: Receiver<Event>,
    ) -> Self {
        let moved_us = spec.started_us;
        Self {
            birth,
            identity,
            spec,
            side,
            events,
            inbox,
            daemons: Vec::new(),
            untold: false,
            residence: None,
            source: Source::without(),
            unborn: None,
            departure: None,
            lent: None,
            fetching: None,
            arrival: None,
            moving_since: None,
            guest_lost: None,
            inquiring: false,
            cpu_before: (0, 0),
            moves: 0,
            locked: false,
            stopped: false,
            refused: false,
            command_stopped: false,
            keyboard: Keyboard::Others,
            result: None,
            moved_us,
            downtime_us: 0,
            command_ended: None,
            signals_taken: 0,
            held_signals: Vec::new(),
            deferred: Vec::new(),
            relayed: None,
            next_link: 1,
            finished: false,
        }
    }

    /// Works until the job is over or somewhere else for good.
    pub fn run(mut self) {
        let mut next_tick = Instant::now() + TICK;
        while !self.finished {
            match self.inbox.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => {
                    self.tick();
                    next_tick = Instant::now() + TICK;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(arrival) = &self.arrival {
            arrival.restoring.end();
        }
        // First the streams and files: a process that waits for a home that is gone cannot even be killed.
        match &mut self.side {
            Side::Home(home) => home.finish_streams(),
            Side::Guest(guest) => guest.finish(),
        }
        for residence in [self.lent.take(), self.residence.take()].into_iter().flatten() {
            residence.destroy();
        }
        let _ = std::fs::remove_file(self.birth.sockets.join(format!("{}.sock", self.spec.id)));
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Begin(to) => self.handle_begin(to),
            Event::Deputy(request) => self.handle_deputy(&request),
            Event::DeputyGone => self.handle_deputy_gone(),
            Event::DaemonCame(daemon) => {
                self.daemons.push(daemon);
                self.publish();
            }
            Event::Daemon(command) => self.handle_command(command),
            Event::Connection(purpose, socket) => self.handle_connection(purpose, socket),
            Event::Report(kind, value) => self.handle_report(kind, value),
            Event::InitEnded(epoch) => self.handle_init_ended(epoch),
            Event::Output(index, event) => self.handle_output(index, event),
            Event::InputTaken(stream, offset) => {
                if let Side::Guest(guest) = &self.side {
                    guest.tell_home(&ToHome::InputTaken(stream, offset));
                }
            }
            Event::Linked { id, sender, node, epoch, holds, input_received } => {
                let input_received =
                    std::array::from_fn(|n| input_received.get(n).copied().unwrap_or_default());
                self.handle_linked(id, sender, Candidate { link: None, node, input_received }, epoch, holds);
            }
            Event::FromGuest(id, message) => self.handle_from_guest(id, message),
            Event::LinkLost(id) => self.handle_link_lost(id),
            Event::HomeLinked(sender, received) => self.handle_home_linked(&sender, &received),
            Event::FromHome(message) => self.handle_from_home(message),
            Event::HomeLost => self.handle_home_lost(),
            Event::HomeGone => self.lose_home("has nothing of it any more"),
            Event::Offered(epoch, result) => self.handle_offered(epoch, result),
            Event::Sent(epoch, result) => self.handle_sent(epoch, result),
            Event::Served(epoch, result) => self.handle_served(epoch, result),
            Event::Fetched(epoch, result) => self.handle_fetched(epoch, result),
            Event::Answer(epoch, answer) => self.handle_answer(epoch, answer),
            Event::Inquiry(epoch, stream) => self.handle_inquiry(epoch, *stream),
            Event::Offer(offer, stream) => self.handle_offer(*offer, *stream),
            Event::Prepared(epoch, result) => self.handle_prepared(epoch, result),
            Event::Arrived(epoch, result) => self.handle_arrived(epoch, result),
        }
    }

    /// The job is on this node from now on, running unless the user has stopped it.
    pub fn settle(&mut self, mut residence: Residence, ends: Ends, luggage: Luggage) {
        let Ends { inputs, outputs, report } = ends;
        if let Side::Home(home) = &mut self.side {
            for ((inlet, input), came_with) in home.inlets.iter().zip(inputs).zip(&luggage.input) {
                if let (Some(inlet), Some(input)) = (inlet, input) {
                    inlet.attach(input, came_with);
                }
            }
            for ((outlet, output), came_with) in home.outlets.iter().zip(outputs).zip(&luggage.output) {
                if let (Some(outlet), Some(output)) = (outlet, output) {
                    if let Err(error) = outlet.push(came_with.base, &came_with.unacknowledged.0) {
                        log::error!("output is lost: {error}");
                    }
                    outlet.attach(output);
                }
            }
            home.holder = Holder::Here;
        }
        threads::watch_init(residence.init, report, self.source.held(), self.events.clone());
        if let Err(error) = residence.begin() {
            log::error!("cannot let the job begin: {error}");
        }
        self.residence = Some(Arc::new(residence));
        self.drive();
    }

    /// Lets the job on this node run, or freezes it if the user has stopped it. During a move it is frozen anyway, and what
    /// the user wants goes along. What the kernel refuses is tried again at each tick.
    pub(super) fn drive(&mut self) {
        let Some(residence) = self.residence.as_ref().filter(|_| !self.source.state().is_frozen()) else {
            return;
        };
        let done = match &self.fetching {
            _ if self.stopped => residence.cgroup.hold(),
            Some((_, guard)) => guard.thaw(),
            None => residence.cgroup.thaw(),
        };
        if let (Err(error), false) = (&done, self.refused) {
            let what = if self.stopped { "stop" } else { "run" };
            log::error!("job {}: cannot let it {what}: {error}", self.spec.id);
        }
        self.refused = done.is_err();
    }

    /// At home: tells the deputy.
    pub fn tell_deputy(&mut self, reply: &Reply) {
        if let Side::Home(home) = &mut self.side {
            home.tell_deputy(reply);
        }
    }

    fn handle_deputy(&mut self, request: &Request) {
        let Side::Home(home) = &mut self.side else { return };
        match *request {
            Request::Signal(signal, audience) => self.tell_job(FromHome::Signal(signal, audience)),
            Request::WindowSize(rows, columns) => self.tell_job(FromHome::WindowSize(rows, columns)),
            Request::Keyboard(keyboard) => {
                self.keyboard = keyboard;
                home.give_keyboard(keyboard);
            }
        }
    }

    fn handle_deputy_gone(&mut self) {
        let Side::Home(home) = &mut self.side else { return };
        if home.deputy.take().is_none() || home.ending.is_some() {
            return;
        }
        home.give_keyboard(Keyboard::Others);
        home.doomed = true;
        log::info!("job {}: om run has died, the job is killed", self.spec.id);
        self.tell_job(FromHome::Kill);
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Move(to, mode) => {
                self.request_move(to, mode);
                // om-migd counts the job as queued until it hears from us.
                self.publish();
            }
            Command::MoveHome => self.request_move(self.spec.home, None),
            Command::Lock(locked) => {
                self.locked = locked;
                match &self.side {
                    Side::Home(home) => home.tell_guest(&FromHome::Lock(locked)),
                    Side::Guest(guest) => guest.tell_home(&ToHome::Locked(locked)),
                }
                self.publish();
            }
            Command::Attach(_) | Command::Admission(_) => log::debug!("stray {command:?}"),
        }
    }

    fn handle_connection(&mut self, purpose: Purpose, socket: TcpStream) {
        let Some(identity) = self.identity.clone() else {
            log::warn!("a connection from another node, but no key could be read");
            return;
        };
        let job = self.spec.id;
        match (purpose, &self.side) {
            (Purpose::Link, Side::Home(_)) => {
                let id = self.next_link;
                self.next_link += 1;
                threads::link_from_guest(id, job, socket, identity, self.events.clone());
            }
            (Purpose::Files, Side::Home(home)) => {
                super::files::serve(home.files.clone(), job, socket, identity)
            }
            (Purpose::Inquiry, _) => super::inquiry::read_aside(socket, identity, job, self.events.clone()),
            (Purpose::Move, _) => super::offer::read_aside(socket, identity, job, self.events.clone()),
            _ => log::debug!("a connection for {purpose:?} that has no business here"),
        }
    }

    fn tick(&mut self) {
        self.watch_deputy();
        if self.refused {
            self.drive();
        }
        if self.untold {
            self.publish();
        }
        self.watch_departure();
        self.watch_unborn();
        if self.moving_since.is_some_and(|since| since.elapsed() > MOVE_LIMIT) {
            self.arbitrate(arbiter::Input::TimeOut, "the move takes too long");
        }
        let grace = Duration::from_secs(self.birth.grace_s);
        if let (Some(since), Side::Home(home)) = (self.guest_lost, &self.side)
            && let Holder::Away(away) = &home.holder
        {
            let (node, epoch) = (away.node, home.arbiter.holder());
            if since.elapsed() > grace {
                self.lose_job("is silent");
            } else {
                self.inquire(node, epoch);
            }
        }
        if self.relayed.is_some_and(|since| since.elapsed() > RELAY_LIMIT) {
            self.relayed = None;
            self.publish();
        }
        if let Side::Guest(guest) = &self.side
            && self.source.held() > 0
        {
            guest.tell_home(&ToHome::Status(self.status()));
        }
        if let Side::Guest(guest) = &self.side
            && guest.lost.is_some_and(|since| since.elapsed() > grace)
        {
            self.lose_home(&format!("is silent for {grace:?}"));
        }
        self.finish_guest();
    }

    /// At home: a deputy that was stopped stops the job.
    fn watch_deputy(&mut self) {
        let Side::Home(home) = &self.side else { return };
        // One that has only followed its command has nothing more to stop, one that has gone has nothing at all.
        let deputy = nix::unistd::Pid::from_raw(self.spec.deputy.cast_signed());
        let stopped = home.deputy.is_some() && !self.command_stopped && inspect::is_stopped(deputy);
        if stopped != self.stopped {
            // The terminal is the shell's while the deputy is stopped.
            home.give_keyboard(if stopped { Keyboard::Others } else { self.keyboard });
            home.tell_guest(&FromHome::Stop(stopped));
            self.set_stopped(stopped);
        }
    }

    pub(super) fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
        self.drive();
        self.publish();
    }

    /// Where the job is going or was asked to go: one of this node's own addresses?
    pub(super) fn is_here(&self, to: IpAddr) -> bool {
        to == self.birth.address
    }
}
