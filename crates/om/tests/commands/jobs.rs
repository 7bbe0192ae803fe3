//! `ps`, `move`, `lock`, the switches, `keygen`.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::place::Place;

#[test]
fn jobs_are_listed_own_ones_first_and_guests_are_marked() {
    let place = Place::new();
    place.add_job(4711, "127.0.0.1", "home", "", "sort big");
    place.add_job(42, "127.0.0.1", "10.77.0.2", "mem_lock: 4 KiB are locked\n", "gpg -d x");
    place.add_job(7, "10.77.0.3", "10.77.0.3", "", "xz\t-9");
    let (status, output, error) = place.om(&["ps"]);
    assert_eq!((status, error.as_str()), (0, ""));
    assert_eq!(
        format!("\n{output}"),
        "
 PID  USER  WHERE               STATE        CPU    MEM  MOVES  STAY      COMMAND
  42  root  10.77.0.2           running  1:02.34  12.0M      3  mem_lock  gpg -d x
4711  root  home                running  1:02.34  12.0M      3  -         sort big
   7  root  guest of 10.77.0.3  running  1:02.34  12.0M      3  -         xz -9
"
    );
    assert!(place.om(&["ps", "-a"]).1.contains("mem_lock: 4 KiB are locked"));
}

#[test]
fn jobs_as_json_have_names_with_units() {
    let place = Place::new();
    place.add_job(42, "127.0.0.1", "10.77.0.2", "mem_lock: 4 KiB are locked\n", "gpg -d x");
    let document: Value = serde_json::from_str(&place.om(&["ps", "--json"]).1).unwrap();
    assert_eq!(
        document,
        json!({ "jobs": [{
            "pid": 42, "job": "0000000000000000000000000000002a", "uid": 0, "user": "root", "guest": false,
            "home_address": "127.0.0.1", "where": "10.77.0.2", "state": "running", "cpu_us": 62_340_000,
            "runnable": 2, "rss_bytes": 12 << 20, "threads": 4, "age_ms": 90_000, "since_move_ms": 8000, "moves": 3,
            "last_downtime_ms": 51, "last_result": null, "on": [], "not_on": [], "stay_home": false, "locked": false,
            "stay_reasons": ["mem_lock: 4 KiB are locked"], "command": "gpg -d x",
        }] })
    );
}

#[test]
fn a_kernel_that_tells_little_is_shown_with_gaps() {
    let place = Place::new();
    place.write("om/self/om/where", "home\n");
    place.write("om/9/om/where", "home\n");
    place.write("om/9/om/stay", "monkey\n");
    let (status, output, _) = place.om(&["ps"]);
    assert_eq!(status, 0);
    assert!(output.ends_with("  9  -     home   -        -    -      -  monkey  -\n"), "{output}");
}

#[test]
fn no_jobs_and_no_daemon_are_two_things() {
    let place = Place::new();
    let (status, output, _) = place.om(&["ps"]);
    assert_eq!((status, output.as_str()), (0, "no jobs on this node; om run CMD starts one\n"));
    assert_eq!(place.om(&["ps", "--json"]).1, "{\"jobs\":[]}\n");
    for arguments in [
        &["ps"][..],
        &["block"],
        &["lock", "7"],
        &["move", "7", "home"],
        &["move", "7", "10.0.0.1"],
        &["expel", "--wait"],
    ] {
        let mut all = arguments.to_vec();
        let nowhere = place.path("nowhere");
        all.extend(["--om-root", nowhere.to_str().unwrap()]);
        let (status, output, error) = place.om(&all);
        assert_eq!((status, output.as_str()), (1, ""));
        assert!(error.starts_with("om: nobody serves the om files at "), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn a_move_is_asked_for_and_followed() {
    let place = Place::new();
    place.add_job(42, "127.0.0.1", "home", "", "sort");
    let (status, output, error) = place.om(&["move", "42", "10.77.0.2"]);
    assert_eq!((status, output.as_str(), error.as_str()), (0, "42: now on 10.77.0.2\n", ""));
    assert_eq!(place.read("om/42/om/where"), "10.77.0.2\n");
    assert_eq!(place.om(&["move", "42", "10.77.0.2"]).1, "42: is on 10.77.0.2 already\n");
    assert_eq!(place.om(&["move", "--no-wait", "42", "10.77.0.3"]).1, "42: asked to move to 10.77.0.3\n");
}

/// Plays om-migd: once the request is there, the job is on its way, and then what `end` says.
fn serve_move(place: &Place, end: [(&'static str, &'static str); 2]) -> thread::JoinHandle<()> {
    let dir = place.path("om/42/om");
    thread::spawn(move || {
        while fs::read_to_string(dir.join("where")).unwrap() != "10.77.0.2\n" {
            thread::sleep(Duration::from_millis(1));
        }
        for (file, text) in [[("where", "migrating\n"); 1].as_slice(), &end].concat() {
            fs::write(dir.join(format!("{file}.new")), text).unwrap();
            fs::rename(dir.join(format!("{file}.new")), dir.join(file)).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    })
}

#[test]
fn a_refusal_that_comes_late_is_told_with_its_reason() {
    let place = Place::new();
    place.add_job(42, "127.0.0.1", "10.77.0.9", "", "sort");
    // Not seen as arrived: the file is replaced before the first look, or the test would prove nothing.
    let end = [("result", "failed 10.77.0.2 too little memory there\n"), ("where", "10.77.0.9\n")];
    let server = serve_move(&place, end);
    let (status, output, error) = place.om(&["move", "42", "10.77.0.2"]);
    server.join().unwrap();
    if output.is_empty() {
        assert_eq!((status, error.as_str()), (1, "om: 42: stays on 10.77.0.9: too little memory there\n"));
    } else {
        assert_eq!(output, "42: now on 10.77.0.2\n");
    }
}

#[test]
fn what_cannot_be_moved_is_said() {
    let place = Place::new();
    let (status, _, error) = place.om(&["move", "99", "home"]);
    assert_eq!((status, error.as_str()), (1, "om: 99: no such job on this node; om ps lists them\n"));
    place.add_job(42, "127.0.0.1", "home", "", "sort");
    for word in ["10.0.0.1 ", "10.77.0.300", "10.77", "fe80::1%eth0", "", "a b"] {
        let (status, _, error) = place.om(&["move", "42", word]);
        assert_eq!(status, 2);
        assert!(error.contains("is no address, no node's name"), "{error}");
    }
    assert_eq!(place.om(&["lock", "99"]).0, 1);
}

#[test]
fn a_job_is_pinned_and_let_go() {
    let place = Place::new();
    place.add_job(42, "127.0.0.1", "home", "", "sort");
    assert_eq!(place.om(&["lock", "42"]), (0, String::new(), String::new()));
    assert_eq!(place.read("om/42/om/lock"), "1\n");
    assert!(place.om(&["ps"]).1.contains("  locked  "));
    assert_eq!(place.om(&["unlock", "42"]).0, 0);
    assert_eq!(place.read("om/42/om/lock"), "0\n");
}

#[test]
fn the_switches_are_thrown() {
    let place = Place::new();
    for switch in ["block", "stay", "expel", "bring"] {
        let file = format!("om/hpc/admin/{switch}");
        assert_eq!(place.om(&[switch]), (0, String::new(), String::new()));
        assert_eq!(place.read(&file), "1\n");
        assert_eq!(place.om(&[switch, "show"]).1, "on\n");
        assert_eq!(place.om(&[switch, "off"]).0, 0);
        assert_eq!((place.read(&file).as_str(), place.om(&[switch, "show"]).1.as_str()), ("0\n", "off\n"));
    }
}

#[test]
fn waiting_ends_when_the_last_guest_has_left() {
    let place = Place::new();
    place.add_job(7, "10.77.0.3", "10.77.0.3", "", "xz");
    place.add_job(42, "127.0.0.1", "home", "", "sort");
    let guest = place.path("om/7");
    let leaver = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        fs::remove_dir_all(guest).unwrap();
    });
    assert_eq!(place.om(&["expel", "--wait"]), (0, String::new(), String::new()));
    assert!(!place.path("om/7/om").exists());
    leaver.join().unwrap();
    assert_eq!(place.om(&["bring", "--wait"]).0, 0);
}

#[test]
fn a_key_is_made_once() {
    let place = Place::new();
    let file = place.path("etc/key");
    let arguments = ["keygen", "--file", file.to_str().unwrap()];
    assert_eq!(place.om(&arguments).0, 0);
    let (status, _, error) = place.om(&arguments);
    assert_eq!(status, 1);
    assert!(error.contains("there is a key already"), "{error}");
}
