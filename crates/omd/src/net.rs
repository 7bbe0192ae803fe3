//! The daemon's sockets: it tells by one of three transports, hears questions, and passes on to its host's
//! listeners what was sent to the host alone.
//!
//! A datagram to one of the host's addresses reaches one socket, a datagram to the group reaches all. So omd, and
//! nobody else, binds the addresses, and repeats on the loopback interface's group what it hears there.
//!
//! Of what is told to the group only questions matter here. A filter in the kernel drops the rest, which in a
//! cluster of a thousand nodes saves two thousand wake-ups a second.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use log::{debug, info, warn};
use om_proto::net::{Interface, Listener, NetError, Sent, Speaker, bind_address, node_name, select};
use om_proto::wire::Kind;
use socket2::{SockFilter, SockRef};

use crate::config::{Config, Transport};
use crate::core::Route;

/// More addresses than any host tells; a host of many containers has more interfaces than it needs here.
const ADDRESS_LIMIT: usize = 64;
/// Addresses told in a report.
const TOLD_LIMIT: usize = 16;

/// Everything the daemon has open on the network.
#[derive(Debug)]
pub struct Net {
    config: Config,
    listener: Listener,
    speaker: Speaker,
    interfaces: Vec<Interface>,
    /// The address that names this node.
    name: IpAddr,
    bound: Vec<Bound>,
    /// Whether the last telling reached anybody, so that a change is logged and not each failure.
    was_sent: Option<bool>,
}

/// A socket for one of the host's own addresses.
#[derive(Debug)]
struct Bound {
    address: IpAddr,
    interface: u32,
    socket: UdpSocket,
}

/// What a socket heard.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Length of the datagram, which is in the caller's buffer.
    pub length: usize,
    /// Where it came from.
    pub from: IpAddr,
    /// Whether it came to one of the host's own addresses, and not to the group.
    pub to_host: bool,
}

/// What a look at the interfaces found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// An address has come.
    pub gained: bool,
    /// The sockets to wait on are others than before.
    pub sockets: bool,
    /// Anything is different.
    pub any: bool,
}

impl Net {
    /// Opens everything.
    ///
    /// # Errors
    /// If the port is taken or the host has no network at all.
    pub fn open(config: &Config) -> Result<Self, NetError> {
        let listener = Listener::open(config.port, config.selection())?;
        for socket in listener.sockets() {
            if let Err(error) = SockRef::from(socket).attach_filter(&questions_only()) {
                debug!("no filter in the kernel, every report wakes this daemon: {error}");
            }
        }
        let mut net = Self {
            config: config.clone(),
            listener,
            speaker: Speaker::open(config.port)?,
            interfaces: Vec::new(),
            name: IpAddr::V4(Ipv4Addr::LOCALHOST),
            bound: Vec::new(),
            was_sent: None,
        };
        net.refresh()?;
        for name in &config.interfaces {
            if !net.interfaces.iter().any(|interface| interface.name == *name) {
                warn!("interface {name} does not exist; it is used as soon as it does");
            }
        }
        let is_named_loopback = |interface: &Interface| interface.loopback && !config.interfaces.is_empty();
        let can_multicast =
            net.selected().iter().any(|interface| interface.multicast || is_named_loopback(interface));
        if config.transport == Transport::Multicast && !can_multicast {
            warn!(
                "no interface that is up can multicast: only this host hears its reports; \
                 set transport = \"broadcast\" or \"peers\" if there are other nodes"
            );
        }
        Ok(net)
    }

    /// Looks at the interfaces again: joins groups on new ones, binds new addresses, lets go of those that went.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub fn refresh(&mut self) -> Result<Change, NetError> {
        let interfaces = Interface::all()?;
        // The routes decide too, and they may come later than the addresses.
        let found = || node_name(&interfaces, &self.config.selection(), Some(self.name));
        let name = self.config.address.set().copied().or_else(found).unwrap_or(self.name);
        let renamed = name != self.name;
        self.name = name;
        if interfaces == self.interfaces && self.bound.len() == wanted_addresses(&interfaces).count() {
            return Ok(Change { any: renamed, ..Change::default() });
        }
        let has =
            |list: &[Interface], address: &IpAddr| list.iter().any(|i| i.up && i.addresses.contains(address));
        let gained = interfaces
            .iter()
            .filter(|interface| interface.up)
            .flat_map(|interface| &interface.addresses)
            .any(|address| !has(&self.interfaces, address));
        for (name, error) in self.listener.refresh(&interfaces) {
            warn!(
                "{name}: cannot join the multicast group: {error}; nodes that are only there are not heard"
            );
        }
        let sockets = self.rebind(&interfaces);
        let changed = interfaces != self.interfaces;
        if changed && !self.interfaces.is_empty() {
            info!("the network has changed: {}", describe(&interfaces));
        }
        self.interfaces = interfaces;
        Ok(Change { gained, sockets, any: changed || renamed })
    }

    fn rebind(&mut self, interfaces: &[Interface]) -> bool {
        let wanted: Vec<(IpAddr, u32)> = wanted_addresses(interfaces).collect();
        let before = self.bound.len();
        self.bound.retain(|bound| wanted.contains(&(bound.address, bound.interface)));
        let mut changed = self.bound.len() != before;
        for (address, interface) in wanted {
            if self.bound.iter().any(|bound| (bound.address, bound.interface) == (address, interface)) {
                continue;
            }
            match bind_address(address, interface, self.config.port) {
                Ok(socket) => {
                    self.bound.push(Bound { address, interface, socket });
                    changed = true;
                }
                // An IPv6 address is not ready at once; there will be another try.
                Err(error) => debug!("{address}: {error}"),
            }
        }
        changed
    }

    /// The address that names this node.
    #[must_use]
    pub fn name(&self) -> IpAddr {
        self.name
    }

    /// The node's addresses to tell, its name first.
    #[must_use]
    pub fn told_addresses(&self) -> Vec<IpAddr> {
        let mut addresses = vec![self.name()];
        for interface in self.selected() {
            for address in &interface.addresses {
                if !addresses.contains(address) && addresses.len() < TOLD_LIMIT {
                    addresses.push(*address);
                }
            }
        }
        addresses
    }

    /// Every address of this host.
    #[must_use]
    pub fn all_addresses(&self) -> Vec<IpAddr> {
        let mut addresses = vec![self.name()];
        addresses.extend(self.interfaces.iter().flat_map(|interface| interface.addresses.iter().copied()));
        addresses
    }

    /// The sockets to wait on.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        let bound = self.bound.iter().map(|bound| bound.socket.as_raw_fd());
        self.listener.sockets().map(AsRawFd::as_raw_fd).chain(bound)
    }

    /// Takes the next datagram from any socket; `None` if there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<Arrival> {
        let groups = self.listener.sockets().map(|socket| (socket, false));
        for (socket, to_host) in groups.chain(self.bound.iter().map(|bound| (&bound.socket, true))) {
            match socket.recv_from(buffer) {
                Ok((length, from)) => {
                    return Some(Arrival { length, from: from.ip().to_canonical(), to_host });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An ICMP message about something sent earlier, say.
                Err(error) => debug!("cannot receive: {error}"),
            }
        }
        None
    }

    /// Tells a datagram.
    pub fn send(&mut self, bytes: &[u8], route: Route) {
        match route {
            Route::One(address) => {
                if let Err(error) = self.speaker.unicast(bytes, address) {
                    debug!("{address}: cannot tell: {error}");
                }
            }
            Route::All => {
                let sent = self.tell_all(bytes);
                self.note(&sent);
            }
        }
    }

    /// Repeats for this host's listeners what was sent to the host alone.
    pub fn repeat_here(&self, bytes: &[u8]) {
        let _ = self.speaker.multicast(bytes, &self.loopback());
    }

    /// Passes a question of this host's own on to the peers, which do not hear its group.
    pub fn pass_on(&self, bytes: &[u8], from: IpAddr) {
        if self.config.transport == Transport::Peers && self.all_addresses().contains(&from) {
            let _ = self.tell_peers(bytes);
        }
    }

    fn tell_all(&self, bytes: &[u8]) -> Sent {
        match self.config.transport {
            Transport::Multicast => self.speaker.multicast(bytes, &self.selected()),
            Transport::Broadcast => self.speaker.broadcast(bytes, &self.selected()),
            Transport::Peers => {
                let sent = self.tell_peers(bytes);
                self.repeat_here(bytes);
                sent
            }
        }
    }

    fn tell_peers(&self, bytes: &[u8]) -> Sent {
        let mut sent = Sent::default();
        for peer in &self.config.peers {
            match self.speaker.unicast(bytes, *peer) {
                Ok(()) => sent.copies += 1,
                Err(error) => sent.failure = Some((peer.to_string(), error)),
            }
        }
        sent
    }

    fn note(&mut self, sent: &Sent) {
        let was_sent = sent.copies > 0;
        if self.was_sent != Some(was_sent) {
            match &sent.failure {
                Some((place, error)) if !was_sent => warn!("reports reach nobody: {place}: {error}"),
                None if !was_sent => warn!("reports reach nobody: no interface is up that has an address"),
                _ if self.was_sent.is_some() => info!("reports are going out again"),
                _ => {}
            }
            self.was_sent = Some(was_sent);
        }
    }

    fn selected(&self) -> Vec<&Interface> {
        select(&self.interfaces, &self.config.selection())
    }

    fn loopback(&self) -> Vec<&Interface> {
        self.interfaces.iter().filter(|interface| interface.up && interface.loopback).collect()
    }
}

/// The host's addresses that others may send to, and their interfaces.
fn wanted_addresses(interfaces: &[Interface]) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
    let up = interfaces.iter().filter(|interface| interface.up);
    up.flat_map(|interface| interface.addresses.iter().map(|address| (*address, interface.index)))
        .take(ADDRESS_LIMIT)
}

/// The interfaces that are up, in one line.
fn describe(interfaces: &[Interface]) -> String {
    let of = |interface: &Interface| {
        let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
        format!("{} ({})", interface.name, addresses.join(" "))
    };
    interfaces
        .iter()
        .filter(|interface| interface.up && !interface.loopback)
        .map(of)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Classic BPF: loads the byte that tells the kind, behind the 8 bytes of UDP's own header, and keeps the datagram
/// if it is a question.
fn questions_only() -> [SockFilter; 4] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 8 + Kind::OFFSET),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(Kind::Ask.byte())),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, up: bool, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            index: 1,
            up,
            loopback: name == "lo",
            multicast: name != "lo",
            broadcast: name != "lo",
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn the_kernel_drops_everything_but_questions() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        SockRef::from(&socket).attach_filter(&questions_only()).unwrap();
        let to = socket.local_addr().unwrap();
        let datagram = |kind: Kind| {
            let mut bytes = [0; 60];
            bytes[Kind::OFFSET as usize] = kind.byte();
            bytes
        };
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for kind in [Kind::Report, Kind::Goodbye, Kind::OfferAsk, Kind::Ask] {
            sender.send_to(&datagram(kind), to).unwrap();
        }
        sender.send_to(&[], to).unwrap();
        sender.send_to(&datagram(Kind::Ask), to).unwrap();
        let mut buffer = [0; 100];
        for _ in 0..2 {
            assert_eq!(socket.recv(&mut buffer).unwrap(), 60);
            assert_eq!(buffer[..60], datagram(Kind::Ask));
        }
    }

    #[test]
    fn every_address_of_an_interface_that_is_up_can_be_sent_to() {
        let all = [interface("lo", true, &["127.0.0.1"]), interface("eth9", false, &["10.0.0.1"])];
        let wanted: Vec<IpAddr> = wanted_addresses(&all).map(|(address, _)| address).collect();
        assert_eq!(wanted, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }
}
