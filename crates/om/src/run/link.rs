//! The connection to the job's keeper, as `om_proto::control` describes it.
//!
//! Up to the first answer it blocks, and signals end `om run` as they end any program that is just starting. Then it
//! blocks no more: a keeper that is slow or stuck must not keep `om run` from being stopped or killed.

use std::io::{self, ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};
use om_proto::control::{MAX_FRAME, Reply, Request, Start};
use om_proto::frame;

use crate::error::Failure;

/// Requests that wait for a keeper that does not read. Beyond that, further ones are dropped: signals are not
/// queued without end anywhere else either.
const OUTBOX_LIMIT: usize = 64 << 10;

/// A restart of om-migd takes a fraction of that.
const PATIENCE: Duration = Duration::from_secs(3);
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The connection.
pub struct Link {
    socket: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

impl Link {
    /// Reaches om-migd; one that has just died is waited for a little, since something is likely to start it again.
    ///
    /// # Errors
    /// [`Failure::NoKeeper`] with what to do.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let begin = Instant::now();
        let connected = loop {
            match UnixStream::connect(path) {
                Err(error) if may_be_restarting(path, error.kind()) && begin.elapsed() < PATIENCE => {
                    sleep(TRY_EVERY);
                }
                other => break other,
            }
        };
        let socket = connected.map_err(|error| {
            let why = match error.kind() {
                ErrorKind::NotFound => {
                    "it is not running; start it (systemctl start om-migd, or om-migd as root)".to_owned()
                }
                ErrorKind::ConnectionRefused => {
                    "nobody answers; start it (systemctl start om-migd), or do without om run in a job that is away from home"
                        .to_owned()
                }
                ErrorKind::PermissionDenied => "you may not use it; ask this node's administrator".to_owned(),
                _ => error.to_string(),
            };
            Failure::NoKeeper { socket: path.to_owned(), why }
        })?;
        Ok(Self { socket, inbox: Vec::new(), outbox: Vec::new() })
    }

    /// Asks for the job to be started with these standard streams, and waits for the answer.
    pub fn start(&mut self, start: &Start, streams: [BorrowedFd<'_>; 3]) -> io::Result<Reply> {
        // A refusal may come before everything has been sent, and breaks the sending off.
        let sent = self.send_start(start, streams);
        match frame::read(&mut self.socket, MAX_FRAME) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => sent.and(Err(error)),
            other => other,
        }
    }

    fn send_start(&mut self, start: &Start, streams: [BorrowedFd<'_>; 3]) -> io::Result<()> {
        let bytes = frame::encode(start)?;
        if bytes.len() > MAX_FRAME {
            return Err(Errno::E2BIG.into());
        }
        let fds: [RawFd; 3] = streams.map(|stream| stream.as_raw_fd());
        let rights = [ControlMessage::ScmRights(&fds)];
        let slices = [IoSlice::new(&bytes)];
        let mut sent =
            sendmsg::<()>(self.socket.as_raw_fd(), &slices, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        while sent < bytes.len() {
            match send(self.socket.as_raw_fd(), &bytes[sent..], MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                other => sent += other?,
            }
        }
        Ok(())
    }

    /// From now on nothing blocks.
    pub fn stop_blocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }

    /// Takes in what has come; false once the keeper has closed the connection.
    pub fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next whole reply of those that have come.
    pub fn next_reply(&mut self) -> io::Result<Option<Reply>> {
        let mut rest = self.inbox.as_slice();
        match frame::read(&mut rest, MAX_FRAME) {
            Ok(reply) => {
                let taken = self.inbox.len() - rest.len();
                self.inbox.drain(..taken);
                Ok(Some(reply))
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells the keeper something, now or as soon as it reads.
    pub fn tell(&mut self, request: &Request) {
        if let Ok(bytes) = frame::encode(request)
            && self.outbox.len() + bytes.len() <= OUTBOX_LIMIT
        {
            self.outbox.extend(bytes);
            self.flush();
        }
    }

    /// Sends as much as the keeper takes. A broken connection shows when it is read.
    pub fn flush(&mut self) {
        while !self.outbox.is_empty() {
            match send(self.socket.as_raw_fd(), &self.outbox, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Whether something waits to be sent.
    pub fn has_more(&self) -> bool {
        !self.outbox.is_empty()
    }
}

/// An om-migd that is killed leaves its socket behind, one that is told to stop only the socket's directory.
fn may_be_restarting(socket: &Path, error: ErrorKind) -> bool {
    match error {
        ErrorKind::ConnectionRefused => true,
        ErrorKind::NotFound => socket.parent().is_some_and(Path::is_dir),
        _ => false,
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
