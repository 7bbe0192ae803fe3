//! The threads that wait: each turns one source of news into events and ends with it.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
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

/// Starts a named thread; without one the keeper cannot do its work.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    let started = std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work);
    if let Err(error) = started {
        log::error!("cannot start the thread {name}: {error}");
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
