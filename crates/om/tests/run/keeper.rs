//! A keeper that has no job: it takes what `om run` sends and answers what a test wants.

use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sockopt};
use om_proto::control::{Ending, MAX_FRAME, Reply, Request, Start, Usage};
use om_proto::frame;
use tempfile::TempDir;

/// Longer than anything takes even on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where `om run` looks for om-migd.
pub struct Keeper {
    dir: TempDir,
    listener: UnixListener,
}

impl Keeper {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("migd.sock")).unwrap();
        Self { dir, listener }
    }

    /// Stops listening, as om-migd does when it dies: its socket stays.
    pub fn die(self) -> TempDir {
        self.dir
    }

    /// Listens again.
    pub fn restart(dir: TempDir) -> Self {
        let path = dir.path().join("migd.sock");
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        Self { dir, listener }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("migd.sock")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `om run` with these arguments.
    pub fn om_run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_om"));
        command.args(["run", "--socket"]).arg(self.socket()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The shell words of `om run`.
    pub fn shell_words(&self) -> String {
        format!("{} run --socket {}", env!("CARGO_BIN_EXE_om"), self.socket().display())
    }

    /// Takes the next `om run` in.
    pub fn accept(&self) -> Job {
        assert!(is_readable(&self.listener), "om run never came");
        let (socket, _) = self.listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (start, streams) = receive_start(&socket).unwrap();
        Job { socket, start, streams }
    }

    /// Takes the next one in, says that its job runs, and waits until `om run` is ready for it.
    pub fn start(&self, terminal: bool) -> Job {
        let mut job = self.accept();
        job.say(&Reply::Started { job: "0".repeat(32), terminal });
        let peer = getsockopt(&job.socket, sockopt::PeerCredentials).unwrap();
        until("signals are caught", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", peer.pid())).unwrap();
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            !blocked.trim().starts_with("0000000000000000")
        });
        job
    }
}

/// One `om run`.
pub struct Job {
    socket: UnixStream,
    pub start: Start,
    pub streams: Vec<OwnedFd>,
}

impl Job {
    pub fn say(&mut self, reply: &Reply) {
        frame::write(&mut self.socket, reply).unwrap();
    }

    pub fn hear(&mut self) -> Request {
        frame::read(&mut self.socket, MAX_FRAME).unwrap()
    }

    /// The next request that is not about the terminal.
    pub fn hear_signal(&mut self) -> i32 {
        loop {
            if let Request::Signal(signal, _) = self.hear() {
                return signal;
            }
        }
    }

    /// Whether `om run` has closed the connection.
    pub fn is_left(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    pub fn end(mut self, status: Ending) {
        let usage = Usage { wall_us: 12_340_000, user_us: 9_000_000, system_us: 250_000, moves: 3 };
        self.streams.clear();
        self.say(&Reply::Exited { status, usage });
    }
}

fn receive_start(socket: &UnixStream) -> io::Result<(Start, Vec<OwnedFd>)> {
    let mut first = [0; 1];
    let mut space = nix::cmsg_space!([RawFd; 3]);
    let mut streams = Vec::new();
    {
        let mut slices = [IoSliceMut::new(&mut first)];
        let message =
            recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                streams.extend(fds.into_iter().map(own));
            }
        }
    }
    Ok((frame::read(&mut first.as_slice().chain(socket), MAX_FRAME)?, streams))
}

#[expect(unsafe_code, reason = "a descriptor that has just come belongs to nobody else")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: as above.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A child that is killed at the latest when the test ends.
pub struct Running(pub Child);

impl Running {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Waits for its end: status, stdout, stderr.
    pub fn end(&mut self) -> (ExitStatus, String, String) {
        let mut texts = [String::new(), String::new()];
        if let Some(mut output) = self.0.stdout.take() {
            output.read_to_string(&mut texts[0]).unwrap();
        }
        if let Some(mut error) = self.0.stderr.take() {
            error.read_to_string(&mut texts[1]).unwrap();
        }
        let status = self.0.wait().unwrap();
        let [output, error] = texts;
        (status, output, error)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether something is to be read there before long, be it an end.
pub fn is_readable(descriptor: impl AsFd) -> bool {
    let mut descriptors = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::try_from(PATIENCE).unwrap()).unwrap() > 0
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
