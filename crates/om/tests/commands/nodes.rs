//! `nodes`, and the `best` node: the tests are the nodes.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use om_proto::key::ClusterKeys;
use om_proto::net::{Interface, Listener, Selection, Speaker};
use om_proto::proof::{Challenge, Echo};
use om_proto::report::{Capacity, Identity, Load, Machine, Memory, Migration};
use om_proto::wire::{Datagram, DatagramWriter, Header, Kind, MAX_DATAGRAM};
use serde_json::Value;

use crate::place::Place;

const KEY: &str = "0707070707070707070707070707070707070707070707070707070707070707\n";

/// Nodes that answer on the loopback interface.
struct Nodes {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How a node is: its address, load in tasks, whether it migrates.
type Told = (&'static str, u32, bool);

impl Nodes {
    fn start(nodes: &'static [Told]) -> Self {
        let port = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let listener = Listener::open(port, Selection::Named(vec!["lo".into()])).unwrap();
        let told_to_stop = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; MAX_DATAGRAM];
            let mut sequence = 0;
            while !told_to_stop.load(Ordering::Relaxed) {
                match listener.receive(&mut buffer).unwrap() {
                    Some((length, _)) => {
                        let Some(challenge) = question(&buffer[..length]) else { continue };
                        sequence += 1;
                        nodes.iter().for_each(|node| tell(port, *node, sequence, &challenge));
                    }
                    None => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { port, stop, thread: Some(thread) }
    }

    fn arguments(&self) -> Vec<String> {
        vec!["--port".into(), self.port.to_string(), "--interface".into(), "lo".into()]
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn question(bytes: &[u8]) -> Option<Challenge> {
    let datagram = Datagram::decode(bytes, &ClusterKeys::none()).ok()?;
    datagram.section().filter(|_| datagram.header.kind == Kind::Ask)
}

fn tell(port: u16, (address, load, migrates): Told, sequence: u64, challenge: &Challenge) {
    let sender: IpAddr = address.parse().unwrap();
    let header = Header { kind: Kind::Report, flags: 0, key_id: 0, epoch: 1, sequence, sender };
    let mut buffer = [0; MAX_DATAGRAM];
    let mut writer = DatagramWriter::new(&mut buffer, header);
    let host_name = format!("h{}", address.rsplit('.').next().unwrap());
    writer
        .section(&Identity { host_name, boot_id: [7; 16], period_ms: 1000, addresses: vec![sender] })
        .unwrap();
    let machine = Machine {
        arch: "x86_64".into(),
        kernel_release: "6.1".into(),
        cpu_model: "A CPU".into(),
        cpu_features: 255,
        online_cpus: 4,
        om_version: "0.1.0".into(),
    };
    writer.section(&machine).unwrap();
    let capacity = Capacity {
        effective_cpus_milli: 1500,
        speed: 1000,
        mem_total_kib: Some(4 << 20),
        swap_total_kib: None,
    };
    writer.section(&capacity).unwrap();
    let load = Load {
        runnable: Some(load),
        exported_milli: Some(load * 1000),
        smoothed_milli: Some(load * 1000),
        busy_permille: Some(500),
        steal_permille: None,
        psi_cpu_some_us: None,
        psi_memory_some_us: None,
        psi_io_some_us: None,
        processes: Some(9),
    };
    writer.section(&load).unwrap();
    writer.section(&Echo { nonces: vec![challenge.nonce] }).unwrap();
    writer.section(&Memory { available_kib: Some(1 << 20), swap_free_kib: None }).unwrap();
    if migrates {
        let migration = Migration {
            guests: 1,
            guest_limit: 64,
            own_jobs: 2,
            block: false,
            stay: false,
            expel: false,
            bring: false,
        };
        writer.section(&migration).unwrap();
    }
    let loopback = Interface::all().unwrap().into_iter().find(|interface| interface.loopback).unwrap();
    let keys = ClusterKeys::for_tests(&[7]);
    let sent = Speaker::open(port).unwrap().multicast(writer.finish(&keys), &[&loopback]);
    assert!(sent.failure.is_none());
}

fn om(place: &Place, words: &[&str], nodes: &Nodes, more: &[&str]) -> (i32, String, String) {
    let arguments = nodes.arguments();
    let arguments: Vec<&str> = words
        .iter()
        .copied()
        .chain(arguments.iter().map(String::as_str))
        .chain(more.iter().copied())
        .collect();
    place.om(&arguments)
}

#[test]
fn nodes_answer_at_once_and_are_listed() {
    let nodes = Nodes::start(&[("127.0.0.1", 2, true), ("10.77.0.2", 0, false)]);
    let place = Place::new();
    let no_key = place.path("key");
    let (status, output, error) =
        om(&place, &["nodes", "--wait", "2000"], &nodes, &["--key-file", no_key.to_str().unwrap()]);
    assert_eq!((status, error.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["NODE", "NAME", "AGE"]);
    assert_eq!(lines[1][..2], ["10.77.0.2", "h2"]);
    assert_eq!(lines[1][3..], ["0.00", "1.5", "1000", "1.0G/4.0G", "-", "monitor"]);
    assert_eq!(lines[2][..3], ["127.0.0.1", "*", "h1"]);
    assert_eq!(lines[2][4..], ["2.00", "1.5", "1000", "1.0G/4.0G", "1", "migrates"]);
    assert!(output.ends_with("unverified: this node has no cluster key (om keygen makes one)\n"));
}

#[test]
fn the_key_tells_who_belongs_to_the_cluster() {
    let nodes = Nodes::start(&[("10.77.0.2", 1, true)]);
    let place = Place::new();
    let key_file = place.path("key");
    let listed = |place: &Place| {
        let (_, output, _) = om(
            place,
            &["nodes", "--json", "--wait", "2000"],
            &nodes,
            &["--key-file", key_file.to_str().unwrap()],
        );
        serde_json::from_str::<Value>(&output).unwrap()
    };
    let document = listed(&place);
    let node = &document["nodes"][0];
    assert_eq!((&document["key"], &node["authenticated"]), (&Value::from("none"), &Value::Null));
    assert_eq!((node["load"].as_f64(), node["mem_available_bytes"].as_u64()), (Some(1.0), Some(1 << 30)));
    place.write("key", KEY);
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let document = listed(&place);
    assert_eq!(document["key"], "present");
    assert_eq!(document["nodes"][0]["authenticated"], true);
    place.write("key", &KEY.replace('7', "8"));
    assert_eq!(listed(&place)["nodes"], Value::Array(Vec::new()));
}

#[test]
fn no_node_is_no_failure() {
    let nodes = Nodes::start(&[]);
    let place = Place::new();
    let (status, output, _) = om(&place, &["nodes", "--wait", "10"], &nodes, &[]);
    assert_eq!(status, 0);
    assert!(output.starts_with("no node is heard"), "{output}");
}

struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn following_gives_a_line_of_json_each_second() {
    let nodes = Nodes::start(&[("10.77.0.2", 1, true)]);
    let place = Place::new();
    let mut command = place.command(&["nodes", "--json", "--follow", "--wait", "2000"]);
    let mut following = Following(command.args(nodes.arguments()).stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(following.0.stdout.take().unwrap()).lines();
    let ages: Vec<u64> = lines
        .take(2)
        .map(|line| {
            let document: Value = serde_json::from_str(&line.unwrap()).unwrap();
            document["nodes"][0]["heard_ms_ago"].as_u64().unwrap()
        })
        .collect();
    assert!(ages[1] >= ages[0] + 900, "{ages:?}");
}

#[test]
fn a_job_goes_to_the_best_node_or_to_one_by_its_name() {
    let nodes = Nodes::start(&[
        ("127.0.0.1", 3, true),
        ("10.77.0.2", 2, true),
        ("10.77.0.3", 1, true),
        ("10.77.0.4", 0, false),
    ]);
    let place = Place::new();
    place.add_job(42, "127.0.0.1", "home", "", "sort");
    // A machine that is busy with other things may answer too late for one question.
    let moved = |to: &str| {
        (0..10).map(|_| om(&place, &["move", "42", to], &nodes, &[])).find(|(status, ..)| *status == 0)
    };
    assert_eq!(moved("best").unwrap().1, "42: now on 10.77.0.3\n");
    assert_eq!(moved("best").unwrap().1, "42: is on the best node already\n");
    assert_eq!(moved("h2").unwrap().1, "42: now on 10.77.0.2\n");
    let (status, _, error) = om(&place, &["move", "42", "h9"], &nodes, &[]);
    assert_eq!(
        (status, error.as_str()),
        (1, "om: no node called h9 is heard; om nodes shows who is there\n")
    );
}
