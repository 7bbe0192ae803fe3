//! The accessors of the om files against a root made of plain files.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use om_proto::cpu::Baseline;
use om_proto::omfs::{Admin, Destination, MoveResult, OmError, OmRoot, Progress, Switch, Where};

fn put(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn a_root() -> (tempfile::TempDir, OmRoot) {
    let dir = tempfile::tempdir().unwrap();
    for switch in Switch::ALL {
        put(dir.path(), &format!("hpc/admin/{}", switch.name()), "0\n");
    }
    let root = OmRoot::discover(Some(dir.path()));
    (dir, root)
}

fn node(text: &str) -> Destination {
    text.parse().unwrap()
}

#[test]
fn processes_come_in_order_and_other_entries_are_passed_over() {
    let (dir, root) = a_root();
    for file in ["30/om/where", "4/om/where", "100/om/where", "007/om/where", "-1/om/where"] {
        put(dir.path(), file, "home\n");
    }
    put(dir.path(), "5/status", "no om files\n");
    assert_eq!(root.pids().unwrap(), [4, 30, 100]);
}

#[test]
fn a_node_tells_what_its_jobs_may_use_of_cpus_if_that_is_configured_at_all() {
    let (dir, root) = a_root();
    assert_eq!(root.cpu_baseline().unwrap(), None);
    put(dir.path(), "hpc/admin/cpu_baseline", "x86-64-v2\n");
    assert_eq!(root.cpu_baseline().unwrap(), Some(Baseline::X86(2)));
    put(dir.path(), "hpc/admin/cpu_baseline", "pentium\n");
    let error = root.cpu_baseline().unwrap_err().to_string();
    assert!(error.contains("hpc/admin/cpu_baseline") && error.contains("pentium"), "{error}");
}

#[test]
fn a_kernel_that_calls_the_directory_pms_is_read_as_well() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "self/pms/where", "home\n");
    put(dir.path(), "12/pms/where", "10.0.0.7\n");
    put(dir.path(), "12/pms/stay", "monkey\nclone_vm\n");
    let root = OmRoot::discover(Some(dir.path()));
    assert_eq!(root.pids().unwrap(), [12]);
    assert_eq!(root.process(12).where_is().unwrap(), Where::At(IpAddr::from([10, 0, 0, 7])));
    assert_eq!(root.process(12).stay_reasons().unwrap(), ["monkey", "clone_vm"]);
}

#[test]
fn what_a_kernel_of_2_6_lacks_is_told_from_a_process_that_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "self/om/where", "home\n");
    put(dir.path(), "12/om/where", "home\n");
    let root = OmRoot::discover(Some(dir.path()));
    let old = root.process(12);
    assert!(!old.locked().unwrap());
    assert_eq!(old.result().unwrap(), None);
    assert!(matches!(old.set_locked(true), Err(OmError::Unsupported { .. })));
    assert!(matches!(old.stat(), Err(OmError::Unsupported { .. })));
    assert!(matches!(old.nmigs(), Err(OmError::Unsupported { .. })));
    assert!(matches!(root.process(13).stat(), Err(OmError::Gone { .. })));
    assert!(!root.available());
}

#[test]
fn a_request_ends_in_exactly_one_newline_and_ipv6_is_in_full() {
    let (dir, root) = a_root();
    for (wanted, written) in [
        ("home", "home\n"),
        ("10.77.0.2", "10.77.0.2\n"),
        ("fd77::2", "fd77:0000:0000:0000:0000:0000:0000:0002\n"),
    ] {
        put(dir.path(), "9/om/where", "");
        root.process(9).request(node(wanted)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("9/om/where")).unwrap(), written);
    }
}

#[test]
fn nobody_serving_is_told_from_nobody_there() {
    let (_dir, root) = a_root();
    assert!(matches!(root.process(9).where_is(), Err(OmError::Gone { .. })));
    assert!(matches!(root.process(9).request(Destination::Home), Err(OmError::Gone { .. })));

    let empty = tempfile::tempdir().unwrap();
    let root = OmRoot::discover(Some(empty.path()));
    assert!(!root.available());
    assert!(matches!(root.process(9).where_is(), Err(OmError::NoDaemon { .. })));
    assert!(matches!(root.admin(), Err(OmError::NoDaemon { .. })));

    let root = OmRoot::discover(Some(&empty.path().join("missing")));
    let error = root.pids().unwrap_err();
    assert!(matches!(error, OmError::NoDaemon { .. }));
    assert!(error.is_retriable());
}

#[test]
fn nonsense_in_a_file_is_reported_with_the_file_and_the_nonsense() {
    let (dir, root) = a_root();
    put(dir.path(), "9/om/where", "mars\u{1b}[2J\n");
    let error = root.process(9).where_is().unwrap_err();
    assert!(matches!(error, OmError::Unparseable { .. }));
    let text = error.to_string();
    assert!(text.contains("9/om/where") && text.contains("mars\\u{1b}"), "{text}");

    put(dir.path(), "9/om/lock", "yes\n");
    assert!(matches!(root.process(9).locked(), Err(OmError::Unparseable { .. })));
    fs::write(dir.path().join("9/om/nmigs"), b"\xff\n").unwrap();
    assert!(matches!(root.process(9).nmigs(), Err(OmError::Unparseable { .. })));
}

#[test]
fn the_other_files_say_what_they_say() {
    let (dir, root) = a_root();
    put(dir.path(), "9/om/nmigs", "3\n");
    put(dir.path(), "9/om/home", "::ffff:10.77.0.1\n");
    put(dir.path(), "9/om/lock", "0\n");
    put(dir.path(), "9/om/result", "failed 10.77.0.2 target: memory is short\n");
    let job = root.process(9);
    assert_eq!(job.nmigs().unwrap(), 3);
    assert_eq!(job.home().unwrap(), IpAddr::from([10, 77, 0, 1]));
    job.set_locked(true).unwrap();
    assert!(job.locked().unwrap());
    let to = IpAddr::from([10, 77, 0, 2]);
    let reason = "target: memory is short".to_owned();
    assert_eq!(job.result().unwrap(), Some(MoveResult::Failed { to, reason }));
    put(dir.path(), "9/om/result", "");
    assert_eq!(job.result().unwrap(), None);
}

#[test]
fn the_switches_are_read_and_thrown() {
    let (_dir, root) = a_root();
    assert!(root.available());
    assert_eq!(root.admin().unwrap(), Admin::default());
    root.set_admin(Switch::Block, true).unwrap();
    root.set_admin(Switch::Bring, true).unwrap();
    assert_eq!(root.admin().unwrap(), Admin { block: true, bring: true, ..Admin::default() });
}

#[test]
fn progress_tells_arrival_transit_and_why_nothing_moves() {
    let (dir, root) = a_root();
    put(dir.path(), "9/om/where", "home\n");
    put(dir.path(), "9/om/stay", "mem_lock\n");
    let job = root.process(9);
    assert_eq!(job.progress(Destination::Home).unwrap(), Progress::Arrived);
    let stay_reasons = vec!["mem_lock".to_owned()];
    assert_eq!(
        job.progress(node("10.77.0.2")).unwrap(),
        Progress::Idle { stay_reasons: stay_reasons.clone(), failure: None }
    );
    put(dir.path(), "9/om/result", "failed 10.77.0.2 no route\n");
    assert_eq!(
        job.progress(node("10.77.0.2")).unwrap(),
        Progress::Idle { stay_reasons, failure: Some("no route".to_owned()) }
    );
    put(dir.path(), "9/om/where", "migrating\n");
    assert_eq!(job.progress(node("10.77.0.2")).unwrap(), Progress::UnderWay);
    put(dir.path(), "9/om/where", "10.77.0.2\n");
    assert_eq!(job.progress(node("10.77.0.2")).unwrap(), Progress::Arrived);
}
