//! How a job begins: here, or on another node that takes it.
//!
//! A job that begins elsewhere is handed over like one that moves, by the same machines: home offers it, the target makes
//! everything for it up to a PID 1 that waits, and home grants it. Only then does it execute its first instruction.
//! There is nothing to freeze, dump or send, so CRIU has no part in it. What would let a job that moves go on where it was
//! lets this one begin at home: once the move is decided, and not before.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use om_proto::control::Reply;

use super::event::Event;
use super::residence::Residence;
use super::run::{Keeper, Side};
use crate::cgroup::Cgroup;
use crate::handover::arbiter;
use crate::handover::source::{Input, State};
use crate::net::message::{Newborn, Way};
use crate::stdio::StreamKind;

/// How long a job may wait for a node that was asked to take it.
const PATIENCE: Duration = Duration::from_secs(2);
/// The exit status of `om run` when om itself fails, as env(1) and timeout(1) have it.
pub(super) const CANNOT: u8 = 125;

impl Keeper {
    /// Begins the job on another node, once om-migd knows whose the connections are that come back.
    pub fn will_begin_on(&mut self, to: IpAddr, newborn: Newborn) {
        self.unborn = Some(newborn);
        let _ = self.events.send(Event::Begin(to));
    }

    pub(super) fn handle_begin(&mut self, to: IpAddr) {
        let impossible = if self.identity.is_none() {
            Some("there is no cluster key on this node".to_owned())
        } else {
            self.spec.bounds.wants(to, self.spec.home).err().map(|error| error.to_string())
        };
        match impossible {
            None if !self.is_here(to) => self.depart_for(to, Way::Copy),
            reason => self.begin_after_all(to, &reason.unwrap_or_default()),
        }
    }

    /// The other node does not take it, and never will.
    pub(super) fn begin_after_all(&mut self, to: IpAddr, reason: &str) {
        log::info!("job {}: begins here and not on {to}: {reason}", self.spec.id);
        let Some(newborn) = self.unborn.take() else { return };
        if matches!(&self.side, Side::Home(home) if home.deputy.is_none()) {
            // The user does not want it any more.
            return self.finish();
        }
        if self.spec.bounds.wants(self.spec.home, self.spec.home).is_err() {
            let message = format!("{to} does not take the job, it begins here: {reason}");
            self.tell_deputy(&Reply::Notice { message });
        }
        if let Err(error) = self.begin_here(newborn) {
            self.tell_deputy(&Reply::Refused { message: error.to_string(), status: CANNOT });
            return self.finish();
        }
        self.tell_deferred();
        self.publish();
    }

    /// Begins the job at home. After an error nothing is left of it.
    pub fn begin_here(&mut self, newborn: Newborn) -> io::Result<()> {
        let Newborn { mut launch, size, locked } = newborn;
        let Side::Home(home) = &self.side else { return Err(io::Error::other("this is not its home")) };
        let confines = home.confines.remaining();
        let cgroup = Cgroup::create(&confines.parent, self.spec.id, 1, &self.birth.cgroups)?;
        launch.joined = confines.joined;
        let launched = Residence::launch(launch, cgroup.clone(), self.spec.streams, size);
        let (residence, ends) = launched.inspect_err(|_| cgroup.remove())?;
        self.locked = locked;
        self.settle(residence, ends, Default::default());
        self.tell_begun();
        Ok(())
    }

    /// At home: the job runs, wherever that is.
    pub(super) fn tell_begun(&mut self) {
        let terminal = self.spec.streams.contains(&StreamKind::Terminal);
        self.tell_deputy(&Reply::Started { job: self.spec.id.to_string(), terminal });
    }

    /// At home: the job was granted to the node on which it was to begin.
    pub(super) fn has_begun_elsewhere(&mut self) {
        let Some(newborn) = self.unborn.take() else { return };
        self.locked = newborn.locked;
        self.tell_begun();
    }

    /// Gives up waiting for a node that does not get on with it.
    pub(super) fn watch_unborn(&mut self) {
        let Some(epoch) = self.source.moving().filter(|_| self.unborn.is_some()) else { return };
        if self.departing_for() < PATIENCE {
            return;
        }
        let reason = format!("it was not ready after {} s", PATIENCE.as_secs());
        self.arbitrate(arbiter::Input::Abort(epoch), &reason);
        // Home has not heard of the target yet, and a target that was never welcome is granted nothing.
        if self.source.state() == State::Offering {
            self.source_hears(epoch, Input::Refused, &reason);
        }
    }
}
