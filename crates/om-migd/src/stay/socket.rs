//! Sockets that lead out of the job, or that CRIU does not know. The kernel's tables are read only as far as needed,
//! and only if there are such sockets at all.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::findings::Findings;
use super::process::Process;
use super::{sys, unix};

/// The state of a listening TCP socket, as the tables have it.
const LISTENING: &str = "0A";

/// One socket, and one of those who have it.
struct Socket {
    inode: u64,
    path: String,
    who: String,
}

/// All sockets of the job.
#[derive(Default)]
pub struct Sockets(Vec<Socket>);

impl Sockets {
    /// One more, unless it is there already.
    pub fn add(&mut self, process: &Process, number: i32, inode: u64) {
        if !self.0.iter().any(|socket| socket.inode == inode) {
            let path = format!("/proc/{}/fd/{number}", process.pid);
            self.0.push(Socket { inode, path, who: format!("{process}: descriptor {number} is") });
        }
    }

    /// Looks at all of them. `init` is in the job's network namespace, which is also this process's.
    pub fn check(&self, init: &Process, findings: &mut Findings) {
        for socket in &self.0 {
            let Some(protocol) = sys::socket_protocol(&socket.path) else { continue };
            match protocol.as_str() {
                "UNIX" | "UNIX-STREAM" => self.check_unix(socket, findings),
                "NETLINK" => socket.check_netlink(init, findings),
                protocol => match table(protocol) {
                    Some(table) => socket.check_internet(protocol, table, init, findings),
                    None => {
                        findings.add("socket", || format!("{} a socket of protocol {protocol}", socket.who))
                    }
                },
            }
        }
    }

    fn check_unix(&self, socket: &Socket, findings: &mut Findings) {
        let Some(peer) = unix::peer(socket.inode) else { return };
        if self.0.iter().any(|socket| socket.inode == u64::from(peer)) {
            return;
        }
        findings.add("unix_socket", || match unix::name(peer) {
            Some(name) => format!("{} connected to {name}, which is outside the job", socket.who),
            None => format!("{} connected to a process outside the job", socket.who),
        });
    }
}

/// The table in `/proc/PID/net` of the sockets of this protocol that have an address; none for a protocol that CRIU does
/// not know.
fn table(protocol: &str) -> Option<&'static str> {
    Some(match protocol {
        "TCP" => "tcp",
        "TCPv6" => "tcp6",
        "UDP" => "udp",
        "UDPv6" => "udp6",
        "UDP-Lite" => "udplite",
        "UDPLITEv6" => "udplite6",
        _ => return None,
    })
}

impl Socket {
    /// A socket without an address is nobody's business yet.
    fn check_internet(&self, protocol: &str, table: &str, init: &Process, findings: &mut Findings) {
        let row = rows(init, table).find_map(|line| Row::parse(&line).filter(|row| row.inode == self.inode));
        let Some(row) = row else { return };
        let protocol = protocol.trim_end_matches("v6");
        findings.add("socket", || match (row.state == LISTENING, row.remote.port()) {
            (true, _) => format!("{} listening for {protocol} connections at {}", self.who, row.local),
            (false, 0) => format!("{} a {protocol} socket at {}", self.who, row.local),
            (false, _) => {
                format!("{} a {protocol} connection from {} to {}", self.who, row.local, row.remote)
            }
        });
    }

    /// Only messages that nobody has read yet cannot go along.
    fn check_netlink(&self, init: &Process, findings: &mut Findings) {
        let unread = |line: String| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (bytes, inode) = (fields.get(4)?.parse::<u64>().ok()?, fields.last()?.parse::<u64>().ok()?);
            (inode == self.inode).then_some(bytes)
        };
        if rows(init, "netlink").find_map(unread).is_some_and(|bytes| bytes > 0) {
            findings.add("netlink", || format!("{} a netlink socket with unread messages", self.who));
        }
    }
}

/// The lines of a table but its headline.
fn rows(init: &Process, table: &str) -> impl Iterator<Item = String> {
    let file = File::open(format!("/proc/{}/net/{table}", init.pid)).ok();
    file.into_iter().flat_map(|file| BufReader::new(file).lines().map_while(Result::ok).skip(1))
}

/// A row of the tables of TCP and UDP.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    local: SocketAddr,
    remote: SocketAddr,
    state: String,
    inode: u64,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace().skip(1);
        let local = address(fields.next()?)?;
        let remote = address(fields.next()?)?;
        let state = fields.next()?.to_owned();
        Some(Self { local, remote, state, inode: fields.nth(5)?.parse().ok()? })
    }
}

/// An address as the tables have it: words of 4 bytes as this machine reads them, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    if address.len() == 8 {
        return Some((Ipv4Addr::from(word(0)?), port).into());
    }
    let mut bytes = [0; 16];
    for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(index * 8)?);
    }
    Some((Ipv6Addr::from(bytes).to_canonical(), port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn rows_of_the_tables_are_understood() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 74539 1 00 100";
        let row = Row::parse(line).unwrap();
        assert_eq!((row.local, row.remote.port()), ("127.0.0.1:8080".parse().unwrap(), 0));
        assert_eq!((row.state.as_str(), row.inode), (LISTENING, 74539));
        let line = "  12: 0000000000000000FFFF00000200000A:0035 000080FE00000000FF005450B6AD1DFE:0001 01 0:0 0:0 0 0 0 7 2";
        let row = Row::parse(line).unwrap();
        assert_eq!(row.local, "10.0.0.2:53".parse().unwrap());
        assert_eq!(row.remote, "[fe80::5054:ff:fe1d:adb6]:1".parse().unwrap());
        assert_eq!(Row::parse("  sl  local_address rem_address   st"), None);
        assert_eq!(Row::parse(""), None);
    }

    #[test]
    fn a_listening_socket_is_found_in_its_table() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Process::open(nix::unistd::Pid::this()).unwrap();
        let mut rows = rows(&this, "tcp").filter_map(|line| Row::parse(&line));
        assert!(rows.any(|row| row.local == listener.local_addr().unwrap() && row.state == LISTENING));
    }
}
