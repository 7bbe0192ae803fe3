//! The UDP sockets on which reports travel, opened the same way by everybody: the daemon that tells, the schedulers
//! and tools that listen.
//!
//! This module opens sockets and hands them out; who waits on them, and how, is its callers' business.
//!
//! * [`Interface::all`] lists the network interfaces, [`select`] picks those to use, [`node_name`] the address that
//!   names this node.
//! * [`Listener`] hears the groups. Any number of listeners on one host hear every datagram, because each socket is
//!   bound to the group and not to an address of the host. For the same reason a listener hears nothing that is
//!   sent to the host alone: `omd` does, and passes it on to the group on the loopback interface.
//! * [`Speaker`] tells: to the groups, by broadcast, or to one address.

mod interface;
mod listener;
mod speaker;

use std::io;

use thiserror::Error;

pub use interface::{Interface, Selection, naming_address, node_name, select};
pub use listener::{Listener, bind_address};
pub use speaker::{Sent, Speaker};

/// Why the network cannot be used.
#[derive(Debug, Error)]
pub enum NetError {
    /// Another program has the port to itself.
    #[error(
        "UDP port {port} is taken by a program that does not share it; stop that one, or set another port on every node"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// A socket could not be made or set up. Nothing stays open.
    #[error("cannot {what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl NetError {
    fn new(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Socket { what, source }
    }
}
