//! A guest's node that sends whatever it likes. The server is spoken to directly, without a kernel between.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use om_homefs::server::{Export, Identity, ServeError, Server, SessionId};

use crate::random::Random;
use crate::rig::{NOBODY, cannot_mount};

struct Peer {
    stream: UnixStream,
    server: JoinHandle<Result<(), ServeError>>,
    sequence: u64,
}

fn server(name: &str) -> (Arc<Server>, PathBuf) {
    server_for(NOBODY, name)
}

fn server_for(uid: u32, name: &str) -> (Arc<Server>, PathBuf) {
    let home = std::env::temp_dir().join(format!("om-homefs-{name}-{}", std::process::id()));
    fs::create_dir_all(home.join("directory")).unwrap();
    fs::write(home.join("file"), "content").unwrap();
    for path in [&home, &home.join("directory"), &home.join("file")] {
        std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
    }
    let identity = Identity { uid, gid: uid, groups: vec![] };
    (Arc::new(Server::new(identity, Export::open(&home).unwrap())), home)
}

impl Peer {
    fn connect(server: &Arc<Server>) -> Peer {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let server = server.clone();
        let server = thread::spawn(move || server.serve(theirs, SessionId(1)));
        Peer { stream: ours, server, sequence: 0 }
    }

    fn greet(mut self, channel: u16) -> Peer {
        let mut greeting = b"omhomefs\x01\0".to_vec();
        greeting.extend(channel.to_le_bytes());
        greeting.extend([0; 4]);
        greeting.extend(std::env::consts::ARCH.bytes());
        greeting.resize(32, 0);
        self.stream.write_all(&greeting).unwrap();
        let mut answer = [0; 16];
        self.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[10], 0);
        self
    }

    /// Sends a FUSE request and returns error and body of its reply.
    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        self.sequence += 1;
        let length = 40 + body.len() as u32;
        let mut frame = length.to_le_bytes().to_vec();
        frame.extend([0; 4]);
        frame.extend(self.sequence.to_le_bytes());
        frame.extend(length.to_ne_bytes());
        frame.extend(opcode.to_ne_bytes());
        frame.extend(self.sequence.to_ne_bytes());
        frame.extend(node.to_ne_bytes());
        frame.extend([0; 16]);
        frame.extend(body);
        self.stream.write_all(&frame).unwrap();
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).unwrap();
        let mut reply = vec![0; u32::from_le_bytes(header[..4].try_into().unwrap()) as usize];
        self.stream.read_exact(&mut reply).unwrap();
        if reply.is_empty() {
            return (0, vec![]);
        }
        assert_eq!(reply[8..16], self.sequence.to_ne_bytes());
        (i32::from_ne_bytes(reply[4..8].try_into().unwrap()), reply.split_off(16))
    }

    /// The server's verdict on this connection.
    fn end(self) -> Result<(), ServeError> {
        drop(self.stream);
        self.server.join().expect("the server panicked")
    }
}

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const OPENDIR: u32 = 27;
const MKNOD: u32 = 8;

#[test]
fn any_request_gets_an_answer() {
    if cannot_mount("any_request_gets_an_answer") {
        return;
    }
    let (server, home) = server("fuzz");
    let seed = 7;
    println!("any_request_gets_an_answer: seed {seed}");
    let mut random = Random::new(seed);
    let mut peer = Peer::connect(&server).greet(0);
    for _ in 0..60_000 {
        let opcode = random.below(55) as u32;
        let node = [0, 1, 1, 2, 3, 4, u64::MAX][random.below(7) as usize];
        let mut body = Vec::new();
        // Small numbers hit handles, flags and lengths; the rest is noise.
        for _ in 0..random.below(14) {
            match random.below(4) {
                0 => body.extend((random.below(6)).to_ne_bytes()),
                1 => body.extend((random.below(100_000) as u32).to_ne_bytes()),
                2 => body.extend(random.next().to_ne_bytes()),
                _ => body.extend([0; 8]),
            }
        }
        let names: [&[u8]; 6] = [b"file\0", b"directory\0", b"..\0", b"new\0other\0", b"a/b\0", b"no end"];
        body.extend(names[random.below(6) as usize]);
        let (error, _) = peer.ask(opcode, node, &body);
        assert!((-4096..=0).contains(&error));
    }
    let (error, attributes) = peer.ask(GETATTR, 1, &[0; 16]);
    assert_eq!((error, attributes.len()), (0, 104), "the root is still there");
    peer.end().unwrap();
    fs::remove_dir_all(home).unwrap();
}

#[test]
fn only_regular_files_are_ever_opened() {
    if cannot_mount("only_regular_files_are_ever_opened") {
        return;
    }
    let (server, home) = server("special");
    nix::unistd::mkfifo(&home.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::chown(home.join("fifo"), Some(NOBODY), None).unwrap();
    let mut peer = Peer::connect(&server).greet(0);
    let (error, entry) = peer.ask(LOOKUP, 1, b"fifo\0");
    assert_eq!(error, 0);
    let node = u64::from_ne_bytes(entry[..8].try_into().unwrap());
    for flags in [0_u32, 1, 2, nix::libc::O_NONBLOCK as u32] {
        let body = [flags.to_ne_bytes(), [0; 4]].concat();
        assert_eq!(peer.ask(OPEN, node, &body).0, -nix::libc::ENXIO, "would wait for the other end");
    }
    assert_eq!(peer.ask(OPENDIR, node, &[0; 8]).0, -nix::libc::ENOTDIR);
    assert_eq!(peer.ask(OPEN, 1, &[0; 8]).0, -nix::libc::ENXIO);
    assert_eq!(peer.ask(OPEN, 999, &[0; 8]).0, -nix::libc::ESTALE);
    let device = [nix::libc::S_IFBLK | 0o666, 0x800, 0, 0].map(u32::to_ne_bytes).concat();
    assert_eq!(peer.ask(MKNOD, 1, &[&device, b"disk\0".as_slice()].concat()).0, -nix::libc::EPERM);
    peer.end().unwrap();
    fs::remove_dir_all(home).unwrap();
}

#[test]
fn a_repeated_request_is_answered_from_memory() {
    if cannot_mount("a_repeated_request_is_answered_from_memory") {
        return;
    }
    let (server, home) = server("repeat");
    let mkdir = [[0o777_u32, 0].map(u32::to_ne_bytes).concat(), b"made\0".to_vec()].concat();
    let mut first = Peer::connect(&server).greet(3);
    let answer = first.ask(9, 1, &mkdir);
    assert_eq!(answer.0, 0);
    drop(first);
    let mut again = Peer::connect(&server).greet(3);
    assert_eq!(again.ask(9, 1, &mkdir), answer);
    assert_eq!(again.ask(9, 1, &mkdir).0, -nix::libc::EEXIST, "the next one is executed");
    // An old connection that outlived its successor may not execute anything.
    let mut old = Peer::connect(&server).greet(3);
    old.sequence = 4;
    old.stream.write_all(&[0; 16]).unwrap();
    assert!(matches!(old.end(), Err(ServeError::Protocol(_))));
    fs::remove_dir_all(home).unwrap();
}

#[test]
fn broken_frames_end_the_connection_and_nothing_else() {
    if cannot_mount("broken_frames_end_the_connection_and_nothing_else") {
        return;
    }
    let (server, home) = server("frames");
    let frame = |length: u32, sequence: u64| {
        [length.to_le_bytes().as_slice(), &[0; 4], &sequence.to_le_bytes()].concat()
    };
    let mut lying = frame(40, 1);
    lying.extend([9; 40]);
    let mut too_much = frame(4, 1);
    too_much.extend([0; 50]);
    for bytes in
        [frame(u32::MAX, 1), frame(2 << 20, 1), lying, too_much, frame(0, 1), frame(0, 0), frame(40, 9)]
    {
        let mut peer = Peer::connect(&server).greet(0);
        peer.stream.write_all(&bytes).unwrap();
        peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = peer.stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
        assert!(peer.end().is_err());
    }
    for greeting in [
        [0_u8; 32],
        [255; 32],
        *b"omhomefs\x01\0\0\0\0\0\0\0another cpu\0\0\0\0\0",
        *b"omhomefs\x02\0\0\0\0\0\0\0x86_64\0\0\0\0\0\0\0\0\0\0",
    ] {
        let mut peer = Peer::connect(&server);
        peer.stream.write_all(&greeting).unwrap();
        assert!(peer.end().is_err());
    }
    let mut peer = Peer::connect(&server).greet(0);
    assert_eq!(peer.ask(GETATTR, 1, &[0; 16]).0, 0);
    peer.end().unwrap();
    fs::remove_dir_all(home).unwrap();
}

#[test]
fn serving_threads_hold_no_capability() {
    if cannot_mount("serving_threads_hold_no_capability") {
        return;
    }
    // A user of its own, by which to tell these threads from other tests'.
    let uid = 61_234;
    let (server, home) = server_for(uid, "capability");
    let mut peer = Peer::connect(&server).greet(0);
    assert_eq!(peer.ask(GETATTR, 1, &[0; 16]).0, 0);
    let seen: Vec<String> = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok())
        .filter(|status| status.contains(&format!("Uid:\t0\t0\t0\t{uid}")))
        .collect();
    assert!(!seen.is_empty());
    for status in seen {
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        assert!(status.contains("CapPrm:\t0000000000000004"), "{status}");
        assert!(status.contains(&format!("Gid:\t0\t0\t0\t{uid}")), "{status}");
    }
    peer.end().unwrap();
    fs::remove_dir_all(home).unwrap();
}
