//! The socket on which `om run` asks where a job is to start, before it starts it.
//!
//! ```text
//! om run   ── {"command":"make","tasks":1,"on":["10.0.0.2"],"not_on":[],"stay":false,"cpu":"x86-64-v2"} ──▶
//!         ◀── {"node":"10.0.0.2"}, or {"node":null}: on this node ──────   then the connection is closed
//! ```
//!
//! Each is one line of JSON, and every key of the question may be missing. The process that asks is the one that becomes
//! the job, as the kernel names it.
//!
//! Anybody on this node may ask, so nothing is believed and everything is bounded: the length of a line, the time, and
//! how many may wait, of each user too, as the kernel names it. Who is turned away gets no answer and starts here. All
//! that an answer is worth is advice; the nodes themselves decide whom they take.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use om_proto::cpu::Baseline;
use om_proto::omfs::{Bounds, MOST_NODES};
use serde::{Deserialize, Serialize};

use crate::Time;
use crate::local;
use crate::start::NewJob;

/// The longest question: two full lists of the longest addresses, and a command.
const LONGEST: usize = 2 * MOST_NODES * 50 + 200 + 6 * LONGEST_COMMAND;
/// The longest command, in bytes.
const LONGEST_COMMAND: usize = 256;
/// Who may wait at once, and how many of one user.
const ASKERS: usize = 256;
const ASKERS_OF_A_USER: usize = 64;
/// Nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most runnable tasks that a job can be said to have.
const MOST_TASKS: f64 = 1024.0;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Line {
    command: String,
    tasks: f64,
    on: Vec<IpAddr>,
    not_on: Vec<IpAddr>,
    stay: bool,
    cpu: Baseline,
}

impl Default for Line {
    fn default() -> Self {
        let (command, cpu) = (String::new(), Baseline::Native);
        Self { command, tasks: 1.0, on: Vec::new(), not_on: Vec::new(), stay: false, cpu }
    }
}

#[derive(Serialize)]
struct Answer {
    node: Option<IpAddr>,
}

/// A job that is about to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct Starting {
    /// Names it in the answer.
    pub ticket: u64,
    /// What is known of it.
    pub job: NewJob,
}

/// The socket and those who ask.
pub struct StartSocket {
    path: PathBuf,
    listener: UnixListener,
    askers: BTreeMap<u64, Asker>,
    next_ticket: u64,
}

struct Asker {
    stream: UnixStream,
    uid: u32,
    pid: u32,
    line: Vec<u8>,
    has_asked: bool,
    deadline: Time,
}

impl StartSocket {
    /// Makes the socket at `path`, open for everybody.
    ///
    /// # Errors
    /// The kernel's, or that somebody serves it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let listener = local::listen(path)?;
        Ok(Self { path: path.to_owned(), listener, askers: BTreeMap::new(), next_ticket: 0 })
    }

    /// The descriptor to wait on for new askers.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// Takes those who have come and tells their descriptors, on which to wait for their questions.
    pub fn accept(&mut self, now: Time) -> Vec<RawFd> {
        self.askers.retain(|_, asker| now < asker.deadline);
        let mut come = Vec::new();
        while let Ok((stream, _)) = self.listener.accept() {
            let Ok(peer) = getsockopt(&stream.as_fd(), PeerCredentials) else { continue };
            let of_user = self.askers.values().filter(|asker| asker.uid == peer.uid()).count();
            if self.askers.len() >= ASKERS
                || of_user >= ASKERS_OF_A_USER
                || stream.set_nonblocking(true).is_err()
            {
                continue;
            }
            come.push(stream.as_raw_fd());
            let (line, deadline) = (Vec::new(), now + PATIENCE);
            // 0 stands for a process that this one's PID namespace does not show.
            let (uid, pid) = (peer.uid(), u32::try_from(peer.pid()).unwrap_or(0));
            let asker = Asker { stream, uid, pid, line, has_asked: false, deadline };
            self.askers.insert(self.next_ticket, asker);
            self.next_ticket += 1;
        }
        come
    }

    /// The questions that have come in whole. Who says anything else is shown out.
    pub fn questions(&mut self) -> Vec<Starting> {
        let mut questions = Vec::new();
        self.askers.retain(|ticket, asker| match asker.read() {
            Ok(None) => true,
            Ok(Some(job)) => {
                questions.push(Starting { ticket: *ticket, job });
                true
            }
            Err(error) => {
                log::debug!("user {} asks where to start a job: {error}", asker.uid);
                false
            }
        });
        questions
    }

    /// Answers and closes. Who has gone meanwhile has started the job already.
    pub fn answer(&mut self, ticket: u64, node: Option<IpAddr>) {
        let Some(mut asker) = self.askers.remove(&ticket) else { return };
        if let Ok(mut line) = serde_json::to_vec(&Answer { node }) {
            line.push(b'\n');
            // So few bytes always fit.
            let _ = asker.stream.write(&line);
        }
    }
}

impl Asker {
    fn read(&mut self) -> io::Result<Option<NewJob>> {
        if self.has_asked {
            return Ok(None);
        }
        let mut buffer = [0; 1024];
        while !self.line.ends_with(b"\n") {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.line.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            if self.line.len() > LONGEST {
                return Err(io::Error::other("the line is too long"));
            }
        }
        self.has_asked = true;
        let line: Line = serde_json::from_slice(&self.line)?;
        let bounds = Bounds { on: line.on.clone(), not_on: line.not_on.clone(), stay: line.stay };
        bounds.verify().map_err(io::Error::other)?;
        if !(line.tasks > 0.0 && line.tasks <= MOST_TASKS) {
            return Err(io::Error::other(format!("tasks must be more than 0, up to {MOST_TASKS}")));
        }
        if line.command.len() > LONGEST_COMMAND {
            return Err(io::Error::other(format!("a command has at most {LONGEST_COMMAND} bytes")));
        }
        let Line { command, tasks, cpu, .. } = line;
        Ok(Some(NewJob { pid: self.pid, uid: self.uid, command, tasks, bounds, cpu }))
    }
}

impl Drop for StartSocket {
    fn drop(&mut self) {
        // A path that is gone already was not ours any more.
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Duration::ZERO;

    fn socket(name: &str) -> (StartSocket, PathBuf) {
        let path = std::env::temp_dir().join(format!("om-start-{name}-{}.sock", std::process::id()));
        (StartSocket::open(&path).unwrap(), path)
    }

    fn asks(path: &Path, text: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(text).unwrap();
        stream
    }

    fn heard(mut stream: UnixStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_question_gets_its_answer() {
        let (mut socket, path) = socket("answer");
        let one = asks(&path, b"{}\n");
        let other = asks(&path, b"{\"tasks\":4,\"cpu\":\"x86-64-v3\",\"command\":\"make\",\"on\":[\"10.0.0.2\"],\"not_on\":[\"10.0.0.3\"]}\n");
        socket.accept(NOW);
        let questions = socket.questions();
        assert_eq!((questions[0].job.tasks, questions[0].job.bounds.is_free()), (1.0, true));
        assert_eq!((questions[1].job.tasks, questions[1].job.bounds.on.len()), (4.0, 1));
        assert_eq!((questions[1].job.command.as_str(), questions[1].job.cpu), ("make", Baseline::X86(3)));
        assert_eq!(questions[1].job.pid, std::process::id());
        assert_eq!(socket.questions(), vec![], "each is asked once");
        socket.answer(questions[1].ticket, Some(IpAddr::from([10, 0, 0, 2])));
        socket.answer(questions[0].ticket, None);
        assert_eq!(
            (heard(one), heard(other)),
            ("{\"node\":null}\n".into(), "{\"node\":\"10.0.0.2\"}\n".into())
        );
    }

    #[test]
    fn a_question_may_come_in_pieces() {
        let (mut socket, path) = socket("pieces");
        let mut asker = asks(&path, b"{\"ta");
        socket.accept(NOW);
        assert_eq!(socket.questions(), vec![]);
        asker.write_all(b"sks\":2}\n").unwrap();
        assert_eq!(socket.questions()[0].job.tasks, 2.0);
    }

    #[test]
    fn who_says_something_else_is_shown_out() {
        let (mut socket, path) = socket("nonsense");
        let long = vec![b' '; LONGEST + 1];
        let wordy = format!("{{\"command\":\"{}\"}}\n", "x".repeat(LONGEST_COMMAND + 1));
        let many = format!("{{\"on\":[{}\"10.0.0.1\"]}}\n", "\"10.0.0.1\",".repeat(MOST_NODES));
        for text in [
            &b"hello\n"[..],
            b"{\"tasks\":-1}\n",
            b"{\"tasks\":1e300}\n",
            b"{\"on\":[\"h2\"]}\n",
            b"{\"why\":1}\n",
            b"{\"cpu\":\"486\"}\n",
            &long,
            many.as_bytes(),
            wordy.as_bytes(),
        ] {
            let asker = asks(&path, text);
            socket.accept(NOW);
            assert_eq!(socket.questions(), vec![]);
            assert!(socket.askers.is_empty(), "{}", String::from_utf8_lossy(text));
            assert_eq!(heard(asker), "");
        }
    }

    #[test]
    fn one_user_cannot_fill_the_room_and_nobody_waits_for_ever() {
        let (mut socket, path) = socket("crowd");
        let crowd: Vec<UnixStream> = (0..ASKERS_OF_A_USER + 9).map(|_| asks(&path, b"")).collect();
        assert_eq!(socket.accept(NOW).len(), ASKERS_OF_A_USER);
        drop(asks(&path, b""));
        assert_eq!(socket.accept(PATIENCE).len(), 1);
        drop(crowd);
    }
}
