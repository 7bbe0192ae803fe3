//! What holds for the whole node: its addresses, its switches, what it can do.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use om_proto::net::{Interface, Selection, naming_address, select};

/// This node.
#[derive(Clone, Debug)]
pub struct Node {
    /// The address that names it.
    pub address: IpAddr,
    /// CRIU, if it can move jobs.
    pub criu: Option<PathBuf>,
    /// Whether there is a cluster key.
    pub has_key: bool,
    /// `hpc/admin`, in the order of [`SWITCHES`], as the administrator has set them.
    pub switches: [bool; 4],
    /// The node is about to leave: all of them count as on. Not written down, so that the next om-migd begins anew.
    pub draining: bool,
    /// Where the switches are kept over a restart of om-migd.
    pub switch_file: PathBuf,
}

/// The names of the switches.
pub const SWITCHES: [&str; 4] = ["block", "stay", "expel", "bring"];
/// Index of `block`: take no guests.
pub const BLOCK: usize = 0;
/// Index of `stay`: keep own jobs here.
pub const STAY: usize = 1;
/// Index of `expel`: send guests away.
pub const EXPEL: usize = 2;
/// Index of `bring`: call own jobs home.
pub const BRING: usize = 3;

impl Node {
    /// Why nothing can be moved from or to this node; empty if all is well.
    #[must_use]
    pub fn stay_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.has_key {
            reasons.push(
                "no_key: this node has no cluster key; make one with om keygen and share it".to_owned(),
            );
        }
        if self.criu.is_none() {
            reasons.push("no_criu: there is no working CRIU on this node".to_owned());
        }
        reasons
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self, index: usize) -> bool {
        self.draining || self.switches[index]
    }

    /// Sets a switch and writes it down.
    pub fn set_switch(&mut self, index: usize, on: bool) {
        self.switches[index] = on;
        let text: String = self.switches.iter().map(|on| if *on { '1' } else { '0' }).collect();
        if let Err(error) = fs::write(&self.switch_file, text) {
            log::warn!("{}: {error}: the switches will not survive a restart", self.switch_file.display());
        }
    }

    /// Takes up the switches of an earlier om-migd.
    pub fn load_switches(&mut self) {
        let text = fs::read(&self.switch_file).unwrap_or_default();
        for (switch, byte) in self.switches.iter_mut().zip(text) {
            *switch = byte == b'1';
        }
    }
}

/// The address that names this node: the configured one, else the first usable of its interfaces.
pub fn find_address(configured: Option<IpAddr>) -> io::Result<IpAddr> {
    if let Some(address) = configured {
        return Ok(address);
    }
    let interfaces = Interface::all().map_err(io::Error::other)?;
    naming_address(&select(&interfaces, &Selection::All)).ok_or_else(|| {
        io::Error::other(
            "this node has no network address: bring an interface up, or set address in the configuration",
        )
    })
}

/// Whether there is a way to this address.
#[must_use]
pub fn is_routable(to: IpAddr) -> bool {
    let any: std::net::SocketAddr = match to {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Connecting a datagram socket looks up the route and sends nothing.
    std::net::UdpSocket::bind(any).is_ok_and(|socket| socket.connect((to, 9)).is_ok())
}
