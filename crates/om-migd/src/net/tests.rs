//! Two nodes over loopback, and what somebody with the wrong key, without one, or in the middle may try.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use om_proto::key::ClusterKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use super::identity::{HANDSHAKE_LIMIT, Identity};
use super::link;
use super::preamble::{self, Challenge, JobId, Preamble, Purpose};
use super::tls::Stream;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn identity(key: &str, address: IpAddr) -> Identity {
    Identity::new(&keys(key), address).unwrap()
}

const PREAMBLE: Preamble = Preamble { purpose: Purpose::Link, job: JobId([1; 16]) };

/// What om-migd does with a connection: the gate, and then the keeper's part.
fn let_in(mut socket: TcpStream, server: &Identity, keys: &ClusterKeys) -> io::Result<Stream> {
    let challenge = Challenge::new()?;
    socket.write_all(challenge.bytes())?;
    let mut bytes = [0; preamble::LENGTH];
    socket.read_exact(&mut bytes)?;
    let preamble = Preamble::decode(&bytes, &challenge, HERE, keys).map_err(io::Error::other)?;
    server.accept(socket, &preamble)
}

fn keys(key: &str) -> ClusterKeys {
    ClusterKeys::parse(&key.repeat(32), Path::new("key")).unwrap()
}

/// Connects two identities over loopback.
fn meet(client: &Identity, server: Identity) -> (io::Result<Stream>, io::Result<Stream>) {
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        // Whatever the key of the client: here the handshake is what is tried.
        let both = ClusterKeys::for_tests(&[0xab, 0xcd]);
        let_in(listener.accept().unwrap().0, &server, &both)
    });
    let asking = client.connect(address, &PREAMBLE);
    (asking, answering.join().unwrap())
}

/// Both ends of a connection between two nodes.
pub(crate) fn pair() -> (Stream, Stream) {
    let (asking, answering) = meet(&identity("ab", HERE), identity("ab", HERE));
    (asking.unwrap(), answering.unwrap())
}

#[test]
fn two_nodes_with_the_same_key_talk_both_ways_at_once() {
    let (asking, answering) = pair();
    let (out, mut input) = link::split(asking).unwrap();
    let (far_out, mut far_input) = link::split(answering).unwrap();
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
fn a_client_that_speaks_no_tls_is_not_answered() {
    let server = identity("ab", HERE);
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let mut plain = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(server.accept(listener.accept().unwrap().0, &PREAMBLE).is_err());
}

/// Takes whatever certificate there is.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[test]
fn a_client_without_a_certificate_is_not_answered() {
    let server = identity("ab", HERE);
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let answering = std::thread::spawn(move || server.accept(listener.accept().unwrap().0, &PREAMBLE));
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    config.alpn_protocols = vec![PREAMBLE.protocol()];
    let mut client = ClientConnection::new(Arc::new(config), ServerName::IpAddress(HERE.into())).unwrap();
    // For the client the handshake is over before the server has looked.
    while client.is_handshaking() && client.complete_io(&mut socket).is_ok() {}
    let error = answering.join().unwrap().err().unwrap().to_string();
    assert!(error.contains("no certificates"), "{error}");
}

#[test]
fn both_sides_learn_which_node_the_other_is() {
    let (asking, answering) = meet(&identity("ab", HERE), identity("ab", HERE));
    for peer in [asking.unwrap().peer().unwrap(), answering.unwrap().peer().unwrap()] {
        assert!(peer.is(HERE) && !peer.is([10, 9, 8, 7].into()));
    }
}

#[test]
fn a_connection_passed_for_another_jobs_or_purposes_is_refused() {
    for other in
        [Preamble { purpose: Purpose::Files, ..PREAMBLE }, Preamble { job: JobId([2; 16]), ..PREAMBLE }]
    {
        let (client, server) = (identity("ab", HERE), identity("ab", HERE));
        let listener = TcpListener::bind((HERE, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let mut socket = listener.accept().unwrap().0;
            socket.write_all(Challenge::new().unwrap().bytes()).unwrap();
            socket.read_exact(&mut [0; preamble::LENGTH]).unwrap();
            server.accept(socket, &other)
        });
        assert!(client.connect(address, &PREAMBLE).is_err());
        assert!(answering.join().unwrap().is_err());
    }
}

/// Passes bytes both ways until one side ends, and tells what the client said.
fn relay(client: TcpStream, server: TcpStream) -> Vec<u8> {
    let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = std::thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(std::net::Shutdown::Both);
    });
    let (mut client, mut server) = (client, server);
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut chunk) {
        said.extend_from_slice(&chunk[..count]);
        if server.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(std::net::Shutdown::Both);
    back.join().unwrap();
    said
}

#[test]
fn a_recorded_connection_played_again_is_refused() {
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let middle = TcpListener::bind((HERE, 0)).unwrap();
    let middle_address = middle.local_addr().unwrap();
    let server = identity("ab", HERE);
    let answering = std::thread::spawn(move || {
        let mut stream = let_in(listener.accept().unwrap().0, &server, &keys("ab")).unwrap();
        let mut message = [0; 4];
        stream.read_exact(&mut message).unwrap();
        drop(stream);
        let at_the_gate = let_in(listener.accept().unwrap().0, &server, &keys("ab")).is_err();
        // The second time past the gate even: what is recorded is good for nothing inside either.
        let mut socket = listener.accept().unwrap().0;
        socket.write_all(Challenge::new().unwrap().bytes()).unwrap();
        socket.read_exact(&mut [0; preamble::LENGTH]).unwrap();
        (message, at_the_gate, server.accept(socket, &PREAMBLE).is_err())
    });
    let recording =
        std::thread::spawn(move || relay(middle.accept().unwrap().0, TcpStream::connect(address).unwrap()));
    let mut stream = identity("ab", HERE).connect(middle_address, &PREAMBLE).unwrap();
    stream.write_all(b"move").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    drop(stream);
    let recorded = recording.join().unwrap();
    for _ in 0..2 {
        let mut again = TcpStream::connect(address).unwrap();
        let _ = again.write_all(&recorded);
        let _ = io::copy(&mut again, &mut io::sink());
    }
    assert_eq!(answering.join().unwrap(), (*b"move", true, true));
}

#[test]
fn a_connection_relayed_to_another_node_is_refused() {
    let elsewhere = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 8, 7));
    let keys = keys("ab");
    let challenge = Challenge::new().unwrap();
    // Whoever stands in the middle passes on the challenge of one node and the answer to it meant for another.
    let answer = PREAMBLE.encode(&challenge, elsewhere, &keys);
    assert_eq!(Preamble::decode(&answer, &challenge, HERE, &keys), Err(preamble::Error::Mac));
    let (asking, _) = meet(&identity("ab", HERE), identity("ab", elsewhere));
    assert!(asking.is_err());
}

#[test]
fn a_handshake_that_drips_is_cut_off() {
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let dripping = std::thread::spawn(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        // The beginning of a record of 16,000 bytes, and then a byte now and then.
        let mut bytes = [0x16, 3, 1, 0x3e, 0x80].into_iter().chain(std::iter::repeat(1));
        let start = Instant::now();
        while let Some(byte) = bytes.next()
            && socket.write_all(&[byte]).is_ok()
            && start.elapsed() < 6 * HANDSHAKE_LIMIT
        {
            std::thread::sleep(HANDSHAKE_LIMIT / 20);
        }
    });
    let start = Instant::now();
    assert!(identity("ab", HERE).accept(listener.accept().unwrap().0, &PREAMBLE).is_err());
    assert!(start.elapsed() < 3 * HANDSHAKE_LIMIT);
    dripping.join().unwrap();
}

#[test]
fn a_changed_key_file_is_noticed_and_while_two_keys_live_all_understand_each_other() {
    let dir = std::env::temp_dir().join(format!("om-migd-keys-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (old, new) = ("ab".repeat(32), "cd".repeat(32));
    let write = |name: &str, lines: &[&str]| {
        use std::os::unix::fs::OpenOptionsExt as _;
        let (path, fresh) = (dir.join(name), dir.join("fresh"));
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).unwrap();
        file.write_all(lines.join("\n").as_bytes()).unwrap();
        std::fs::rename(fresh, &path).unwrap();
        path
    };
    let of = |name, lines: &[&str]| Identity::of_file(&write(name, lines), HERE).unwrap();
    let (here, there) = (of("here", &[&old]), of("there", &[&old]));
    let understand = || {
        for (client, server) in [(&here, &there), (&there, &here)] {
            let (asking, answering) = meet(client, server.clone());
            assert!(asking.is_ok() && answering.is_ok());
        }
    };
    understand();
    for step in [[old.as_str(), new.as_str()].as_slice(), &[&new, &old], &[&new]] {
        for name in ["here", "there"] {
            write(name, step);
            understand();
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
