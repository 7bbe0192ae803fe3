//! What is said by UDP, and the texts of the om files.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use om_proto::key::ClusterKeys;
use om_proto::offer::{Answer, Ask, Invite};
use om_proto::omfs::{Destination, JobStat, MoveResult, Where};
use om_proto::proof::{Challenge, Echo};
use om_proto::report::{Capacity, Identity, Load, Machine, Memory, Migration};
use om_proto::table::{NodeTable, TEXT_LIMIT};
use om_proto::wire::{Datagram, HEADER_LEN, MAX_DATAGRAM, Section, tag};

/// For whom the corpus's datagrams are that are for one node.
const READER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));

/// Every body that a datagram may carry, read from it and, as a stranger may send any bytes, from the bytes alone.
pub fn datagram(bytes: &[u8]) {
    for keys in [ClusterKeys::none(), ClusterKeys::for_tests(&[7])] {
        if let Ok(datagram) = Datagram::decode_for(bytes, &keys, READER) {
            assert!(bytes.len() <= MAX_DATAGRAM);
            for (_, body) in datagram.sections() {
                sections(body);
            }
            let _ = datagram.section::<Identity>();
        }
    }
    sections(bytes);
}

/// A body is decoded or not; what was decoded can be encoded, and is the same when it is decoded again.
fn sections(body: &[u8]) {
    section::<Identity>(body);
    section::<Machine>(body);
    section::<Capacity>(body);
    section::<Load>(body);
    section::<Memory>(body);
    section::<Migration>(body);
    section::<Ask>(body);
    section::<Answer>(body);
    section::<Invite>(body);
    section::<Challenge>(body);
    section::<Echo>(body);
}

fn section<S: Section + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Some(value) = S::decode(body) else { return };
    let mut buffer = vec![0; 2 * body.len() + 64];
    let encoded = encode(&value, &mut buffer);
    assert_eq!(S::decode(encoded).as_ref(), Some(&value));
}

/// The body of a section, by way of a datagram of its own.
fn encode<'a, S: Section>(value: &S, buffer: &'a mut [u8]) -> &'a [u8] {
    use om_proto::wire::{DatagramWriter, Header, Kind};
    let header = Header {
        kind: Kind::Report,
        flags: 0,
        key_id: 0,
        epoch: 0,
        sequence: 0,
        sender: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let mut datagram = [0; MAX_DATAGRAM];
    let mut writer = DatagramWriter::new(&mut datagram, header);
    if writer.section(value).is_err() {
        return &[];
    }
    let keys = ClusterKeys::none();
    let bytes = writer.finish(&keys);
    let body =
        Datagram::decode(bytes, &keys).ok().and_then(|read| read.sections().next()).map_or(&[][..], |s| s.1);
    buffer[..body.len()].copy_from_slice(body);
    &buffer[..body.len()]
}

/// Datagrams one after another, each behind a byte of flags and time and its length: whatever they are, the table stays
/// within its bounds. A flag has one signed here, another gives it an answer to what the table asks: nobody could guess
/// either.
pub fn table(mut bytes: &[u8]) {
    const LIMIT: usize = 3;
    let mut table = NodeTable::with_limit(LIMIT, [0; 32]);
    let keys = ClusterKeys::for_tests(&[7]);
    let mut now = Duration::ZERO;
    while let Some((&[flags, low, high], rest)) = bytes.split_first_chunk::<3>() {
        now += Duration::from_millis(u64::from(flags >> 3) * 100);
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        bytes = rest;
        let mut datagram = datagram.to_vec();
        if flags & 2 != 0 {
            datagram.extend(tag::ECHO.to_le_bytes());
            datagram.extend([9, 0, 1]);
            datagram.extend(table.challenge(now).nonce);
        }
        if flags & 1 != 0 && datagram.len() >= HEADER_LEN {
            datagram[8..12].copy_from_slice(&keys.signing_id().to_le_bytes());
            datagram.extend(keys.sign_datagram(&[&datagram]));
        }
        let _ = table.receive(now, &datagram, IpAddr::V4(Ipv4Addr::LOCALHOST), &keys);
        while table.poll_question(now).is_some() {}
        if flags & 4 != 0 {
            table.expire(now);
        }
        assert!(table.len() <= LIMIT);
        for node in table.iter() {
            let name = node.identity.as_ref().map_or("", |identity| &identity.host_name);
            assert!(name.chars().count() <= TEXT_LIMIT && !name.chars().any(char::is_control));
        }
    }
}

/// The values of the om files, and the cluster key's file.
pub fn om_files(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(value) = text.parse::<Where>() {
        assert_eq!(value.to_string().parse(), Ok(value));
    }
    if let Ok(value) = text.parse::<Destination>() {
        assert_eq!(value.to_kernel_text().parse(), Ok(value));
    }
    if let Ok(value) = text.parse::<JobStat>() {
        assert_eq!(value.to_string().parse(), Ok(value));
    }
    if let Ok(value) = text.parse::<MoveResult>() {
        // Seconds are printed to the microsecond.
        assert!(value.to_string().parse::<MoveResult>().is_ok());
    }
    if let Err(error) = ClusterKeys::parse(text, Path::new("key")) {
        assert!(!error.to_string().contains('\n'));
    }
}
