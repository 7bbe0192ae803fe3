//! TLS 1.3 between keepers: the connection itself. There is no other way for bytes to get from keeper to keeper.
//!
//! A handshake has a deadline, however slowly the other side speaks. What the connection is for is part of it, so that
//! nobody in the middle can pass one connection for another.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustls::Connection;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;

use super::preamble::Preamble;

/// How long data may stay unacknowledged before the connection counts as broken.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// The same while a job is frozen for it.
pub(super) const SILENCE_LIMIT_MOVE: Duration = Duration::from_secs(3);

/// How much is read from a socket at once.
const READ_SIZE: usize = 256 << 10;

/// A connection whose both ends have proved that they have the cluster key. Blocking.
pub struct Stream {
    /// The TLS state.
    pub tls: Connection,
    /// The connection below it.
    pub socket: TcpStream,
    /// What came from the socket and is not decrypted yet.
    pub cipher: Cipher,
}

/// Received bytes that are not decrypted yet.
#[derive(Debug, Default)]
pub struct Cipher {
    bytes: Vec<u8>,
    taken: usize,
}

impl Cipher {
    /// Decrypts some of what is here; false if there is nothing.
    pub fn decrypt(&mut self, tls: &mut Connection) -> io::Result<bool> {
        let mut rest = &self.bytes[self.taken..];
        if rest.is_empty() {
            return Ok(false);
        }
        // rustls takes little at a time; what is less than a record tells nobody anything.
        while !rest.is_empty() {
            let count = tls.read_tls(&mut rest)?;
            self.taken += count;
            // After a goodbye nothing more is taken.
            if count == 0 {
                self.taken = self.bytes.len();
            }
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            if count == 0 || state.plaintext_bytes_to_read() > 0 {
                break;
            }
        }
        Ok(true)
    }

    /// Waits for more; false at the end of the connection.
    pub fn fill(&mut self, socket: &mut TcpStream) -> io::Result<bool> {
        self.bytes.resize(READ_SIZE, 0);
        self.taken = 0;
        let count = socket.read(&mut self.bytes);
        self.bytes.truncate(*count.as_ref().unwrap_or(&0));
        Ok(count? > 0)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            // An end without a goodbye of TLS is an end all the same, as when a node dies.
            if !self.cipher.decrypt(&mut self.tls)? && !self.cipher.fill(&mut self.socket)? {
                return Ok(0);
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.tls.writer().write(bytes)?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The certificate of the other side.
#[derive(Debug)]
pub struct Peer(CertificateDer<'static>);

impl Peer {
    /// Whether it is the node of this address.
    #[must_use]
    pub fn is(&self, address: IpAddr) -> bool {
        ParsedCertificate::try_from(&self.0).is_ok_and(|certificate| {
            verify_server_name(&certificate, &ServerName::IpAddress(address.into())).is_ok()
        })
    }
}

impl Stream {
    /// Who is at the other end.
    pub fn peer(&self) -> io::Result<Peer> {
        let certificate = self.tls.peer_certificates().and_then(|chain| chain.first());
        certificate
            .map(|certificate| Peer(certificate.clone().into_owned()))
            .ok_or_else(|| io::Error::other("a connection without a certificate"))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sets a fresh connection up.
pub(super) fn prepare(socket: &TcpStream, silence: Duration) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(silence))?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(SILENCE_LIMIT / 3).with_interval(SILENCE_LIMIT / 3);
    socket.set_tcp_keepalive(&keepalive.with_retries(2))
}

/// Fills the buffer by the deadline, however slowly the other side speaks.
pub(super) fn read_by(deadline: Instant, socket: &mut TcpStream, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        wait_until(deadline, socket)?;
        match socket.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = &mut buffer[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(silent(error)),
        }
    }
    Ok(())
}

/// Lets the next read wait for as long as there is time.
fn wait_until(deadline: Instant, socket: &TcpStream) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(silent(io::ErrorKind::TimedOut.into()));
    }
    socket.set_read_timeout(Some(left))
}

/// Completes the handshake by the deadline.
pub(super) fn handshake(
    mut connection: Connection,
    mut socket: TcpStream,
    preamble: &Preamble,
    deadline: Instant,
) -> io::Result<Stream> {
    while connection.is_handshaking() || connection.wants_write() {
        if connection.wants_write() {
            connection.write_tls(&mut socket)?;
            continue;
        }
        wait_until(deadline, &socket)?;
        match connection.read_tls(&mut socket) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(silent)?,
        };
        if let Err(error) = connection.process_new_packets() {
            // Tells the other side why.
            let _ = connection.write_tls(&mut socket);
            return Err(io::Error::other(error));
        }
    }
    if connection.alpn_protocol() != Some(&preamble.protocol()) {
        return Err(io::Error::other("the connection is for something else inside than outside"));
    }
    socket.set_read_timeout(None)?;
    Ok(Stream { tls: connection, socket, cipher: Cipher::default() })
}

/// Says what a time-out of a socket means.
pub fn silent(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "om-migd there does not answer")
        }
        _ => error,
    }
}
