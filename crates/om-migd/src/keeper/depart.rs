//! The source's part of a move: what [`crate::handover::source`] decides is done here.
//!
//! If the job's memory is to follow it while it runs already, its frozen copy here outlives the grant until all has been
//! handed out.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use om_proto::cpu::Cpu;
use om_proto::frame;
use om_proto::omfs::{Mode, MoveResult};

use super::event::Event;
use super::memory::{self, Serving};
use super::residence::Residence;
use super::run::{Keeper, Side};
use super::{step, threads, transfer};
use crate::bytes::Bytes;
use crate::cgroup::Cgroup;
use crate::handover::arbiter;
use crate::handover::source::{Action, Input};
use crate::inspect;
use crate::nest::OM_INIT;
use crate::net::identity::Identity;
use crate::net::link::{self, Receiver, Sender};
use crate::net::message::{FromHome, Luggage, MAX_FRAME, Offer, OfferAnswer, Part, ToHome, Way};
use crate::net::preamble::{Preamble, Purpose};
use crate::net::tls::{self, Stream};
use crate::stay;
use crate::stdio::{InputState, OutputState};
use crate::used_files;

/// How long a job may stay frozen for a move: this long, and longer by its memory at [`SLOWEST`].
const FROZEN_LIMIT: Duration = Duration::from_secs(20);
/// How long a target may take to prepare everything and answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a move waits for a process that is between vfork and exec.
const VFORK_LIMIT: Duration = Duration::from_millis(500);
/// The least bytes a second that count as progress.
const SLOWEST: u64 = 20_000_000;

/// A move away from this node: what the machine's actions need.
pub struct Departure {
    to: IpAddr,
    /// When the job was frozen, and how long it may stay so for this move.
    frozen_at: Instant,
    limit: Duration,
    /// The connection to the target, once it has accepted, until it is used.
    accepted: Option<Accepted>,
    /// For breaking it.
    out: Option<Sender>,
    /// Why it was given up, while a thread is still at work for it.
    broken: Option<String>,
    /// How its memory is to go.
    way: Way,
}

impl Keeper {
    /// Moves the job there, or says in `result` why not.
    pub(super) fn request_move(&mut self, to: IpAddr, mode: Option<Mode>) {
        if self.source.moving().is_some() || self.arrival.is_some() {
            return log::debug!("job {}: a move goes on already", self.spec.id);
        }
        let Some(residence) = &self.residence else {
            return self.relay_move(to, mode);
        };
        if self.is_here(to) {
            return;
        }
        if let Err(reason) = self.spec.bounds.check(to, self.spec.home) {
            return self.report_failure(to, &reason.to_string());
        }
        if !self.identity.as_ref().is_some_and(Identity::has_key) {
            return self.report_failure(
                to,
                "there is no cluster key on this node: make one with om keygen and share it",
            );
        }
        if let Some(reason) = crate::stay::reasons(&residence.cgroup).first() {
            let reason = reason.to_string();
            return self.report_failure(to, &reason);
        }
        if let Some((from, _)) = &self.fetching {
            return self.report_failure(to, &format!("its memory is still coming from {from}"));
        }
        let way = match memory::choose(mode.unwrap_or(self.birth.mode), self.birth.can_follow) {
            Ok(way) => way,
            Err(reason) => return self.report_failure(to, &reason),
        };
        self.depart_for(to, way);
    }

    /// Asks the machine to begin a move.
    pub(super) fn depart_for(&mut self, to: IpAddr, way: Way) {
        let attempted = match &self.side {
            Side::Home(home) => home.arbiter.attempted(),
            Side::Guest(_) => self.source.attempted(),
        };
        self.departure = Some(Departure {
            to,
            frozen_at: Instant::now(),
            limit: FROZEN_LIMIT,
            accepted: None,
            out: None,
            broken: None,
            way,
        });
        self.source_hears(attempted.max(self.source.attempted()) + 1, Input::Wish, "");
    }

    /// The machine hears something of an epoch, and what it says is done. `reason` says to people what went wrong.
    pub(super) fn source_hears(&mut self, epoch: u64, input: Input, reason: &str) {
        let actions = self.source.hear(epoch, input);
        self.act_as_source(actions, reason);
    }

    /// The same with what has to do with no epoch.
    pub(super) fn source_handles(&mut self, input: Input, reason: &str) {
        let actions = self.source.handle(input);
        self.act_as_source(actions, reason);
    }

    fn act_as_source(&mut self, actions: &'static [Action], reason: &str) {
        let epoch = self.source.attempted();
        for action in actions {
            match action {
                Action::Offer => self.offer(epoch),
                Action::Send => self.send(epoch),
                Action::Break => {
                    if let Some(departure) = &mut self.departure {
                        departure.broken.get_or_insert_with(|| reason.to_owned());
                        departure.out.take().inspect(Sender::close);
                    }
                }
                Action::SayPrepared => match &self.side {
                    Side::Home(_) => self.arbitrate(arbiter::Input::Prepared(epoch), ""),
                    Side::Guest(guest) => guest.tell_home(&ToHome::Prepared { epoch }),
                },
                Action::AskTarget => self.ask_target(epoch),
                Action::AskAbort => self.ask_abort(epoch, reason),
                Action::Resume => self.resume(),
                Action::Report => {
                    let Some(Departure { to, broken, .. }) = self.departure.take() else { continue };
                    let reason = broken.as_deref().unwrap_or(reason);
                    if self.unborn.is_some() {
                        self.begin_after_all(to, reason);
                    } else {
                        self.report_failure(to, reason);
                    }
                }
                Action::Lend => self.lend(),
                Action::Destroy => self.leave(),
            }
        }
    }

    /// Asks the target whether it takes the job.
    fn offer(&mut self, epoch: u64) {
        let (Some(departure), Some(identity)) = (&mut self.departure, self.identity.clone()) else { return };
        let (rss_bytes, init, used_files) = match &self.residence {
            Some(residence) => {
                let rss_bytes = inspect::activity(&residence.cgroup).rss_bytes;
                (rss_bytes, residence.init_program(), used_files::of(&residence.cgroup))
            }
            None => (0, OM_INIT.to_vec(), Vec::new()),
        };
        departure.limit += Duration::from_secs(rss_bytes / SLOWEST);
        let offer = Offer {
            spec: self.spec.clone(),
            epoch,
            from: self.birth.address,
            rss_bytes,
            arch: std::env::consts::ARCH.to_owned(),
            cpu: Cpu::read(Path::new("/proc")).demand(self.spec.cpu),
            way: departure.way,
            can_follow: self.birth.can_follow,
            init: Bytes(init),
            used_files,
            newborn: self.unborn.clone().map(Box::new),
        };
        let what = if offer.newborn.is_some() { "beginning on" } else { "moving to" };
        log::info!("job {}: {what} {}", self.spec.id, departure.to);
        let (events, target) = (self.events.clone(), SocketAddr::from((departure.to, self.birth.port)));
        self.publish();
        threads::spawn("offer", move || {
            let result = make_offer(&identity, target, &offer).map(Box::new);
            let _ = events.send(Event::Offered(epoch, result));
        });
    }

    /// At home, while the job is away: passes the wish on.
    fn relay_move(&mut self, to: IpAddr, mode: Option<Mode>) {
        let Side::Home(home) = &self.side else { return };
        match home.link().map(|link| link.send(&FromHome::Move(to, mode))) {
            Some(Ok(())) => {
                self.relayed = Some(Instant::now());
                self.publish();
            }
            _ => self.report_failure(to, "the node where the job runs does not answer"),
        }
    }

    pub(super) fn handle_offered(&mut self, epoch: u64, result: Result<Box<Accepted>, String>) {
        match result {
            Ok(accepted) => {
                if let Some(departure) = &mut self.departure
                    && self.source.moving() == Some(epoch)
                {
                    departure.out = Some(accepted.out.clone());
                    departure.way = accepted.way;
                    departure.accepted = Some(*accepted);
                }
                self.source_hears(epoch, Input::Accepted, "");
            }
            Err(reason) => self.source_hears(epoch, Input::Refused, &reason),
        }
    }

    /// Freezes the job, dumps and sends it. One that has not begun went with the offer.
    fn send(&mut self, epoch: u64) {
        if self.unborn.is_some() {
            return self.source_hears(epoch, Input::Sent, "");
        }
        let (Some(departure), Some(residence)) = (&mut self.departure, self.residence.clone()) else {
            return;
        };
        let Some(accepted) = departure.accepted.take() else { return };
        step::at("accepted");
        departure.frozen_at = Instant::now();
        let frozen_at = departure.frozen_at;
        if let Err(reason) = freeze(&residence.cgroup, self.stopped) {
            let _ = accepted.out.send(&Part::Abandoned(reason.clone()));
            return self.source_hears(epoch, Input::Failed, &reason);
        }
        let luggage = self.pack(&residence);
        let (events, credentials, criu) =
            (self.events.clone(), self.spec.credentials.clone(), self.birth.criu.clone());
        let flush = match &self.side {
            Side::Guest(guest) => guest.files.clone(),
            Side::Home(_) => None,
        };
        threads::spawn("send", move || {
            let out = accepted.out.clone();
            let mut served = None;
            let dump = || -> Result<(), String> {
                let criu = criu.ok_or(crate::criu::Error::Missing).map_err(|error| error.to_string())?;
                if let Some(files) = flush {
                    let root =
                        File::open(format!("/proc/{}/root", residence.init)).map_err(|e| e.to_string())?;
                    files
                        .flush(root.as_fd())
                        .map_err(|error| format!("cannot write files back to home: {error}"))?;
                }
                step::at("frozen");
                residence.clear_images().map_err(|error| error.to_string())?;
                let way = accepted.way;
                let send_rest = || {
                    log::debug!("dumped after {:?}", frozen_at.elapsed());
                    step::at("dumped");
                    let sent = transfer::send(&out, &residence.nest, luggage, frozen_at);
                    log::debug!("sent after {:?}", frozen_at.elapsed());
                    sent.map_err(|error| format!("the connection to the target broke: {error}"))
                };
                if way == Way::Copy {
                    memory::copy(&residence, &criu, &credentials, accepted)?;
                    return send_rest();
                }
                let serving = Serving::start(&residence, &criu, &credentials)?;
                if let Err(reason) = send_rest() {
                    serving.give_up();
                    return Err(reason);
                }
                if way == Way::Stream {
                    return serving.serve(&accepted.out, accepted.input);
                }
                served = Some((serving, accepted));
                Ok(())
            };
            let result = dump();
            step::at("sent");
            if let Err(reason) = &result {
                let _ = out.send(&Part::Abandoned(reason.clone()));
            }
            let _ = events.send(Event::Sent(epoch, result));
            if let Some((serving, accepted)) = served {
                let result = serving.serve(&accepted.out, accepted.input);
                let _ = events.send(Event::Served(epoch, result));
            }
        });
        // While the job goes its way.
        self.publish();
    }

    pub(super) fn handle_sent(&mut self, epoch: u64, result: Result<(), String>) {
        match result {
            Ok(()) => {
                let way = self.departure.as_ref().map(|departure| departure.way);
                let sent = if way == Some(Way::Lazy) { Input::SentLazily } else { Input::Sent };
                self.source_hears(epoch, sent, "");
            }
            Err(reason) => self.source_hears(epoch, Input::Failed, &reason),
        }
    }

    /// Nothing is handed out of the frozen copy any more.
    pub(super) fn handle_served(&mut self, epoch: u64, result: Result<(), String>) {
        match result {
            Ok(()) => self.source_hears(epoch, Input::Served, "the move was given up"),
            Err(reason) => {
                log::warn!("job {}: its memory (epoch {epoch}): {reason}", self.spec.id);
                self.source_hears(epoch, Input::Failed, &reason);
            }
        }
    }

    /// Looks whether the job has been frozen for too long, and whether it is in doubt without a link home.
    pub(super) fn watch_departure(&mut self) {
        let Some(departure) = &self.departure else { return };
        if self.source.state().is_frozen() && departure.frozen_at.elapsed() >= departure.limit {
            let reason = format!("the target was not ready after {} s", departure.limit.as_secs());
            self.source_handles(Input::Overdue, &reason);
        }
        if matches!(&self.side, Side::Guest(guest) if guest.lost.is_some()) {
            self.source_handles(Input::Unlinked, "");
        }
    }

    /// In doubt and without a link home: the target may know what home has decided.
    fn ask_target(&mut self, epoch: u64) {
        // Home itself is asked all the time.
        match &self.departure {
            Some(Departure { to, .. }) if *to != self.spec.home => self.inquire(*to, epoch),
            _ => {}
        }
    }

    /// Asks home to abort a move; once the source is prepared, home alone decides.
    fn ask_abort(&mut self, epoch: u64, reason: &str) {
        match &self.side {
            Side::Home(_) => self.arbitrate(arbiter::Input::Abort(epoch), reason),
            Side::Guest(guest) => guest.tell_home(&ToHome::Abort { epoch, reason: reason.to_owned() }),
        }
    }

    /// The job goes on here as if nothing had happened.
    fn resume(&mut self) {
        match &self.side {
            Side::Home(home) => home.inlets.iter().flatten().for_each(|inlet| inlet.resume()),
            Side::Guest(guest) => guest.resume(),
        }
        self.drive();
        self.take_held_signals();
    }

    /// For how long a move away has been going on, or its job been frozen.
    pub(super) fn departing_for(&self) -> Duration {
        self.departure.as_ref().map_or(Duration::ZERO, |departure| departure.frozen_at.elapsed())
    }

    /// The job is another node's, and has yet to fetch its memory.
    fn lend(&mut self) {
        log::info!("job {}: has left, its memory follows", self.spec.id);
        self.departure = None;
        self.lent = self.residence.take();
    }

    /// The job is another node's: nothing of it may be left here.
    fn leave(&mut self) {
        log::info!("job {}: has left", self.spec.id);
        self.departure = None;
        self.has_begun_elsewhere();
        match &self.side {
            // What is left is destroyed at the keeper's own end.
            Side::Guest(_) => self.finish(),
            Side::Home(_) => {
                for residence in [self.residence.take(), self.lent.take()].into_iter().flatten() {
                    residence.kill();
                    threads::spawn("clean up", move || residence.destroy());
                }
            }
        }
    }

    /// Writes the failure where people and schedulers look for it. The job is where it was.
    pub(super) fn report_failure(&mut self, to: IpAddr, reason: &str) {
        log::warn!("job {}: not moved to {to}: {reason}", self.spec.id);
        let result = MoveResult::Failed { to, reason: reason.to_owned() }.to_string();
        self.report_result(result);
    }

    pub(super) fn report_result(&mut self, result: String) {
        if let Side::Guest(guest) = &self.side {
            let (moves, downtime_us) = (self.moves, self.downtime_us);
            guest.tell_home(&ToHome::Moved { result: result.clone(), moves, downtime_us });
        }
        self.result = Some(result);
        self.tell_deferred();
        self.publish();
    }

    /// What goes along besides the images. The job is frozen.
    fn pack(&self, residence: &Residence) -> Luggage {
        let (input, output) = match &self.side {
            Side::Guest(guest) => guest.suspend(),
            Side::Home(home) => (
                std::array::from_fn(|n| {
                    home.inlets[n].as_ref().map_or_else(InputState::default, |inlet| inlet.suspend())
                }),
                // Everything that it wrote is home already.
                std::array::from_fn(|n| {
                    home.outlets[n].as_ref().map_or_else(OutputState::default, |outlet| OutputState {
                        base: outlet.catch_up(),
                        unacknowledged: Bytes::default(),
                        closed: outlet.closed(),
                    })
                }),
            ),
        };
        Luggage {
            cpu_us: self.cpu_us(),
            moves: self.moves,
            stopped: self.stopped,
            command_stopped: self.command_stopped,
            locked: self.locked,
            ended: self.command_ended,
            frozen_for_us: 0,
            input,
            output,
            externals: residence.externals.clone(),
            terminal: residence
                .terminal_state()
                .map(|(settings, rows, columns)| (Bytes(settings), rows, columns)),
        }
    }
}

/// Freezes the job at a moment when CRIU can take hold of it. What it would fail at it would find only after seconds in
/// which the job stands still. An error leaves the job frozen.
fn freeze(cgroup: &Cgroup, stopped: bool) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        cgroup.freeze().map_err(|error| error.to_string())?;
        if let Some(reason) = stay::reasons(cgroup).first() {
            return Err(reason.to_string());
        }
        let Some(pid) = stay::mid_vfork(cgroup) else { return Ok(()) };
        // A job that its user has stopped is not let run for this.
        if stopped || begin.elapsed() > VFORK_LIMIT {
            return Err(format!("pid {pid} is about to start a program, and does not get on with it"));
        }
        cgroup.thaw().map_err(|error| error.to_string())?;
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A move connection whose target has taken the offer.
pub struct Accepted {
    /// The way there.
    pub out: Sender,
    /// The way back.
    pub input: Receiver,
    /// How the job's memory is to go.
    pub way: Way,
}

/// Connects to the target and asks whether it takes the job.
fn make_offer(identity: &Identity, target: SocketAddr, offer: &Offer) -> Result<Accepted, String> {
    let ask = || -> io::Result<(Stream, OfferAnswer)> {
        let preamble = Preamble { purpose: Purpose::Move, job: offer.spec.id };
        let mut stream = identity.connect(target, &preamble)?;
        frame::write(&mut stream, offer)?;
        let answer = await_answer(&mut stream, ANSWER_LIMIT)?;
        Ok((stream, answer))
    };
    match ask() {
        Ok((stream, OfferAnswer::Accepted(way))) => {
            let (out, input) = link::split(stream).map_err(|error| error.to_string())?;
            Ok(Accepted { out, input, way })
        }
        Ok((_, OfferAnswer::Refused(reason))) => Err(format!("{} refuses: {reason}", target.ip())),
        Err(error) => Err(format!("{} does not take it: {error}", target.ip())),
    }
}

/// The target's answer. A node of which only the kernel still answers would let the job wait for ever.
fn await_answer(stream: &mut Stream, limit: Duration) -> io::Result<OfferAnswer> {
    stream.socket.set_read_timeout(Some(limit))?;
    let answer = frame::read(stream, MAX_FRAME).map_err(tls::silent)?;
    stream.socket.set_read_timeout(None)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tests::pair;

    #[test]
    fn a_target_that_says_nothing_is_not_waited_for_for_ever() {
        let (mut source, mut target) = pair();
        let error = await_answer(&mut source, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "om-migd there does not answer");
        frame::write(&mut target, &OfferAnswer::Accepted(Way::Copy)).unwrap();
        let answer = await_answer(&mut source, Duration::from_secs(60)).unwrap();
        assert_eq!(answer, OfferAnswer::Accepted(Way::Copy));
    }
}
