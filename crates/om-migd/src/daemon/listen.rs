//! Connections from other nodes until their preamble is complete.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::preamble::{self, Preamble};

/// How long a stranger may take to say what it wants.
const PREAMBLE_LIMIT: Duration = Duration::from_secs(5);
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
    bytes: [u8; preamble::LENGTH],
    filled: usize,
}

impl Stranger {
    /// A connection that has just been accepted.
    #[must_use]
    pub fn new(socket: TcpStream, from: SocketAddr) -> Self {
        Self { socket, from, since: Instant::now(), bytes: [0; preamble::LENGTH], filled: 0 }
    }

    /// Reads on; the preamble once it is complete. Not one byte more is taken from the connection.
    pub fn read(&mut self) -> io::Result<Option<Preamble>> {
        while self.filled < self.bytes.len() {
            match self.socket.read(&mut self.bytes[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Preamble::decode(&self.bytes).map(Some).map_err(io::Error::other)
    }

    /// Whether it has taken too long.
    #[must_use]
    pub fn is_late(&self, now: Instant) -> bool {
        now.duration_since(self.since) > PREAMBLE_LIMIT
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
