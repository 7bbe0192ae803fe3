//! The real binary, over the loopback interface: the test is the second node and plain files are the om files.
//!
//! Plain files do what is written into them at once, so a move is over as soon as it was asked for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "shared/told.rs"]
mod told;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use om_proto::key::ClusterKeys;
use om_proto::net::{Interface, Listener, Selection, Speaker, bind_address};
use om_proto::offer::{Answer, Ask};
use om_proto::omfs::{Bounds, JobStat, JobState};
use om_proto::proof::{Challenge, ECHO_LIMIT, Echo, Nonce};
use om_proto::report::Identity;
use om_proto::wire::{Datagram, DatagramWriter, Header, Kind, MAX_DATAGRAM};

use self::told::Told;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
const PATIENCE: Duration = Duration::from_secs(20);

static RIGS: AtomicU32 = AtomicU32::new(0);

/// A directory with a configuration, a key and om files, and the second node's sockets.
struct Rig {
    dir: PathBuf,
    info_port: u16,
    offer_port: u16,
    /// The second node's, unless a scheduler of its own runs there.
    offers: Option<UdpSocket>,
    speaker: Speaker,
    /// What both nodes' omd hears.
    listener: Listener,
    questions: Vec<UdpSocket>,
    loopback: Interface,
    keys: ClusterKeys,
    sequence: u64,
}

impl Rig {
    fn new() -> Self {
        let number = RIGS.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("om-sched-daemon-{}-{number}", std::process::id()));
        for root in ["om", "om-there"] {
            fs::create_dir_all(dir.join(root).join("hpc/admin")).unwrap();
            for switch in ["block", "stay", "expel", "bring"] {
                fs::write(dir.join(root).join("hpc/admin").join(switch), "0\n").unwrap();
            }
        }
        fs::write(dir.join("key"), KEY).unwrap();
        fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
        // Free ports: the kernel gives one, and the same number on the other address is free too.
        let offers = UdpSocket::bind((THERE, 0)).unwrap();
        offers.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let info_port = UdpSocket::bind((HERE, 0)).unwrap().local_addr().unwrap().port();
        let loopback = Interface::all().unwrap().into_iter().find(|interface| interface.loopback).unwrap();
        let named = Selection::Named(vec![loopback.name.clone()]);
        let rig = Self {
            listener: Listener::open(info_port, named).unwrap(),
            questions: [HERE, THERE].map(|address| bind_address(address, 0, info_port).unwrap()).into(),
            speaker: Speaker::open(info_port).unwrap(),
            keys: ClusterKeys::parse(KEY, Path::new("key")).unwrap(),
            dir,
            info_port,
            offer_port: offers.local_addr().unwrap().port(),
            offers: Some(offers),
            loopback,
            sequence: 0,
        };
        rig.configure("");
        rig
    }

    fn configure(&self, more: &str) {
        self.configure_node("om-sched.toml", HERE, "sched.sock", more);
    }

    fn configure_node(&self, file: &str, address: IpAddr, socket: &str, more: &str) {
        let text = format!(
            "key-file = \"{dir}/key\"\nstatus-socket = \"{dir}/{socket}\"\ninterfaces = [\"{lo}\"]\n\
             address = \"{address}\"\ninfo-port = {info}\noffer-port = {offer}\npoll-ms = 200\nbusy-poll-ms = 100\n{more}\n",
            dir = self.dir.display(),
            lo = self.loopback.name,
            info = self.info_port,
            offer = self.offer_port,
        );
        fs::write(self.dir.join(file), text).unwrap();
    }

    /// A job that has computed for two seconds.
    fn add_job(&self, pid: u32) {
        let om = self.dir.join(format!("om/{pid}/om"));
        fs::create_dir_all(&om).unwrap();
        let stat = JobStat {
            job: format!("{pid:032x}"),
            uid: 1000,
            home_pid: pid,
            state: JobState::Running,
            cpu_us: 2_000_000,
            runnable: 1,
            rss_bytes: 4 << 20,
            threads: 1,
            age_ms: 8000,
            since_move_ms: 8000,
            moves_ms: 0,
            bounds: Bounds::default(),
            cpu: om_proto::cpu::Baseline::Native,
            command: "sort big".to_owned(),
        };
        for (file, text) in [
            ("where", "home\n".to_owned()),
            ("stay", String::new()),
            ("lock", "0\n".to_owned()),
            ("nmigs", "0\n".to_owned()),
            ("home", format!("{HERE}\n")),
            ("stat", stat.to_string()),
            ("result", String::new()),
        ] {
            fs::write(om.join(file), text).unwrap();
        }
    }

    fn place(&self, pid: u32) -> String {
        fs::read_to_string(self.dir.join(format!("om/{pid}/om/where"))).unwrap().trim().to_owned()
    }

    fn scheduler(&self, arguments: &[&str]) -> Scheduler {
        Scheduler::start(self.command().args(arguments))
    }

    fn command(&self) -> Command {
        self.command_with("om-sched.toml", "om")
    }

    fn command_with(&self, config: &str, root: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_om-sched"));
        command.arg("--config").arg(self.dir.join(config)).arg("--om-root").arg(self.dir.join(root));
        command.env_remove("OM_ROOT").env("RUST_LOG", "debug");
        command
    }

    /// What the schedulers want to have repeated since the last report.
    fn challenges(&self) -> Vec<Nonce> {
        let mut nonces = Vec::new();
        let mut buffer = [0; MAX_DATAGRAM];
        for socket in self.listener.sockets().chain(&self.questions) {
            while let Ok(length) = socket.recv(&mut buffer) {
                let datagram = Datagram::decode(&buffer[..length], &self.keys).unwrap();
                nonces.extend(datagram.section::<Challenge>().map(|challenge| challenge.nonce));
            }
        }
        nonces.truncate(ECHO_LIMIT);
        nonces
    }

    /// Both nodes' omd: this one loaded, the other idle.
    fn report(&mut self, loaded: u32) {
        let echo = Echo { nonces: self.challenges() };
        for (node, runnable) in [(HERE, loaded), (THERE, 0)] {
            self.sequence += 1;
            let header = Header {
                kind: Kind::Report,
                flags: 0,
                key_id: 0,
                epoch: 1,
                sequence: self.sequence,
                sender: node,
            };
            let mut buffer = [0; MAX_DATAGRAM];
            let mut writer = DatagramWriter::new(&mut buffer, header);
            let told = Told { period: Duration::from_millis(500), ..Told::new(node, runnable) };
            let identity = Identity {
                host_name: "host".into(),
                boot_id: [7; 16],
                period_ms: u32::try_from(told.period.as_millis()).unwrap(),
                addresses: vec![told.address],
            };
            writer.section(&identity).unwrap();
            writer.section(&told.machine).unwrap();
            writer.section(&told.capacity).unwrap();
            writer.section(&told.load).unwrap();
            writer.section(&told.memory).unwrap();
            writer.section(&told.migration.unwrap()).unwrap();
            writer.section(&echo).unwrap();
            let keys = if told.authenticated { &self.keys } else { &ClusterKeys::none() };
            let bytes = writer.finish(keys);
            let sent = self.speaker.multicast(bytes, &[&self.loopback]);
            assert!(sent.copies > 0, "no multicast on the loopback interface: {:?}", sent.failure);
        }
    }

    /// The question that the scheduler has put to the second node, if it has put one.
    fn question(&self) -> Option<Ask> {
        let mut buffer = [0; 1500];
        let length = self.offers.as_ref()?.recv(&mut buffer).ok()?;
        let datagram = Datagram::decode_for(&buffer[..length], &self.keys, THERE).unwrap();
        assert!(datagram.authenticated);
        assert_eq!((datagram.header.kind, datagram.header.sender), (Kind::OfferAsk, HERE));
        Some(datagram.section::<Ask>().unwrap()).filter(|ask| ask.runnable_milli > 0)
    }

    fn answer(&mut self, ask: &Ask, accepted: bool, movable_milli: u32) {
        self.sequence += 1;
        let sequence = self.sequence;
        let header =
            Header { kind: Kind::OfferAnswer, flags: 0, key_id: 0, epoch: 1, sequence, sender: THERE };
        let mut buffer = [0; MAX_DATAGRAM];
        let mut writer = DatagramWriter::new(&mut buffer, header);
        writer
            .section(&Answer {
                nonce: ask.nonce,
                accepted,
                reason: if accepted { String::new() } else { "not today".into() },
                movable_milli,
                background_milli: 0,
                effective_cpus_milli: 1000,
                speed: 1000,
                promise_ms: 3000,
            })
            .unwrap();
        let bytes = writer.finish_for(&self.keys, HERE);
        let to = (HERE, self.offer_port);
        UdpSocket::bind((THERE, 0)).unwrap().send_to(bytes, to).unwrap();
    }

    /// Reports and answers until `done`.
    fn play(&mut self, loaded: u32, movable_milli: u32, mut done: impl FnMut(&Self, Option<&Ask>) -> bool) {
        let start = Instant::now();
        loop {
            self.report(loaded);
            let ask = self.question();
            if let Some(ask) = &ask {
                self.answer(ask, true, movable_milli);
            }
            if done(self, ask.as_ref()) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "nothing happened");
        }
    }

    fn status(&self) -> serde_json::Value {
        self.status_of("sched.sock")
    }

    fn status_of(&self, socket: &str) -> serde_json::Value {
        let mut text = String::new();
        UnixStream::connect(self.dir.join(socket)).unwrap().read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}

struct Scheduler {
    child: Child,
    lines: Receiver<String>,
}

impl Scheduler {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line of the log that contains `text`.
    fn line(&self, text: &str) -> String {
        let start = Instant::now();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            if line.contains(text) {
                return line;
            }
        }
        panic!("'{text}' was not logged");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_job_goes_to_the_idle_node_that_says_yes() {
    let mut rig = Rig::new();
    for pid in [4711, 4712, 4713] {
        rig.add_job(pid);
    }
    let mut scheduler = rig.scheduler(&[]);
    let mut asked = None;
    rig.play(3, 0, |rig, ask| {
        asked = asked.take().or(ask.cloned());
        [4711, 4712, 4713].iter().any(|pid| rig.place(*pid) == THERE.to_string())
    });
    let asked = asked.unwrap();
    assert_eq!((asked.rss_bytes, asked.runnable_milli, asked.coming_home), (4 << 20, 1000, false));
    assert_eq!(asked.cpu_features, 77);
    let line = scheduler.line("moved in");
    assert!(line.contains("(sort big) to 127.0.0.2") && line.contains("; saves all jobs "), "{line}");

    let status = rig.status();
    assert_eq!(status["address"], "127.0.0.1");
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(status["decisions"][0]["outcome"]["state"], "moved");
    assert_eq!(status["jobs"].as_array().unwrap().len(), 3);
    assert!(scheduler.stop().success());
    assert!(!rig.dir.join("sched.sock").exists());
}

#[test]
fn two_schedulers_agree_on_what_moves() {
    let mut rig = Rig::new();
    rig.offers = None;
    rig.configure_node("there.toml", THERE, "there.sock", "");
    for pid in [4711, 4712, 4713] {
        rig.add_job(pid);
    }
    let here = rig.scheduler(&[]);
    let there = Scheduler::start(&mut rig.command_with("there.toml", "om-there"));
    rig.play(3, 0, |rig, _| {
        std::thread::sleep(Duration::from_millis(100));
        [4711, 4712, 4713].iter().any(|pid| rig.place(*pid) == THERE.to_string())
    });
    here.line("moved in");
    there.line("node 127.0.0.1 is there");
    let status = rig.status_of("there.sock");
    assert_eq!(
        (status["address"].as_str(), &status["problem"]),
        (Some("127.0.0.2"), &serde_json::Value::Null)
    );
}

#[test]
fn a_job_stays_if_the_fresh_figures_are_worse_than_the_reports() {
    let mut rig = Rig::new();
    rig.add_job(4711);
    rig.add_job(4712);
    let scheduler = rig.scheduler(&[]);
    let mut asked = false;
    rig.play(2, 5000, |_, ask| {
        asked |= ask.is_some();
        asked
    });
    let line = scheduler.line("dropped");
    assert!(line.contains("on the node's fresh figures nothing is won"), "{line}");
    assert_eq!((rig.place(4711), rig.place(4712)), ("home".into(), "home".into()));
}

#[test]
fn a_dry_run_tells_and_neither_asks_nor_moves() {
    let mut rig = Rig::new();
    rig.add_job(4711);
    rig.add_job(4712);
    let mut scheduler = rig.scheduler(&["--dry-run"]);
    let mut asked = false;
    let start = Instant::now();
    rig.play(2, 0, |_, ask| {
        asked |= ask.is_some();
        start.elapsed() > Duration::from_secs(2)
    });
    assert!(!asked, "a dry run asks nobody");
    assert!(scheduler.line("would move (dry run)").contains("to 127.0.0.2"));
    assert_eq!((rig.place(4711), rig.place(4712)), ("home".into(), "home".into()));
    assert!(scheduler.stop().success());
}

#[test]
fn without_om_files_it_says_so_once_and_goes_on_when_they_come() {
    let mut rig = Rig::new();
    let root = rig.dir.join("om");
    fs::rename(&root, rig.dir.join("away")).unwrap();
    let scheduler = rig.scheduler(&[]);
    let start = Instant::now();
    rig.play(2, 0, |_, _| start.elapsed() > Duration::from_secs(4));
    scheduler.line("nothing is decided: nobody serves the om files of this node; is om-migd running?");
    fs::rename(rig.dir.join("away"), &root).unwrap();
    let start = Instant::now();
    rig.play(2, 0, |_, _| start.elapsed() > Duration::from_secs(1));
    let mut between = Vec::new();
    while let Ok(line) = scheduler.lines.recv_timeout(PATIENCE) {
        if line.contains("deciding again") {
            break;
        }
        between.push(line);
    }
    assert!(!between.iter().any(|line| line.contains("nothing is decided")), "said twice: {between:?}");
}

#[test]
fn a_wrong_configuration_on_sighup_changes_nothing_a_right_one_everything() {
    let mut rig = Rig::new();
    let scheduler = rig.scheduler(&[]);
    rig.report(0);
    scheduler.line("this node is 127.0.0.1");
    rig.configure("policy = \"nonsense\"\nmax-moves = 0");
    scheduler.signal(Signal::SIGHUP);
    let line = scheduler.line("the old configuration goes on");
    assert!(line.contains("unknown policy 'nonsense'") && line.contains("max-moves = 0"), "{line}");
    assert_eq!(rig.status()["policy"], "cost");
    rig.configure("policy = \"none\"");
    scheduler.signal(Signal::SIGHUP);
    scheduler.line("configuration read again, policy none");
    assert_eq!(rig.status()["policy"], "none");
}

#[test]
fn exit_statuses_are_those_of_the_documentation() {
    let rig = Rig::new();
    let run = |arguments: &[&str]| rig.command().args(arguments).output().unwrap();
    assert_eq!(run(&["--check"]).status.code(), Some(0));
    assert_eq!(run(&["--nonsense"]).status.code(), Some(2));
    let printed = run(&["--print-config"]);
    assert!(text(&printed).contains("poll-ms = 200"), "{}", text(&printed));

    rig.configure("history = 0\npolicy = \"mosxi\"");
    for arguments in [&["--check"][..], &[]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(78));
        assert!(text(&output).contains("history = 0: must be 1 to 100000"), "{}", text(&output));
        assert!(
            text(&output).contains("unknown policy 'mosxi'; there are: cost, lifetime"),
            "{}",
            text(&output)
        );
    }
    rig.configure("speed = 3");
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains("om-sched.toml: line 9: unknown field `speed`"), "{}", text(&output));

    rig.configure("");
    fs::set_permissions(rig.dir.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(run(&[]).status.code(), Some(78));
    fs::set_permissions(rig.dir.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
    let _taken = UdpSocket::bind((HERE, rig.offer_port)).unwrap();
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("is in use; does another om-sched run on this node?"),
        "{}",
        text(&output)
    );
}
