//! `om run` on a terminal, with an interactive shell around it that a test types into.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, OutputFlags, tcgetattr};
use om_proto::control::{Audience, Ending, Keyboard, Reply, Request};

use crate::keeper::{Job, Keeper, Running, until};

/// A terminal with a shell in it.
struct Desk {
    keeper: Keeper,
    master: File,
    slave: OwnedFd,
    shown: String,
    _shell: Running,
}

impl Desk {
    fn new() -> Self {
        let pty = openpty(None, None).unwrap();
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut shell = Command::new("setsid");
        shell.args(["--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"]);
        shell.env("PS1", "ready$ ").env("HISTFILE", "/dev/null").env_remove("PROMPT_COMMAND");
        shell.stdin(pty.slave.try_clone().unwrap());
        shell.stdout(pty.slave.try_clone().unwrap());
        shell.stderr(pty.slave.try_clone().unwrap());
        let shell = Running::spawn(&mut shell);
        let mut desk = Self {
            keeper: Keeper::new(),
            master: File::from(pty.master),
            slave: pty.slave,
            shown: String::new(),
            _shell: shell,
        };
        desk.wait_for("ready$ ");
        desk
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Runs `om run` with `$OM` in the shell's line.
    fn command(&mut self, line: &str) {
        let line = line.replace("$OM", &self.keeper.shell_words());
        self.type_in(&format!("{line}\n"));
    }

    fn look(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.master.read(&mut buffer) {
                Ok(count @ 1..) => self.shown += &String::from_utf8_lossy(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                other => panic!("the terminal is gone: {other:?}; shown: {}", self.shown),
            }
        }
    }

    /// Waits until the terminal has shown this since the last time.
    fn wait_for(&mut self, text: &str) {
        until(text, || {
            self.look();
            self.shown.contains(text)
        });
        let end = self.shown.find(text).unwrap() + text.len();
        self.shown.drain(..end);
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap();
        !modes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
            && !modes.output_flags.contains(OutputFlags::OPOST)
    }

    /// Waits until the terminal's modes are what a shell leaves to its commands.
    fn wait_until_cooked(&self) {
        until("line mode", || {
            let modes = tcgetattr(&self.slave).unwrap();
            modes.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
                && modes.output_flags.contains(OutputFlags::OPOST)
        });
    }

    fn resize(&self, rows: u32, columns: u32) {
        let stty = Command::new("stty")
            .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
            .stdin(self.slave.try_clone().unwrap())
            .status();
        assert!(stty.unwrap().success());
    }
}

/// What `om run` says first when it has the terminal, after the size, if there is one.
fn hear_keyboard(job: &mut Job) -> Keyboard {
    loop {
        match job.hear() {
            Request::Keyboard(keyboard) => return keyboard,
            Request::WindowSize(..) | Request::Signal(libc::SIGCONT, _) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_terminal_is_raw_while_the_job_runs_and_only_then() {
    let mut desk = Desk::new();
    desk.resize(40, 100);
    desk.command("$OM x; echo status $?");
    let mut job = desk.keeper.start(true);
    assert_eq!(job.hear(), Request::WindowSize(40, 100));
    assert_eq!(job.hear(), Request::Keyboard(Keyboard::Own));
    assert!(desk.is_raw());
    desk.resize(20, 60);
    // stty sets rows and columns one after the other.
    while job.hear() != Request::WindowSize(20, 60) {}
    job.end(Ending::Code(3));
    desk.wait_for("status 3");
    desk.wait_until_cooked();
}

#[test]
fn the_terminal_is_restored_when_the_keeper_dies() {
    let mut desk = Desk::new();
    desk.command("$OM x; echo status $?");
    let mut job = desk.keeper.start(true);
    assert_eq!(hear_keyboard(&mut job), Keyboard::Own);
    drop(job);
    desk.wait_for("om: the keeper of the job has died");
    desk.wait_for("status 125");
    desk.wait_until_cooked();
}

#[test]
fn a_job_that_stops_gives_the_shell_its_terminal_back_and_goes_on_with_fg() {
    let mut desk = Desk::new();
    desk.command("$OM x");
    let mut job = desk.keeper.start(true);
    assert_eq!(hear_keyboard(&mut job), Keyboard::Own);
    job.say(&Reply::Stopped);
    assert_eq!(hear_keyboard(&mut job), Keyboard::Others);
    desk.wait_for("Stopped");
    desk.wait_for("ready$ ");
    desk.wait_until_cooked();
    desk.command("bg; echo in the back\"ground\"");
    desk.wait_for("in the background");
    assert_eq!(hear_keyboard(&mut job), Keyboard::Others);
    assert_eq!(job.hear(), Request::Signal(libc::SIGCONT, Audience::Group));
    // The shell gives a running job the terminal without a signal.
    desk.command("fg");
    assert_eq!(hear_keyboard(&mut job), Keyboard::Own);
    assert!(desk.is_raw());
    job.say(&Reply::Stopped);
    assert_eq!(hear_keyboard(&mut job), Keyboard::Others);
    desk.wait_for("Stopped");
    desk.command("fg");
    assert_eq!(hear_keyboard(&mut job), Keyboard::Own);
    assert_eq!(job.hear(), Request::Signal(libc::SIGCONT, Audience::Group));
    assert!(desk.is_raw());
    job.end(Ending::Code(0));
    desk.wait_for("ready$ ");
    desk.wait_until_cooked();
}

#[test]
fn suspending_a_job_without_terminal_tells_the_job_and_om_follows() {
    let mut desk = Desk::new();
    desk.command("$OM x");
    let mut job = desk.keeper.start(false);
    desk.type_in("\x1a");
    assert_eq!(job.hear(), Request::Signal(libc::SIGTSTP, Audience::Foreground));
    job.say(&Reply::Stopped);
    desk.wait_for("Stopped");
    desk.command("fg");
    assert_eq!(job.hear(), Request::Signal(libc::SIGCONT, Audience::Group));
    desk.type_in("\x03");
    assert_eq!(job.hear(), Request::Signal(libc::SIGINT, Audience::Foreground));
    job.end(Ending::Signal(2));
    desk.wait_for("ready$ ");
}

#[test]
fn a_job_in_the_background_leaves_the_terminal_alone() {
    let mut desk = Desk::new();
    desk.command("$OM x & sleep 0.2; echo the shell goes \"on\"");
    let mut job = desk.keeper.start(true);
    assert_eq!(hear_keyboard(&mut job), Keyboard::Others);
    assert!(!desk.is_raw());
    desk.wait_for("the shell goes on");
    job.end(Ending::Code(0));
    desk.command("wait; echo do\"ne\"");
    desk.wait_for("done");
}

#[test]
fn the_interrupt_key_of_a_raw_terminal_ends_a_script_too() {
    let mut desk = Desk::new();
    desk.command("bash -c 'for i in 1 2 3; do $OM x; done; true'");
    let mut job = desk.keeper.start(true);
    assert_eq!(hear_keyboard(&mut job), Keyboard::Own);
    // What the key does in the job's terminal.
    job.end(Ending::Signal(2));
    desk.wait_for("ready$ ");
    desk.command("echo and \"now\"");
    desk.wait_for("and now");
}

#[test]
fn in_a_pipeline_the_keyboard_is_shared() {
    let mut desk = Desk::new();
    desk.command("$OM x | cat");
    let mut job = desk.keeper.start(true);
    assert_eq!(hear_keyboard(&mut job), Keyboard::Shared);
    desk.wait_until_cooked();
    job.end(Ending::Code(0));
    desk.wait_for("ready$ ");
}

#[test]
fn where_a_shell_takes_the_output_the_terminal_is_the_jobs() {
    let mut desk = Desk::new();
    desk.command("x=$($OM x); echo \"got\" $x");
    let mut job = desk.keeper.start(true);
    assert_eq!(hear_keyboard(&mut job), Keyboard::Own);
    assert!(desk.is_raw());
    File::from(job.streams[1].as_fd().try_clone_to_owned().unwrap()).write_all(b"chosen\n").unwrap();
    job.end(Ending::Code(0));
    desk.wait_for("got chosen");
    desk.wait_until_cooked();
}

#[test]
fn beside_a_shell_on_the_same_terminal_the_modes_are_left_alone() {
    let mut desk = Desk::new();
    desk.command("setsid $OM x & sleep 0.2; echo the shell goes \"on\"");
    let mut job = desk.keeper.start(true);
    assert_eq!(hear_keyboard(&mut job), Keyboard::Shared);
    desk.wait_for("the shell goes on");
    desk.wait_until_cooked();
    job.end(Ending::Code(0));
}
