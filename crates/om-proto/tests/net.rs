//! Real sockets on the loopback interface.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use om_proto::net::{Interface, Listener, NetError, Selection, Speaker, bind_address};

/// A UDP port that nobody uses now.
fn free_port() -> u16 {
    UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

fn on_loopback() -> Selection {
    Selection::Named(vec!["lo".to_owned()])
}

fn loopback() -> Interface {
    Interface::all().unwrap().into_iter().find(|interface| interface.loopback && interface.up).unwrap()
}

/// Everything that `listener` has heard once `count` datagrams are there, or after a generous time.
fn heard(listener: &Listener, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut all = Vec::new();
    let mut buffer = [0; 1500];
    while all.len() < count && Instant::now() < deadline {
        match listener.receive(&mut buffer).unwrap() {
            Some((length, _)) => all.push(buffer[..length].to_vec()),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    all
}

#[test]
fn several_listeners_on_one_host_all_hear_the_group() {
    let port = free_port();
    let listeners: Vec<Listener> = (0..3).map(|_| Listener::open(port, on_loopback()).unwrap()).collect();
    let speaker = Speaker::open(port).unwrap();
    let sent = speaker.multicast(b"hello", &[&loopback()]);
    assert_eq!((sent.copies, sent.failure.map(|f| f.1.to_string())), (1, None));
    for listener in &listeners {
        assert_eq!(heard(listener, 1), [b"hello".to_vec()]);
    }
}

#[test]
fn what_is_broadcast_is_heard_by_several_listeners_too() {
    let port = free_port();
    let listeners: Vec<Listener> = (0..2).map(|_| Listener::open(port, on_loopback()).unwrap()).collect();
    let mut interface = loopback();
    interface.broadcast = true;
    let sent = Speaker::open(port).unwrap().broadcast(b"hello", &[&interface]);
    assert_eq!((sent.copies, sent.failure.map(|f| f.1.to_string())), (1, None));
    for listener in &listeners {
        assert_eq!(heard(listener, 1), [b"hello".to_vec()]);
    }
}

#[test]
fn what_is_sent_to_the_host_alone_reaches_its_daemon_and_no_listener() {
    let port = free_port();
    let listener = Listener::open(port, on_loopback()).unwrap();
    let daemon = bind_address(IpAddr::V4(Ipv4Addr::LOCALHOST), 0, port).unwrap();
    let speaker = Speaker::open(port).unwrap();
    speaker.unicast(b"for you", IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    daemon.set_nonblocking(false).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(daemon.recv(&mut buffer).unwrap(), 7);
    // Over loopback a datagram has arrived everywhere when send returns.
    assert!(listener.receive(&mut buffer).unwrap().is_none());
}

#[test]
fn a_port_that_is_not_shared_is_told_in_one_line() {
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Listener::open(port, on_loopback()).unwrap_err();
    assert!(matches!(error, NetError::PortInUse { port: p } if p == port), "{error}");
    assert!(!error.to_string().contains('\n') && error.to_string().contains(&port.to_string()));
}

#[test]
fn refreshing_twice_joins_nothing_twice() {
    let mut listener = Listener::open(free_port(), on_loopback()).unwrap();
    let interfaces = Interface::all().unwrap();
    assert!(listener.refresh(&interfaces).is_empty());
    assert!(listener.refresh(&[]).is_empty());
    assert!(listener.refresh(&interfaces).is_empty(), "an interface that came back is no failure");
}
