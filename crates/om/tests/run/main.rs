//! The real `om run`, against a keeper that the tests play.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod keeper;
mod keyboard;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use keeper::{Keeper, Running};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use om_proto::control::{Ending, Reply, VERSION};

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[test]
fn the_job_gets_what_the_caller_has() {
    let keeper = Keeper::new();
    let mut command = keeper.om_run(&["--lock", "sort", "-n", "--", "a b"]);
    command.env_clear().env("ANSWER", "42=x").current_dir(keeper.dir()).stdin(Stdio::piped());
    let mut om = Running::spawn(&mut command);
    let job = keeper.start(false);
    let start = job.start.clone();
    assert_eq!(start.version, VERSION);
    assert_eq!(start.argv, [&b"sort"[..], b"-n", b"--", b"a b"]);
    assert_eq!(start.env, [b"ANSWER=42=x"]);
    assert_eq!(start.cwd, keeper.dir().canonicalize().unwrap().to_str().unwrap().as_bytes());
    assert!(start.lock);
    assert_eq!(start.ignored_signals & bit(libc::SIGPIPE), 0);
    let [input, output, error] = <[_; 3]>::try_from(job.streams.iter().collect::<Vec<_>>()).unwrap();
    om.0.stdin.take().unwrap().write_all(b"to the job").unwrap();
    let mut text = String::new();
    File::from(input.try_clone().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "to the job");
    File::from(output.try_clone().unwrap()).write_all(b"from the job").unwrap();
    File::from(error.try_clone().unwrap()).write_all(b"its complaint").unwrap();
    job.end(Ending::Code(0));
    let (status, output, error) = om.end();
    assert_eq!(status.code(), Some(0));
    assert_eq!((output.as_str(), error.as_str()), ("from the job", "its complaint"));
}

#[test]
fn om_sched_is_told_what_the_job_may_use_of_cpus_as_om_migd_is_configured() {
    let keeper = Keeper::new();
    let socket = keeper.dir().join("start.sock");
    let scheduler = UnixListener::bind(&socket).unwrap();
    scheduler.set_nonblocking(true).unwrap();
    let told = |options: &[&str]| {
        let arguments = [&["--start-socket", socket.to_str().unwrap()], options, &["true"]].concat();
        let mut om = Running::spawn(keeper.om_run(&arguments).env("OM_ROOT", keeper.dir()));
        // It has asked by then, and has gone on without an answer.
        keeper.start(false).end(Ending::Code(0));
        om.end();
        let mut question = String::new();
        scheduler.accept().unwrap().0.read_to_string(&mut question).unwrap();
        let question: serde_json::Value = serde_json::from_str(&question).unwrap();
        question["cpu"].as_str().unwrap().to_owned()
    };
    assert_eq!(told(&[]), "native");
    let admin = keeper.dir().join("hpc/admin");
    fs::create_dir_all(&admin).unwrap();
    fs::write(admin.join("cpu_baseline"), "x86-64-v2\n").unwrap();
    assert_eq!(told(&[]), "x86-64-v2");
    assert_eq!(told(&["--cpu", "x86-64-v3"]), "x86-64-v3");
}

#[test]
fn signals_that_the_caller_ignored_are_told() {
    let keeper = Keeper::new();
    let script = format!("trap '' HUP PIPE; exec {} x", keeper.shell_words());
    let mut om = Running::spawn(Command::new("sh").args(["-c", &script]));
    let job = keeper.start(false);
    assert_eq!(
        job.start.ignored_signals & (bit(1) | bit(13) | bit(15)),
        bit(libc::SIGHUP) | bit(libc::SIGPIPE)
    );
    job.end(Ending::Code(0));
    om.end();
}

#[test]
fn it_exits_as_the_command_does() {
    let keeper = Keeper::new();
    for code in [0, 1, 7, 255] {
        let mut om = Running::spawn(&mut keeper.om_run(&["x"]));
        keeper.start(false).end(Ending::Code(code));
        assert_eq!(om.end().0.code(), Some(i32::from(code)));
    }
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGPIPE, libc::SIGINT, 40] {
        let mut om = Running::spawn(&mut keeper.om_run(&["x"]));
        keeper.start(false).end(Ending::Signal(u8::try_from(signal).unwrap()));
        let status = om.end().0;
        assert_eq!((status.signal(), status.core_dumped()), (Some(signal), false));
    }
    // One that ends nobody still shows as a shell would show it.
    let mut om = Running::spawn(&mut keeper.om_run(&["x"]));
    keeper.start(false).end(Ending::Signal(u8::try_from(libc::SIGCHLD).unwrap()));
    assert_eq!(om.end().0.code(), Some(128 + libc::SIGCHLD));
}

#[test]
fn a_shell_shows_128_and_the_signal() {
    let keeper = Keeper::new();
    let script = format!("{} x; echo $?", keeper.shell_words());
    let mut shell = Running::spawn(Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()));
    keeper.start(false).end(Ending::Signal(15));
    assert_eq!(shell.end().1, "143\n");
}

#[test]
fn every_signal_reaches_the_job_and_none_ends_om() {
    let keeper = Keeper::new();
    let mut om = Running::spawn(&mut keeper.om_run(&["x"]));
    let mut job = keeper.start(false);
    for signal in Signal::iterator() {
        if matches!(
            signal,
            Signal::SIGKILL
                | Signal::SIGSTOP
                | Signal::SIGCHLD
                | Signal::SIGTSTP
                | Signal::SIGTTIN
                | Signal::SIGTTOU
        ) {
            continue;
        }
        kill(Pid::from_raw(om.pid()), signal).unwrap();
        assert_eq!(job.hear_signal(), signal as i32, "{signal}");
    }
    job.end(Ending::Code(5));
    assert_eq!(om.end().0.code(), Some(5));
}

#[test]
fn a_job_that_cannot_start_is_explained() {
    let keeper = Keeper::new();
    for (status, started) in [(127, true), (126, true), (125, false)] {
        let mut om = Running::spawn(&mut keeper.om_run(&["x"]));
        let mut job = if started { keeper.start(false) } else { keeper.accept() };
        job.streams.clear();
        job.say(&Reply::Refused { message: "x: no luck".into(), status });
        let (exit, output, error) = om.end();
        assert_eq!(exit.code(), Some(i32::from(status)));
        assert_eq!((output.as_str(), error.as_str()), ("", "om: x: no luck\n"));
    }
}

#[test]
fn without_om_migd_there_is_one_line_and_125() {
    let keeper = Keeper::new();
    let mut command = keeper.om_run(&["x"]);
    let socket = keeper.socket();
    drop(keeper);
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        error.starts_with(&format!("om: cannot reach om-migd at {}: it is not running", socket.display())),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn an_om_migd_that_is_being_restarted_is_waited_for() {
    let keeper = Keeper::new();
    let mut command = keeper.om_run(&["x"]);
    let dir = keeper.die();
    let mut om = Running::spawn(&mut command);
    std::thread::sleep(std::time::Duration::from_millis(300));
    Keeper::restart(dir).start(false).end(Ending::Code(4));
    assert_eq!(om.end().0.code(), Some(4));
}

#[test]
fn a_socket_that_one_may_not_use_is_said_to_be_so() {
    if nix::unistd::geteuid().is_root() {
        eprintln!("not checked: root may use every socket");
        return;
    }
    let keeper = Keeper::new();
    std::fs::set_permissions(keeper.socket(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let output = keeper.om_run(&["x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8(output.stderr).unwrap().contains("you may not use it"));
}

#[test]
fn a_lost_keeper_or_node_ends_om_with_a_word() {
    let keeper = Keeper::new();
    let mut om = Running::spawn(&mut keeper.om_run(&["x"]));
    drop(keeper.start(false));
    let (exit, _, error) = om.end();
    assert_eq!(exit.code(), Some(125));
    assert!(error.starts_with("om: the keeper of the job has died"), "{error}");

    let mut om = Running::spawn(&mut keeper.om_run(&["x"]));
    let mut job = keeper.start(false);
    job.streams.clear();
    job.say(&Reply::Lost { message: "the node 10.77.0.2 is lost".into() });
    let (exit, _, error) = om.end();
    assert_eq!((exit.code(), error.as_str()), (Some(125), "om: the node 10.77.0.2 is lost\n"));
}

#[test]
fn the_time_is_that_of_all_nodes() {
    let keeper = Keeper::new();
    let mut om = Running::spawn(&mut keeper.om_run(&["--time", "x"]));
    let mut job = keeper.start(false);
    job.say(&Reply::Notice { message: "a word in between".into() });
    job.end(Ending::Code(0));
    assert_eq!(om.end().2, "om: a word in between\nreal 12.34\nuser 9.00\nsys 0.25\nmoves 3\n");
}

#[test]
fn om_holds_no_end_of_the_jobs_pipes() {
    let keeper = Keeper::new();
    let mut om = Running::spawn(&mut keeper.om_run(&["x"]));
    let mut job = keeper.start(false);
    job.streams.clear();
    assert!(keeper::is_readable(om.0.stdout.as_ref().unwrap()));
    assert!(om.0.try_wait().unwrap().is_none());
    job.end(Ending::Code(0));
}

#[test]
fn a_killed_om_leaves_the_keeper() {
    let keeper = Keeper::new();
    let mut om = Running::spawn(&mut keeper.om_run(&["x"]));
    let mut job = keeper.start(false);
    om.0.kill().unwrap();
    assert!(job.is_left());
}
