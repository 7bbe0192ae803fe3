//! The target's part of a move: what [`crate::handover::target`] decides is done here.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use om_proto::omfs::MoveResult;

use super::customs;
use super::event::Event;
use super::guest::Guest;
use super::home::Candidate;
use super::images::Terms;
use super::memory::{self, Fetching};
use super::offer::{self, Place, Preparation};
use super::residence::{Ends, Residence};
use super::run::{Keeper, Side};
use super::threads;
use super::{step, timers, transfer};
use crate::cgroup::Cgroup;
use crate::confines::Confines;
use crate::criu::{self, Restoring};
use crate::handover::arbiter;
use crate::handover::source::Source;
use crate::handover::target::{Action, Input, State, Target};
use crate::inspect;
use crate::nest::{Credentials, Nest};
use crate::net::link;
use crate::net::message::{Luggage, Offer, OfferAnswer, ToHome, Way};
use crate::net::tls::Stream;
use crate::stdio::INPUTS;
use crate::stdio::away_input::AwayInput;
use crate::stdio::away_output::AwayOutput;
use crate::sys::Reserve;

/// What a keeper holds back before it takes a job, bytes: for its own work when it lets the job run.
const RESERVE_BYTES: usize = 4 << 20;

/// How long a restore may take to fail once its move has been given up.
const FAILING: Duration = Duration::from_secs(5);

/// A move to this node: the machine and what its actions need.
pub struct Arrival {
    pub(super) target: Target,
    /// Where the job comes from.
    from: IpAddr,
    /// Everything that it needs here, until it is used.
    preparation: Option<Box<Preparation>>,
    /// What restores it, while it does.
    pub(super) restoring: Restoring,
    /// The restored job, frozen, once it is there.
    restored: Option<Box<Restored>>,
    /// Memory that is held back until the job runs. A keeper that is killed because there is none is killed while the job is
    /// still the source's.
    reserve: Option<Reserve>,
}

/// A restored job, frozen.
pub struct Restored {
    residence: Residence,
    ends: Ends,
    luggage: Luggage,
    luggage_came: Instant,
    /// Its memory, if that is still coming.
    fetching: Option<Fetching>,
    /// What it was restored from; freed when it runs.
    images: Vec<File>,
    /// It begins here.
    newborn: bool,
}

impl Keeper {
    /// At home: the job is offered back.
    pub(super) fn handle_offer(&mut self, mut offer: Offer, mut stream: Stream) {
        let refusal = match &mut self.side {
            _ if self.arrival.is_some() || self.residence.is_some() => {
                Some("the job is here already".to_owned())
            }
            _ if self.lent.is_some() => Some("its memory has not all left this node yet".to_owned()),
            Side::Guest(_) => Some("the job's earlier stay here is not cleaned up yet".to_owned()),
            Side::Home(home) => match home.locks().map_or_else(|| offer::fits(&self.birth, &offer), Err) {
                Ok(way) => {
                    offer.way = way;
                    None
                }
                Err(reason) => Some(reason),
            },
        };
        let refusal = refusal.or_else(|| {
            let candidate = Candidate { link: None, node: self.birth.address, input_received: [0; INPUTS] };
            (!self.welcome(offer.epoch, candidate)).then(|| "another move goes on".to_owned())
        });
        match refusal {
            Some(reason) => {
                log::info!("job {}: refused to {}: {reason}", self.spec.id, offer.from);
                let _ = offer::answer(&mut stream, &OfferAnswer::Refused(reason));
            }
            None => {
                let owner = self.spec.credentials.clone();
                self.prepare(offer, owner, stream);
            }
        }
    }

    /// Prepares everything for a job that is still running at the source. `owner` is who it is here.
    pub fn prepare(&mut self, offer: Offer, owner: Credentials, mut stream: Stream) {
        let (epoch, events) = (offer.epoch, self.events.clone());
        log::info!("job {}: arriving from {}", self.spec.id, offer.from);
        let target = Target::preparing(epoch);
        self.arrival = Some(Arrival {
            target,
            from: offer.from,
            preparation: None,
            restoring: Restoring::default(),
            restored: None,
            reserve: None,
        });
        let line = match &self.side {
            Side::Guest(_) => self.home_line(),
            Side::Home(_) => None,
        };
        let (confines, links) = (self.confines(), self.birth.cgroups.clone());
        threads::spawn("prepare", move || {
            step::at("offered");
            let result = match offer::prepare_place(&offer, &owner, line, &confines, &links, &events) {
                Ok((place, files)) => {
                    Ok(Box::new(Preparation { place, stream, owner, way: offer.way, files }))
                }
                Err(error) => {
                    let _ = offer::answer(&mut stream, &OfferAnswer::Refused(error.to_string()));
                    Err(error.to_string())
                }
            };
            let _ = events.send(Event::Prepared(epoch, result));
        });
    }

    /// Where the job's limits are on this node.
    fn confines(&self) -> Confines {
        match &self.side {
            Side::Home(home) => home.confines.remaining(),
            Side::Guest(_) => self.birth.guests.clone(),
        }
    }

    /// The machine hears something of an epoch, and what it says is done. `reason` says to people what went wrong.
    pub(super) fn target_hears(&mut self, epoch: u64, input: Input, reason: &str) {
        let Some(arrival) = &mut self.arrival else { return };
        let actions = arrival.target.hear(epoch, input);
        self.act_as_target(actions, reason);
    }

    /// The same with what has to do with no epoch.
    pub(super) fn target_handles(&mut self, input: Input) {
        let Some(arrival) = &mut self.arrival else { return };
        let actions = arrival.target.handle(input);
        self.act_as_target(actions, "");
    }

    fn act_as_target(&mut self, actions: &'static [Action], reason: &str) {
        let Some(epoch) = self.arrival.as_ref().map(|arrival| arrival.target.epoch()) else { return };
        for action in actions {
            match (action, &mut self.side) {
                (Action::Receive, _) => self.receive(epoch),
                (Action::Unblock, side) => {
                    // Home's own files are here.
                    if let Side::Guest(guest) = side {
                        guest.files.take().inspect(|files| files.close());
                    }
                    self.end_restore();
                }
                (Action::SayReady, Side::Home(_)) => self.arbitrate(arbiter::Input::Ready(epoch), ""),
                (Action::SayReady, Side::Guest(guest)) => {
                    guest.tell_home(&ToHome::Ready { epoch, input_received: guest.input_received() });
                }
                (Action::AskAbort, Side::Home(_)) => {
                    self.arbitrate(arbiter::Input::Abort(epoch), reason);
                }
                (Action::AskAbort, Side::Guest(guest)) => {
                    guest.tell_home(&ToHome::Abort { epoch, reason: reason.to_owned() });
                }
                (Action::Run, _) => self.settle_arrival(epoch),
                (Action::Destroy, _) => self.discard_arrival(),
            }
        }
    }

    pub(super) fn handle_prepared(&mut self, epoch: u64, result: Result<Box<Preparation>, String>) {
        match (result, &mut self.arrival) {
            (Ok(preparation), Some(arrival)) => {
                arrival.preparation = Some(preparation);
                self.target_hears(epoch, Input::Built, "");
            }
            (Ok(_), None) => {}
            (Err(reason), _) => self.fail_arrival(epoch, &reason),
        }
    }

    /// Takes the offer, receives and restores the job.
    fn receive(&mut self, epoch: u64) {
        let Some(preparation) = self.arrival.as_mut().and_then(|arrival| arrival.preparation.take()) else {
            return;
        };
        let Some(criu) = self.birth.criu.clone() else {
            return self.fail_arrival(epoch, &criu::Error::Missing.to_string());
        };
        let Preparation { place, mut stream, owner, way, files } = *preparation;
        if let (Place::Nest(nest, _), Some(arrival)) = (&place, &mut self.arrival) {
            arrival.restoring = nest.restoring.clone();
        }
        if let Side::Guest(guest) = &mut self.side {
            guest.files = files;
        }
        let at_home = matches!(self.side, Side::Home(_));
        let restoring = self.arrival.as_ref().map(|arrival| arrival.restoring.clone()).unwrap_or_default();
        let (events, spec, links) = (self.events.clone(), self.spec.clone(), self.birth.cgroups.clone());
        let confines = self.confines();
        threads::spawn("receive", move || {
            let receive = move || -> Result<Restored, String> {
                let accepted = offer::answer(&mut stream, &OfferAnswer::Accepted(way))
                    .map_err(|error| error.to_string());
                let (nest, launcher) = match place {
                    Place::Nest(nest, launcher) => accepted.map(|()| (nest, launcher))?,
                    Place::Newborn(made, newborn) => {
                        let (residence, ends) = *made;
                        accepted.inspect_err(|_| residence.destroy())?;
                        let luggage = Luggage { locked: newborn.locked, ..Luggage::default() };
                        return Ok(Restored {
                            residence,
                            ends,
                            luggage,
                            luggage_came: Instant::now(),
                            fetching: None,
                            images: Vec::new(),
                            newborn: true,
                        });
                    }
                };
                let terms = Terms { groups: &owner.groups, guest: !at_home };
                let (luggage, fetching) = receive_job(stream, way, &nest, &criu, (&owner, terms), &confines)?;
                let luggage_came = Instant::now();
                step::at("received");
                let cgroup = Cgroup::create(&confines.parent, spec.id, epoch, &links)
                    .map_err(|error| error.to_string())?;
                let names = luggage.externals.clone();
                let restored = Residence::restore(
                    nest,
                    launcher,
                    cgroup.clone(),
                    &criu,
                    &spec,
                    &names,
                    fetching.is_some(),
                );
                let (residence, ends) = restored.map_err(|error| {
                    cgroup.remove();
                    error.to_string()
                })?;
                log::debug!("restored {:?} after the luggage came", luggage_came.elapsed());
                if let Err(reason) = customs::inspect(&residence.cgroup, &owner, at_home) {
                    residence.destroy();
                    return Err(reason);
                }
                if let Some((settings, rows, columns)) = &luggage.terminal {
                    let set = residence.set_terminal_state(&settings.0, *rows, *columns);
                    set.map_err(|error| {
                        residence.destroy();
                        format!("its terminal's settings: {error}")
                    })?;
                }
                timers::revive(&residence.cgroup);
                let fetching = match fetching {
                    // As long as nothing is granted the source still has everything of a job whose memory does not come.
                    Some(fetching) if way == Way::Stream || fetching.is_over() => {
                        fetching.wait().inspect_err(|_| residence.destroy())?;
                        log::debug!("all memory came {:?} after the luggage", luggage_came.elapsed());
                        None
                    }
                    other => other,
                };
                let images = if fetching.is_none() {
                    residence.clear_images().unwrap_or_default()
                } else {
                    Vec::new()
                };
                Ok(Restored { residence, ends, luggage, luggage_came, fetching, images, newborn: false })
            };
            // What fetches memory would wait for a restore that has failed.
            let result = receive().map(Box::new).inspect_err(|_| restoring.end());
            step::at("restored");
            let _ = events.send(Event::Arrived(epoch, result));
        });
    }

    pub(super) fn handle_arrived(&mut self, epoch: u64, result: Result<Box<Restored>, String>) {
        let mut restored = match result {
            Ok(restored) => restored,
            Err(reason) => return self.fail_arrival(epoch, &reason),
        };
        let Some(arrival) = &mut self.arrival else { return restored.residence.destroy() };
        let mut started = Ok(());
        if let (Side::Guest(guest), State::Receiving) = (&mut self.side, arrival.target.state()) {
            started = restored.start_streams(guest, &self.events);
        }
        arrival.restored = Some(restored);
        // Only now, so that it is sure to be there.
        let reserved = Reserve::take(RESERVE_BYTES).map(|reserve| arrival.reserve = Some(reserve));
        match started.and(reserved) {
            Ok(()) => self.target_hears(epoch, Input::Restored, ""),
            Err(error) => self.fail_arrival(epoch, &error.to_string()),
        }
    }

    /// This node cannot take the job.
    fn fail_arrival(&mut self, epoch: u64, reason: &str) {
        log::warn!("job {}: cannot be taken in: {reason}", self.spec.id);
        self.target_hears(epoch, Input::Failed, reason);
    }

    /// Home has granted the job to this node.
    fn settle_arrival(&mut self, epoch: u64) {
        let Some(Arrival { from, restored: Some(restored), reserve, .. }) = self.arrival.take() else {
            return log::error!("job {}: granted, but it is not here", self.spec.id);
        };
        let Restored { residence, ends, luggage, luggage_came, fetching, images, newborn } = *restored;
        drop(reserve);
        self.fetching = fetching.as_ref().map(|fetching| (from, fetching.guard(&residence.cgroup)));
        self.source = Source::holding(epoch);
        self.cpu_before = luggage.cpu_us;
        self.moves = luggage.moves + u64::from(!newborn);
        self.stopped = luggage.stopped;
        self.note_command_stopped(luggage.command_stopped);
        self.locked = luggage.locked;
        self.command_ended = luggage.ended;
        self.moved_us = inspect::now_us();
        if !newborn {
            self.downtime_us =
                luggage.frozen_for_us + u64::try_from(luggage_came.elapsed().as_micros()).unwrap_or(u64::MAX);
        }
        match &self.side {
            Side::Guest(guest) => guest.resume(),
            // Elsewhere it could use every CPU.
            Side::Home(home) => residence.confine(&home.cpus),
        }
        self.settle(residence, ends, luggage);
        threads::spawn("free", move || drop(images));
        if let Some(fetching) = fetching {
            let events = self.events.clone();
            threads::spawn("fetch", move || drop(events.send(Event::Fetched(epoch, fetching.wait()))));
        }
        if newborn {
            log::info!("job {}: begins here, its home is {from}", self.spec.id);
            return self.publish();
        }
        #[expect(clippy::cast_precision_loss, reason = "a downtime of 2^53 microseconds is out of reach")]
        let seconds = self.downtime_us as f64 / 1e6;
        log::info!("job {}: came from {from}, {seconds:.3} s without running", self.spec.id);
        self.report_result(MoveResult::Ok { to: self.birth.address, seconds }.to_string());
    }

    /// All of the memory of a job that runs here has come, or never will: then it cannot go on.
    pub(super) fn handle_fetched(&mut self, epoch: u64, result: Result<(), String>) {
        if self.source.held() != epoch {
            return;
        }
        let Some((from, _)) = self.fetching.take() else { return };
        let Some(residence) = self.residence.clone() else { return };
        match result {
            Ok(()) => {
                let _ = residence.clear_images();
                self.drive();
                self.publish();
            }
            Err(reason) => {
                log::error!("job {}: lost, its memory was still on {from}: {reason}", self.spec.id);
                residence.kill();
                self.report_failure(self.birth.address, &format!("lost: its memory was still on {from}"));
            }
        }
    }

    /// The move to this node does not happen: a restore that has not failed by now, without its files and its source, is ended.
    fn end_restore(&self) {
        let Some(restoring) = self.arrival.as_ref().map(|arrival| arrival.restoring.clone()) else { return };
        threads::spawn("unblock", move || {
            std::thread::sleep(FAILING);
            restoring.end();
        });
    }

    /// The move to this node does not happen: nothing of the job may be left here.
    fn discard_arrival(&mut self) {
        let Some(arrival) = self.arrival.take() else { return };
        arrival.restoring.end();
        if let Side::Guest(guest) = &mut self.side {
            guest.files.take().inspect(|files| files.close());
        }
        if let Some(restored) = arrival.restored {
            restored.residence.destroy();
        }
        if let Some(preparation) = arrival.preparation
            && let Place::Newborn(made, _) = preparation.place
        {
            made.0.destroy();
        }
        if let Side::Guest(_) = &self.side {
            self.finish();
        }
    }
}

impl Restored {
    /// On a guest's node: takes up the streams where they were at the source.
    fn start_streams(
        &mut self,
        guest: &mut Guest,
        events: &crossbeam_channel::Sender<Event>,
    ) -> io::Result<()> {
        for (index, pipe) in self.ends.inputs.iter_mut().enumerate() {
            let (Some(pipe), Ok(stream)) = (pipe.take(), u8::try_from(index)) else { continue };
            let events = events.clone();
            let taken = move |offset| drop(events.send(Event::InputTaken(stream, offset)));
            let brought = std::mem::take(&mut self.luggage.input[index]);
            guest.inputs[index] = Some(AwayInput::start(pipe, brought, taken)?);
        }
        for (index, source) in self.ends.outputs.iter_mut().enumerate() {
            let Some(source) = source.take() else { continue };
            let brought = std::mem::take(&mut self.luggage.output[index]);
            guest.outputs[index] = Some(AwayOutput::start(source, brought)?);
        }
        Ok(())
    }
}

/// Receives everything of the job into the nest; memory that follows it is being fetched then.
fn receive_job(
    stream: Stream,
    way: Way,
    nest: &Nest,
    program: &Path,
    (owner, terms): (&Credentials, Terms<'_>),
    confines: &Confines,
) -> Result<(Luggage, Option<Fetching>), String> {
    let broken = |error: io::Error| format!("the source broke off: {error}");
    let (out, mut input) = link::split(stream).map_err(broken)?;
    if way == Way::Copy {
        let luggage = memory::receive_copy(&mut input, out, nest, program, owner, confines)?;
        terms.impose(&nest.images).map_err(|error| error.to_string())?;
        return Ok((luggage, None));
    }
    let luggage = transfer::receive(&mut input, nest, owner, None).map_err(broken)?;
    terms.impose(&nest.images).map_err(|error| error.to_string())?;
    let fetching = match way {
        Way::Stream => Fetching::start_whole(input, out, nest),
        _ => Fetching::start(input, out, nest, program, owner, confines),
    };
    Ok((luggage, Some(fetching?)))
}
