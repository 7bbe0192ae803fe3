//! Connections from other nodes until their preamble is complete. Each costs a few hundred bytes and nothing else, and
//! there are never more than [`MOST_STRANGERS`].

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use om_proto::key::ClusterKeys;
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::preamble::{self, Challenge, Preamble};

/// How long a stranger may take to say what it wants.
const PREAMBLE_LIMIT: Duration = Duration::from_secs(5);
/// How often it is told that some were turned away.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Strangers at a time, in all and from one address.
const MOST_STRANGERS: usize = 256;
const MOST_PER_ADDRESS: usize = 64;

/// A connection that has not said what it is for.
pub struct Stranger {
    /// The connection.
    pub socket: TcpStream,
    /// Whom it comes from.
    pub from: SocketAddr,
    since: Instant,
    challenge: Challenge,
    bytes: [u8; preamble::LENGTH],
    filled: usize,
}

impl Stranger {
    /// A connection that has just been accepted, and is challenged now.
    pub fn new(mut socket: TcpStream, from: SocketAddr) -> io::Result<Self> {
        let challenge = Challenge::new()?;
        // The first bytes on a connection always find room.
        socket.write_all(challenge.bytes())?;
        let (since, bytes) = (Instant::now(), [0; preamble::LENGTH]);
        Ok(Self { socket, from, since, challenge, bytes, filled: 0 })
    }

    /// Reads on; the preamble once it is complete, if it is a member's to the node `here`. Not one byte more is taken from
    /// the connection.
    pub fn read(&mut self, here: IpAddr, keys: &ClusterKeys) -> io::Result<Option<Preamble>> {
        while self.filled < self.bytes.len() {
            match self.socket.read(&mut self.bytes[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Preamble::decode(&self.bytes, &self.challenge, here, keys).map(Some).map_err(io::Error::other)
    }

    /// Whether it has taken too long.
    #[must_use]
    pub fn is_late(&self, now: Instant) -> bool {
        now.duration_since(self.since) > PREAMBLE_LIMIT
    }
}

/// Those who were turned away since it was told last: the log must not fill with what strangers can cause.
#[derive(Debug, Default)]
pub struct TurnedAway {
    count: u64,
    told: Option<Instant>,
}

impl TurnedAway {
    /// Counts one, and tells the first of a while.
    pub fn count(&mut self, from: SocketAddr, why: &dyn fmt::Display) {
        self.count += 1;
        if self.told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
            log::warn!("{from} was turned away: {why} ({} connections since the last such line)", self.count);
            (self.count, self.told) = (0, Some(Instant::now()));
        }
    }
}

/// Whether one more stranger from this address may be let in.
pub fn has_room<'a>(strangers: impl Iterator<Item = &'a Stranger>, from: IpAddr) -> bool {
    let (mut all, mut same) = (0, 0);
    for stranger in strangers {
        all += 1;
        same += usize::from(stranger.from.ip() == from);
    }
    all < MOST_STRANGERS && same < MOST_PER_ADDRESS
}

/// Listens on this port on all addresses, IPv4 and, where there is one, IPv6.
pub fn listeners(port: u16) -> io::Result<Vec<TcpListener>> {
    let v4 = listener((Ipv4Addr::UNSPECIFIED, port).into())?;
    match listener((Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) => {
            log::info!("no IPv6: {error}");
            Ok(vec![v4])
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on TCP port {}: {error}; is another om-migd running?", address.port()),
        )
    };
    socket.bind(&address.into()).map_err(named)?;
    socket.listen(128).map_err(named)?;
    Ok(TcpListener::from_std(socket.into()))
}
