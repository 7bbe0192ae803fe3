//! What becomes CRIU: a process that waits in its place, so that a job need not stand still for its way there.
//!
//! To enter control groups takes the kernel some ten milliseconds, because it waits until no other process is just being made or
//! ending. So a process that is going to restore a job is started as soon as the job is offered; it enters its control groups and
//! the nest's mount namespace, and waits to be told what to run. It is `om-migd launcher`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::confines::Confines;
use crate::criu;
use crate::nest::Nest;
use crate::passing::{receive_frame, send_frame};
use crate::sys;

/// Where it finds its socket.
const SOCKET: RawFd = 3;
/// The longest order, bytes.
const MAX_ORDER: usize = 1 << 20;

/// What it is to become.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    program: Bytes,
    arguments: Vec<Bytes>,
    environment: Vec<(Bytes, Bytes)>,
    /// The numbers of the descriptors that come along.
    numbers: Vec<RawFd>,
}

/// One that waits. Dropped, it ends.
#[derive(Debug)]
pub struct Launcher {
    child: Option<Child>,
    socket: UnixStream,
}

impl Launcher {
    /// Starts it in this nest and these control groups, with the real ids that CRIU needs to work for a job of `ids`.
    pub fn start(nest: &Nest, ids: (Uid, Gid), confines: &Confines) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("launcher").env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let entrances = confines.entrances_for_criu()?;
        sys::prepare(
            &mut command,
            &sys::ChildSetup {
                fds: vec![(theirs.as_fd(), SOCKET)],
                mount_namespace: Some(nest.namespace.as_fd()),
                real_ids: criu::real_ids(ids),
                own_session: false,
                entrances: entrances.iter().map(AsFd::as_fd).collect(),
            },
        );
        Ok(Self { child: Some(command.spawn()?), socket })
    }

    /// Makes it this program, with these descriptors at these numbers; the rest of `command` does not count.
    pub fn become_program(mut self, command: &Command, fds: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<Child> {
        let bytes = |text: &std::ffi::OsStr| Bytes(text.as_bytes().to_vec());
        let environment = command.get_envs().filter_map(|(name, value)| Some((bytes(name), bytes(value?))));
        let order = Order {
            program: bytes(command.get_program()),
            arguments: command.get_args().map(bytes).collect(),
            environment: environment.collect(),
            numbers: fds.iter().map(|(_, number)| *number).collect(),
        };
        let given: Vec<BorrowedFd<'_>> = fds.iter().map(|(fd, _)| *fd).collect();
        send_frame(&self.socket, &order, &given)?;
        self.child.take().ok_or_else(|| io::Error::other("it has been used already"))
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = child.wait();
    }
}

/// The process itself; returns only if there is nothing to become, or it cannot.
pub fn main() -> i32 {
    let socket = UnixStream::from(sys::inherited(SOCKET));
    let Ok((order, fds)) = receive_frame::<Order>(&socket, MAX_ORDER) else { return 0 };
    drop(socket);
    let text = |bytes: Bytes| OsString::from_vec(bytes.0);
    let mut command = Command::new(text(order.program));
    command.args(order.arguments.into_iter().map(text));
    command.env_clear().envs(order.environment.into_iter().map(|(name, value)| (text(name), text(value))));
    sys::prepare(
        &mut command,
        &sys::ChildSetup {
            fds: fds.iter().map(AsFd::as_fd).zip(order.numbers).collect(),
            mount_namespace: None,
            real_ids: None,
            own_session: false,
            entrances: Vec::new(),
        },
    );
    log::error!("cannot run criu: {}", command.exec());
    127
}
