//! Home's side: executes a guest's file requests with the job's credentials.
//!
//! A [`Server`] belongs to one job. Each mount that the job uses on its way from node to node is a *session*
//! with inodes, open files and locks of its own; two may live at once while the job is being moved. The
//! keeper accepts and authenticates connections and gives each a thread of its own in [`Server::serve`].
//!
//! The guest's node is authenticated, yet nothing it sends is trusted further than the job's user is: a
//! request is executed by a thread that has the job's user id, group ids and no capability, names one
//! component at a time, and may only open regular files and directories. File systems that the kernel makes
//! up, like `/proc`, are shown as empty directories.

mod attributes;
mod data;
mod directory;
mod execute;
mod handle;
mod inode;
mod lock;
mod names;
mod place;
mod ranges;
mod session;
mod veil;
mod version;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use thiserror::Error;

pub use crate::identity::Identity;

use crate::frame::{self, Buffer, Verdict};
use crate::poison::lock;
use crate::stream::{self, Breaker, Stream};
use session::Session;

/// Names one mount of a job: which one is the caller's affair, for example the epoch of the move that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Why a server could not be made.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The directory cannot be opened. Nothing has happened.
    #[error("cannot export {}: {source}", path.display())]
    Export {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why serving one connection ended. Sessions live on; the guest's node connects again.
#[derive(Debug, Error)]
pub enum ServeError {
    /// This thread cannot take on the job's credentials; nothing was executed. The keeper lacks privilege.
    #[error("cannot act as uid {uid}: {source}")]
    Identity {
        /// The job's user.
        uid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The session has been ended; the guest's node was told.
    #[error("session {} is over", .0.0)]
    Over(SessionId),
    /// The other side does not speak this protocol, or breaks its rules.
    #[error("bad greeting or frame: {0}")]
    Protocol(&'static str),
    /// The connection broke.
    #[error("connection: {0}")]
    Connection(#[from] io::Error),
}

/// The directory that guests see as `/`.
#[derive(Debug)]
pub struct Export {
    root: OwnedFd,
}

impl Export {
    /// Exports the directory at `path` of the calling thread's mount namespace, with all that is mounted below it.
    pub fn open(path: &Path) -> Result<Export, ServerError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty())
            .map_err(|errno| ServerError::Export { path: path.to_owned(), source: errno.into() })?;
        Ok(Export { root })
    }

    /// Exports an open directory; `O_PATH` is enough.
    pub fn from_fd(root: OwnedFd) -> Export {
        Export { root }
    }
}

/// Serves one job's files to wherever the job is.
#[derive(Debug)]
pub struct Server {
    identity: Identity,
    export: OwnedFd,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    live: HashMap<SessionId, Arc<Session>>,
    over: HashSet<SessionId>,
    connections: HashMap<u64, (SessionId, Breaker)>,
    next_connection: u64,
}

impl Server {
    /// A server of `export` for a job with this identity. It has no thread; [`Server::serve`] is its work.
    pub fn new(identity: Identity, export: Export) -> Server {
        Server { identity, export: export.root, sessions: Mutex::default() }
    }

    /// Serves one connection until it ends, which is `Ok`, or fails.
    ///
    /// The calling thread takes on the job's credentials **for good**: give each connection a thread of its
    /// own that does nothing else and ends afterwards. A session begins with its first connection.
    pub fn serve(&self, mut stream: impl Stream, id: SessionId) -> Result<(), ServeError> {
        stream::prepare(&stream);
        self.identity.assume().map_err(|source| ServeError::Identity { uid: self.identity.uid, source })?;
        let channel = match frame::hear(&mut stream)? {
            Ok(channel) => channel,
            Err(verdict) => {
                frame::answer(&mut stream, verdict)?;
                return Err(ServeError::Protocol("other version, other architecture or no such channel"));
            }
        };
        let Some((session, _registered)) = self.enter(id, &stream)? else {
            frame::answer(&mut stream, Verdict::Over)?;
            return Err(ServeError::Over(id));
        };
        frame::answer(&mut stream, Verdict::Welcome)?;
        let lane = session.lane(channel);
        let mut request = Buffer::new();
        while let Some(received) = request.receive(&mut stream)? {
            let reply = session.answer(&lane, received.sequence, request.received(received))?;
            stream.write_all(reply.frame())?;
            stream.flush()?;
        }
        Ok(())
    }

    /// Ends a session: when this returns, no request of it is being executed and none will be; its open files
    /// and locks are let go, its connections broken. Calling it again, or before a session began, is right too.
    /// It takes as long as the slowest request: where a file system at home hangs, so does this.
    pub fn end_session(&self, id: SessionId) {
        let session = {
            let mut sessions = lock(&self.sessions);
            sessions.over.insert(id);
            for (_, breaker) in sessions.connections.values().filter(|(of, _)| *of == id) {
                breaker.break_off();
            }
            sessions.live.remove(&id)
        };
        if let Some(session) = session {
            session.end();
        }
    }

    /// How many file locks the guest holds in this session. A move would lose them.
    pub fn locks_held(&self, id: SessionId) -> usize {
        let session = lock(&self.sessions).live.get(&id).cloned();
        session.map_or(0, |session| session.locks_held())
    }

    /// The session with this id, begun if need be, and the connection's entry in the register.
    /// `None`: it is over.
    fn enter(&self, id: SessionId, stream: &impl AsFd) -> io::Result<Option<(Arc<Session>, Registered<'_>)>> {
        let breaker = Breaker::of(stream)?;
        let mut sessions = lock(&self.sessions);
        if sessions.over.contains(&id) {
            return Ok(None);
        }
        let session = match sessions.live.get(&id) {
            Some(session) => session.clone(),
            None => {
                let session = Arc::new(Session::new(&self.export)?);
                sessions.live.insert(id, session.clone());
                session
            }
        };
        let number = sessions.next_connection;
        sessions.next_connection += 1;
        sessions.connections.insert(number, (id, breaker));
        Ok(Some((session, Registered { server: self, number })))
    }
}

/// A connection's entry in the register, taken out when the connection ends.
struct Registered<'a> {
    server: &'a Server,
    number: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        lock(&self.server.sessions).connections.remove(&self.number);
    }
}
