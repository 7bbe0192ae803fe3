//! One node of the table.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{STALE_PERIODS, TEXT_LIMIT};
use crate::key::KeyId;
use crate::report::{Capacity, Identity, Load, Machine, Memory, Migration};
use crate::wire::{Datagram, Freshness, Header, Section, tag};

/// Addresses that are kept of a node.
const ADDRESS_LIMIT: usize = 16;
/// The period of a node that has not said who it is yet.
const DEFAULT_PERIOD_MS: u32 = 1000;

/// What is known of one node. A section is `None` until it was heard, or if the node does not send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The address that names it.
    pub address: IpAddr,
    /// Where its newest datagram came from; another of its addresses, perhaps.
    pub heard_from: IpAddr,
    /// When its newest datagram came.
    pub heard: Duration,
    /// Whether the cluster's key vouches for all this.
    pub authenticated: bool,
    /// The key that its newest datagram says it was signed with; 0: none.
    pub key_id: KeyId,
    /// Who it is.
    pub identity: Option<Identity>,
    /// What seldom changes.
    pub machine: Option<Arc<Machine>>,
    /// What it can do.
    pub capacity: Option<Capacity>,
    /// How busy it is.
    pub load: Option<Load>,
    /// How much memory is left.
    pub memory: Option<Memory>,
    /// What its migration daemon says; `None` on a node that only tells.
    pub migration: Option<Migration>,
    pub(super) freshness: Freshness,
    /// When its epoch was first believed.
    pub(super) believed: Duration,
    /// It said goodbye; kept for a while so that late copies of older reports do not bring it back.
    pub(super) gone: bool,
}

impl Node {
    pub(super) fn new(now: Duration, datagram: &Datagram<'_>, from: IpAddr) -> Self {
        let header = &datagram.header;
        Self {
            address: header.sender,
            heard_from: from.to_canonical(),
            heard: now,
            authenticated: datagram.authenticated,
            key_id: header.key_id,
            identity: None,
            machine: None,
            capacity: None,
            load: None,
            memory: None,
            migration: None,
            freshness: Freshness { epoch: header.epoch, sequence: header.sequence },
            believed: now,
            gone: false,
        }
    }

    /// The time between two of its reports.
    #[must_use]
    pub fn period(&self) -> Duration {
        let told_ms = self.identity.as_ref().map_or(DEFAULT_PERIOD_MS, |identity| identity.period_ms);
        Duration::from_millis(told_ms.clamp(100, 60_000).into())
    }

    /// How long it has not been heard.
    #[must_use]
    pub fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// Whether it has been silent for so long that it may be dead: no target any more.
    #[must_use]
    pub fn is_stale(&self, now: Duration) -> bool {
        self.silence(now) > self.period() * STALE_PERIODS
    }

    /// The boot epoch that it last told.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.freshness.epoch
    }

    /// Whether this is newer than what was heard, by its header alone. Another epoch of a node that signs has to be
    /// proved beside.
    pub(super) fn is_news(&self, now: Duration, header: &Header) -> bool {
        let clock_was_set_back = header.epoch < self.freshness.epoch && self.is_stale(now);
        clock_was_set_back || self.freshness.is_news(header.epoch, header.sequence)
    }

    pub(super) fn hear(&mut self, now: Duration, header: &Header, from: IpAddr) {
        self.heard = now;
        self.key_id = header.key_id;
        self.heard_from = from.to_canonical();
        self.freshness = Freshness { epoch: header.epoch, sequence: header.sequence };
    }

    /// Takes over a report's sections. One that makes no sense counts as not sent.
    pub(super) fn tell(&mut self, datagram: &Datagram<'_>, machines: &mut HashSet<Arc<Machine>>) {
        let mut told = Told::default();
        for (tag, body) in datagram.sections() {
            match tag {
                tag::IDENTITY => first(&mut told.identity, body),
                tag::MACHINE => first(&mut told.machine, body),
                tag::CAPACITY => first(&mut told.capacity, body),
                tag::LOAD => first(&mut told.load, body),
                tag::MEMORY => first(&mut told.memory, body),
                tag::MIGRATION => first(&mut told.migration, body),
                _ => {}
            }
        }
        if let Some(identity) = told.identity {
            let identity = tidy_identity(identity);
            if self.identity.as_ref() != Some(&identity) {
                self.identity = Some(identity);
            }
        }
        if let Some(machine) = told.machine {
            self.machine = Some(shared(tidy_machine(machine), machines));
        }
        self.capacity = told.capacity.or(self.capacity.take());
        self.load = told.load;
        self.memory = told.memory;
        self.migration = told.migration;
    }
}

#[derive(Default)]
struct Told {
    identity: Option<Identity>,
    machine: Option<Machine>,
    capacity: Option<Capacity>,
    load: Option<Load>,
    memory: Option<Memory>,
    migration: Option<Migration>,
}

fn first<S: Section>(slot: &mut Option<S>, body: &[u8]) {
    if slot.is_none() {
        *slot = S::decode(body);
    }
}

/// What is the same on many nodes is kept once.
fn shared(machine: Machine, machines: &mut HashSet<Arc<Machine>>) -> Arc<Machine> {
    if let Some(known) = machines.get(&machine) {
        return Arc::clone(known);
    }
    let machine = Arc::new(machine);
    machines.insert(Arc::clone(&machine));
    machine
}

fn tidy_identity(mut identity: Identity) -> Identity {
    identity.host_name = tidy(&identity.host_name);
    identity.addresses.truncate(ADDRESS_LIMIT);
    for address in &mut identity.addresses {
        *address = address.to_canonical();
    }
    identity.addresses.shrink_to_fit();
    identity
}

fn tidy_machine(machine: Machine) -> Machine {
    Machine {
        arch: tidy(&machine.arch),
        kernel_release: tidy(&machine.kernel_release),
        cpu_model: tidy(&machine.cpu_model),
        om_version: tidy(&machine.om_version),
        ..machine
    }
}

/// Texts end up on people's terminals and are kept for as long as the node is known: no control characters, and
/// not too many others.
fn tidy(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_LIMIT).collect()
}
