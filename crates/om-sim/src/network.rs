//! What travels between schedulers: broadcast reports and datagrams to one node, each encoded and decoded once.
//!
//! Every node hears every report. Instead of handing it to each core when it arrives, it is kept here once, and each
//! core catches up before it is told anything else. That is the same to the core, since a report makes it do nothing,
//! and much faster: what a core knows is then touched all at once. Whether one node lost one report is worked out from
//! the numbers of both, so it does not depend on the order either.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use om_proto::key::ClusterKeys;
use om_proto::report::{Capacity, Identity, Load, Machine, Memory, Migration};
use om_proto::wire::{Datagram, DatagramWriter, Header, Kind, MAX_DATAGRAM};
use om_sched::codec;
use om_sched::node::Report;
use om_sched::offer::Offer;
use om_sched::random::Random;
use thiserror::Error;

use crate::chance;
use crate::clock::{Nanos, nanos};

/// The simulated cluster has told or heard something that does not survive the wire.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a datagram is not read as it was written: {0}")]
pub struct WireError(String);

/// What a node broadcasts.
#[derive(Clone, Debug)]
pub struct Told {
    /// The node's address.
    pub address: IpAddr,
    /// What seldom changes.
    pub machine: Machine,
    /// What it can do.
    pub capacity: Capacity,
    /// How busy it is.
    pub load: Load,
    /// How much memory is left.
    pub memory: Memory,
    /// Its guests and switches.
    pub migration: Migration,
    /// Time between its reports.
    pub period: Duration,
}

impl Told {
    /// As the core takes it.
    #[must_use]
    pub fn report(&self) -> Report<'_> {
        Report {
            address: self.address,
            authenticated: false,
            period: self.period,
            machine: Some(&self.machine),
            capacity: Some(&self.capacity),
            load: Some(&self.load),
            memory: Some(&self.memory),
            migration: Some(&self.migration),
        }
    }
}

/// A report that is on its way, or has come.
#[derive(Clone, Debug)]
pub struct Broadcast {
    /// When it comes.
    pub at: Nanos,
    /// Who sent it.
    pub from: u32,
    /// What it says.
    pub told: Told,
    number: u64,
}

/// A datagram to one node.
#[derive(Clone, Debug)]
pub struct Message {
    /// The sender.
    pub from: u32,
    /// The receiver.
    pub to: u32,
    /// What it says.
    pub offer: Offer,
}

/// How the network behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Mean one-way delay of a datagram; half of it is fixed.
    pub delay_s: f64,
    /// Share of datagrams that are lost, at each receiver by itself.
    pub loss: f64,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    quality: Quality,
    random: Random,
    seed: u64,
    keys: ClusterKeys,
    sequence: u64,
    broadcasts: VecDeque<Broadcast>,
    first: u64,
    messages: Vec<Option<Message>>,
    free: Vec<usize>,
}

impl Network {
    /// An idle network.
    #[must_use]
    pub fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            random: Random::from_seed(seed),
            seed,
            keys: ClusterKeys::none(),
            sequence: 0,
            broadcasts: VecDeque::new(),
            first: 0,
            messages: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Broadcasts what a node tells.
    ///
    /// # Errors
    /// [`WireError`]; nothing was sent.
    pub fn broadcast(&mut self, now: Nanos, from: u32, told: &Told) -> Result<(), WireError> {
        self.sequence += 1;
        let told = self.over_the_wire(told)?;
        let at = now + nanos(self.quality.delay_s);
        self.broadcasts.push_back(Broadcast { at, from, told, number: self.sequence });
        Ok(())
    }

    /// What node `to` has to hear after the first `heard` broadcasts until `now`; with whether it does.
    pub fn heard_since(&self, now: Nanos, to: u32, heard: u64) -> impl Iterator<Item = (&Broadcast, bool)> {
        let skip = usize::try_from(heard.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.broadcasts
            .iter()
            .skip(skip)
            .take_while(move |broadcast| broadcast.at <= now)
            .map(move |broadcast| (broadcast, !self.is_lost(broadcast, to)))
    }

    /// How many broadcasts there have been that everybody has heard by `now`, at least as a loss.
    #[must_use]
    pub fn count(&self, now: Nanos) -> u64 {
        let later = self.broadcasts.iter().rev().take_while(|broadcast| broadcast.at > now).count();
        self.first + (self.broadcasts.len() - later) as u64
    }

    /// Forgets the broadcasts before the first `count`.
    pub fn forget(&mut self, count: u64) {
        while self.first < count && self.broadcasts.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Sends a datagram. When it comes, and by which number to take it; `None` if it is lost.
    ///
    /// # Errors
    /// [`WireError`]; nothing was sent.
    pub fn send(
        &mut self,
        now: Nanos,
        here: IpAddr,
        (from, to): (u32, u32),
        offer: &Offer,
    ) -> Result<Option<(Nanos, usize)>, WireError> {
        self.sequence += 1;
        let mut buffer = [0; MAX_DATAGRAM];
        let bytes = codec::encode(&mut buffer, here, 1, self.sequence, offer, &self.keys)
            .map_err(|full| WireError(full.to_string()))?;
        let decoded = codec::decode(bytes, &self.keys).map_err(|reject| WireError(reject.to_string()))?;
        let at = now + nanos(self.quality.delay_s * (0.5 + chance::uniform(&mut self.random)));
        if self.quality.loss > 0.0 && chance::uniform(&mut self.random) < self.quality.loss {
            return Ok(None);
        }
        let message = Some(Message { from, to, offer: decoded.offer });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.messages[slot] = message;
                slot
            }
            None => {
                self.messages.push(message);
                self.messages.len() - 1
            }
        };
        Ok(Some((at, slot)))
    }

    /// Takes a datagram that has come.
    pub fn take(&mut self, slot: usize) -> Option<Message> {
        let message = self.messages.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(message)
    }

    fn is_lost(&self, broadcast: &Broadcast, to: u32) -> bool {
        if self.quality.loss == 0.0 || broadcast.from == to {
            return false;
        }
        let seed = self.seed ^ broadcast.number.wrapping_mul(0x0000_0100_0000_01b3) ^ (u64::from(to) << 40);
        chance::uniform(&mut Random::from_seed(seed)) < self.quality.loss
    }

    fn over_the_wire(&self, told: &Told) -> Result<Told, WireError> {
        let header = Header {
            kind: Kind::Report,
            flags: 0,
            key_id: 0,
            epoch: 1,
            sequence: self.sequence,
            sender: told.address,
        };
        let identity = Identity {
            host_name: String::new(),
            boot_id: [0; 16],
            period_ms: u32::try_from(told.period.as_millis()).unwrap_or(u32::MAX),
            addresses: Vec::new(),
        };
        let full = |full: om_proto::wire::DatagramFull| WireError(full.to_string());
        let mut buffer = [0; MAX_DATAGRAM];
        let mut writer = DatagramWriter::new(&mut buffer, header);
        writer.section(&identity).map_err(full)?;
        writer.section(&told.machine).map_err(full)?;
        writer.section(&told.capacity).map_err(full)?;
        writer.section(&told.load).map_err(full)?;
        writer.section(&told.memory).map_err(full)?;
        writer.section(&told.migration).map_err(full)?;
        let bytes = writer.finish(&self.keys);
        let datagram = Datagram::decode(bytes, &self.keys).map_err(|reject| WireError(reject.to_string()))?;
        let missing = || WireError("a section is missing".to_owned());
        let identity: Identity = datagram.section().ok_or_else(missing)?;
        Ok(Told {
            address: datagram.header.sender,
            machine: datagram.section().ok_or_else(missing)?,
            capacity: datagram.section().ok_or_else(missing)?,
            load: datagram.section().ok_or_else(missing)?,
            memory: datagram.section().ok_or_else(missing)?,
            migration: datagram.section().ok_or_else(missing)?,
            period: Duration::from_millis(identity.period_ms.into()),
        })
    }
}
