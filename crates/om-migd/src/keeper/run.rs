//! The keeper's main thread: what it knows, and what it does when something happens.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use om_homefs::server::SessionId;
use om_proto::control::{Ending, Reply, Request, Usage};
use om_proto::omfs::{JobState, Where};

use super::arrive::Arrival;
use super::depart::Departure;
use super::event::Event;
use super::guest::Guest;
use super::home::{Away, Candidate, Holder, Home};
use super::residence::{Ends, Residence};
use super::threads;
use crate::handover::arbiter;
use crate::inspect;
use crate::net::link;
use crate::net::message::{FromHome, JobSpec, Luggage, Status, ToHome};
use crate::net::preamble::Purpose;
use crate::net::tls::Identity;
use crate::passing::send_frame;
use crate::snapshot::{Birth, Command, News, Snapshot};
use crate::stdio::outlet;

/// How often a keeper looks at what no event tells: the deputy's state, the job's figures, time-outs.
const TICK: Duration = Duration::from_millis(500);
/// How long a move may take before home aborts it.
const MOVE_LIMIT: Duration = Duration::from_secs(600);
/// How long a wish that was passed on counts as queued if nothing is heard of it.
const RELAY_LIMIT: Duration = Duration::from_secs(10);
/// What the job's PID 1 reports; see `init/main.rs`.
const FAILED: u32 = 2;
const ENDED: u32 = 3;

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
    inbox: Receiver<Event>,
    daemons: Vec<UnixStream>,
    /// The job, while it is on this node.
    pub(super) residence: Option<Arc<Residence>>,
    /// A move away from this node.
    pub(super) departure: Option<Departure>,
    /// A move to this node.
    pub(super) arrival: Option<Arrival>,
    /// Since when home has had a move going on.
    pub(super) moving_since: Option<Instant>,
    /// At home: since when the guest's node has been silent.
    guest_lost: Option<Instant>,
    /// CPU time used before this stay.
    pub(super) cpu_before: (u64, u64),
    pub(super) moves: u64,
    pub(super) locked: bool,
    pub(super) stopped: bool,
    pub(super) result: Option<String>,
    pub(super) moved_us: u64,
    pub(super) downtime_us: u64,
    /// How the command ended, if it has.
    pub(super) command_ended: Option<i32>,
    /// The epoch of this node's present or last stay.
    pub(super) epoch: u64,
    /// The last epoch that a move away was attempted with.
    pub(super) attempted: u64,
    /// At home: what the job is to be told once it is somewhere again.
    deferred: Vec<FromHome>,
    /// At home: the user's wish to move on was passed to where the job is.
    pub(super) relayed: Option<Instant>,
    next_link: u64,
    finished: bool,
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
            residence: None,
            departure: None,
            arrival: None,
            moving_since: None,
            guest_lost: None,
            cpu_before: (0, 0),
            moves: 0,
            locked: false,
            stopped: false,
            result: None,
            moved_us,
            downtime_us: 0,
            command_ended: None,
            epoch: 1,
            attempted: 1,
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
        // First the streams and files: a process that waits for a home that is gone cannot even be killed.
        match &mut self.side {
            Side::Home(home) => home.finish_streams(),
            Side::Guest(guest) => guest.finish(),
        }
        if let Some(residence) = self.residence.take() {
            residence.destroy();
        }
        let _ = std::fs::remove_file(self.birth.sockets.join(format!("{}.sock", self.spec.id)));
    }

    fn handle(&mut self, event: Event) {
        match event {
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
            Event::Offered(epoch, result) => self.handle_offered(epoch, result),
            Event::Sent(epoch, result) => self.handle_sent(epoch, result),
            Event::Offer(offer, stream) => self.handle_offer(*offer, *stream),
            Event::Prepared(epoch, result) => self.handle_prepared(epoch, result),
            Event::Arrived(epoch, result) => self.handle_arrived(epoch, result),
        }
    }

    /// The job is on this node from now on, running unless the user has stopped it.
    pub fn settle(&mut self, residence: Residence, ends: Ends, luggage: Luggage) {
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
        threads::reports(report, self.events.clone());
        threads::reaper(residence.init, self.epoch, self.events.clone());
        if !self.stopped
            && let Err(error) = residence.cgroup.thaw()
        {
            log::error!("cannot let the job run: {error}");
        }
        self.residence = Some(Arc::new(residence));
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
            Request::Signal(signal) => self.tell_job(FromHome::Signal(signal)),
            Request::WindowSize(rows, columns) => self.tell_job(FromHome::WindowSize(rows, columns)),
            Request::Foreground(foreground) => {
                if let Some(inlet) = &home.inlets[crate::stdio::TERMINAL_INPUT] {
                    inlet.hold(!foreground);
                }
            }
        }
    }

    /// At home: tells the job something, wherever it is; between two nodes it waits until that is decided.
    pub(super) fn tell_job(&mut self, message: FromHome) {
        let Side::Home(home) = &mut self.side else { return };
        let reachable = match &home.holder {
            Holder::Here => self.residence.is_some(),
            Holder::Away(away) => away.link.is_some(),
        };
        if home.arbiter.moving().is_some() || self.departure.is_some() || !reachable {
            self.deferred.push(message);
        } else if let Holder::Away(_) = home.holder {
            home.tell_guest(&message);
        } else {
            self.obey(&message);
        }
    }

    /// At home: tells what had to wait.
    pub(super) fn tell_deferred(&mut self) {
        for message in std::mem::take(&mut self.deferred) {
            self.tell_job(message);
        }
    }

    /// Does to the job on this node what home says.
    fn obey(&mut self, message: &FromHome) {
        let Some(residence) = &self.residence else { return };
        match *message {
            FromHome::Signal(signal) => {
                if let Err(error) = residence.signal(signal) {
                    log::debug!("signal {signal}: {error}");
                }
            }
            FromHome::WindowSize(rows, columns) => {
                if let Some(master) = &residence.terminal {
                    let _ = crate::sys::resize_window(master.as_fd(), rows, columns);
                }
            }
            FromHome::Kill => residence.cgroup.kill(),
            _ => {}
        }
    }

    fn handle_deputy_gone(&mut self) {
        let Side::Home(home) = &mut self.side else { return };
        if home.deputy.take().is_none() || home.ending.is_some() {
            return;
        }
        log::info!("job {}: om run has died, the job is killed", self.spec.id);
        self.tell_job(FromHome::Kill);
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Move(to) => {
                self.request_move(to);
                // om-migd counts the job as queued until it hears from us.
                self.publish();
            }
            Command::MoveHome => self.request_move(self.spec.home),
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
            log::warn!("a connection from another node, but there is no cluster key");
            return;
        };
        match (purpose, &self.side) {
            (Purpose::Link, Side::Home(_)) => {
                let id = self.next_link;
                self.next_link += 1;
                threads::link_from_guest(id, socket, identity, self.events.clone());
            }
            (Purpose::Files, Side::Home(home)) => super::files::serve(home.files.clone(), socket, identity),
            (Purpose::Move, _) => super::arrive::read_offer_aside(socket, identity, self.events.clone()),
            _ => log::debug!("a connection for {purpose:?} that has no business here"),
        }
    }

    fn handle_report(&mut self, kind: u32, value: u32) {
        match kind {
            FAILED => {
                let error = io::Error::from_raw_os_error(value.cast_signed());
                let not_found =
                    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
                let status = if not_found { 127 } else { 126 };
                let name = self.spec.command.split(' ').next().unwrap_or_default();
                let message = if not_found {
                    format!("{name}: command not found")
                } else {
                    format!("{name}: cannot be executed: {error}")
                };
                self.tell_deputy(&Reply::Refused { message, status });
                if let Side::Home(home) = &mut self.side {
                    home.deputy = None;
                }
            }
            ENDED => {
                self.command_ended = Some(value.cast_signed());
                self.tell_ending();
            }
            _ => {}
        }
    }

    /// The command has ended: the deputy is told as soon as the user has got all that it wrote.
    pub(super) fn tell_ending(&mut self) {
        let Some(status) = self.command_ended else { return };
        let cpu_us = self.cpu_us();
        match &mut self.side {
            Side::Home(home) => {
                let ends =
                    std::array::from_fn(|n| home.outlets[n].as_ref().map_or(0, outlet::Outlet::catch_up));
                home.ending.get_or_insert((Ending::from_wait_status(status), ends));
                self.finish_deputy();
            }
            Side::Guest(guest) => {
                let output =
                    std::array::from_fn(|n| guest.outputs[n].as_ref().map_or(0, |output| output.catch_up()));
                guest.tell_home(&ToHome::CommandEnded { status, output, cpu_us });
            }
        }
    }

    /// At home: tells the deputy the end once everything is delivered; ends when the job is gone too.
    fn finish_deputy(&mut self) {
        let usage = self.usage();
        let Side::Home(home) = &mut self.side else { return };
        if home.delivered_to_the_end()
            && let Some((status, _)) = home.ending
        {
            home.tell_deputy(&Reply::Exited { status, usage });
            home.deputy = None;
        }
        if home.gone && home.deputy.is_none() {
            self.finished = true;
        }
    }

    fn handle_init_ended(&mut self, epoch: u64) {
        if epoch != self.epoch || self.residence.is_none() {
            return;
        }
        if let Some(departure) = self.departure.take() {
            self.ask_abort(departure.epoch, "the job has ended");
        }
        // The reports are a pipe: everything that PID 1 wrote is in it, and its reader posts before this can be reread.
        while let Ok(event) = self.inbox.recv_timeout(Duration::from_millis(20)) {
            let is_end = matches!(event, Event::Report(ENDED, _));
            self.handle(event);
            if is_end || self.command_ended.is_some() {
                break;
            }
        }
        let cpu_us = self.cpu_us();
        if let Some(residence) = self.residence.take() {
            residence.cgroup.remove();
        }
        self.cpu_before = cpu_us;
        // Killed with everything else: PID 1 had no time to tell.
        let killed = libc::SIGKILL;
        match &mut self.side {
            Side::Home(home) => {
                home.gone = true;
                if self.command_ended.is_none() {
                    self.command_ended = Some(killed);
                    self.tell_ending();
                }
                self.finish_deputy();
            }
            Side::Guest(guest) => {
                guest.ends = Some(std::array::from_fn(|n| {
                    guest.outputs[n].as_ref().map_or(0, |output| output.catch_up())
                }));
                if self.command_ended.is_none() {
                    self.command_ended = Some(killed);
                    self.tell_ending();
                }
                self.finish_guest();
            }
        }
        self.publish();
    }

    /// On a guest's node: once home has got everything of a job that has ended, that is the end here.
    fn finish_guest(&mut self) {
        let cpu_us = self.cpu_us();
        let Side::Guest(guest) = &mut self.side else { return };
        if self.residence.is_none() && guest.flushed() {
            guest.tell_home(&ToHome::Gone { cpu_us });
            self.finished = true;
        }
    }

    fn handle_output(&mut self, index: usize, event: outlet::Event) {
        let Side::Home(home) = &mut self.side else { return };
        let Ok(stream) = u8::try_from(index) else { return };
        match event {
            outlet::Event::Delivered(offset) => {
                home.delivered[index] = offset;
                home.tell_guest(&FromHome::OutputTaken(stream, offset));
            }
            outlet::Event::Closed => home.tell_guest(&FromHome::OutputClosed(stream)),
        }
        self.finish_deputy();
    }

    /// At home: a node where the job is, or that wants it, has opened a link.
    fn handle_linked(&mut self, id: u64, sender: link::Sender, mut from: Candidate, epoch: u64, holds: bool) {
        let Side::Home(home) = &mut self.side else { return };
        let refuse = |reason: &str| {
            let _ = sender.send(&FromHome::Aborted { epoch, reason: reason.to_owned() });
        };
        let welcome = FromHome::Welcome { output_received: home.output_received() };
        if epoch == home.arbiter.holder() {
            match &mut home.holder {
                Holder::Away(away) => away.link = Some((id, sender.clone())),
                Holder::Here => return refuse("the job is at home"),
            }
            self.guest_lost = None;
            self.resume_link(&sender, &from, epoch, holds);
        } else if holds {
            refuse("the job is somewhere else");
        } else if let Some(reason) = home.locks() {
            refuse(&reason);
        } else if home.arbiter.handle(arbiter::Input::Candidate(epoch)) == arbiter::Output::Welcome {
            let _ = sender.send(&welcome);
            from.link = Some((id, sender));
            home.candidate = Some(from);
            self.moving_since = Some(Instant::now());
            self.publish();
        } else {
            refuse("another move goes on");
        }
    }

    /// At home: the node that has the job is back after a broken link. It may not know yet that it has the job, or that
    /// its move onward was given up.
    fn resume_link(&mut self, sender: &link::Sender, from: &Candidate, epoch: u64, holds: bool) {
        let Side::Home(home) = &mut self.side else { return };
        let output_received = home.output_received();
        let _ = sender.send(&FromHome::Welcome { output_received });
        if !holds {
            let _ = sender.send(&FromHome::Granted { epoch, output_received });
        }
        home.route_input(from.input_received, sender);
        for (stream, outlet) in (0_u8..).zip(&home.outlets) {
            if outlet.as_ref().is_some_and(outlet::Outlet::closed) {
                let _ = sender.send(&FromHome::OutputClosed(stream));
            }
        }
        if holds && home.arbiter.moving().is_none() {
            let reason = "home has given up the move".to_owned();
            let _ = sender.send(&FromHome::Aborted { epoch: home.arbiter.next(), reason });
        }
        self.tell_deferred();
    }

    fn handle_from_guest(&mut self, id: u64, message: ToHome) {
        let Side::Home(home) = &mut self.side else { return };
        let holds = matches!(&home.holder, Holder::Away(Away { link: Some((held, _)), .. }) if *held == id);
        match message {
            ToHome::Ready { epoch, input_received } => {
                if let Some(candidate) = &mut home.candidate {
                    candidate.input_received = input_received;
                }
                self.arbitrate(arbiter::Input::Ready(epoch), "");
            }
            ToHome::Prepared { epoch } => self.arbitrate(arbiter::Input::Prepared(epoch), ""),
            ToHome::Abort { epoch, reason } => self.arbitrate(arbiter::Input::Abort(epoch), &reason),
            _ if !holds => log::debug!("link {id} speaks for a job that it has not"),
            ToHome::Output { stream, offset, data } => {
                if let Some(Some(outlet)) = home.outlets.get(usize::from(stream))
                    && let Err(error) = outlet.push(offset, &data.0)
                {
                    log::error!("output of job {} is lost: {error}", self.spec.id);
                }
            }
            ToHome::InputTaken(stream, offset) => {
                if let Some(Some(inlet)) = home.inlets.get(usize::from(stream)) {
                    inlet.acknowledge(offset);
                }
            }
            ToHome::Status(status) => {
                home.remote = status;
                self.publish();
            }
            ToHome::CommandEnded { status, output, cpu_us } => {
                self.command_ended = Some(status);
                home.remote.cpu_us = cpu_us;
                home.ending.get_or_insert((Ending::from_wait_status(status), output));
                self.finish_deputy();
            }
            ToHome::Gone { cpu_us } => {
                home.remote.cpu_us = cpu_us;
                home.gone = true;
                self.finish_deputy();
            }
            ToHome::Moved { result, moves, downtime_us } => {
                self.result = Some(result);
                self.moves = moves;
                self.downtime_us = downtime_us;
                self.relayed = None;
                self.publish();
            }
            ToHome::Locked(locked) => {
                self.locked = locked;
                self.publish();
            }
            ToHome::Hello { .. } => {}
        }
    }

    fn handle_link_lost(&mut self, id: u64) {
        let Side::Home(home) = &mut self.side else { return };
        if home
            .candidate
            .as_ref()
            .is_some_and(|candidate| candidate.link.as_ref().is_some_and(|(own, _)| *own == id))
        {
            self.arbitrate(arbiter::Input::CandidateLost, "the target cannot be reached any more");
            return;
        }
        if let Holder::Away(away) = &mut home.holder
            && away.link.as_ref().is_some_and(|(own, _)| *own == id)
        {
            away.link = None;
            let node = away.node;
            home.stop_input();
            if !home.gone {
                let grace_s = self.birth.grace_s;
                let message =
                    format!("the node {node} of the job does not answer; in {grace_s} s it counts as lost");
                home.tell_deputy(&Reply::Notice { message });
                self.guest_lost = Some(Instant::now());
            }
        }
    }

    /// At home: the arbiter hears something, and what it says is done.
    pub(super) fn arbitrate(&mut self, input: arbiter::Input, reason: &str) {
        let Side::Home(home) = &mut self.side else { return };
        let (before, moving) = (home.arbiter.holder(), home.arbiter.moving());
        match home.arbiter.handle(input) {
            arbiter::Output::Grant(epoch) if moving == Some(epoch) => {
                home.files.end_session(SessionId(before));
                self.grant(epoch);
            }
            arbiter::Output::Abort(epoch) if moving == Some(epoch) => {
                home.files.end_session(SessionId(epoch));
                let message = FromHome::Aborted { epoch, reason: reason.to_owned() };
                let candidate = home.candidate.take();
                home.tell_guest(&message);
                self.moving_since = None;
                match candidate {
                    Some(Candidate { link: Some((_, sender)), .. }) => {
                        let _ = sender.send(&message);
                    }
                    _ => self.discard_arrival(epoch, reason),
                }
                self.departure_aborted(epoch, reason);
                self.relayed = None;
                self.tell_deferred();
                self.publish();
            }
            // Nothing new: also what a straggler says about a move that is decided. It hears that with its next link.
            _ => {}
        }
    }

    /// The candidate has the job from now on.
    fn grant(&mut self, epoch: u64) {
        self.moving_since = None;
        let Side::Home(home) = &mut self.side else { return };
        let output_received = home.output_received();
        let message = FromHome::Granted { epoch, output_received };
        let Some(candidate) = home.candidate.take() else { return };
        let old = std::mem::replace(&mut home.holder, Holder::Here);
        match candidate.link {
            Some((id, sender)) => {
                // A job that leaves home takes along what is in its pipes, and home has had all that it wrote.
                let output_received = std::array::from_fn(|n| match (&old, &home.outlets[n]) {
                    (Holder::Here, Some(outlet)) => outlet.detach(),
                    _ => output_received[n],
                });
                home.holder = Holder::Away(Away { node: candidate.node, link: Some((id, sender.clone())) });
                let _ = sender.send(&FromHome::Granted { epoch, output_received });
                home.route_input(candidate.input_received, &sender);
                self.moved_us = inspect::now_us();
            }
            None => self.settle_arrival(epoch),
        }
        match old {
            Holder::Here => self.leave(epoch),
            Holder::Away(away) => {
                if let Some((_, sender)) = away.link {
                    let _ = sender.send(&message);
                }
            }
        }
        self.relayed = None;
        self.tell_deferred();
        self.publish();
    }

    fn handle_home_linked(&mut self, sender: &link::Sender, received: &[u64]) {
        let Side::Guest(guest) = &mut self.side else { return };
        guest.link = Some(sender.clone());
        guest.lost = None;
        guest.route_output(received, sender);
        if let Some(Departure { epoch, in_doubt: true, .. }) = &self.departure {
            guest.tell_home(&ToHome::Prepared { epoch: *epoch });
        }
        if self.command_ended.is_some() {
            self.tell_ending();
        }
    }

    fn handle_from_home(&mut self, message: FromHome) {
        let Side::Guest(guest) = &mut self.side else { return };
        match message {
            FromHome::Granted { epoch, output_received } if epoch == guest.epoch && !guest.holds => {
                guest.holds = true;
                if let Some(link) = guest.link.clone() {
                    guest.route_output(&output_received, &link);
                }
                self.settle_arrival(epoch);
            }
            FromHome::Granted { epoch, .. } if epoch > guest.epoch => self.leave(epoch),
            // Home says that this node has nothing: the job is somewhere else, or this move was given up.
            FromHome::Aborted { epoch, reason } if epoch == guest.epoch => {
                log::info!("job {}: {reason}", self.spec.id);
                if guest.holds { self.leave(epoch + 1) } else { self.discard_arrival(epoch, &reason) }
            }
            FromHome::Aborted { epoch, reason } => self.departure_aborted(epoch, &reason),
            FromHome::Signal(_) | FromHome::WindowSize(..) | FromHome::Kill => self.obey(&message),
            FromHome::Stop(stopped) => self.set_stopped(stopped),
            FromHome::Lock(locked) => {
                self.locked = locked;
                self.publish();
            }
            FromHome::Move(to) => self.request_move(to),
            stream => {
                guest.stream(&stream);
                if matches!(stream, FromHome::OutputTaken(..) | FromHome::OutputClosed(_)) {
                    self.finish_guest();
                }
            }
        }
    }

    fn handle_home_lost(&mut self) {
        if self.finished {
            return;
        }
        let line = self.home_line();
        let Side::Guest(guest) = &mut self.side else { return };
        guest.link = None;
        guest.outputs.iter().flatten().for_each(|output| output.detach());
        guest.lost.get_or_insert_with(Instant::now);
        if let Some(line) = line {
            line.reconnect(guest.epoch, guest.holds, guest.input_received(), self.events.clone());
        }
    }

    /// How this node reaches the job's home; none without a key.
    pub(super) fn home_line(&self) -> Option<threads::HomeLine> {
        Some(threads::HomeLine {
            identity: self.identity.clone()?,
            home: (self.spec.home, self.birth.port).into(),
            preamble: crate::net::preamble::Preamble { purpose: Purpose::Link, job: self.spec.id },
            node: self.birth.address,
        })
    }

    fn tick(&mut self) {
        self.watch_deputy();
        self.watch_departure();
        if self.moving_since.is_some_and(|since| since.elapsed() > MOVE_LIMIT) {
            self.arbitrate(arbiter::Input::TimeOut, "the move takes too long");
        }
        let grace = Duration::from_secs(self.birth.grace_s);
        if self.guest_lost.is_some_and(|since| since.elapsed() > grace) {
            self.guest_lost = None;
            self.lose_job();
        }
        if self.relayed.is_some_and(|since| since.elapsed() > RELAY_LIMIT) {
            self.relayed = None;
            self.publish();
        }
        let status = self.status();
        if let Side::Guest(guest) = &mut self.side {
            if guest.holds {
                guest.tell_home(&ToHome::Status(status));
            }
            if guest.lost.is_some_and(|since| since.elapsed() > grace) {
                log::error!(
                    "job {}: its home {} is silent for {grace:?}: it ends here",
                    self.spec.id,
                    self.spec.home
                );
                self.finished = true;
            }
        }
        self.finish_guest();
    }

    /// At home: the node where the job was is dead, and the job with it.
    fn lose_job(&mut self) {
        let Side::Home(home) = &mut self.side else { return };
        let Holder::Away(away) = &home.holder else { return };
        let message = format!("the node {} where the job ran is lost, and the job with it", away.node);
        log::error!("job {}: {message}", self.spec.id);
        home.tell_deputy(&Reply::Lost { message });
        home.deputy = None;
        self.finished = true;
    }

    /// At home: a deputy that was stopped stops the job.
    fn watch_deputy(&mut self) {
        let Side::Home(home) = &self.side else { return };
        if home.deputy.is_none() {
            return;
        }
        let stopped = inspect::is_stopped(nix::unistd::Pid::from_raw(self.spec.deputy.cast_signed()));
        if stopped != self.stopped {
            home.tell_guest(&FromHome::Stop(stopped));
            self.set_stopped(stopped);
        }
    }

    fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
        // During a move the job is frozen anyway, and the flag goes along.
        let moving = self.departure.as_ref().is_some_and(|departure| departure.frozen);
        if let (Some(residence), false) = (&self.residence, moving) {
            let done = if stopped { residence.cgroup.freeze() } else { residence.cgroup.thaw() };
            if let Err(error) = done {
                log::warn!("job {}: {error}", self.spec.id);
            }
        }
        self.publish();
    }

    /// CPU time on all nodes, microseconds: user, system.
    pub(super) fn cpu_us(&self) -> (u64, u64) {
        match (&self.residence, &self.side) {
            (Some(residence), _) => {
                let here = residence.cgroup.cpu_time();
                (self.cpu_before.0 + here.user_us, self.cpu_before.1 + here.system_us)
            }
            (None, Side::Home(home)) if matches!(home.holder, Holder::Away(_)) => home.remote.cpu_us,
            _ => self.cpu_before,
        }
    }

    fn usage(&self) -> Usage {
        let (user_us, system_us) = self.cpu_us();
        let wall_us = inspect::now_us().saturating_sub(self.spec.started_us);
        Usage { wall_us, user_us, system_us, moves: self.moves }
    }

    fn status(&self) -> Status {
        let activity =
            self.residence.as_ref().map(|residence| inspect::activity(&residence.cgroup)).unwrap_or_default();
        Status {
            cpu_us: self.cpu_us(),
            runnable: activity.runnable,
            rss_bytes: activity.rss_bytes,
            threads: activity.threads,
            stay: Vec::new(),
            migrating: self.departure.is_some(),
        }
    }

    /// Tells every om-migd how the job stands.
    pub(super) fn publish(&mut self) {
        let news = News::Job(Box::new(self.snapshot()));
        self.daemons.retain(|daemon| send_frame(daemon, &news, &[]).is_ok());
    }

    fn snapshot(&self) -> Snapshot {
        let queued =
            self.departure.as_ref().is_some_and(|departure| !departure.frozen) || self.relayed.is_some();
        let (own, location, remote, moving) = match &self.side {
            Side::Home(home) => {
                let moving = home.arbiter.moving().is_some();
                match &home.holder {
                    Holder::Here => (true, Where::Home, None, moving),
                    Holder::Away(away) => {
                        let moving = moving || home.remote.migrating;
                        (true, Where::At(away.node), Some(home.remote.clone()), moving)
                    }
                }
            }
            Side::Guest(_) => (false, Where::At(self.spec.home), None, false),
        };
        let moving = moving || self.departure.as_ref().is_some_and(|departure| departure.frozen);
        let present = self.residence.is_some();
        let pid = if own {
            Some(self.spec.deputy)
        } else {
            let residence = self.residence.as_ref();
            residence.map(|residence| residence.command().unwrap_or(residence.init).as_raw().cast_unsigned())
        };
        Snapshot {
            job: self.spec.id,
            own,
            pid,
            location: if moving {
                Where::Migrating
            } else if queued {
                Where::Queued
            } else {
                location
            },
            home: self.spec.home,
            deputy: self.spec.deputy,
            uid: self.spec.credentials.uid,
            command: self.spec.command.clone(),
            moves: self.moves,
            locked: self.locked,
            result: self.result.clone(),
            state: if moving {
                JobState::Migrating
            } else if self.stopped {
                JobState::Stopped
            } else {
                JobState::Running
            },
            started_us: self.spec.started_us,
            moved_us: self.moved_us,
            downtime_ms: self.downtime_us / 1000,
            cgroup: self.residence.as_ref().map(|residence| residence.cgroup.path().to_owned()),
            cpu_before_us: self.cpu_before,
            remote: if present { None } else { remote },
        }
    }

    /// Where the job is going or was asked to go: one of this node's own addresses?
    pub(super) fn is_here(&self, to: IpAddr) -> bool {
        to == self.birth.address
    }

    /// Nothing is left to do here.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}
