//! What must hold whatever the bytes are. The fuzz targets call these, and so does the test that replays the
//! corpus, which includes this file: so it uses nothing but om-proto.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use om_proto::key::ClusterKeys;
use om_proto::offer::{Answer, Ask, Invite};
use om_proto::omfs::{Destination, JobStat, MoveResult, Where};
use om_proto::report::{Capacity, Identity, Load, Machine, Memory, Migration};
use om_proto::table::{NodeTable, TEXT_LIMIT};
use om_proto::wire::{Datagram, MAX_DATAGRAM, Section};

/// Every body that a datagram may carry, read from it and, as a stranger may send any bytes, from the bytes alone.
pub fn datagram(bytes: &[u8]) {
    for keys in [ClusterKeys::none(), ClusterKeys::for_tests(&[7])] {
        if let Ok(datagram) = Datagram::decode(bytes, &keys) {
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

/// Datagrams one after another, each behind its length and a time step: whatever they are, the table stays within
/// its bounds.
pub fn table(mut bytes: &[u8]) {
    const LIMIT: usize = 3;
    let mut table = NodeTable::with_limit(LIMIT);
    let keys = ClusterKeys::for_tests(&[7]);
    let mut now = Duration::ZERO;
    while let Some((head, rest)) = bytes.split_first_chunk::<3>() {
        now += Duration::from_millis(u64::from(head[0]) * 50);
        let length = usize::from(u16::from_le_bytes([head[1], head[2]])).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        bytes = rest;
        let _ = table.receive(now, datagram, IpAddr::V4(Ipv4Addr::LOCALHOST), &keys);
        if head[0] % 4 == 0 {
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
