//! The threads that wait: each turns one source of news into events and ends with it.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};
use std::time::Duration;

use crossbeam_channel::Sender;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use om_proto::{control, frame};

use super::event::Event;
use super::inquiry;
use crate::net::identity::Identity;
use crate::net::link::{self, Receiver};
use crate::net::message::{Answer, FromHome, ToHome};
use crate::net::preamble::{JobId, Preamble, Purpose};
use crate::net::tls::Stream;
use crate::passing::receive_frame;
use crate::snapshot::{self, Command};
use crate::stdio::INPUTS;

/// Stack of a waiting thread, bytes.
const STACK: usize = 128 << 10;
/// Between two attempts to reach home again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Between two attempts to start a thread.
const THREAD_PAUSE: Duration = Duration::from_millis(50);

/// Starts a named thread. A job would be frozen for ever by a keeper that leaves work undone, so where the kernel has no room
/// for one more this waits until it has.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    drop(start(name, work));
}

/// The same for a thread that somebody waits for.
pub fn start<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    insist(name, work, |builder, work| builder.spawn(work))
}

/// The same for one that ends with its scope.
pub fn start_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    insist(name, work, |builder, work| builder.spawn_scoped(scope, work))
}

fn insist<'a, T, H>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'a,
    start: impl Fn(Builder, Box<dyn FnOnce() -> T + Send + 'a>) -> io::Result<H>,
) -> H {
    let work = Arc::new(Mutex::new(Some(work)));
    let mut told = false;
    loop {
        let work = work.clone();
        #[expect(clippy::expect_used, reason = "only the one thread that was started takes it")]
        let attempt = move || work.lock().unwrap_or_else(PoisonError::into_inner).take().expect("work")();
        match start(Builder::new().name(name.into()).stack_size(STACK), Box::new(attempt)) {
            Ok(handle) => return handle,
            Err(error) if !std::mem::replace(&mut told, true) => {
                log::error!("the thread {name} has to wait: {error}");
            }
            Err(_) => {}
        }
        std::thread::sleep(THREAD_PAUSE);
    }
}

/// The deputy's requests.
pub fn deputy(socket: UnixStream, events: Sender<Event>) {
    spawn("deputy", move || {
        let mut socket = socket;
        while let Ok(request) = frame::read::<control::Request>(&mut socket, control::MAX_FRAME) {
            let _ = events.send(Event::Deputy(request));
        }
        let _ = events.send(Event::DeputyGone);
    });
}

/// om-migd's connections, each a new om-migd.
pub fn daemon_listener(listener: UnixListener, events: Sender<Event>) {
    spawn("daemons", move || {
        for socket in listener.incoming().flatten() {
            daemon(&socket, events.clone());
            let _ = events.send(Event::DaemonCame(socket));
        }
    });
}

/// om-migd's commands.
pub fn daemon(socket: &UnixStream, events: Sender<Event>) {
    let Ok(socket) = socket.try_clone() else { return };
    spawn("daemon", move || {
        while let Ok((command, mut fds)) = receive_frame::<Command>(&socket, snapshot::MAX_FRAME) {
            let event = match (command, fds.pop()) {
                (Command::Attach(purpose), Some(fd)) => Event::Connection(purpose, TcpStream::from(fd)),
                (command, _) => Event::Daemon(command),
            };
            let _ = events.send(event);
        }
    });
}

/// What the job's PID 1 reports, and then its end: it is our child, or has become it. Every report comes before the end,
/// because the pipe ends with its last writer, PID 1. `epoch` names the stay.
pub fn watch_init(init: Pid, reports: OwnedFd, epoch: u64, events: Sender<Event>) {
    spawn("init", move || {
        let mut reports = File::from(reports);
        let mut record = [0; 8];
        while reports.read_exact(&mut record).is_ok() {
            let [a, b, c, d, e, f, g, h] = record;
            let _ = events
                .send(Event::Report(u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])));
        }
        while waitpid(init, None) == Err(nix::errno::Errno::EINTR) {}
        let _ = events.send(Event::InitEnded(epoch));
    });
}

/// At home: a link from where the job is or wants to be.
pub fn link_from_guest(id: u64, job: JobId, socket: TcpStream, identity: Identity, events: Sender<Event>) {
    spawn("link", move || {
        let result = identity.accept(socket, &Preamble { purpose: Purpose::Link, job }).and_then(|stream| {
            let peer = stream.peer()?;
            let (sender, mut receiver) = link::split(stream)?;
            let ToHome::Hello { node, epoch, holds, input_received } = receiver.receive()? else {
                return Err(io::Error::other("no hello"));
            };
            if !peer.is(node) {
                return Err(io::Error::other(format!("a hello in the name of {node} is another node's")));
            }
            let input_received = input_received.to_vec();
            let _ = events.send(Event::Linked { id, sender, node, epoch, holds, input_received });
            loop {
                let _ = events.send(Event::FromGuest(id, receiver.receive()?));
            }
        });
        if let Err::<(), _>(error) = result {
            log::debug!("link {id}: {error}");
        }
        let _ = events.send(Event::LinkLost(id));
    });
}

/// Whether a connection that stood was closed by the other side.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// How a guest's node reaches home.
#[derive(Clone)]
pub struct HomeLine {
    /// This process's identity.
    pub identity: Identity,
    /// Home's om-migd.
    pub home: SocketAddr,
    /// The job.
    pub preamble: Preamble,
    /// This node.
    pub node: IpAddr,
}

impl HomeLine {
    /// Opens a link and says hello; returns it with where home stands in each output.
    pub fn open(
        &self,
        epoch: u64,
        holds: bool,
        input_received: [u64; INPUTS],
    ) -> io::Result<(link::Sender, Receiver, Vec<u64>)> {
        let (sender, mut receiver) = link::split(self.identity.connect(self.home, &self.preamble)?)?;
        sender.send(&ToHome::Hello { node: self.node, epoch, holds, input_received })?;
        match receiver.receive()? {
            FromHome::Welcome { output_received } => Ok((sender, receiver, output_received.to_vec())),
            FromHome::Aborted { reason, .. } => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
            other => Err(io::Error::other(format!("home answers {other:?}"))),
        }
    }

    /// Opens one connection of the home file system.
    pub fn open_files(&self) -> io::Result<Stream> {
        self.identity.connect(self.home, &Preamble { purpose: Purpose::Files, ..self.preamble })
    }

    /// Reads what home says until the link breaks.
    pub fn listen(mut receiver: Receiver, events: Sender<Event>) {
        spawn("home", move || {
            while let Ok(message) = receiver.receive() {
                let _ = events.send(Event::FromHome(message));
            }
            let _ = events.send(Event::HomeLost);
        });
    }

    /// Tries to reach home until it answers. If it says that the job is not ours any more, that is told like a decision;
    /// that it has nothing of the job ends the attempts too.
    pub fn reconnect(self, epoch: u64, holds: bool, input_received: [u64; INPUTS], events: Sender<Event>) {
        spawn("reconnect", move || {
            loop {
                std::thread::sleep(RECONNECT_PAUSE);
                match self.open(epoch, holds, input_received) {
                    Ok((sender, receiver, output_received)) => {
                        let _ = events.send(Event::HomeLinked(sender, output_received));
                        return Self::listen(receiver, events);
                    }
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        let reason = error.to_string();
                        let _ = events.send(Event::FromHome(FromHome::Aborted { epoch, reason }));
                        return;
                    }
                    Err(error) => {
                        log::debug!("home {} does not answer: {error}", self.home);
                        let answer =
                            || inquiry::ask(&self.identity, self.home, self.preamble.job, epoch).ok();
                        if is_closed(&error) && answer() == Some(Answer::Nothing) {
                            let _ = events.send(Event::HomeGone);
                            return;
                        }
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_thread_for_which_there_is_no_room_is_started_later_and_once() {
        let attempts = Cell::new(0);
        let started = insist(
            "late",
            || 7,
            |builder, work| {
                attempts.set(attempts.get() + 1);
                if attempts.get() < 3 { Err(io::ErrorKind::WouldBlock.into()) } else { builder.spawn(work) }
            },
        );
        assert_eq!(started.join().unwrap(), 7);
        assert_eq!(attempts.get(), 3);
    }
}
