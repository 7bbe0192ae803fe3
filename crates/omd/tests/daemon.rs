//! The real binary, heard over the loopback interface.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use om_proto::key::ClusterKeys;
use om_proto::net::{Interface, Listener, Selection, Speaker};
use om_proto::report::{Capacity, Identity, Load, Machine, Migration};
use om_proto::wire::{Datagram, DatagramWriter, Header, Kind, MAX_DATAGRAM};

/// Longer than anything takes even on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);
const KEY: &str = "0707070707070707070707070707070707070707070707070707070707070707\n";

/// A UDP port that nobody uses now.
fn free_port() -> u16 {
    UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

fn keys() -> ClusterKeys {
    ClusterKeys::for_tests(&[7])
}

/// A directory with a configuration and a key for a daemon of the loopback interface.
struct Place {
    dir: tempfile::TempDir,
    port: u16,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), port: free_port() };
        place.write_key(KEY, 0o600);
        place.configure("period = 0.2");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_key(&self, text: &str, mode: u32) {
        fs::write(self.path("key"), text).unwrap();
        fs::set_permissions(self.path("key"), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "port = {}\ninterfaces = [\"lo\"]\nspeed = 1234\nkey-file = {:?}\nom-root = {:?}\n{more}\n",
            self.port,
            self.path("key"),
            self.path("om"),
        );
        fs::write(self.path("omd.toml"), text).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_omd"));
        command.arg("--config").arg(self.path("omd.toml")).stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Daemon {
        Daemon(Some(self.command().spawn().unwrap()))
    }

    /// Runs the daemon until it stops by itself.
    fn output(&self, argument: &str) -> Output {
        self.command().arg(argument).output().unwrap()
    }

    fn ear(&self) -> Ear {
        Ear { listener: Listener::open(self.port, Selection::Named(vec!["lo".to_owned()])).unwrap() }
    }
}

/// A daemon that is killed at the latest when the test ends.
struct Daemon(Option<Child>);

impl Daemon {
    fn signal(&self, signal: Signal) {
        let pid = self.0.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// Waits for the daemon to stop by itself: its exit status and what it logged.
    fn wait(mut self) -> (Option<i32>, String) {
        let mut child = self.0.take().unwrap();
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (child.wait().unwrap().code(), log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Ear {
    listener: Listener,
}

impl Ear {
    /// The first datagram that `wanted` wants.
    fn wait_for(&self, wanted: impl Fn(&Datagram<'_>) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; MAX_DATAGRAM];
        while Instant::now() < deadline {
            match self.listener.receive(&mut buffer).unwrap() {
                Some((length, _)) => {
                    let bytes = &buffer[..length];
                    if Datagram::decode(bytes, &keys()).is_ok_and(|datagram| wanted(&datagram)) {
                        return bytes.to_vec();
                    }
                }
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("nothing of the kind was heard");
    }

    fn report(&self) -> Vec<u8> {
        self.wait_for(|datagram| datagram.header.kind == Kind::Report)
    }
}

fn loopback() -> Interface {
    Interface::all().unwrap().into_iter().find(|interface| interface.loopback && interface.up).unwrap()
}

fn an_ask(keys: &ClusterKeys) -> Vec<u8> {
    a_datagram(Kind::Ask, IpAddr::V4(Ipv4Addr::UNSPECIFIED), keys)
}

fn a_datagram(kind: Kind, sender: IpAddr, keys: &ClusterKeys) -> Vec<u8> {
    let mut buffer = [0; MAX_DATAGRAM];
    let header = Header { kind, flags: 0, key_id: 0, epoch: 1, sequence: 1, sender };
    DatagramWriter::new(&mut buffer, header).finish(keys).to_vec()
}

#[test]
fn a_daemon_tells_what_its_host_is_like_and_says_goodbye() {
    let place = Place::new();
    let ear = place.ear();
    let daemon = place.start();
    let bytes = ear.report();
    let first = Datagram::decode(&bytes, &keys()).unwrap();
    assert!(first.authenticated);
    assert_eq!(first.header.sender, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let identity: Identity = first.section().unwrap();
    assert_eq!(identity.host_name, fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    assert_eq!((identity.period_ms, identity.addresses[0]), (200, first.header.sender));
    assert_eq!(first.section::<Capacity>().unwrap().speed, 1234);
    assert!(first.section::<Machine>().unwrap().online_cpus > 0);
    assert!(first.section::<Load>().unwrap().runnable.is_some());
    assert_eq!(first.section::<Migration>(), None, "there is no migration daemon");
    let second = ear.report();
    assert!(Datagram::decode(&second, &keys()).unwrap().header.sequence > first.header.sequence);

    daemon.signal(Signal::SIGTERM);
    ear.wait_for(|datagram| datagram.header.kind == Kind::Goodbye);
    let (status, log) = daemon.wait();
    assert_eq!(status, Some(0), "{log}");
}

#[test]
fn a_question_is_answered_in_full_though_the_next_report_is_far_away() {
    let place = Place::new();
    place.configure("period = 60");
    let ear = place.ear();
    let _daemon = place.start();
    ear.report();
    let speaker = Speaker::open(place.port).unwrap();
    // An unsigned one too: tools of ordinary users have no key.
    for keys in [keys(), ClusterKeys::none()] {
        assert_eq!(speaker.multicast(&an_ask(&keys), &[&loopback()]).copies, 1);
        let answer = ear.report();
        assert!(Datagram::decode(&answer, &self::keys()).unwrap().section::<Machine>().is_some());
    }
}

#[test]
fn a_daemon_with_a_migration_daemon_tells_of_it() {
    let place = Place::new();
    let admin = place.path("om/hpc/admin");
    fs::create_dir_all(&admin).unwrap();
    for switch in ["block", "stay", "expel", "bring"] {
        fs::write(admin.join(switch), "0\n").unwrap();
    }
    fs::write(admin.join("block"), "1\n").unwrap();
    for (pid, home) in [(20, "10.9.9.9"), (21, "127.0.0.1")] {
        let dir = place.path(&format!("om/{pid}/om"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("home"), format!("{home}\n")).unwrap();
    }
    let ear = place.ear();
    let _daemon = place.start();
    let bytes = ear.wait_for(|datagram| datagram.section::<Migration>().is_some());
    let migration: Migration = Datagram::decode(&bytes, &keys()).unwrap().section().unwrap();
    assert!(migration.block && !migration.stay);
    assert_eq!((migration.guests, migration.own_jobs), (1, 1));
}

#[test]
fn what_is_sent_to_the_host_alone_is_repeated_for_all_its_listeners() {
    let place = Place::new();
    let ears = [place.ear(), place.ear()];
    let _daemon = place.start();
    ears[0].report();
    let elsewhere = IpAddr::from([10, 8, 8, 8]);
    let speaker = Speaker::open(place.port).unwrap();
    let forged = a_datagram(Kind::Report, IpAddr::from([10, 8, 8, 9]), &ClusterKeys::for_tests(&[8]));
    for bytes in [forged, a_datagram(Kind::Report, elsewhere, &keys())] {
        speaker.unicast(&bytes, IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    }
    for ear in ears {
        let bytes = ear.wait_for(|datagram| datagram.header.sender != IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(Datagram::decode(&bytes, &keys()).unwrap().header.sender, elsewhere);
    }
}

#[test]
fn peers_are_told_one_by_one_and_the_hosts_own_listeners_as_well() {
    let place = Place::new();
    place.configure("period = 0.2\ntransport = \"peers\"\npeers = [\"127.0.0.77\"]\naddress = \"127.0.0.1\"");
    let peer = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 77), place.port)).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let ear = place.ear();
    let _daemon = place.start();
    let mut buffer = [0; MAX_DATAGRAM];
    let length = peer.recv(&mut buffer).unwrap();
    assert!(Datagram::decode(&buffer[..length], &keys()).unwrap().authenticated);
    ear.report();

    // A tool of this host asks its group; the peer hears the question.
    let ask = an_ask(&ClusterKeys::none());
    assert_eq!(Speaker::open(place.port).unwrap().multicast(&ask, &[&loopback()]).copies, 1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let length = peer.recv(&mut buffer).unwrap();
        if buffer[..length] == ask {
            break;
        }
        assert!(Instant::now() < deadline, "the question was not passed on");
    }
}

#[test]
fn who_asks_by_unicast_is_answered_by_unicast() {
    let place = Place::new();
    place.configure("period = 60\naddress = \"127.0.0.1\"");
    let ear = place.ear();
    let _daemon = place.start();
    ear.report();
    let asker = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 78), place.port)).unwrap();
    asker.set_read_timeout(Some(PATIENCE)).unwrap();
    asker.send_to(&an_ask(&keys()), (Ipv4Addr::LOCALHOST, place.port)).unwrap();
    let mut buffer = [0; MAX_DATAGRAM];
    let length = asker.recv(&mut buffer).unwrap();
    assert!(Datagram::decode(&buffer[..length], &keys()).unwrap().section::<Identity>().is_some());
}

#[test]
fn a_new_configuration_is_taken_over_whole_or_not_at_all() {
    let place = Place::new();
    place.configure("period = 0.2");
    let ear = place.ear();
    let daemon = place.start();
    ear.report();
    let period = |wanted: u32| {
        ear.wait_for(|datagram| {
            datagram.section::<Identity>().is_some_and(|identity| identity.period_ms == wanted)
        })
    };
    place.configure("period = 0.3");
    daemon.signal(Signal::SIGHUP);
    period(300);

    place.configure("period = 0.4\nsmoothing = 99");
    daemon.signal(Signal::SIGHUP);
    place.write_key("", 0o644);
    daemon.signal(Signal::SIGHUP);
    ear.report();

    place.write_key(KEY, 0o600);
    place.configure("period = 0.5");
    daemon.signal(Signal::SIGHUP);
    period(500);
    daemon.signal(Signal::SIGINT);
    let (status, log) = daemon.wait();
    assert_eq!(status, Some(0));
    assert!(log.contains("smoothing = 99") && log.contains("stays as it was"), "{log}");
}

#[test]
fn junk_is_counted_and_does_no_harm() {
    let place = Place::new();
    let ear = place.ear();
    let daemon = place.start();
    ear.report();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let good = a_datagram(Kind::Report, IpAddr::from([10, 8, 8, 8]), &ClusterKeys::for_tests(&[8]));
    for length in 0..1400usize {
        let mut bytes = good.clone();
        bytes.resize(length, u8::try_from(length % 251).unwrap());
        socket.send_to(&bytes, (Ipv4Addr::LOCALHOST, place.port)).unwrap();
    }
    ear.report();
    ear.report();
    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.wait();
    assert_eq!(status, Some(0));
    assert!(log.contains("too short") && log.contains("too long"), "{log}");
}

#[test]
fn without_a_key_a_daemon_tells_unsigned() {
    let place = Place::new();
    fs::remove_file(place.path("key")).unwrap();
    let ear = place.ear();
    let _daemon = place.start();
    assert!(!Datagram::decode(&ear.report(), &keys()).unwrap().authenticated);
}

/// Runs a daemon that refuses to run, and checks that it says why in one line.
fn refuses(place: &Place, argument: &str, status: i32, words: &[&str]) {
    let output = place.output(argument);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{log}");
    for word in words {
        assert!(log.contains(word), "{log:?} does not say {word:?}");
    }
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn a_wrong_configuration_is_refused_with_status_78_and_one_line() {
    let place = Place::new();
    place.configure("perod = 1");
    refuses(&place, "--check", 78, &["omd.toml", "line 6", "perod"]);
    place.configure("period = 0\nsmoothing = -1");
    refuses(&place, "--check", 78, &["period = 0", "smoothing = -1"]);
    fs::remove_file(place.path("omd.toml")).unwrap();
    refuses(&place, "--check", 78, &["omd.toml", "No such file"]);
}

#[test]
fn a_key_that_cannot_be_used_is_refused_with_status_78_and_what_to_do() {
    let place = Place::new();
    place.write_key(KEY, 0o644);
    refuses(&place, "--check", 78, &["key", "0644", "chmod"]);
    place.write_key("not a key\n", 0o600);
    refuses(&place, "--check", 78, &["key", "line 1"]);
    place.write_key(KEY, 0o600);
    assert_eq!(place.output("--check").status.code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_told_with_status_1() {
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let place = Place { port: taken.local_addr().unwrap().port(), ..Place::new() };
    place.configure("");
    let (status, log) = place.start().wait();
    assert_eq!(status, Some(1));
    assert!(log.contains(&format!("UDP port {} is taken", place.port)), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn wrong_usage_has_status_2() {
    assert_eq!(Place::new().output("--nonsense").status.code(), Some(2));
}

#[test]
fn the_configuration_in_force_is_printed_with_its_defaults() {
    let place = Place::new();
    let output = place.output("--print-config");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("period = 0.2\n") && text.contains("smoothing = 2.0\n"), "{text}");
}
