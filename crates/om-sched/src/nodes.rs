//! All nodes that are heard, in the order of their addresses.
//!
//! A sorted list beats a tree here: it is searched and walked through all the time, and changes only when nodes come and go.

use std::net::IpAddr;

use crate::Time;
use crate::node::Node;

/// The nodes, by address.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    keys: Vec<u128>,
    #[expect(clippy::vec_box, reason = "nodes are large, and the list shifts whenever one comes")]
    nodes: Vec<Box<Node>>,
}

impl Nodes {
    /// The node with this address.
    #[must_use]
    pub fn get(&self, address: &IpAddr) -> Option<&Node> {
        self.find(address).map(|index| &*self.nodes[index])
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, address: &IpAddr) -> Option<&mut Node> {
        self.find(address).map(|index| &mut *self.nodes[index])
    }

    /// The same; a new one of which nothing is known yet, if there is none.
    pub fn get_or_insert(&mut self, now: Time, address: IpAddr) -> &mut Node {
        let index = match self.keys.binary_search(&key(&address)) {
            Ok(index) => index,
            Err(index) => {
                self.keys.insert(index, key(&address));
                self.nodes.insert(index, Box::new(Node::new(address, now)));
                index
            }
        };
        &mut self.nodes[index]
    }

    /// Forgets a node.
    pub fn remove(&mut self, address: &IpAddr) {
        if let Some(index) = self.find(address) {
            self.keys.remove(index);
            self.nodes.remove(index);
        }
    }

    /// Forgets the nodes for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&Node) -> bool) {
        if self.nodes.iter().all(|node| keep(node)) {
            return;
        }
        self.nodes.retain(|node| keep(node));
        self.keys = self.nodes.iter().map(|node| key(&node.address)).collect();
    }

    /// The node at a position in the order of the addresses.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index).map(|node| &**node)
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(|node| &**node)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nobody is heard.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn find(&self, address: &IpAddr) -> Option<usize> {
        self.keys.binary_search(&key(address)).ok()
    }
}

/// Numbers compare faster than addresses. No node is named by an IPv4 address written as IPv6.
fn key(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}
