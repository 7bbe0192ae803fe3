//! All nodes that are heard, in the order of their addresses.
//!
//! What they report is kept apart from what this node knows beside, so that it need not be kept here: where many
//! cores live in one program, they can look into the same [`Reports`]. A daemon keeps its own, [`Heard`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::Time;
use crate::node::{Known, Node, Report, Reported, Told};

/// What the nodes have reported.
pub trait Reports {
    /// Takes in a report.
    fn hear(&mut self, now: Time, report: &Report<'_>);

    /// Forgets a node.
    fn forget(&mut self, address: IpAddr);

    /// Forgets the nodes that have been silent for so long that they are none any more.
    fn forget_gone(&mut self, now: Time);

    /// How many positions there are.
    fn count(&self) -> usize;

    /// The node at a position, if one is heard there.
    fn at(&self, position: usize) -> Option<Reported>;

    /// The position of the node with this address.
    fn find(&self, address: IpAddr) -> Option<usize>;

    /// No CPU is faster, as far as anybody has told.
    fn fastest(&self) -> f64;
}

/// The reports that one node hears.
///
/// A sorted list beats a tree here: it is searched and walked through all the time, and changes only when nodes come and go.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    keys: Vec<u128>,
    nodes: Vec<Reported>,
    /// Of all that were ever heard, those that have gone included: it needs only be no less than what is true.
    fastest: f64,
}

impl Reports for Heard {
    fn hear(&mut self, now: Time, report: &Report<'_>) {
        let position = match self.keys.binary_search(&key(report.address)) {
            Ok(position) => position,
            Err(position) => {
                let told = Rc::new(Told::new(report.address));
                self.keys.insert(position, key(report.address));
                self.nodes.insert(position, Reported { heard: now, told });
                position
            }
        };
        let node = &mut self.nodes[position];
        node.heard = now;
        Rc::make_mut(&mut node.told).hear(report);
        self.fastest = self.fastest.max(node.told.capacity.map_or(0.0, |(_, speed)| speed));
    }

    fn forget(&mut self, address: IpAddr) {
        if let Some(position) = self.find(address) {
            self.keys.remove(position);
            self.nodes.remove(position);
        }
    }

    fn forget_gone(&mut self, now: Time) {
        if self.nodes.iter().all(|node| !node.is_gone(now)) {
            return;
        }
        self.nodes.retain(|node| !node.is_gone(now));
        self.keys = self.nodes.iter().map(|node| key(node.told.address)).collect();
    }

    fn count(&self) -> usize {
        self.nodes.len()
    }

    fn at(&self, position: usize) -> Option<Reported> {
        self.nodes.get(position).cloned()
    }

    fn find(&self, address: IpAddr) -> Option<usize> {
        self.keys.binary_search(&key(address)).ok()
    }

    fn fastest(&self) -> f64 {
        self.fastest
    }
}

/// Numbers compare faster than addresses. No node is named by an IPv4 address written as IPv6.
fn key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The nodes.
pub struct Nodes {
    reports: Box<dyn Reports>,
    known: BTreeMap<IpAddr, Known>,
}

impl Nodes {
    /// The nodes that are heard in `reports`; nothing is known of them beside.
    #[must_use]
    pub fn new(reports: Box<dyn Reports>) -> Self {
        Self { reports, known: BTreeMap::new() }
    }

    /// Takes in a report.
    pub fn hear(&mut self, now: Time, report: &Report<'_>) {
        self.reports.hear(now, report);
    }

    /// The node with this address.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<Node<'_>> {
        self.at(self.reports.find(address)?)
    }

    /// What is known of a node beside its reports, to change it; `None` if the node is not heard.
    pub fn known_mut(&mut self, address: IpAddr) -> Option<&mut Known> {
        self.reports.find(address).map(|_| self.known.entry(address).or_default())
    }

    /// Forgets a node.
    pub fn forget(&mut self, address: IpAddr) {
        self.reports.forget(address);
        self.known.remove(&address);
    }

    /// Forgets the nodes that have gone, and what counts no more of the others.
    pub fn forget_gone(&mut self, now: Time) {
        self.reports.forget_gone(now);
        let reports = &self.reports;
        self.known.retain(|address, known| {
            let node = reports.find(*address).and_then(|position| reports.at(position));
            node.is_some_and(|node| known.tidy(now, node.told.period))
        });
    }

    /// The node at a position in the order of the addresses, if one is heard there.
    #[must_use]
    pub fn at(&self, position: usize) -> Option<Node<'_>> {
        let reported = self.reports.at(position)?;
        let known = self.known.get(&reported.told.address);
        Some(Node::new(reported, known))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Node<'_>> {
        (0..self.count()).filter_map(|position| self.at(position))
    }

    /// How many positions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.reports.count()
    }

    /// No CPU of any of them is faster.
    #[must_use]
    pub fn fastest(&self) -> f64 {
        self.reports.fastest()
    }
}
