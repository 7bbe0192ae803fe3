//! The wire format: pinned bytes, round trips, old and new readers, and what strangers may send.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use om_proto::key::{ClusterKeys, MAC_LEN};
use om_proto::offer::{Answer, Ask, Invite};
use om_proto::proof::{Challenge, ECHO_LIMIT, Echo};
use om_proto::report::{Capacity, Identity, Load, Machine, Memory, Migration};
use om_proto::wire::{
    Datagram, DatagramWriter, HEADER_LEN, Header, Kind, MAX_DATAGRAM, Reject, Section, tag,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

const READER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));

fn header(kind: Kind) -> Header {
    Header {
        kind,
        flags: 0,
        key_id: 0,
        epoch: 0x0102_0304_0506_0708,
        sequence: 9,
        sender: IpAddr::from([10, 77, 0, 1]),
    }
}

fn identity() -> Identity {
    Identity {
        host_name: "heron".to_owned(),
        boot_id: [0xb0; 16],
        period_ms: 1000,
        addresses: vec![IpAddr::from([10, 77, 0, 1]), "fd77::1".parse().unwrap()],
    }
}

fn machine() -> Machine {
    Machine {
        arch: "x86_64".to_owned(),
        kernel_release: "6.18.0".to_owned(),
        cpu_model: "Imaginary 3000".to_owned(),
        cpu_features: 0xfeed_beef,
        online_cpus: 8,
        om_version: "0.1.0".to_owned(),
    }
}

fn capacity() -> Capacity {
    Capacity {
        effective_cpus_milli: 7_500,
        speed: 1_050,
        mem_total_kib: Some(16_000_000),
        swap_total_kib: None,
    }
}

fn load() -> Load {
    Load {
        runnable: Some(3),
        exported_milli: Some(4_200),
        smoothed_milli: Some(2_900),
        busy_permille: Some(377),
        steal_permille: Some(0),
        psi_cpu_some_us: Some(123_456_789),
        psi_memory_some_us: None,
        psi_io_some_us: Some(5),
        processes: Some(211),
    }
}

fn memory() -> Memory {
    Memory { available_kib: Some(12_345_678), swap_free_kib: None }
}

fn migration() -> Migration {
    Migration {
        guests: 2,
        guest_limit: 64,
        own_jobs: 5,
        block: false,
        stay: true,
        expel: false,
        bring: false,
    }
}

fn answer() -> Answer {
    Answer {
        nonce: 77,
        accepted: false,
        reason: "memory is short".to_owned(),
        movable_milli: 2_000,
        background_milli: 150,
        effective_cpus_milli: 1_000,
        speed: 990,
        promise_ms: 3_000,
    }
}

/// Writes a datagram by `fill` and gives its bytes.
/// Writes a datagram; if it is of a kind that is for one node, for [`READER`].
fn write(kind: Kind, keys: &ClusterKeys, fill: impl Fn(&mut DatagramWriter<'_>)) -> Vec<u8> {
    let mut buffer = [0; MAX_DATAGRAM];
    let mut writer = DatagramWriter::new(&mut buffer, header(kind));
    fill(&mut writer);
    writer.finish_for(keys, READER).to_vec()
}

fn full_report(keys: &ClusterKeys) -> Vec<u8> {
    write(Kind::Report, keys, |writer| {
        writer.section(&identity()).unwrap();
        writer.section(&machine()).unwrap();
        writer.section(&capacity()).unwrap();
        writer.section(&load()).unwrap();
        writer.section(&memory()).unwrap();
        writer.section(&migration()).unwrap();
    })
}

fn challenge() -> Challenge {
    Challenge { nonce: [1, 2, 3, 4, 5, 6, 7, 8] }
}

fn offer_ask(writer: &mut DatagramWriter<'_>) {
    let ask = Ask {
        nonce: 77,
        rss_bytes: 64 << 20,
        runnable_milli: 4_000,
        cpu_features: 0xfeed_beef,
        coming_home: false,
    };
    writer.section(&ask).unwrap();
}

/// Every kind of datagram that has been released, and the bytes it has been since. A difference means that nodes
/// of the last release would not understand this one: never write a golden file anew, add a section instead.
/// `OM_NEW_GOLDEN=1` writes files that do not exist yet.
#[test]
fn the_bytes_are_those_of_every_release() {
    let keys = ClusterKeys::for_tests(&[7]);
    let datagrams = [
        ("report", full_report(&keys)),
        ("report-unsigned", full_report(&ClusterKeys::none())),
        ("ask", write(Kind::Ask, &keys, |_| {})),
        ("goodbye", write(Kind::Goodbye, &keys, |_| {})),
        ("offer-ask", write(Kind::OfferAsk, &keys, offer_ask)),
        ("offer-answer", write(Kind::OfferAnswer, &keys, |writer| writer.section(&answer()).unwrap())),
        (
            "offer-invite",
            write(Kind::OfferInvite, &keys, |writer| writer.section(&Invite { figures: answer() }).unwrap()),
        ),
        ("challenge", write(Kind::Ask, &keys, |writer| writer.section(&challenge()).unwrap())),
        (
            "offer-challenge",
            write(Kind::OfferChallenge, &keys, |writer| writer.section(&challenge()).unwrap()),
        ),
        (
            "echo",
            write(Kind::Report, &keys, |writer| {
                writer.section(&memory()).unwrap();
                writer.section(&Echo { nonces: vec![challenge().nonce, [8; 8]] }).unwrap();
            }),
        ),
    ];
    for (name, bytes) in datagrams {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}-1.bin"));
        if !path.exists() && std::env::var_os("OM_NEW_GOLDEN").is_some() {
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "{name}");
        assert!(Datagram::decode_for(&bytes, &keys, READER).is_ok(), "{name}");
    }
}

#[test]
fn what_changes_each_period_takes_few_bytes() {
    let bytes = write(Kind::Report, &ClusterKeys::for_tests(&[7]), |writer| {
        writer.section(&load()).unwrap();
        writer.section(&memory()).unwrap();
        writer.section(&migration()).unwrap();
    });
    assert!(bytes.len() <= 125, "{}", bytes.len());
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
        .prop_map(|address| address.to_canonical())
}

fn identities() -> impl Strategy<Value = Identity> {
    (".{0,64}", any::<[u8; 16]>(), any::<u32>(), prop::collection::vec(addresses(), 0..16)).prop_map(
        |(host_name, boot_id, period_ms, addresses)| Identity { host_name, boot_id, period_ms, addresses },
    )
}

fn loads() -> impl Strategy<Value = Load> {
    type Counts = (Option<u32>, Option<u32>, Option<u32>, Option<u32>);
    type Totals = (Option<u64>, Option<u64>, Option<u64>);
    (any::<Counts>(), any::<(Option<u16>, Option<u16>)>(), any::<Totals>()).prop_map(
        |(counts, shares, totals)| Load {
            runnable: counts.0,
            exported_milli: counts.1,
            smoothed_milli: counts.2,
            busy_permille: shares.0,
            steal_permille: shares.1,
            psi_cpu_some_us: totals.0,
            psi_memory_some_us: totals.1,
            psi_io_some_us: totals.2,
            processes: counts.3,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        identity in identities(),
        load in loads(),
        sender in addresses(),
        (epoch, sequence) in any::<(u64, u64)>(),
        seeds in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let keys = ClusterKeys::for_tests(&seeds);
        let header = Header { sender, epoch, sequence, ..header(Kind::Report) };
        let mut buffer = [0; MAX_DATAGRAM];
        let mut writer = DatagramWriter::new(&mut buffer, header);
        writer.section(&identity).unwrap();
        writer.section(&load).unwrap();
        let datagram = Datagram::decode(writer.finish(&keys), &keys).unwrap();
        prop_assert_eq!(datagram.header, Header { key_id: keys.signing_id(), ..header });
        prop_assert_eq!(datagram.authenticated, !seeds.is_empty());
        prop_assert_eq!(datagram.section(), Some(identity));
        prop_assert_eq!(datagram.section(), Some(load));
        prop_assert_eq!(datagram.section::<Machine>(), None);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..1300),
        keep in 0usize..HEADER_LEN,
        keyed in any::<bool>(),
    ) {
        let keys = if keyed { ClusterKeys::for_tests(&[7]) } else { ClusterKeys::none() };
        // Random bytes alone would never get past the magic number.
        let mut likely = full_report(&ClusterKeys::none());
        likely.truncate(keep);
        likely.extend(&bytes);
        for bytes in [&bytes, &likely] {
            if let Ok(datagram) = Datagram::decode(bytes, &keys) {
                read_everything(&datagram);
            }
        }
    }

    #[test]
    fn a_damaged_section_never_hurts(at in HEADER_LEN..200, value in any::<u8>()) {
        let mut bytes = full_report(&ClusterKeys::none());
        bytes[at] = value;
        if let Ok(datagram) = Datagram::decode(&bytes, &ClusterKeys::none()) {
            read_everything(&datagram);
        }
    }

    #[test]
    fn any_change_to_a_signed_datagram_is_noticed(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let keys = ClusterKeys::for_tests(&[7]);
        let mut bytes = full_report(&keys);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // A changed key id may become 0, "unsigned", but never with a MAC behind it.
        prop_assert!(Datagram::decode(&bytes, &keys).is_err());
    }

    #[test]
    fn a_truncated_datagram_is_refused(length in any::<prop::sample::Index>()) {
        let keys = ClusterKeys::for_tests(&[7]);
        let bytes = full_report(&keys);
        let length = length.index(bytes.len());
        prop_assert!(Datagram::decode(&bytes[..length], &keys).is_err());
    }
}

fn read_everything(datagram: &Datagram<'_>) {
    let _ = datagram.sections().count();
    let _ = datagram.section::<Identity>();
    let _ = datagram.section::<Machine>();
    let _ = datagram.section::<Capacity>();
    let _ = datagram.section::<Load>();
    let _ = datagram.section::<Memory>();
    let _ = datagram.section::<Migration>();
    let _ = datagram.section::<Ask>();
    let _ = datagram.section::<Answer>();
    let _ = datagram.section::<Invite>();
}

/// `Memory` as some later release may have it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct GrownMemory {
    available_kib: Option<u64>,
    swap_free_kib: Option<u64>,
    huge_pages_kib: Option<u64>,
}

impl Section for GrownMemory {
    const TAG: u16 = tag::MEMORY;

    fn decode(body: &[u8]) -> Option<Self> {
        let (old, rest): (Memory, _) = postcard::take_from_bytes(body).ok()?;
        let huge_pages_kib = postcard::take_from_bytes(rest).ok().and_then(|(value, _)| value);
        Some(Self { available_kib: old.available_kib, swap_free_kib: old.swap_free_kib, huge_pages_kib })
    }
}

/// A section that this release does not have.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Weather(u32);

impl Section for Weather {
    const TAG: u16 = 999;
}

#[test]
fn an_old_reader_understands_a_new_writer() {
    let keys = ClusterKeys::for_tests(&[7]);
    let bytes = write(Kind::Report, &keys, |writer| {
        writer.section(&Weather(21)).unwrap();
        writer
            .section(&GrownMemory { available_kib: Some(1), swap_free_kib: Some(2), huge_pages_kib: Some(3) })
            .unwrap();
        writer.section(&load()).unwrap();
    });
    let datagram = Datagram::decode(&bytes, &keys).unwrap();
    assert_eq!(datagram.section(), Some(Memory { available_kib: Some(1), swap_free_kib: Some(2) }));
    assert_eq!(datagram.section(), Some(load()));
}

#[test]
fn a_new_reader_understands_an_old_writer() {
    let keys = ClusterKeys::for_tests(&[7]);
    let bytes = write(Kind::Report, &keys, |writer| writer.section(&memory()).unwrap());
    let datagram = Datagram::decode(&bytes, &keys).unwrap();
    let grown = GrownMemory { available_kib: Some(12_345_678), swap_free_kib: None, huge_pages_kib: None };
    assert_eq!(datagram.section(), Some(grown));
    assert_eq!(datagram.section::<Weather>(), None);
}

#[test]
fn of_a_section_that_comes_twice_the_first_counts() {
    let keys = ClusterKeys::none();
    let bytes = write(Kind::Report, &keys, |writer| {
        writer.section(&memory()).unwrap();
        writer.section(&Memory { available_kib: Some(1), swap_free_kib: None }).unwrap();
    });
    assert_eq!(Datagram::decode(&bytes, &keys).unwrap().section(), Some(memory()));
}

#[test]
fn what_is_full_is_refused_and_the_rest_is_still_good() {
    let keys = ClusterKeys::for_tests(&[7]);
    let long = Identity { host_name: "x".repeat(900), ..identity() };
    let bytes = write(Kind::Report, &keys, |writer| {
        writer.section(&long).unwrap();
        assert_eq!(writer.section(&long).unwrap_err().tag, tag::IDENTITY);
        writer.section(&memory()).unwrap();
    });
    assert!(bytes.len() <= MAX_DATAGRAM);
    let datagram = Datagram::decode(&bytes, &keys).unwrap();
    assert_eq!(datagram.sections().count(), 2);
    assert_eq!(datagram.section(), Some(memory()));
}

#[test]
fn each_broken_rule_has_its_name() {
    let keys = ClusterKeys::for_tests(&[7]);
    let good = full_report(&keys);
    let unsigned = full_report(&ClusterKeys::none());
    let refused = |bytes: &[u8]| Datagram::decode(bytes, &keys).map(drop).unwrap_err();
    let changed = |bytes: &[u8], at: usize, to: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = to;
        bytes
    };
    assert_eq!(refused(&[]), Reject::TooShort);
    assert_eq!(refused(&good[..HEADER_LEN + MAC_LEN - 1]), Reject::TooShort);
    assert_eq!(refused(&[0; MAX_DATAGRAM + 1]), Reject::TooLong);
    assert_eq!(refused(&changed(&good, 0, b'x')), Reject::BadMagic);
    assert_eq!(refused(&changed(&good, 4, 2)), Reject::OtherVersion);
    assert_eq!(refused(&changed(&good, 5, 99)), Reject::UnknownKind);
    assert_eq!(refused(&full_report(&ClusterKeys::for_tests(&[8]))), Reject::UnknownKey);
    assert_eq!(refused(&changed(&good, 30, 1)), Reject::BadMac);
    let last = unsigned.len() - 1;
    assert_eq!(refused(&changed(&unsigned, last, 1)), Reject::BadMac);
    assert_eq!(refused(&changed(&unsigned, HEADER_LEN + 2, 255)), Reject::TruncatedSection);
}

#[test]
fn what_is_signed_for_one_node_is_worthless_on_another_and_to_its_sender() {
    let keys = ClusterKeys::for_tests(&[7]);
    let elsewhere = IpAddr::from([10, 77, 0, 3]);
    for kind in [Kind::OfferAsk, Kind::OfferAnswer, Kind::OfferInvite, Kind::OfferChallenge] {
        let bytes = write(kind, &keys, |_| {});
        assert!(Datagram::decode_for(&bytes, &keys, READER).is_ok());
        for reader in [elsewhere, header(kind).sender] {
            assert_eq!(Datagram::decode_for(&bytes, &keys, reader).unwrap_err(), Reject::BadMac);
        }
    }
    for kind in [Kind::Report, Kind::Ask, Kind::Goodbye] {
        assert!(Datagram::decode_for(&write(kind, &keys, |_| {}), &keys, elsewhere).is_ok());
    }
}

#[test]
fn a_reader_without_a_key_takes_everything_as_unauthenticated() {
    let bytes = full_report(&ClusterKeys::for_tests(&[7]));
    assert!(!Datagram::decode(&bytes, &ClusterKeys::none()).unwrap().authenticated);
    let bytes = full_report(&ClusterKeys::none());
    assert!(!Datagram::decode(&bytes, &ClusterKeys::for_tests(&[7])).unwrap().authenticated);
}

#[test]
fn during_a_change_of_keys_both_are_understood() {
    let both = ClusterKeys::for_tests(&[8, 7]);
    for signed_by in [7, 8] {
        let bytes = full_report(&ClusterKeys::for_tests(&[signed_by]));
        assert!(Datagram::decode(&bytes, &both).unwrap().authenticated);
    }
}

#[test]
fn a_huge_list_of_addresses_is_refused_without_memory_for_it() {
    // host name "", boot id, period 0, and then 2^28-1 addresses announced, one byte of them sent.
    let mut body = vec![0];
    body.extend([0; 16]);
    body.extend([0, 0xff, 0xff, 0xff, 0x7f, 0]);
    assert!(Identity::decode(&body).is_none());
    let many = Echo { nonces: vec![[7; 8]; ECHO_LIMIT + 1] };
    assert!(Echo::decode(&postcard::to_allocvec(&many).unwrap()).is_none());
    assert!(Echo::decode(&[0xff, 0xff, 0xff, 0x7f, 0]).is_none());
    let many = Identity { addresses: vec![IpAddr::from([0; 4]); 33], ..identity() };
    assert!(Identity::decode(&postcard::to_allocvec(&many).unwrap()).is_none());
}
