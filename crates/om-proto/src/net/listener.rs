//! Hearing what is told to the groups.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};

use super::{Interface, NetError, Selection};
use crate::ports::{INFO_GROUP_V4, INFO_GROUP_V6};

/// Room for a burst: a thousand nodes answer one question within a quarter of a second. The kernel gives less if
/// its limit is lower.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The sockets that hear the groups and broadcasts, one each for IPv4 multicast, IPv4 broadcast and IPv6, as far
/// as this host has them. They do not block.
#[derive(Debug)]
pub struct Listener {
    v4: Option<UdpSocket>,
    broadcast: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    selection: Selection,
    /// Numbers of the interfaces whose groups have been joined.
    joined_v4: Vec<u32>,
    joined_v6: Vec<u32>,
}

impl Listener {
    /// Opens the sockets and joins the groups on the selected interfaces, loopback always among them: `omd` passes
    /// on there what reached this host alone.
    ///
    /// # Errors
    /// If there is neither IPv4 nor IPv6, or if the port is taken.
    pub fn open(port: u16, selection: Selection) -> Result<Self, NetError> {
        let v6 = open_v6(port)?;
        let v4 = match bind(SocketAddrV4::new(INFO_GROUP_V4, port).into()) {
            // Without IPv4 IPv6 will do.
            Err(NetError::Socket { .. }) if v6.is_some() => None,
            other => Some(other?),
        };
        if let Some(socket) = &v4 {
            SockRef::from(socket)
                .set_multicast_all_v4(false)
                .map_err(NetError::new("set up the IPv4 multicast socket"))?;
        }
        let broadcast = match &v4 {
            Some(_) => Some(bind(SocketAddrV4::new(Ipv4Addr::BROADCAST, port).into())?),
            None => None,
        };
        let mut listener =
            Self { v4, broadcast, v6, selection, joined_v4: Vec::new(), joined_v6: Vec::new() };
        listener.refresh(&Interface::all()?);
        Ok(listener)
    }

    /// Joins the groups on interfaces that have come since, and forgets those that have gone. To be called now and
    /// then. The interfaces on which joining failed come back with the reason, each once only.
    pub fn refresh(&mut self, interfaces: &[Interface]) -> Vec<(String, io::Error)> {
        let is_wanted = |interface: &&Interface| {
            interface.up
                && match &self.selection {
                    Selection::All => interface.multicast || interface.loopback,
                    Selection::Named(names) => interface.loopback || names.contains(&interface.name),
                }
        };
        let wanted: Vec<&Interface> = interfaces.iter().filter(is_wanted).collect();
        let mut failed = Vec::new();
        if let Some(socket) = &self.v4 {
            let with_v4 = wanted.iter().filter(|interface| interface.addresses.iter().any(IpAddr::is_ipv4));
            join_new(with_v4, &mut self.joined_v4, &mut failed, |index| {
                SockRef::from(socket)
                    .join_multicast_v4_n(&INFO_GROUP_V4, &InterfaceIndexOrAddress::Index(index))
            });
        }
        if let Some(socket) = &self.v6 {
            let with_v6 = wanted.iter().filter(|interface| interface.addresses.iter().any(IpAddr::is_ipv6));
            join_new(with_v6, &mut self.joined_v6, &mut failed, |index| {
                SockRef::from(socket).join_multicast_v6(&INFO_GROUP_V6, index)
            });
        }
        failed
    }

    /// The sockets, to wait on and to read from until they would block.
    pub fn sockets(&self) -> impl Iterator<Item = &UdpSocket> + '_ {
        [&self.v4, &self.broadcast, &self.v6].into_iter().flatten()
    }

    /// Takes one datagram from any of the sockets; `None` if none has any.
    ///
    /// # Errors
    /// A socket's, other than that it would block.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        for socket in self.sockets() {
            match socket.recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(Some),
            }
        }
        Ok(None)
    }
}

/// Joins on the interfaces that are new in `wanted`, and keeps in `joined` which have been tried.
fn join_new<'a>(
    wanted: impl Iterator<Item = &'a &'a Interface>,
    joined: &mut Vec<u32>,
    failed: &mut Vec<(String, io::Error)>,
    join: impl Fn(u32) -> io::Result<()>,
) {
    let mut now = Vec::new();
    for interface in wanted {
        if !joined.contains(&interface.index) {
            match join(interface.index) {
                // An interface that went away and came back under its number has kept its membership.
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    failed.push((interface.name.clone(), error));
                }
                _ => {}
            }
        }
        now.push(interface.index);
    }
    *joined = now;
}

/// Opens a socket for what is sent to one of this host's own addresses. Only `omd` may: of several such sockets
/// on one address only one would hear.
///
/// # Errors
/// If the port is taken, or the address is not this host's.
pub fn bind_address(address: IpAddr, interface: u32, port: u16) -> Result<UdpSocket, NetError> {
    bind(match address {
        IpAddr::V4(v4) => SocketAddrV4::new(v4, port).into(),
        IpAddr::V6(v6) => {
            SocketAddrV6::new(v6, port, 0, if v6.is_unicast_link_local() { interface } else { 0 }).into()
        }
    })
}

fn open_v6(port: u16) -> Result<Option<UdpSocket>, NetError> {
    // Not bound to the group, which would tie it to one interface.
    let socket = match bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into()) {
        Err(NetError::Socket { .. }) => return Ok(None),
        other => other?,
    };
    SockRef::from(&socket)
        .set_multicast_all_v6(false)
        .map_err(NetError::new("set up the IPv6 multicast socket"))?;
    Ok(Some(socket))
}

fn bind(address: SocketAddr) -> Result<UdpSocket, NetError> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
        .map_err(NetError::new("open a UDP socket"))?;
    let set_up = || {
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(RECEIVE_BUFFER)
    };
    set_up().map_err(NetError::new("set up a UDP socket"))?;
    match socket.bind(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(NetError::PortInUse { port: address.port() })
        }
        other => other.map_err(NetError::new("bind a UDP socket")),
    }?;
    Ok(socket.into())
}
