//! The sockets on which schedulers ask each other, and what becomes of an offer on the wire.
//!
//! An offer is a datagram like a report: same header, taken only if it is newer than the last of its sender; but its MAC
//! is over its receiver's address as well.
//! The receiving socket is bound to this node's own address and to no other scheduler's: two on one address would
//! each hear half of the answers.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use om_proto::key::ClusterKeys;
use om_proto::net::{Interface, NetError, Speaker};
use om_proto::offer::Answer;
use om_proto::proof::{Challenge, Echo, Proofs};
use om_proto::table::NodeTable;
use om_proto::wire::{Datagram, DatagramWriter, Freshness, Header, Kind, MAX_DATAGRAM, Reject, Rejects};
use thiserror::Error;

use crate::Time;
use crate::codec::{decode, encode};
use crate::offer::Offer;

/// Senders that are remembered; without a key anybody can invent more.
const SENDERS: usize = NodeTable::DEFAULT_LIMIT;
/// What was said to a node longer ago than this is not said again.
const REPEAT_WITHIN: Duration = Duration::from_secs(1);
/// How often a thing is said again.
const REPEATS: u32 = 2;

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
///
/// A signed offer of an unknown epoch is dropped and its sender challenged; the sender says it again at once, with the
/// echo, so that two schedulers that have not met lose one round trip. An answer needs no challenge: it repeats the
/// question's nonce.
pub struct Offers {
    speaker: Speaker,
    epoch: u64,
    sequence: u64,
    senders: BTreeMap<IpAddr, Sender>,
    /// What was said last to each node, while it may have to be said again.
    said: BTreeMap<IpAddr, Said>,
    proofs: Proofs,
    rejects: Rejects,
}

/// What is known of a node's scheduler.
#[derive(Debug)]
struct Sender {
    authenticated: bool,
    newest: Freshness,
    /// When its epoch was first believed.
    believed: Time,
}

#[derive(Debug)]
struct Said {
    offer: Offer,
    at: Time,
    repeats: u32,
}

impl Offers {
    /// A sender to `port` of the other nodes. `epoch` has to be greater at each start of the scheduler, `seed` must come
    /// from the system's random generator.
    ///
    /// # Errors
    /// If there is no network at all.
    pub fn new(port: u16, epoch: u64, seed: [u8; 32]) -> Result<Self, NetError> {
        Ok(Self {
            speaker: Speaker::open(port)?,
            epoch,
            sequence: 0,
            senders: BTreeMap::new(),
            said: BTreeMap::new(),
            proofs: Proofs::new(seed),
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
    pub fn send(
        &mut self,
        now: Time,
        (here, to): (IpAddr, IpAddr),
        offer: &Offer,
        keys: &ClusterKeys,
    ) -> io::Result<()> {
        self.say((here, to), offer, None, keys)?;
        self.said.retain(|_, said| now.saturating_sub(said.at) < REPEAT_WITHIN);
        self.said.insert(to, Said { offer: offer.clone(), at: now, repeats: 0 });
        Ok(())
    }

    fn say(
        &mut self,
        (here, to): (IpAddr, IpAddr),
        offer: &Offer,
        echo: Option<&Echo>,
        keys: &ClusterKeys,
    ) -> io::Result<()> {
        self.sequence += 1;
        let mut buffer = [0; MAX_DATAGRAM];
        let bytes = encode(&mut buffer, (here, to), (self.epoch, self.sequence), offer, echo, keys)
            .map_err(|full| io::Error::new(io::ErrorKind::InvalidData, full))?;
        self.speaker.unicast(bytes, to)
    }

    /// Reads a datagram that came to node `here`: who says what, and whether the cluster's key vouches for it. `None`: it
    /// is none, it is old, it makes no sense, or its sender has to prove itself first; that is counted.
    ///
    /// Challenges are answered and put on the way.
    pub fn receive(
        &mut self,
        now: Time,
        here: IpAddr,
        bytes: &[u8],
        keys: &ClusterKeys,
    ) -> Option<(IpAddr, bool, Offer)> {
        let read = self.read(now, here, bytes, keys);
        self.put_challenges(now, here, keys);
        read.inspect_err(|reject| self.rejects.count(*reject)).ok().flatten()
    }

    fn read(
        &mut self,
        now: Time,
        here: IpAddr,
        bytes: &[u8],
        keys: &ClusterKeys,
    ) -> Result<Option<(IpAddr, bool, Offer)>, Reject> {
        let datagram = Datagram::decode_for(bytes, keys, here)?;
        let Datagram { header, authenticated, .. } = datagram;
        // What nobody vouches for must not make what somebody vouches for look old.
        if !authenticated && !keys.is_empty() {
            return Err(Reject::Downgrade);
        }
        if header.kind == Kind::OfferChallenge {
            // Who asks may not be known yet either. A challenge that is replayed makes us say again what we have said.
            let challenge: Challenge = datagram.section().ok_or(Reject::TruncatedSection)?;
            self.repeat(now, (here, header.sender), &challenge, keys);
            return Ok(None);
        }
        let sender = self.senders.get(&header.sender);
        let believed = sender.filter(|sender| sender.authenticated);
        let is_new_epoch = believed.is_none_or(|sender| sender.newest.epoch != header.epoch);
        let needs_proof = authenticated && is_new_epoch;
        let believed = believed.map(|sender| sender.believed);
        if needs_proof && !self.proves(now, &datagram, believed) {
            self.proofs.demand(now, header.sender);
            return Err(Reject::UnprovenEpoch);
        }
        if sender.is_none() && self.senders.len() >= SENDERS {
            return Err(Reject::TableFull);
        }
        let newest = Freshness { epoch: header.epoch, sequence: header.sequence };
        if needs_proof {
            self.senders.insert(header.sender, Sender { authenticated, newest, believed: now });
        } else {
            let unknown = Sender { authenticated, newest: Freshness::default(), believed: now };
            let sender = self.senders.entry(header.sender).or_insert(unknown);
            if !sender.newest.accept(header.epoch, header.sequence) {
                return Err(Reject::NotNewer);
            }
        }
        Ok(Some((header.sender, authenticated, decode(&datagram)?)))
    }

    /// Whether a datagram was made after something that was asked of its sender lately.
    fn proves(&self, now: Time, datagram: &Datagram<'_>, believed: Option<Time>) -> bool {
        let answers = |answer: Answer| {
            self.said.get(&datagram.header.sender).is_some_and(|said| {
                now.saturating_sub(said.at) < REPEAT_WITHIN
                    && matches!(&said.offer, Offer::Ask(ask) if ask.nonce == answer.nonce)
            })
        };
        datagram.section::<Echo>().is_some_and(|echo| self.proofs.are_in(&echo, now, believed))
            || datagram.section::<Answer>().is_some_and(answers)
    }

    /// Says again what was said last to a node that wants a proof that it was said just now.
    fn repeat(&mut self, now: Time, (here, to): (IpAddr, IpAddr), challenge: &Challenge, keys: &ClusterKeys) {
        let Some(said) = self.said.get_mut(&to) else { return };
        if said.repeats >= REPEATS || now.saturating_sub(said.at) >= REPEAT_WITHIN {
            return;
        }
        said.repeats += 1;
        let offer = said.offer.clone();
        let echo = Echo { nonces: vec![challenge.nonce] };
        if let Err(error) = self.say((here, to), &offer, Some(&echo), keys) {
            log::debug!("cannot answer the challenge of {to}: {error}");
        }
    }

    fn put_challenges(&mut self, now: Time, here: IpAddr, keys: &ClusterKeys) {
        while let Some((to, challenge)) = self.proofs.poll_question(now) {
            self.sequence += 1;
            let header = Header {
                kind: Kind::OfferChallenge,
                flags: 0,
                key_id: 0,
                epoch: self.epoch,
                sequence: self.sequence,
                sender: here,
            };
            let mut buffer = [0; MAX_DATAGRAM];
            let mut writer = DatagramWriter::new(&mut buffer, header);
            // There is room for one section.
            let _ = writer.section(&challenge);
            if let Err(error) = self.speaker.unicast(writer.finish_for(keys, to), to) {
                log::debug!("cannot challenge {to}: {error}");
            }
        }
    }

    /// What was dropped, and why.
    #[must_use]
    pub fn rejects(&self) -> &Rejects {
        &self.rejects
    }

    /// Forgets the senders for which `is_known` is false.
    pub fn forget(&mut self, is_known: impl Fn(IpAddr) -> bool) {
        self.senders.retain(|address, _| is_known(*address));
    }
}

/// The datagram with which a newcomer asks every node to report in full at once, or one node to prove itself.
#[must_use]
pub fn question<'a>(
    buffer: &'a mut [u8; MAX_DATAGRAM],
    (epoch, sequence): (u64, u64),
    challenge: &Challenge,
    keys: &ClusterKeys,
) -> &'a [u8] {
    let nobody = IpAddr::from([0, 0, 0, 0]);
    let header = Header { kind: Kind::Ask, flags: 0, key_id: 0, epoch, sequence, sender: nobody };
    let mut writer = DatagramWriter::new(buffer, header);
    // There is room for one section.
    let _ = writer.section(challenge);
    writer.finish(keys)
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

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    fn at(ms: u64) -> Time {
        Duration::from_millis(ms)
    }

    fn ask() -> Offer {
        Offer::Ask(Ask { nonce: 1, rss_bytes: 2, runnable_milli: 3, cpu_features: 4, coming_home: true })
    }

    fn answer(nonce: u64) -> Offer {
        Offer::Answer(Answer {
            nonce,
            accepted: true,
            reason: String::new(),
            movable_milli: 0,
            background_milli: 0,
            effective_cpus_milli: 1000,
            speed: 1000,
            promise_ms: 3000,
        })
    }

    /// What the scheduler of [`THERE`] says to [`HERE`].
    fn bytes(
        epoch: u64,
        sequence: u64,
        offer: &Offer,
        challenge: Option<&Challenge>,
        keys: &ClusterKeys,
    ) -> Vec<u8> {
        let echo = challenge.map(|challenge| Echo { nonces: vec![challenge.nonce] });
        let mut buffer = [0; MAX_DATAGRAM];
        encode(&mut buffer, (THERE, HERE), (epoch, sequence), offer, echo.as_ref(), keys).unwrap().to_vec()
    }

    #[test]
    fn an_offer_is_heard_once_and_never_after_a_newer_one() {
        let keys = ClusterKeys::for_tests(&[1]);
        let mut offers = Offers::new(1, 1, [1; 32]).unwrap();
        let challenge = offers.proofs.challenge(at(0));
        let mut hear = |epoch, sequence| {
            offers.receive(at(0), HERE, &bytes(epoch, sequence, &ask(), Some(&challenge), &keys), &keys)
        };
        assert_eq!(hear(5, 2), Some((THERE, true, ask())));
        assert_eq!(hear(5, 2), None);
        assert_eq!(hear(5, 1), None);
        assert_eq!(hear(4, 9), None, "the challenge is older than what is believed");
        assert!(hear(5, 3).is_some());
        assert_eq!(offers.receive(at(0), HERE, b"omDG", &keys), None);
        assert_eq!(offers.rejects().to_string(), "too short 1, not newer 2, unproven epoch 1");
    }

    #[test]
    fn an_offer_to_somebody_else_or_sent_back_is_not_heard() {
        let keys = ClusterKeys::for_tests(&[1]);
        let mut offers = Offers::new(1, 1, [1; 32]).unwrap();
        let challenge = offers.proofs.challenge(at(0));
        let said = bytes(5, 2, &ask(), Some(&challenge), &keys);
        for reader in [THERE, IpAddr::from([127, 0, 0, 3])] {
            assert_eq!(offers.receive(at(0), reader, &said, &keys), None);
        }
        assert_eq!(offers.rejects().to_string(), "bad mac 2");
    }

    #[test]
    fn two_schedulers_that_have_not_met_believe_each_other_after_one_round_trip() {
        let keys = ClusterKeys::for_tests(&[1]);
        let socket = |address| {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket
        };
        let (here, there) = (socket(HERE), socket(THERE));
        let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        let mut ours = Offers::new(port(&there), 9, [1; 32]).unwrap();
        // The other node's clock is far behind.
        let mut theirs = Offers::new(port(&here), 3, [2; 32]).unwrap();
        let mut buffer = [0; MAX_DATAGRAM];
        let mut pass = |from: &UdpSocket, to: &mut Offers, at_node| {
            let length = from.recv(&mut buffer).unwrap();
            to.receive(at(0), at_node, &buffer[..length], &keys)
        };
        ours.send(at(0), (HERE, THERE), &ask(), &keys).unwrap();
        assert_eq!(pass(&there, &mut theirs, THERE), None, "a challenge goes back");
        assert_eq!(pass(&here, &mut ours, HERE), None, "and the question comes again");
        assert_eq!(pass(&there, &mut theirs, THERE), Some((HERE, true, ask())));
        theirs.send(at(0), (THERE, HERE), &answer(1), &keys).unwrap();
        assert_eq!(pass(&here, &mut ours, HERE), Some((THERE, true, answer(1))));
    }

    #[test]
    fn an_answer_to_what_was_not_asked_proves_nothing() {
        let keys = ClusterKeys::for_tests(&[1]);
        let mut offers = Offers::new(1, 1, [1; 32]).unwrap();
        offers.said.insert(THERE, Said { offer: ask(), at: at(0), repeats: 0 });
        assert_eq!(offers.receive(at(0), HERE, &bytes(5, 1, &answer(7), None, &keys), &keys), None);
        assert_eq!(offers.receive(at(1000), HERE, &bytes(5, 2, &answer(1), None, &keys), &keys), None);
        assert!(offers.receive(at(999), HERE, &bytes(5, 3, &answer(1), None, &keys), &keys).is_some());
    }

    #[test]
    fn with_a_key_nothing_unsigned_is_heard_or_makes_a_signed_one_look_old() {
        let keys = ClusterKeys::for_tests(&[1]);
        let mut offers = Offers::new(1, 1, [1; 32]).unwrap();
        let challenge = offers.proofs.challenge(at(0));
        let said = |epoch, keys: &ClusterKeys| bytes(epoch, 9, &ask(), Some(&challenge), keys);
        assert_eq!(offers.receive(at(0), HERE, &said(u64::MAX, &ClusterKeys::none()), &keys), None);
        let strange = ClusterKeys::for_tests(&[2]);
        assert_eq!(offers.receive(at(0), HERE, &said(u64::MAX, &strange), &keys), None);
        assert!(offers.receive(at(0), HERE, &said(1, &keys), &keys).is_some());
        let unsigned = offers.receive(at(0), HERE, &said(9, &keys), &ClusterKeys::none());
        assert!(matches!(unsigned, Some((_, false, _))));
    }
}
