//! A connection between the two nodes, as this crate sees it.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{setsockopt, shutdown, sockopt};

/// A connected, authenticated, blocking byte stream over a socket: a `TcpStream`, a `UnixStream`, TLS over one.
///
/// The descriptor is the socket's. It is used to break the connection from another thread and to make TCP
/// notice a peer that has vanished, never to read or write.
pub trait Stream: Read + Write + AsFd + Send {}

impl<S: Read + Write + AsFd + Send> Stream for S {}

/// Seconds of silence before TCP asks whether the peer is still there.
const KEEP_IDLE_S: u32 = 5;
/// Seconds between two such questions.
const KEEP_INTERVAL_S: u32 = 2;
/// How many of them may go unanswered.
const KEEP_PROBES: u32 = 4;
/// Milliseconds that sent bytes may stay unacknowledged.
const USER_TIMEOUT_MS: u32 = 13_000;

/// Makes a TCP connection prompt, and end within some 13 s when the peer has vanished. A long-running request
/// does not matter: the peer's kernel answers. Other kinds of socket stay as they are.
pub(crate) fn prepare(socket: &impl AsFd) {
    let _ = setsockopt(socket, sockopt::TcpNoDelay, &true);
    let _ = setsockopt(socket, sockopt::KeepAlive, &true);
    let _ = setsockopt(socket, sockopt::TcpKeepIdle, &KEEP_IDLE_S);
    let _ = setsockopt(socket, sockopt::TcpKeepInterval, &KEEP_INTERVAL_S);
    let _ = setsockopt(socket, sockopt::TcpKeepCount, &KEEP_PROBES);
    let _ = setsockopt(socket, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS);
}

/// A second descriptor of a connection's socket, by which another thread can break it.
#[derive(Debug)]
pub(crate) struct Breaker(OwnedFd);

impl Breaker {
    pub(crate) fn of(stream: &(impl AsFd + ?Sized)) -> std::io::Result<Breaker> {
        stream.as_fd().try_clone_to_owned().map(Breaker)
    }

    /// Ends the connection: whoever reads or writes on it gets an end or an error at once.
    pub(crate) fn break_off(&self) {
        let _ = shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}
