//! Every node heard, and what it last said: the table that schedulers and tools keep.
//!
//! A pure structure: the time is an argument, counted from any point the caller likes, and datagrams come in as
//! bytes. Its rules:
//!
//! * a node is named by the address in its datagrams' header, whichever way they came: the copies over IPv4 and
//!   IPv6 and through several networks are one datagram, of which the first counts;
//! * a node unheard for [`STALE_PERIODS`] of its periods is stale, after [`FORGET_PERIODS`] it is forgotten; a
//!   goodbye takes it out at once, and late copies of older reports do not bring it back;
//! * a report says all that changes: what it does not mention is unknown from then on. Identity, machine and
//!   capacity seldom change and are kept until the node restarts or says otherwise;
//! * a node whose datagrams are signed is never changed by an unsigned one. When the table is full, a signed
//!   newcomer takes an unsigned node's place and an unsigned one is refused;
//! * memory is bounded: at most [`NodeTable::DEFAULT_LIMIT`] nodes, of which [`UNSIGNED_LIMIT`] unsigned where there are
//!   keys, texts shortened to [`TEXT_LIMIT`] characters. An ordinary node takes some 600 bytes.
//!
//! A signed datagram of an epoch that is not known of its sender is dropped, and the sender asked to prove the epoch:
//! [`NodeTable::poll_question`] says what to send. Without keys nothing can be proved: there a greater epoch is taken at
//! once, and a lesser one, of a node whose clock was set back, once what is known of the node has gone stale.

mod node;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use node::Node;

use crate::key::ClusterKeys;
use crate::proof::{Challenge, Echo, Proofs};
use crate::report::Machine;
use crate::wire::{Datagram, Header, Kind, Reject, Rejects};

/// Periods after which a node that is not heard is no target any more.
pub const STALE_PERIODS: u32 = 3;
/// Periods after which it is forgotten.
pub const FORGET_PERIODS: u32 = 10;
/// Unsigned nodes that a listener with keys keeps: they are shown, and of no other use.
pub const UNSIGNED_LIMIT: usize = 256;
/// Characters that are kept of a text.
pub const TEXT_LIMIT: usize = 64;

/// What a datagram did to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A node that was not known.
    Joined(IpAddr),
    /// A known node's report.
    Updated(IpAddr),
    /// A node's goodbye.
    Left(IpAddr),
    /// Nothing: a question, or a goodbye of somebody unknown.
    Nothing,
}

/// The nodes that are heard.
#[derive(Debug)]
pub struct NodeTable {
    limit: usize,
    nodes: BTreeMap<IpAddr, Box<Node>>,
    /// Those of `nodes` that are not authenticated.
    unsigned: BTreeSet<IpAddr>,
    /// One copy of each kind of machine: most nodes of a cluster are alike.
    machines: HashSet<Arc<Machine>>,
    proofs: Proofs,
    rejects: Rejects,
}

impl NodeTable {
    /// How many nodes a table holds unless told otherwise.
    pub const DEFAULT_LIMIT: usize = 16_384;

    /// A table for as many nodes as any cluster has. `seed` must come from the system's random generator: see
    /// [`crate::key::random`].
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self::with_limit(Self::DEFAULT_LIMIT, seed)
    }

    /// A table for at most `limit` nodes.
    #[must_use]
    pub fn with_limit(limit: usize, seed: [u8; 32]) -> Self {
        Self {
            limit,
            nodes: BTreeMap::new(),
            unsigned: BTreeSet::new(),
            machines: HashSet::new(),
            proofs: Proofs::new(seed),
            rejects: Rejects::default(),
        }
    }

    /// Takes a datagram as it came from the network, from address `from`.
    ///
    /// # Errors
    /// The rule it broke, which is counted as well; nothing has changed.
    pub fn receive(
        &mut self,
        now: Duration,
        bytes: &[u8],
        from: IpAddr,
        keys: &ClusterKeys,
    ) -> Result<Heard, Reject> {
        let heard = match self.drop_early(now, bytes) {
            Some(reject) => Err(reject),
            None => Datagram::decode(bytes, keys)
                .and_then(|datagram| self.take(now, &datagram, from, !keys.is_empty())),
        };
        heard.inspect_err(|reject| self.rejects.count(*reject))
    }

    /// What to put into a question to everybody, so that their answers prove them alive.
    pub fn challenge(&mut self, now: Duration) -> Challenge {
        self.proofs.challenge(now)
    }

    /// The next node that has to prove its epoch, and what to put into a question to it alone. To be called until it
    /// says `None` whenever datagrams have come.
    pub fn poll_question(&mut self, now: Duration) -> Option<(IpAddr, Challenge)> {
        self.proofs.poll_question(now)
    }

    /// The nodes, in the order of their addresses. Some may be stale: [`Node::is_stale`].
    pub fn iter(&self) -> impl Iterator<Item = &Node> + '_ {
        self.nodes.values().map(Box::as_ref).filter(|node| !node.gone)
    }

    /// The node with this address.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<&Node> {
        self.nodes.get(&address.to_canonical()).map(Box::as_ref).filter(|node| !node.gone)
    }

    /// How many nodes there are, stale ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether no node is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Forgets the nodes that have not been heard for long. To be called about once a period.
    pub fn expire(&mut self, now: Duration) {
        let unsigned = &mut self.unsigned;
        self.nodes.retain(|address, node| {
            let keep = node.silence(now) <= node.period() * FORGET_PERIODS;
            if !keep {
                unsigned.remove(address);
            }
            keep
        });
        self.machines.retain(|machine| Arc::strong_count(machine) > 1);
    }

    /// What was dropped, and why.
    #[must_use]
    pub fn rejects(&self) -> &Rejects {
        &self.rejects
    }

    /// Drops the second copy of a datagram before its MAC is worked out. That is safe: a header that lies can only
    /// make its own datagram be dropped.
    fn drop_early(&self, now: Duration, bytes: &[u8]) -> Option<Reject> {
        let header = Header::peek(bytes).ok()?;
        let node = self.nodes.get(&header.sender).filter(|_| is_for_table(header.kind))?;
        let may_be_proved = header.key_id != 0 && (!node.authenticated || node.epoch() != header.epoch);
        (!may_be_proved && !node.is_news(now, &header)).then_some(Reject::NotNewer)
    }

    fn take(
        &mut self,
        now: Duration,
        datagram: &Datagram<'_>,
        from: IpAddr,
        has_keys: bool,
    ) -> Result<Heard, Reject> {
        let header = &datagram.header;
        if !is_for_table(header.kind) {
            return Ok(Heard::Nothing);
        }
        let address = header.sender;
        if !can_name_a_node(address) {
            return Err(Reject::BadSender);
        }
        let is_goodbye = header.kind == Kind::Goodbye;
        let known = self.nodes.get(&address);
        if known.is_none() && is_goodbye {
            return Ok(Heard::Nothing);
        }
        if known.is_some_and(|node| node.authenticated && !datagram.authenticated) {
            return Err(Reject::Downgrade);
        }
        let believed = known.filter(|node| node.authenticated);
        let is_same = believed.is_some_and(|node| node.epoch() == header.epoch);
        // Below, what needs a proof has brought it.
        let needs_proof = datagram.authenticated && !is_same;
        if needs_proof && !self.proves(now, datagram, believed.map(|node| node.believed)) {
            // Who stops cannot answer any more.
            if !is_goodbye {
                self.proofs.demand(now, address);
            }
            return Err(Reject::UnprovenEpoch);
        }
        let Some(node) = self.nodes.get_mut(&address) else {
            self.make_room(datagram.authenticated, has_keys)?;
            let mut node = Node::new(now, datagram, from);
            node.tell(datagram, &mut self.machines);
            self.nodes.insert(address, Box::new(node));
            if !datagram.authenticated {
                self.unsigned.insert(address);
            }
            return Ok(Heard::Joined(address));
        };
        if !needs_proof && !node.is_news(now, header) {
            return Err(Reject::NotNewer);
        }
        if datagram.authenticated {
            self.unsigned.remove(&address);
        }
        let was_gone = node.gone;
        if needs_proof || was_gone || node.epoch() != header.epoch {
            **node = Node {
                believed: if needs_proof { now } else { node.believed },
                ..Node::new(now, datagram, from)
            };
        }
        node.hear(now, header, from);
        if is_goodbye {
            node.gone = true;
            return Ok(if was_gone { Heard::Nothing } else { Heard::Left(address) });
        }
        node.tell(datagram, &mut self.machines);
        Ok(if was_gone { Heard::Joined(address) } else { Heard::Updated(address) })
    }

    /// Whether a datagram answers a question that is younger than what is believed of its sender.
    fn proves(&self, now: Duration, datagram: &Datagram<'_>, believed: Option<Duration>) -> bool {
        datagram.section::<Echo>().is_some_and(|echo| self.proofs.are_in(&echo, now, believed))
    }

    fn make_room(&mut self, authenticated: bool, has_keys: bool) -> Result<(), Reject> {
        if !authenticated && has_keys && self.unsigned.len() >= UNSIGNED_LIMIT {
            return Err(Reject::TableFull);
        }
        if self.nodes.len() < self.limit {
            return Ok(());
        }
        match self.unsigned.pop_first() {
            Some(address) if authenticated => {
                self.nodes.remove(&address);
                Ok(())
            }
            other => {
                self.unsigned.extend(other);
                Err(Reject::TableFull)
            }
        }
    }
}

fn is_for_table(kind: Kind) -> bool {
    matches!(kind, Kind::Report | Kind::Goodbye)
}

fn can_name_a_node(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::from([255; 4])
}
