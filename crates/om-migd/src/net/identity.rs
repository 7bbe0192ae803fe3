//! A node's place in the cluster, proved by the cluster key.
//!
//! The cluster key is stretched to an Ed25519 key pair that only members can compute: the cluster's certificate
//! authority. Each process signs a certificate for a key pair of its own with it, bound to its node's address, and
//! trusts what that authority signed and nothing else. So both sides prove that they have the cluster key, and what
//! they said stays secret even if the key leaks later. With two live keys, the first signs and both are trusted. No
//! session is ever resumed and no data sent early: nothing of an old connection is good for a new one.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use om_proto::key::{ClusterKeys, KeyError, KeyFile};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, SanType};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::preamble::{CHALLENGE_LENGTH, Challenge, Preamble, Purpose};
use super::tls::{SILENCE_LIMIT, SILENCE_LIMIT_MOVE, Stream, handshake, prepare, read_by};

/// What the authority's seed is derived under.
const SEED_LABEL: &str = "om migration certificate authority v1";
/// How long a node may take to answer a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// How long a handshake may take.
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
const NO_KEY: &str =
    "there is no cluster key on this node: bring it here from another one, or make the first with om keygen";

/// This process's place in the cluster: its key file, which it follows, and its certificate. Clones share it.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    address: IpAddr,
    state: Mutex<State>,
}

struct State {
    file: Option<KeyFile>,
    current: Option<Arc<Current>>,
}

/// What follows from the present keys.
struct Current {
    keys: ClusterKeys,
    client: ClientConfig,
    server: ServerConfig,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
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
    /// The node `address` with the key in this file; a change of the file is noticed with the next connection. As long as
    /// there is no key there are no connections.
    pub fn of_file(file: &Path, address: IpAddr) -> Result<Self, Error> {
        let file = KeyFile::open(file)?;
        let current = Current::new(file.keys(), address)?.map(Arc::new);
        Ok(Self::with(State { file: Some(file), current }, address))
    }

    /// The node `address` with these keys for good.
    pub fn new(keys: &ClusterKeys, address: IpAddr) -> Result<Self, Error> {
        let current = Current::new(keys, address)?.map(Arc::new);
        Ok(Self::with(State { file: None, current }, address))
    }

    fn with(state: State, address: IpAddr) -> Self {
        Self { shared: Arc::new(Shared { address, state: Mutex::new(state) }) }
    }

    /// Whether there is a key.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.current().is_ok()
    }

    /// Connects to the om-migd at `to`, which must prove to be the node of that address.
    pub fn connect(&self, to: SocketAddr, preamble: &Preamble) -> io::Result<Stream> {
        let current = self.current()?;
        let deadline = Instant::now() + CONNECT_LIMIT + HANDSHAKE_LIMIT;
        let mut socket = TcpStream::connect_timeout(&to, CONNECT_LIMIT)?;
        let moves = preamble.purpose == Purpose::Move;
        prepare(&socket, if moves { SILENCE_LIMIT_MOVE } else { SILENCE_LIMIT })?;
        let mut challenge = [0; CHALLENGE_LENGTH];
        read_by(deadline, &mut socket, &mut challenge)?;
        let challenge = Challenge::decode(challenge).map_err(io::Error::other)?;
        socket.write_all(&preamble.encode(&challenge, to.ip(), &current.keys))?;
        let mut config = current.client.clone();
        config.alpn_protocols = vec![preamble.protocol()];
        let name = ServerName::IpAddress(to.ip().into());
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        handshake(connection.into(), socket, preamble, deadline)
    }

    /// Answers a connection whose preamble has been read.
    pub fn accept(&self, socket: TcpStream, preamble: &Preamble) -> io::Result<Stream> {
        let current = self.current()?;
        let deadline = Instant::now() + HANDSHAKE_LIMIT;
        prepare(&socket, SILENCE_LIMIT)?;
        let mut config = current.server.clone();
        config.alpn_protocols = vec![preamble.protocol()];
        let connection = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        handshake(connection.into(), socket, preamble, deadline)
    }

    /// What the key file stands for now. One that cannot be used changes nothing.
    fn current(&self) -> io::Result<Arc<Current>> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &mut state.file
            && let Some(changed) = file.refresh()
        {
            let made =
                changed.map_err(Error::from).and_then(|()| Current::new(file.keys(), self.shared.address));
            match made {
                Ok(current) => state.current = current.map(Arc::new),
                Err(error) => log::warn!("{error}; going on with the key known before"),
            }
        }
        state.current.clone().ok_or_else(|| io::Error::other(NO_KEY))
    }
}

impl Current {
    /// Makes a fresh certificate for `address`; `None` without a key.
    fn new(keys: &ClusterKeys, address: IpAddr) -> Result<Option<Self>, Error> {
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
        let Some((params, authority)) = signer else { return Ok(None) };
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
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(vec![certificate.clone()], private())?;
        client.resumption = Resumption::disabled();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], private())?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Some(Self { keys: keys.clone(), client, server }))
    }
}

/// An Ed25519 private key in PKCS#8 version 1 (RFC 8410, section 7): a fixed prefix and the seed.
fn pkcs8(seed: &[u8; 32]) -> PrivatePkcs8KeyDer<'static> {
    let prefix =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let mut der = prefix.to_vec();
    der.extend_from_slice(seed);
    der.into()
}
