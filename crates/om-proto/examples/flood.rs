//! What somebody without the key can say: reports of 10,000 nodes that do not exist, as large as they can be, by turns
//! unsigned and signed with a key of their own, and questions and offers among them.
//!
//! usage: flood SECONDS ADDRESS: tells the group, and ADDRESS alone, on all interfaces, and prints how many datagrams it
//! has sent. `scripts/bench flood` uses it; never let it loose on a network that is not yours.

use std::error::Error;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use om_proto::key::{ClusterKeys, random};
use om_proto::net::{Interface, Selection, Speaker, select};
use om_proto::ports::{INFO_PORT, OFFER_PORT};
use om_proto::proof::Challenge;
use om_proto::report::{Identity, Load, Machine, Memory};
use om_proto::wire::{DatagramWriter, Header, Kind, MAX_DATAGRAM};

const NODES: u32 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds: f64 = arguments.next().ok_or("usage: flood SECONDS ADDRESS")?.parse()?;
    let victim: IpAddr = arguments.next().ok_or("usage: flood SECONDS ADDRESS")?.parse()?;
    let interfaces = Interface::all()?;
    let chosen = select(&interfaces, &Selection::All);
    let speaker = Speaker::open(INFO_PORT)?;
    let offers = UdpSocket::bind("0.0.0.0:0")?;
    let keys = [ClusterKeys::none(), ClusterKeys::for_tests(&random::<1>()?)];
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut sent = 0_u64;
    for sequence in 1.. {
        for node in 0..NODES {
            let keys = &keys[usize::from((sequence + u64::from(node)).is_multiple_of(2))];
            let report = datagram(Kind::Report, node, sequence, keys);
            sent += u64::from(speaker.multicast(&report, &chosen).copies);
            if node.is_multiple_of(10) {
                let question = datagram(Kind::Ask, node, sequence, keys);
                sent += u64::from(speaker.multicast(&question, &chosen).copies);
                sent += u64::from(speaker.unicast(&question, victim).is_ok());
                let offer = datagram(Kind::OfferAsk, node, sequence, keys);
                sent += u64::from(offers.send_to(&offer, (victim, OFFER_PORT)).is_ok());
            }
            if node.is_multiple_of(100) && Instant::now() >= end {
                println!("{sent}");
                return Ok(());
            }
        }
    }
    Ok(())
}

fn datagram(kind: Kind, node: u32, sequence: u64, keys: &ClusterKeys) -> Vec<u8> {
    let sender = IpAddr::from((0x0a63_0000 + node).to_be_bytes());
    let header = Header { kind, flags: 0, key_id: 0, epoch: 1, sequence, sender };
    let mut buffer = [0; MAX_DATAGRAM];
    let mut writer = DatagramWriter::new(&mut buffer, header);
    let long = |what: &str| format!("{what} {node} {}", "x".repeat(64));
    let identity = Identity {
        host_name: long("host"),
        boot_id: [7; 16],
        // Remembered for as long as any can be.
        period_ms: 60_000,
        addresses: vec![sender; 16],
    };
    let machine = Machine {
        arch: long("arch"),
        kernel_release: long("kernel"),
        cpu_model: long("cpu"),
        cpu_features: node.into(),
        online_cpus: 1,
        om_version: long("version"),
    };
    let load = Load {
        runnable: Some(0),
        exported_milli: Some(0),
        smoothed_milli: Some(0),
        busy_permille: Some(0),
        steal_permille: None,
        psi_cpu_some_us: None,
        psi_memory_some_us: None,
        psi_io_some_us: None,
        processes: Some(1),
    };
    let fits = match kind {
        Kind::Report => writer
            .section(&load)
            .and_then(|()| writer.section(&Memory { available_kib: Some(u64::MAX), swap_free_kib: None }))
            .and_then(|()| writer.section(&identity))
            .and_then(|()| writer.section(&machine)),
        _ => writer.section(&Challenge { nonce: u64::from(node).to_le_bytes() }),
    };
    assert_eq!(fits, Ok(()), "a datagram does not fit");
    writer.finish(keys).to_vec()
}
