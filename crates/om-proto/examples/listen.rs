//! How many datagrams a listener digests per second on one core, and how much memory its table takes.
//!
//! A thousand simulated nodes send signed reports, every tenth of them in full, over the loopback interface. A
//! batch is put into the socket's buffer; then the clock runs while the batch is read from the socket, checked,
//! decoded and entered. Prints one JSON object; `scripts/bench listen` makes a table of it.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use om_proto::key::{ClusterKeys, random};
use om_proto::proof::{Challenge, Echo};
use om_proto::report::{Capacity, Identity, Load, Machine, Memory, Migration};
use om_proto::table::NodeTable;
use om_proto::wire::{DatagramWriter, Header, Kind, MAX_DATAGRAM};

const NODES: u32 = 1000;
/// Fits into any socket's buffer.
const BATCH: usize = 100;
/// Each node's reports in one run.
const REPORTS: u64 = 100;
const RUNS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let keys = ClusterKeys::for_tests(&[7]);
    let resident_before = resident_kib()?;
    let mut table = NodeTable::new(random()?);
    let challenge = table.challenge(Duration::ZERO);
    for node in 0..NODES {
        table.receive(Duration::ZERO, &datagram(node, 1, 0, &challenge, &keys), sender(node), &keys)?;
    }
    let table_kib = resident_kib()?.saturating_sub(resident_before);
    black_box(&table);

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = socket.local_addr()?;
    let mut through_socket = Vec::new();
    let mut in_memory = Vec::new();
    for run in 0..RUNS {
        let epoch = 2 + u64::try_from(run)?;
        through_socket.push(rate(epoch * 2, &keys, |batch, table| {
            for bytes in batch {
                socket.send_to(bytes, to)?;
            }
            let mut buffer = [0; MAX_DATAGRAM];
            let start = Instant::now();
            for _ in batch {
                let (length, from) = socket.recv_from(&mut buffer)?;
                table.receive(Duration::ZERO, &buffer[..length], from.ip(), &keys)?;
            }
            Ok(start.elapsed())
        })?);
        in_memory.push(rate(epoch * 2 + 1, &keys, |batch, table| {
            let start = Instant::now();
            for bytes in batch {
                table.receive(Duration::ZERO, bytes, to.ip(), &keys)?;
            }
            Ok(start.elapsed())
        })?);
    }
    println!(
        "{{\"nodes\": {NODES}, \"datagrams_per_s\": {}, \"without_socket_per_s\": {}, \"table_kib\": {table_kib}}}",
        median(through_socket),
        median(in_memory)
    );
    Ok(())
}

/// Datagrams per second of all nodes' reports of one epoch, in batches.
fn rate(
    epoch: u64,
    keys: &ClusterKeys,
    digest: impl Fn(&[Vec<u8>], &mut NodeTable) -> Result<Duration, Box<dyn Error>>,
) -> Result<u64, Box<dyn Error>> {
    let mut table = NodeTable::new(random()?);
    let challenge = table.challenge(Duration::ZERO);
    let mut taken = Duration::ZERO;
    let mut count = 0u64;
    for sequence in 0..REPORTS {
        let reports: Vec<Vec<u8>> =
            (0..NODES).map(|node| datagram(node, epoch, sequence, &challenge, keys)).collect();
        for batch in reports.chunks(BATCH) {
            taken += digest(batch, &mut table)?;
            count += u64::try_from(batch.len())?;
        }
    }
    assert_eq!(table.len(), NODES as usize, "not every node was entered");
    Ok(count * 1_000_000_000 / u64::try_from(taken.as_nanos())?.max(1))
}

fn sender(node: u32) -> IpAddr {
    IpAddr::from((0x0a4d_0000 + node).to_be_bytes())
}

fn datagram(node: u32, epoch: u64, sequence: u64, challenge: &Challenge, keys: &ClusterKeys) -> Vec<u8> {
    let header = Header { kind: Kind::Report, flags: 0, key_id: 0, epoch, sequence, sender: sender(node) };
    let mut buffer = [0; MAX_DATAGRAM];
    let mut writer = DatagramWriter::new(&mut buffer, header);
    let load = Load {
        runnable: Some(node % 9),
        exported_milli: Some(4_000),
        smoothed_milli: Some(3_000),
        busy_permille: Some(500),
        steal_permille: Some(1),
        psi_cpu_some_us: Some(u64::from(node) << 24),
        psi_memory_some_us: Some(u64::from(node)),
        psi_io_some_us: Some(u64::from(node) << 10),
        processes: Some(300),
    };
    let memory = Memory { available_kib: Some(12_000_000), swap_free_kib: Some(0) };
    let migration = Migration {
        guests: 3,
        guest_limit: 64,
        own_jobs: 9,
        block: false,
        stay: false,
        expel: false,
        bring: false,
    };
    let mut fits = writer.section(&load).and_then(|()| writer.section(&memory));
    fits = fits.and_then(|()| writer.section(&migration));
    if sequence == 0 {
        fits = fits.and_then(|()| writer.section(&Echo { nonces: vec![challenge.nonce] }));
    }
    if sequence.is_multiple_of(10) {
        let identity = Identity {
            host_name: format!("node-{node:04}.example.org"),
            boot_id: [7; 16],
            period_ms: 1000,
            addresses: vec![sender(node), IpAddr::from([0xfd; 16])],
        };
        let capacity = Capacity {
            effective_cpus_milli: 8_000,
            speed: 1_000,
            mem_total_kib: Some(16_000_000),
            swap_total_kib: Some(0),
        };
        fits = fits.and_then(|()| writer.section(&identity)).and_then(|()| writer.section(&capacity));
    }
    if sequence.is_multiple_of(30) {
        let machine = Machine {
            arch: "x86_64".to_owned(),
            kernel_release: "6.18.0-amd64".to_owned(),
            cpu_model: "Imaginary Processor 3000 @ 3.00GHz".to_owned(),
            cpu_features: 0x0123_4567_89ab_cdef,
            online_cpus: 8,
            om_version: "0.1.0".to_owned(),
        };
        fits = fits.and_then(|()| writer.section(&machine));
    }
    assert_eq!(fits, Ok(()), "a report does not fit");
    writer.finish(keys).to_vec()
}

fn median(mut rates: Vec<u64>) -> u64 {
    rates.sort_unstable();
    rates[rates.len() / 2]
}

fn resident_kib() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
