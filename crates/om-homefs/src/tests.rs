//! What bytes mean, and that no bytes do harm.

use std::io::{self, Read};

use proptest::prelude::*;

use crate::abi::{self, op};
use crate::frame::{self, Buffer};
use crate::reply::Reply;
use crate::request::{Header, Operation, Request};

/// A FUSE request as a kernel writes it.
fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(abi::IN_HEADER + body.len()).unwrap();
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(opcode.to_ne_bytes());
    message.extend(77_u64.to_ne_bytes());
    message.extend(node.to_ne_bytes());
    message.extend([0; 16]);
    message.extend(body);
    message
}

fn parse(message: &[u8]) -> Option<Result<Request<'_>, nix::errno::Errno>> {
    Header::parse(message).map(|header| Request::parse(header, message))
}

#[test]
fn a_lookup_is_understood() {
    let message = message(op::LOOKUP, 5, b"name\0");
    let request = parse(&message).unwrap().unwrap();
    assert_eq!(Header::parse(&message).unwrap().unique, 77);
    assert_eq!(request.node, 5);
    assert!(matches!(request.operation, Operation::Lookup { name } if name == c"name"));
}

#[test]
fn a_write_appends_only_if_a_program_asks_for_it() {
    let write = |write_flags: u32, flags: i32| {
        let mut body = Vec::new();
        body.extend([3_u64, 100].map(u64::to_ne_bytes).concat());
        body.extend([4, write_flags].map(u32::to_ne_bytes).concat());
        body.extend(9_u64.to_ne_bytes());
        body.extend([flags.cast_unsigned(), 0].map(u32::to_ne_bytes).concat());
        body.extend(b"data");
        message(op::WRITE, 5, &body)
    };
    let appends = |message: &[u8]| match parse(message).unwrap().unwrap().operation {
        Operation::Write { handle: 3, offset: 100, append, data: b"data" } => append,
        other => panic!("{other:?}"),
    };
    assert!(!appends(&write(0, libc::O_WRONLY)));
    assert!(appends(&write(0, libc::O_WRONLY | libc::O_APPEND)));
    assert!(
        !appends(&write(abi::WRITE_CACHE, libc::O_WRONLY | libc::O_APPEND)),
        "written back from a mapping"
    );
}

#[test]
fn names_lead_nowhere_but_into_their_directory() {
    for name in ["", ".", "..", "a/b", "/", "../etc"] {
        let body = format!("{name}\0");
        for opcode in [op::LOOKUP, op::UNLINK, op::RMDIR] {
            assert!(parse(&message(opcode, 1, body.as_bytes())).unwrap().is_err(), "{name:?}");
        }
        let link = [8_u64.to_ne_bytes().as_slice(), body.as_bytes()].concat();
        assert!(parse(&message(op::LINK, 1, &link)).unwrap().is_err(), "{name:?}");
    }
    let long = format!("{}\0", "n".repeat(256));
    assert_eq!(
        parse(&message(op::LOOKUP, 1, long.as_bytes())).unwrap().unwrap_err(),
        nix::errno::Errno::ENAMETOOLONG
    );
    assert!(parse(&message(op::LOOKUP, 1, b"no end")).unwrap().is_err());
}

#[test]
fn a_header_must_tell_the_truth_about_its_length() {
    let mut message = message(op::STATFS, 1, b"");
    assert!(Header::parse(&message).is_some());
    message.push(0);
    assert!(Header::parse(&message).is_none());
    assert!(Header::parse(&message[..39]).is_none());
    assert!(Header::parse(&[]).is_none());
}

#[test]
fn the_bytes_of_greeting_and_frame_are_these() {
    struct Wire(Vec<u8>, io::Cursor<Vec<u8>>);
    impl Read for Wire {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1.read(buffer)
        }
    }
    impl io::Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut wire = Wire(vec![], io::Cursor::new(b"omhomefs\x01\0\0\0\0\0\0\0".to_vec()));
    frame::greet(&mut wire, 0x0203).unwrap();
    let mut expected = b"omhomefs\x01\0\x03\x02\0\0\0\0".to_vec();
    expected.extend(std::env::consts::ARCH.bytes());
    expected.resize(32, 0);
    assert_eq!(wire.0, expected);

    let mut reply = Reply::default();
    reply.begin();
    reply.u32(7);
    reply.finish(0x0102, 77, Ok(()));
    assert_eq!(
        reply.frame(),
        b"\x14\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\x14\0\0\0\0\0\0\0\x4d\0\0\0\0\0\0\0\x07\0\0\0"
    );
    reply.begin();
    reply.u32(7);
    reply.finish(1, 77, Err(nix::errno::Errno::ENOENT));
    assert_eq!(reply.frame()[16..24], [16, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
}

#[test]
fn a_refused_greeting_is_final() {
    for (verdict, byte) in [("over", 1), ("unfit", 2), ("unknown", 9)] {
        let mut answer = b"omhomefs\x01\0\0\0\0\0\0\0".to_vec();
        answer[10] = byte;
        struct Wire(io::Cursor<Vec<u8>>);
        impl Read for Wire {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.read(buffer)
            }
        }
        impl io::Write for Wire {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = frame::greet(&mut Wire(io::Cursor::new(answer)), 0).unwrap_err();
        assert!(error.get_ref().unwrap().is::<frame::Refused>(), "{verdict}");
    }
}

/// A stream that brings its bytes in portions of odd sizes.
struct Portions<'a>(&'a [u8], usize);

impl Read for Portions<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(self.0.len()).min(buffer.len());
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_an_error(opcode in 0_u32..60, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let message = message(opcode, 1, &body);
        let operation = parse(&message).and_then(Result::ok).map(|request| request.operation);
        if let Some(Operation::BatchForget(forgets)) = operation {
            prop_assert!(forgets.count() <= body.len() / 16);
        }
    }

    #[test]
    fn any_header_is_taken_or_left(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Some(header) = Header::parse(&bytes) {
            let _ = Request::parse(header, &bytes);
        }
    }

    #[test]
    fn a_frame_survives_any_cut(message in prop::collection::vec(any::<u8>(), 0..5000), sequence: u64, portion in 1_usize..6000) {
        let mut sent = frame::header(u32::try_from(message.len()).unwrap(), sequence).to_vec();
        sent.extend(&message);
        let mut buffer = Buffer::new();
        let received = buffer.receive(&mut Portions(&sent, portion)).unwrap().unwrap();
        prop_assert_eq!(received.sequence, sequence);
        prop_assert_eq!(buffer.received(received), &message[..]);
    }

    #[test]
    fn any_frame_is_received_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), portion in 1_usize..50) {
        let mut buffer = Buffer::new();
        let _ = buffer.receive(&mut Portions(&bytes, portion));
    }
}
