//! One mount's state at home: its inodes, open files and locks, and the memory of its channels.
//!
//! A channel remembers the sequence number and the reply of its last request. The guest's node sends a
//! request again when it has seen no reply; what was executed is then answered from memory, what was not is
//! executed: each request exactly once, wherever the connection broke.
//!
//! ```text
//! sequence = last + 1   execute, remember, answer
//! sequence = last       answer from memory; wait first if it is still being executed
//! anything else         an old connection that outlived its successor: end it
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::poison::lock;
use crate::reply::Reply;
use crate::request::{Header, Request};

use super::ServeError;
use super::handle::Handles;
use super::inode::Inodes;
use super::lock::Locks;

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) inodes: Inodes,
    pub(super) handles: Handles,
    pub(super) locks: Locks,
    lanes: Mutex<HashMap<u16, Arc<Lane>>>,
    /// Held for reading while a request is executed.
    over: RwLock<bool>,
}

/// What is remembered of one channel; locked while a request of it is executed.
pub(super) type Lane = Mutex<Memory>;

#[derive(Debug, Default)]
pub(super) struct Memory {
    sequence: u64,
    reply: Arc<Reply>,
}

impl Session {
    pub(super) fn new(root: &OwnedFd) -> io::Result<Session> {
        Ok(Session {
            inodes: Inodes::new(root)?,
            handles: Handles::default(),
            locks: Locks::default(),
            lanes: Mutex::default(),
            over: RwLock::new(false),
        })
    }

    pub(super) fn lane(&self, channel: u16) -> Arc<Lane> {
        lock(&self.lanes).entry(channel).or_default().clone()
    }

    /// Waits until no request is being executed and lets everything go.
    pub(super) fn end(&self) {
        *self.over.write().unwrap_or_else(PoisonError::into_inner) = true;
        self.locks.clear();
        self.handles.clear();
        self.inodes.clear();
        lock(&self.lanes).clear();
    }

    pub(super) fn locks_held(&self) -> usize {
        self.locks.held() + self.handles.flocks_held()
    }

    /// Answers the request in `message`, by executing it or from memory.
    pub(super) fn answer(
        &self,
        lane: &Lane,
        sequence: u64,
        message: &[u8],
    ) -> Result<Arc<Reply>, ServeError> {
        let mut memory = lock(lane);
        if sequence == memory.sequence && sequence != 0 {
            return Ok(memory.reply.clone());
        }
        if Some(sequence) != memory.sequence.checked_add(1) {
            return Err(ServeError::Protocol("sequence number out of turn"));
        }
        let header = Header::parse(message).ok_or(ServeError::Protocol("not a FUSE request"))?;
        // The last reply is still being written to a connection that is no more: leave it that buffer.
        if Arc::get_mut(&mut memory.reply).is_none() {
            memory.reply = Arc::default();
        }
        let Some(reply) = Arc::get_mut(&mut memory.reply) else {
            return Err(ServeError::Protocol("reply in use"));
        };
        reply.begin();
        {
            let over = self.over.read().unwrap_or_else(PoisonError::into_inner);
            if *over {
                return Err(ServeError::Protocol("the session is over"));
            }
            let result = Request::parse(header, message).and_then(|request| self.execute(request, reply));
            log::trace!("{header:?}: {result:?}");
            match header.wants_reply() {
                true => reply.finish(sequence, header.unique, result),
                false => reply.finish_silently(sequence),
            }
        }
        memory.sequence = sequence;
        Ok(memory.reply.clone())
    }
}
