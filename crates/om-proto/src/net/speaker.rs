//! Telling the groups, everybody on a link, or one node.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

use super::{Interface, NetError};
use crate::ports::{INFO_GROUP_V4, INFO_GROUP_V6};

/// How many copies of a datagram left the host, and what the kernel said to the last one that did not.
#[derive(Debug, Default)]
pub struct Sent {
    /// Copies sent.
    pub copies: u32,
    /// The last failure: the interface's name or the address, and why.
    pub failure: Option<(String, io::Error)>,
}

/// The sockets from which datagrams are sent. They do not block: a datagram that does not fit is lost, as any may.
#[derive(Debug)]
pub struct Speaker {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    port: u16,
}

impl Speaker {
    /// Opens the sockets for telling to `port`.
    ///
    /// # Errors
    /// If there is neither IPv4 nor IPv6.
    pub fn open(port: u16) -> Result<Self, NetError> {
        let v4 = open("0.0.0.0:0").and_then(|socket| socket.set_broadcast(true).map(|()| socket));
        let v6 = open("[::]:0");
        match (v4, v6) {
            (Err(source), Err(_)) => Err(NetError::Socket { what: "open a UDP socket", source }),
            (v4, v6) => Ok(Self { v4: v4.ok(), v6: v6.ok(), port }),
        }
    }

    /// Tells the groups, over IPv4 and IPv6, on each of these interfaces; on loopback over IPv4 alone.
    #[must_use]
    pub fn multicast(&self, bytes: &[u8], interfaces: &[&Interface]) -> Sent {
        let mut sent = Sent::default();
        for interface in interfaces {
            self.v4_on(bytes, interface, INFO_GROUP_V4, &mut sent);
            self.v6_on(bytes, interface, &mut sent);
        }
        sent
    }

    /// Tells everybody on each of these interfaces by broadcast; over IPv6, which has none, the group.
    #[must_use]
    pub fn broadcast(&self, bytes: &[u8], interfaces: &[&Interface]) -> Sent {
        let mut sent = Sent::default();
        for interface in interfaces {
            let group = if interface.broadcast { Ipv4Addr::BROADCAST } else { INFO_GROUP_V4 };
            self.v4_on(bytes, interface, group, &mut sent);
            self.v6_on(bytes, interface, &mut sent);
        }
        sent
    }

    /// Tells one address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unicast(&self, bytes: &[u8], to: IpAddr) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        socket.send_to(bytes, SocketAddr::new(to, self.port)).map(drop)
    }

    fn v4_on(&self, bytes: &[u8], interface: &Interface, to: Ipv4Addr, sent: &mut Sent) {
        let (Some(socket), true) = (&self.v4, interface.addresses.iter().any(IpAddr::is_ipv4)) else {
            return;
        };
        let info = libc::in_pktinfo {
            ipi_ifindex: i32::try_from(interface.index).unwrap_or_default(),
            ipi_spec_dst: libc::in_addr { s_addr: 0 },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let result = sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &[ControlMessage::Ipv4PacketInfo(&info)],
            MsgFlags::empty(),
            Some(&SockaddrIn::from(SocketAddrV4::new(to, self.port))),
        );
        sent.count(interface, result.map(drop).map_err(io::Error::from));
    }

    fn v6_on(&self, bytes: &[u8], interface: &Interface, sent: &mut Sent) {
        // The kernel has no IPv6 multicast route through the loopback interface; IPv4 reaches everybody there.
        let has_v6 = !interface.loopback && interface.addresses.iter().any(IpAddr::is_ipv6);
        let (Some(socket), true) = (&self.v6, has_v6) else { return };
        let to = SocketAddrV6::new(INFO_GROUP_V6, self.port, 0, interface.index);
        sent.count(interface, socket.send_to(bytes, to).map(drop));
    }
}

impl Sent {
    fn count(&mut self, interface: &Interface, result: io::Result<()>) {
        match result {
            Ok(()) => self.copies += 1,
            Err(error) => self.failure = Some((interface.name.clone(), error)),
        }
    }
}

fn open(address: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
