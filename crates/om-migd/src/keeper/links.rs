//! Over the links: what home and the node where the job runs tell each other, and what follows from home's decisions.

use std::time::Instant;

use std::os::fd::AsFd;

use om_homefs::server::SessionId;
use om_proto::control::{Ending, Reply};

use super::home::{Away, Candidate, Holder};
use super::run::{Keeper, Side};
use super::{step, threads};
use crate::handover::{arbiter, source, target};
use crate::inspect;
use crate::net::link;
use crate::net::message::{FromHome, Status, ToHome};
use crate::net::preamble::{Preamble, Purpose};
use crate::stdio::outlet;

impl Keeper {
    /// At home: tells the job something, wherever it is; between two nodes it waits until that is decided.
    pub(super) fn tell_job(&mut self, message: FromHome) {
        let Side::Home(home) = &mut self.side else { return };
        let reachable = match &home.holder {
            Holder::Here => self.residence.is_some(),
            Holder::Away(away) => away.link.is_some(),
        };
        if home.arbiter.moving().is_some() || self.source.moving().is_some() || !reachable {
            self.deferred.push(message);
        } else if let Holder::Away(_) = home.holder {
            let is_signal = matches!(message, FromHome::Signal(..));
            if !is_signal || home.signals.note(message.clone()) {
                home.tell_guest(&message);
            }
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
    pub(super) fn obey(&mut self, message: &FromHome) {
        let Some(residence) = self.residence.clone() else { return };
        match *message {
            FromHome::Signal(signal, audience) => {
                if let Err(error) = residence.signal(signal, audience) {
                    log::debug!("signal {signal}: {error}");
                }
                if signal == libc::SIGCONT {
                    self.note_command_stopped(false);
                }
            }
            FromHome::WindowSize(rows, columns) => {
                if let Some(master) = &residence.terminal {
                    let _ = crate::sys::resize_window(master.as_fd(), rows, columns);
                }
            }
            FromHome::Kill => residence.kill(),
            _ => {}
        }
    }

    /// At home: a node where the job is, or that wants it, has opened a link.
    pub(super) fn handle_linked(
        &mut self,
        id: u64,
        sender: link::Sender,
        mut from: Candidate,
        epoch: u64,
        holds: bool,
    ) {
        let Side::Home(home) = &mut self.side else { return };
        let refuse = |reason: &str| {
            let _ = sender.send(&FromHome::Aborted { epoch, reason: reason.to_owned() });
        };
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
        } else {
            let welcome = FromHome::Welcome { output_received: home.output_received() };
            from.link = Some((id, sender.clone()));
            if self.welcome(epoch, from) {
                let _ = sender.send(&welcome);
            } else {
                refuse("another move goes on");
            }
        }
    }

    /// At home: lets a candidate in, unless that cannot be now.
    pub(super) fn welcome(&mut self, epoch: u64, candidate: Candidate) -> bool {
        let reason = "the target has lost what it had of the job";
        let welcome = self.decide(arbiter::Input::Candidate(epoch), reason) == arbiter::Output::Welcome;
        if let (true, Side::Home(home)) = (welcome, &mut self.side) {
            home.candidate = Some(candidate);
            self.moving_since = Some(Instant::now());
            self.publish();
        }
        welcome
    }

    /// At home: the node that has the job is back after a broken link. It may not know yet that it has the job.
    pub(super) fn resume_link(&mut self, sender: &link::Sender, from: &Candidate, epoch: u64, holds: bool) {
        let Side::Home(home) = &mut self.side else { return };
        let output_received = home.output_received();
        let _ = sender.send(&FromHome::Welcome { output_received });
        if !holds {
            let _ = sender.send(&FromHome::Granted { epoch, output_received });
        }
        home.remind(sender, self.stopped);
        home.signals.relink();
        home.route_input(from.input_received, sender);
        for (stream, outlet) in (0_u8..).zip(&home.outlets) {
            if outlet.as_ref().is_some_and(outlet::Outlet::closed) {
                let _ = sender.send(&FromHome::OutputClosed(stream));
            }
        }
        self.tell_deferred();
    }

    pub(super) fn handle_from_guest(&mut self, id: u64, message: ToHome) {
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
            ToHome::CommandEnded { status, output, input, cpu_us } => {
                self.command_ended = Some(status);
                home.input_read = input;
                home.remote.cpu_us = cpu_us;
                home.ending.get_or_insert((Ending::from_wait_status(status), output));
                self.finish_deputy();
            }
            ToHome::CommandStopped(stopped) => self.note_command_stopped(stopped),
            ToHome::Gone { cpu_us } => {
                home.remote.cpu_us = cpu_us;
                home.gone = true;
                home.tell_guest(&FromHome::Over);
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
            ToHome::CannotExecute(error) => self.refuse(error),
            ToHome::SignalsTaken(count) => {
                for signal in home.signals.count(count) {
                    home.tell_guest(&signal);
                }
            }
            ToHome::Hello { .. } => {}
        }
    }

    pub(super) fn handle_link_lost(&mut self, id: u64) {
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
        self.decide(input, reason);
    }

    /// The same; a candidate's welcome is left to the caller.
    fn decide(&mut self, input: arbiter::Input, reason: &str) -> arbiter::Output {
        let Side::Home(home) = &mut self.side else { return arbiter::Output::Wait };
        let before = home.arbiter.holder();
        let output = home.arbiter.handle(input);
        match output {
            arbiter::Output::Grant(epoch) => {
                step::at("decided");
                home.files.end_session(SessionId(before));
                self.grant(epoch);
            }
            arbiter::Output::Abort(epoch) => {
                home.files.end_session(SessionId(epoch));
                let message = FromHome::Aborted { epoch, reason: reason.to_owned() };
                let candidate = home.candidate.take();
                home.tell_guest(&message);
                self.moving_since = None;
                match candidate {
                    Some(Candidate { link: Some((_, sender)), .. }) => {
                        let _ = sender.send(&message);
                    }
                    _ => self.target_hears(epoch, target::Input::Aborted, reason),
                }
                self.source_hears(epoch, source::Input::Aborted, reason);
                self.relayed = None;
                self.tell_deferred();
                self.publish();
            }
            // Only the holder's node can still ask: any other has heard that with its link.
            arbiter::Output::Tell(epoch, arbiter::Fate::Granted) => {
                home.tell_guest(&FromHome::Granted { epoch, output_received: home.output_received() });
            }
            arbiter::Output::Tell(epoch, arbiter::Fate::Aborted) => {
                let reason = "home has given up the move".to_owned();
                home.tell_guest(&FromHome::Aborted { epoch, reason });
            }
            arbiter::Output::Wait | arbiter::Output::Welcome | arbiter::Output::Refuse => {}
        }
        output
    }

    /// The candidate has the job from now on.
    pub(super) fn grant(&mut self, epoch: u64) {
        self.moving_since = None;
        // Nothing kept it here but what has hold of its frozen copy for the move.
        let last = self.residence.as_ref().map(|_| Status { migrating: false, ..self.passing_status() });
        let Side::Home(home) = &mut self.side else { return };
        // Until its new node tells.
        home.remote = match last {
            Some(last) => last,
            None => Status { migrating: false, stay: Vec::new(), ..std::mem::take(&mut home.remote) },
        };
        let output_received = home.output_received();
        let message = FromHome::Granted { epoch, output_received };
        let Some(candidate) = home.candidate.take() else { return };
        self.deferred.splice(..0, home.signals.take_back());
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
                home.remind(&sender, self.stopped);
                home.route_input(candidate.input_received, &sender);
                self.moved_us = inspect::now_us();
            }
            None => self.target_hears(epoch, target::Input::Granted, ""),
        }
        step::at("granted");
        match old {
            Holder::Here => self.source_hears(epoch, source::Input::Granted, ""),
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

    pub(super) fn handle_home_linked(&mut self, sender: &link::Sender, received: &[u64]) {
        let Side::Guest(guest) = &mut self.side else { return };
        guest.link = Some(sender.clone());
        guest.lost = None;
        guest.gone_told = false;
        guest.route_output(received, sender);
        guest.tell_home(&ToHome::CommandStopped(self.command_stopped));
        self.tell_signals_taken();
        self.source_handles(source::Input::Linked, "");
        self.target_handles(target::Input::Linked);
        if self.command_ended.is_some() {
            self.tell_ending();
        }
        self.finish_guest();
    }

    pub(super) fn handle_from_home(&mut self, message: FromHome) {
        let holds = self.source.held() > 0;
        let Side::Guest(guest) = &mut self.side else { return };
        match message {
            FromHome::Granted { epoch, output_received } if epoch == guest.epoch => {
                // What waits for home's answer is let go before the job runs.
                if let (false, Some(link)) = (holds, &guest.link) {
                    guest.route_output(&output_received, link);
                }
                self.target_hears(epoch, target::Input::Granted, "");
            }
            FromHome::Granted { epoch, .. } => self.source_hears(epoch, source::Input::Granted, ""),
            // The link was refused: the job is somewhere else.
            FromHome::Aborted { epoch, reason } if epoch == guest.epoch && holds => {
                log::info!("job {}: {reason}", self.spec.id);
                self.source_hears(epoch + 1, source::Input::Granted, "");
            }
            FromHome::Aborted { epoch, reason } if epoch == guest.epoch => {
                log::info!("job {}: {reason}", self.spec.id);
                self.target_hears(epoch, target::Input::Aborted, &reason);
            }
            FromHome::Aborted { epoch, reason } => self.source_hears(epoch, source::Input::Aborted, &reason),
            FromHome::Signal(..) => self.take_signal(message),
            FromHome::WindowSize(..) | FromHome::Kill => self.obey(&message),
            FromHome::Stop(stopped) => self.set_stopped(stopped),
            FromHome::Lock(locked) => {
                self.locked = locked;
                self.publish();
            }
            FromHome::Move(to, mode) => self.request_move(to, mode),
            FromHome::Over => self.finish(),
            stream => {
                guest.stream(&stream);
                if matches!(stream, FromHome::OutputTaken(..) | FromHome::OutputClosed(_)) {
                    self.finish_guest();
                }
            }
        }
    }

    pub(super) fn handle_home_lost(&mut self) {
        if self.finished {
            return;
        }
        let (line, holds) = (self.home_line(), self.source.held() > 0);
        let Side::Guest(guest) = &mut self.side else { return };
        guest.link = None;
        guest.outputs.iter().flatten().for_each(|output| output.detach());
        guest.lost.get_or_insert_with(Instant::now);
        if let Some(line) = line {
            line.reconnect(guest.epoch, holds, guest.input_received(), self.events.clone());
        }
    }

    /// How this node reaches the job's home; none without a key.
    pub(super) fn home_line(&self) -> Option<threads::HomeLine> {
        Some(threads::HomeLine {
            identity: self.identity.clone()?,
            home: (self.spec.home, self.birth.port).into(),
            preamble: Preamble { purpose: Purpose::Link, job: self.spec.id },
            node: self.birth.address,
        })
    }
}
