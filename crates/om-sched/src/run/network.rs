//! The run loop's network side: reports and offers come in, the interfaces change, this node finds out who it is.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use om_proto::net::{Interface, naming_address, select};
use om_proto::table::Heard;
use om_proto::wire::MAX_DATAGRAM;

use super::{Daemon, LISTENER, OFFERS, READING_SHARE, RunError, STARTS, failed, selection, watch};
use crate::Time;
use crate::core::Input;
use crate::net::{OfferSocketError, listen, question};
use crate::node::Report;
use crate::start_socket::Starting;

/// Datagrams taken in one turn, so that a flood does not keep the rest from being done.
const DATAGRAMS_A_TURN: usize = 256;
/// How long a node may leave out what it seldom tells before all are asked to tell it, and how often they are.
const ASK_AFTER: Duration = Duration::from_millis(1500);
const ASK_EVERY: Duration = Duration::from_secs(5);

impl Daemon {
    pub(super) fn hear_reports(&mut self) {
        self.take_reports();
        self.ask_for_proofs();
    }

    fn take_reports(&mut self) {
        let mut buffer = [0; MAX_DATAGRAM + 1];
        for _ in 0..DATAGRAMS_A_TURN {
            let (length, from) = match self.listener.receive(&mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(error) => {
                    log::debug!("cannot receive reports: {error}");
                    return;
                }
            };
            let now = self.now();
            match self.table.receive(now, &buffer[..length], from.ip(), self.keys.keys()) {
                Ok(Heard::Joined(address)) => {
                    self.say_coming(now, address, "is there");
                    // It may be this one, by an address that has just come up.
                    self.next_interfaces = now;
                    self.tell_core(now, address);
                }
                Ok(Heard::Updated(address)) => self.tell_core(now, address),
                Ok(Heard::Left(address)) => {
                    self.say_coming(now, address, "has left");
                    self.core.handle(now, Input::Goodbye(address));
                }
                Ok(Heard::Nothing) => {}
                Err(reject) => log::trace!("datagram from {from} dropped: {reject}"),
            }
        }
        self.unfinished = true;
    }

    /// Nodes that nothing was known of, or another epoch, are asked one by one.
    fn ask_for_proofs(&mut self) {
        let now = self.now();
        while let Some((node, challenge)) = self.table.poll_question(now) {
            self.questions += 1;
            let mut buffer = [0; MAX_DATAGRAM];
            let bytes = question(&mut buffer, (self.epoch, self.questions), &challenge, self.keys.keys());
            if let Err(error) = self.asker.unicast(bytes, node) {
                log::debug!("cannot ask {node}: {error}");
            }
        }
    }

    fn say_coming(&mut self, now: Time, address: IpAddr, what: &str) {
        let (may, left_out) = self.comings.ask(now);
        if let Some(count) = left_out {
            log::info!("{count} more nodes have come or gone");
        }
        if may {
            log::info!("node {address} {what}");
        }
    }

    pub(super) fn tell_core(&mut self, now: Time, address: IpAddr) {
        if let Some(node) = self.table.get(address) {
            self.core.handle(now, Input::Report(Report::from(node)));
        }
    }

    pub(super) fn hear_offers(&mut self) {
        let mut buffer = [0; MAX_DATAGRAM + 1];
        for _ in 0..DATAGRAMS_A_TURN {
            let Some(socket) = &self.offer_socket else { return };
            let length = match socket.recv_from(&mut buffer) {
                Ok((length, _)) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // A neighbour's "port unreachable" comes back this way.
                    log::debug!("cannot receive offers: {error}");
                    continue;
                }
            };
            let (now, Some(here)) = (self.now(), self.here) else { return };
            let heard = self.offers.receive(now, here, &buffer[..length], self.keys.keys());
            let Some((from, authenticated, offer)) = heard else { continue };
            log::trace!("{from} says {offer:?}");
            if self.table.get(from).is_some() {
                self.read_if_old();
            }
            self.core.handle(self.now(), Input::Offer { from, authenticated, offer });
            self.carry_out();
        }
        self.unfinished = true;
    }

    /// Whoever wants to start a job asks where.
    pub(super) fn hear_starts(&mut self) {
        let now = self.now();
        let Some(starts) = &mut self.starts else { return };
        for descriptor in starts.accept(now) {
            if let Err(error) = watch(&self.poll, descriptor, STARTS) {
                log::debug!("cannot wait for a question: {error}");
            }
        }
        let questions = starts.questions();
        if questions.is_empty() {
            return;
        }
        self.read_if_old();
        for Starting { ticket, job } in questions {
            let now = self.now();
            self.core.handle(now, Input::Starting { ticket, job });
            self.carry_out();
        }
    }

    /// Reads the om files if what is known of them is too old to answer with, as long as that does not take too much
    /// of the daemon's time.
    fn read_if_old(&mut self) {
        let now = self.now();
        let may_read = self.last_read.is_none_or(|read| now >= read + self.reading_took * READING_SHARE);
        if may_read && self.core.wants_reading(now) {
            self.read();
        }
    }

    /// Which of the nodes heard is this one: the one with the address that names this host.
    pub(super) fn find_here(&mut self) -> Result<(), RunError> {
        let address = self.config.address.or_else(|| {
            let local = self.interfaces.iter().flat_map(|interface| &interface.addresses);
            let chosen = select(&self.interfaces, &selection(&self.config));
            let named = naming_address(&chosen);
            let heard = |address: &IpAddr| self.table.get(*address).is_some();
            named.filter(heard).or_else(|| local.copied().find(heard)).or(named)
        });
        let Some(address) = address else { return Ok(()) };
        let has_socket = self.offer_socket.is_some() || self.config.dry_run;
        if self.here == Some(address) && has_socket {
            return Ok(());
        }
        if self.here != Some(address) {
            log::info!("this node is {address}");
            if self.here.replace(address).is_some() {
                // The question at the start went to another network.
                self.ask_everybody();
            }
            self.offer_socket = None;
            let now = self.now();
            self.core.handle(now, Input::Here(address));
        }
        if self.config.dry_run {
            return Ok(());
        }
        match listen(address, self.config.offer_port, &self.interfaces) {
            Ok(socket) => {
                watch(&self.poll, socket.as_raw_fd(), OFFERS).map_err(failed("wait for offers"))?;
                self.offer_socket = Some(socket);
                Ok(())
            }
            Err(error @ OfferSocketError::InUse { .. }) => Err(error.into()),
            // The address may come and go with its interface.
            Err(error) => {
                log::debug!("{error}");
                Ok(())
            }
        }
    }

    pub(super) fn look_at_interfaces(&mut self) {
        match Interface::all() {
            Ok(interfaces) => {
                for (name, error) in self.listener.refresh(&interfaces) {
                    log::warn!("{name}: cannot hear the nodes there: {error}");
                }
                self.interfaces = interfaces;
            }
            Err(error) => log::debug!("{error}"),
        }
    }

    /// Asks all nodes to report in full now instead of in half a minute.
    pub(super) fn ask_everybody(&mut self) {
        self.asked = self.now();
        self.questions += 1;
        let challenge = self.table.challenge(self.asked);
        let mut buffer = [0; MAX_DATAGRAM];
        let bytes = question(&mut buffer, (self.epoch, self.questions), &challenge, self.keys.keys());
        let chosen = select(&self.interfaces, &selection(&self.config));
        if let Some((place, error)) = self.asker.multicast(bytes, &chosen).failure {
            log::debug!("cannot ask on {place}: {error}");
        }
    }

    /// A node whose full report was lost, or that goes by another name since, would be of no use for many periods.
    pub(super) fn ask_if_something_is_missing(&mut self, now: Time) {
        let is_whole = self.table.iter().all(|node| node.capacity.is_some() || node.is_stale(now));
        if is_whole {
            self.incomplete = None;
            return;
        }
        let since = *self.incomplete.get_or_insert(now);
        if now >= since + ASK_AFTER && now >= self.asked + ASK_EVERY {
            self.ask_everybody();
        }
    }

    pub(super) fn watch_listener(&self) -> Result<(), RunError> {
        for socket in self.listener.sockets() {
            watch(&self.poll, socket.as_raw_fd(), LISTENER).map_err(failed("wait for reports"))?;
        }
        Ok(())
    }
}
