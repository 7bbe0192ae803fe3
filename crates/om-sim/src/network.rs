//! What travels between nodes: broadcast reports and datagrams to one node, each encoded and decoded once.
//!
//! A report takes the same time to all nodes and hangs on the [`Board`] then; a datagram to one node is delayed and lost
//! by itself.

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

use crate::board::{Board, Ears};
use crate::chance;
use crate::clock::{Nanos, nanos, time};

/// The simulated cluster has told or heard something that does not survive the wire.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a datagram is not read as it was written: {0}")]
pub struct WireError(String);

/// What a node broadcasts.
#[derive(Clone, Debug)]
pub struct Broadcast {
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

impl Broadcast {
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
    keys: ClusterKeys,
    sequence: u64,
    /// Reports that are on their way, and by whom.
    broadcasts: VecDeque<(u32, Broadcast)>,
    board: Board,
    messages: Vec<Option<Message>>,
    free: Vec<usize>,
}

impl Network {
    /// An idle network between so many nodes.
    #[must_use]
    pub fn new(nodes: usize, quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            random: Random::from_seed(seed),
            keys: ClusterKeys::none(),
            sequence: 0,
            broadcasts: VecDeque::new(),
            board: Board::new(nodes, quality.loss, seed),
            messages: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Broadcasts what a node tells. When it arrives; then it is to be posted.
    ///
    /// # Errors
    /// [`WireError`]; nothing was sent.
    pub fn broadcast(&mut self, now: Nanos, from: u32, told: &Broadcast) -> Result<Nanos, WireError> {
        self.sequence += 1;
        let told = self.over_the_wire(told)?;
        self.broadcasts.push_back((from, told));
        Ok(now + nanos(self.quality.delay_s))
    }

    /// The oldest broadcast arrives. What it says, and who sent it.
    pub fn post(&mut self, now: Nanos) -> Option<(u32, Broadcast)> {
        let (from, told) = self.broadcasts.pop_front()?;
        self.board.post(time(now), from, &told.report());
        Some((from, told))
    }

    /// What `node` hears from now on.
    #[must_use]
    pub fn ears(&self, node: u32) -> Ears {
        self.board.ears(node)
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
        // The numbers stand for addresses here: the MAC is not over the receiver's.
        let bytes = codec::encode(&mut buffer, (here, here), (1, self.sequence), offer, None, &self.keys)
            .map_err(|full| WireError(full.to_string()))?;
        let offer = Datagram::decode_for(bytes, &self.keys, here)
            .and_then(|datagram| codec::decode(&datagram))
            .map_err(|reject| WireError(reject.to_string()))?;
        let at = now + nanos(self.quality.delay_s * (0.5 + chance::uniform(&mut self.random)));
        if self.quality.loss > 0.0 && chance::uniform(&mut self.random) < self.quality.loss {
            return Ok(None);
        }
        let message = Some(Message { from, to, offer });
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

    fn over_the_wire(&self, told: &Broadcast) -> Result<Broadcast, WireError> {
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
        Ok(Broadcast {
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
