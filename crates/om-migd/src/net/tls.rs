//! TLS 1.3 between keepers, mutual, proved by the cluster key.
//!
//! The cluster key is stretched to an Ed25519 key pair that only members can compute: the cluster's certificate
//! authority. Each process signs a certificate for a key pair of its own with it, bound to its node's address, and
//! trusts what that authority signed and nothing else. So both sides prove that they have the cluster key, and what
//! they said stays secret even if the key leaks later. With two live keys, the first signs and both are trusted.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use om_proto::key::ClusterKeys;
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};

use super::preamble::{Preamble, Purpose};

/// What the authority's seed is derived under.
const SEED_LABEL: &str = "om migration certificate authority v1";
/// How long a node may take to answer a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long data may stay unacknowledged before the connection counts as broken.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// The same while a job is frozen for it.
const SILENCE_LIMIT_MOVE: Duration = Duration::from_secs(3);

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

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// This process's identity in the cluster.
#[derive(Clone)]
pub struct Identity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The trust in the cluster's authority could not be set up.
    #[error("cannot set up the trust in the cluster key: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl Identity {
    /// Makes a fresh certificate for `address`.
    pub fn new(keys: &ClusterKeys, address: IpAddr) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        let mut signer = None;
        for (_, seed) in keys.derive(SEED_LABEL) {
            let authority = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8(&seed), &rcgen::PKCS_ED25519)?;
            let mut params = CertificateParams::new(Vec::new())?;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "om cluster");
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
            let certificate = params.self_signed(&authority)?;
            roots.add(certificate.der().clone())?;
            signer.get_or_insert((params, authority));
        }
        let Some((params, authority)) = signer else {
            return Err(rustls::Error::General("no cluster key".into()).into());
        };
        let issuer = Issuer::new(params, authority);
        let own = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::IpAddress(address)];
        let certificate: CertificateDer<'static> = params.signed_by(&own, &issuer)?.der().clone();
        let private = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.serialize_der()));

        let mut provider = rustls::crypto::ring::default_provider();
        // Of those that are strong enough the fastest first.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let roots = Arc::new(roots);
        let versions = [&rustls::version::TLS13];
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(vec![certificate.clone()], private())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], private())?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// Connects to the om-migd at `to`, which must prove to be the node of that address.
    pub fn connect(&self, to: SocketAddr, preamble: &Preamble) -> io::Result<Stream> {
        let mut socket = TcpStream::connect_timeout(&to, CONNECT_LIMIT)?;
        let moves = preamble.purpose == Purpose::Move;
        prepare(&socket, if moves { SILENCE_LIMIT_MOVE } else { SILENCE_LIMIT })?;
        socket.write_all(&preamble.encode())?;
        let name = ServerName::IpAddress(to.ip().into());
        let connection = ClientConnection::new(self.client.clone(), name).map_err(io::Error::other)?;
        handshake(connection.into(), socket)
    }

    /// Answers a connection whose preamble has been read.
    pub fn accept(&self, socket: TcpStream) -> io::Result<Stream> {
        prepare(&socket, SILENCE_LIMIT)?;
        let connection = ServerConnection::new(self.server.clone()).map_err(io::Error::other)?;
        handshake(connection.into(), socket)
    }
}

fn prepare(socket: &TcpStream, silence: Duration) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(HANDSHAKE_LIMIT))?;
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(silence))?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(SILENCE_LIMIT / 3).with_interval(SILENCE_LIMIT / 3);
    socket.set_tcp_keepalive(&keepalive.with_retries(2))
}

fn handshake(mut connection: Connection, mut socket: TcpStream) -> io::Result<Stream> {
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(|error| match error.kind() {
            // What a time-out of a socket looks like.
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, "om-migd there does not answer")
            }
            _ => error,
        })?;
    }
    socket.set_read_timeout(None)?;
    Ok(Stream { tls: connection, socket, cipher: Cipher::default() })
}

/// An Ed25519 private key in PKCS#8 version 1 (RFC 8410, section 7): a fixed prefix and the seed.
fn pkcs8(seed: &[u8; 32]) -> PrivatePkcs8KeyDer<'static> {
    let prefix =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let mut der = prefix.to_vec();
    der.extend_from_slice(seed);
    der.into()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::net::link;
    use crate::net::preamble::{self, JobId};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn identity(key: &str, address: IpAddr) -> Identity {
        let keys = ClusterKeys::parse(&key.repeat(32), std::path::Path::new("key")).unwrap();
        Identity::new(&keys, address).unwrap()
    }

    /// Connects two identities over loopback.
    fn meet(client: &Identity, server: Identity) -> (io::Result<Stream>, io::Result<Stream>) {
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut bytes = [0; preamble::LENGTH];
            socket.read_exact(&mut bytes).unwrap();
            server.accept(socket)
        });
        let asking = client.connect(address, &Preamble { purpose: Purpose::Link, job: JobId([1; 16]) });
        (asking, answering.join().unwrap())
    }

    #[test]
    fn two_nodes_with_the_same_key_talk_both_ways_at_once() {
        let (asking, answering) = meet(&identity("ab", HERE), identity("ab", HERE));
        let (out, mut input) = link::split(asking.unwrap()).unwrap();
        let (far_out, mut far_input) = link::split(answering.unwrap()).unwrap();
        let big = vec![7_u8; 3 << 20];
        let writer = std::thread::spawn({
            let big = big.clone();
            move || (0..20).try_for_each(|_| out.send(&big))
        });
        let echo = std::thread::spawn(move || {
            (0..20).try_for_each(|_| {
                let message: Vec<u8> = far_input.receive()?;
                far_out.send(&message)
            })
        });
        for _ in 0..20 {
            assert_eq!(input.receive::<Vec<u8>>().unwrap(), big);
        }
        writer.join().unwrap().unwrap();
        echo.join().unwrap().unwrap();
        assert!(input.receive::<Vec<u8>>().is_err(), "the other side has gone");
    }

    #[test]
    fn a_node_with_another_key_is_refused_by_both_sides() {
        let (asking, answering) = meet(&identity("ab", HERE), identity("cd", HERE));
        assert!(asking.is_err());
        assert!(answering.is_err());
    }

    #[test]
    fn a_node_cannot_pass_for_another_address() {
        let elsewhere = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 8, 7));
        let (asking, _) = meet(&identity("ab", HERE), identity("ab", elsewhere));
        assert!(asking.is_err());
    }

    #[test]
    fn a_client_without_a_certificate_is_not_answered() {
        let server = identity("ab", HERE);
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let mut plain = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(server.accept(listener.accept().unwrap().0).is_err());
    }
}
