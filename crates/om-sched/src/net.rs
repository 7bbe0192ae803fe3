//! The sockets on which schedulers ask each other, and what becomes of an offer on the wire.
//!
//! An offer is a datagram like a report: same header, same MAC, taken only if it is newer than the last of its sender.
//! The receiving socket is bound to this node's own address and to no other scheduler's: two on one address would
//! each hear half of the answers.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};

use om_proto::key::ClusterKeys;
use om_proto::net::{Interface, NetError, Speaker};
use om_proto::table::NodeTable;
use om_proto::wire::{DatagramWriter, Freshness, Header, Kind, MAX_DATAGRAM, Reject, Rejects};
use thiserror::Error;

use crate::codec::{Decoded, decode, encode};
use crate::offer::Offer;

/// Senders that are remembered; without a key anybody can invent more.
const SENDERS: usize = NodeTable::DEFAULT_LIMIT;

/// Why there is no socket for offers. Nothing stays open.
#[derive(Debug, Error)]
pub enum OfferSocketError {
    /// Another program has it.
    #[error("UDP {address} is in use; does another om-sched run on this node?")]
    InUse {
        /// The address and port.
        address: SocketAddr,
    },
    /// Anything else the kernel said.
    #[error("cannot listen on UDP {address}: {source}")]
    Socket {
        /// The address and port.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The sending side, and the freshness of what comes in.
pub struct Offers {
    speaker: Speaker,
    epoch: u64,
    sequence: u64,
    newest: BTreeMap<IpAddr, Freshness>,
    rejects: Rejects,
}

impl Offers {
    /// A sender to `port` of the other nodes. `epoch` has to be greater at each start of the scheduler.
    ///
    /// # Errors
    /// If there is no network at all.
    pub fn new(port: u16, epoch: u64) -> Result<Self, NetError> {
        Ok(Self {
            speaker: Speaker::open(port)?,
            epoch,
            sequence: 0,
            newest: BTreeMap::new(),
            rejects: Rejects::default(),
        })
    }

    /// Sends to another port from now on.
    ///
    /// # Errors
    /// As [`Self::new`]; the old port is still used then.
    pub fn set_port(&mut self, port: u16) -> Result<(), NetError> {
        self.speaker = Speaker::open(port)?;
        Ok(())
    }

    /// Says `offer` to the scheduler of node `to`, in the name of `here`.
    ///
    /// # Errors
    /// The kernel's; the other side hears nothing.
    pub fn send(&mut self, here: IpAddr, to: IpAddr, offer: &Offer, keys: &ClusterKeys) -> io::Result<()> {
        self.sequence += 1;
        let mut buffer = [0; MAX_DATAGRAM];
        let bytes = encode(&mut buffer, here, self.epoch, self.sequence, offer, keys)
            .map_err(|full| io::Error::new(io::ErrorKind::InvalidData, full))?;
        self.speaker.unicast(bytes, to)
    }

    /// Reads a datagram: who says what, and whether the cluster's key vouches for it. `None`: it is none, it is old,
    /// or it makes no sense; that is counted.
    pub fn receive(&mut self, bytes: &[u8], keys: &ClusterKeys) -> Option<(IpAddr, bool, Offer)> {
        self.read(bytes, keys).inspect_err(|reject| self.rejects.count(*reject)).ok()
    }

    fn read(&mut self, bytes: &[u8], keys: &ClusterKeys) -> Result<(IpAddr, bool, Offer), Reject> {
        let Decoded { header, authenticated, offer } = decode(bytes, keys)?;
        // What nobody vouches for must not make what somebody vouches for look old.
        if !authenticated && !keys.is_empty() {
            return Err(Reject::Downgrade);
        }
        if self.newest.len() >= SENDERS && !self.newest.contains_key(&header.sender) {
            return Err(Reject::TableFull);
        }
        let newest = self.newest.entry(header.sender).or_default();
        if !newest.accept(header.epoch, header.sequence) {
            return Err(Reject::NotNewer);
        }
        Ok((header.sender, authenticated, offer))
    }

    /// What was dropped, and why.
    #[must_use]
    pub fn rejects(&self) -> &Rejects {
        &self.rejects
    }

    /// Forgets the senders for which `is_known` is false.
    pub fn forget(&mut self, is_known: impl Fn(IpAddr) -> bool) {
        self.newest.retain(|address, _| is_known(*address));
    }
}

/// The datagram with which a newcomer asks every node to report in full at once.
#[must_use]
pub fn question<'a>(
    buffer: &'a mut [u8; MAX_DATAGRAM],
    epoch: u64,
    sequence: u64,
    keys: &ClusterKeys,
) -> &'a [u8] {
    let nobody = IpAddr::from([0, 0, 0, 0]);
    let header = Header { kind: Kind::Ask, flags: 0, key_id: 0, epoch, sequence, sender: nobody };
    DatagramWriter::new(buffer, header).finish(keys)
}

/// Opens the socket that hears offers, on this node's own address.
///
/// # Errors
/// [`OfferSocketError`].
pub fn listen(address: IpAddr, port: u16, interfaces: &[Interface]) -> Result<UdpSocket, OfferSocketError> {
    let address = match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            let on = interfaces.iter().find(|interface| interface.addresses.contains(&address));
            SocketAddrV6::new(v6, port, 0, on.map_or(0, |interface| interface.index)).into()
        }
        _ => SocketAddr::new(address, port),
    };
    let socket = UdpSocket::bind(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => OfferSocketError::InUse { address },
        _ => OfferSocketError::Socket { address, source },
    })?;
    socket.set_nonblocking(true).map_err(|source| OfferSocketError::Socket { address, source })?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use om_proto::offer::Ask;

    use super::*;

    fn ask() -> Offer {
        Offer::Ask(Ask { nonce: 1, rss_bytes: 2, runnable_milli: 3, cpu_features: 4, coming_home: true })
    }

    fn bytes(epoch: u64, sequence: u64, keys: &ClusterKeys) -> Vec<u8> {
        let mut buffer = [0; MAX_DATAGRAM];
        encode(&mut buffer, IpAddr::from([10, 0, 0, 1]), epoch, sequence, &ask(), keys).unwrap().to_vec()
    }

    #[test]
    fn an_offer_is_heard_once_and_never_after_a_newer_one() {
        let keys = ClusterKeys::for_tests(&[1]);
        let mut offers = Offers::new(1, 1).unwrap();
        let heard = offers.receive(&bytes(5, 2, &keys), &keys);
        assert_eq!(heard, Some((IpAddr::from([10, 0, 0, 1]), true, ask())));
        assert_eq!(offers.receive(&bytes(5, 2, &keys), &keys), None);
        assert_eq!(offers.receive(&bytes(5, 1, &keys), &keys), None);
        assert_eq!(offers.receive(&bytes(4, 9, &keys), &keys), None);
        assert!(offers.receive(&bytes(6, 1, &keys), &keys).is_some());
        assert_eq!(offers.receive(b"omDG", &keys), None);
        assert_eq!(offers.rejects().to_string(), "too short 1, not newer 3");
    }

    #[test]
    fn with_a_key_nothing_unsigned_is_heard_or_makes_a_signed_one_look_old() {
        let keys = ClusterKeys::for_tests(&[1]);
        let mut offers = Offers::new(1, 1).unwrap();
        assert_eq!(offers.receive(&bytes(u64::MAX, 9, &ClusterKeys::none()), &keys), None);
        assert_eq!(offers.receive(&bytes(u64::MAX, 9, &ClusterKeys::for_tests(&[2])), &keys), None);
        assert!(offers.receive(&bytes(1, 1, &keys), &keys).is_some());
        assert!(matches!(offers.receive(&bytes(9, 9, &keys), &ClusterKeys::none()), Some((_, false, _))));
    }
}
