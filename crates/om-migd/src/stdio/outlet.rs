//! At home: writes one output stream of the job to the user's descriptor, in the order of its offsets, whether it
//! comes from a local pipe or from another node.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{UnixAddr, getsockname};
use nix::unistd::{read, write};
use om_homefs::server::Identity;

use super::wake::Wake;
use super::{CHUNK, is_pipe, is_readable};
use crate::sys;

/// What happens to an output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The user has got everything up to this offset.
    Delivered(u64),
    /// The user does not read any more.
    Closed,
}

/// One output stream at home.
#[derive(Clone)]
pub struct Outlet {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Wake,
    user: OwnedFd,
}

struct State {
    /// The job's pipe or terminal while the job is here.
    local: Option<Arc<OwnedFd>>,
    /// What was received and not yet taken by the writing thread.
    queue: VecDeque<u8>,
    /// Offset after the last byte received.
    received: u64,
    /// Nobody reads: everything is dropped.
    closed: bool,
    /// The thread is to end when the queue is empty.
    finished: bool,
}

impl Outlet {
    /// Starts the writing thread, which writes as this user: what was asked for must have been asked for by him. `notify` is
    /// called by it and must not block for long.
    pub fn start(
        user: OwnedFd,
        writer: Option<Identity>,
        notify: impl Fn(Event) + Send + 'static,
    ) -> io::Result<Self> {
        let state =
            State { local: None, queue: VecDeque::new(), received: 0, closed: false, finished: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Wake::new()?, user });
        let outlet = Self { shared: shared.clone() };
        std::thread::Builder::new().name("outlet".into()).stack_size(64 << 10).spawn(move || {
            let become_writer = |writer: Identity| match is_unix_socket(&shared.user) {
                true => writer.assume_for_sockets(),
                false => writer.assume(),
            };
            if let Err(error) = writer.map_or(Ok(()), become_writer) {
                log::error!("cannot write for the job's user: {error}");
                shared.close(&notify);
            }
            shared.run(&notify);
        })?;
        Ok(outlet)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// The job is here: its output comes from this descriptor, which must not block.
    pub fn attach(&self, local: OwnedFd) {
        let mut state = self.lock();
        state.local = if state.closed { None } else { Some(Arc::new(local)) };
        self.shared.wake.ring();
    }

    /// Takes everything out of the local descriptor and forgets it; returns the offset at which the stream stands. The
    /// job must be frozen or dead.
    pub fn detach(&self) -> u64 {
        let mut state = self.lock();
        if let Some(local) = state.local.take() {
            state.drain(&local);
        }
        self.shared.wake.ring();
        state.received
    }

    /// As [`Self::detach`], but the descriptor stays attached.
    pub fn catch_up(&self) -> u64 {
        let mut state = self.lock();
        if let Some(local) = state.local.clone() {
            state.drain(&local);
        }
        self.shared.wake.ring();
        state.received
    }

    /// Output from another node. What is known already is dropped; a gap is an error of the other node and ends here.
    pub fn push(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let known =
            state.received.checked_sub(offset).ok_or_else(|| io::Error::other("a gap in the output"))?;
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(data.len());
        let fresh = &data[known..];
        state.received += fresh.len() as u64;
        if !state.closed {
            state.queue.extend(fresh);
        }
        self.shared.wake.ring();
        Ok(())
    }

    /// Offset after the last byte received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// Whether the user's reader has left.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends the thread, and with it our hold on the user's descriptor, once everything is delivered.
    pub fn finish(&self) {
        self.lock().finished = true;
        self.shared.wake.ring();
    }
}

fn is_unix_socket(file: &OwnedFd) -> bool {
    getsockname::<UnixAddr>(file.as_raw_fd()).is_ok()
}

impl State {
    fn drain(&mut self, local: &OwnedFd) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = read(local, &mut buffer) {
            self.received += count as u64;
            self.queue.extend(&buffer[..count]);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, notify: &dyn Fn(Event)) {
        let mut buffer = vec![0; CHUNK];
        // From pipe to pipe nothing is copied.
        let mut moves = is_pipe(&self.user);
        let mut untold = None;
        loop {
            let mut state = self.lock();
            let mut count = take(&mut state.queue, &mut buffer);
            let local = state.local.clone();
            let mut is_full = false;
            if let (0, Some(local), true) = (count, &local, moves && !state.closed) {
                match sys::splice(local.as_fd(), self.user.as_fd(), CHUNK) {
                    Ok(0) => state.local = None,
                    Ok(more) => {
                        state.received += more as u64;
                        untold = Some(state.received);
                        continue;
                    }
                    Err(Errno::EAGAIN) => is_full = is_readable(local.as_fd()),
                    Err(Errno::EPIPE) => {
                        drop(state);
                        self.close(notify);
                        continue;
                    }
                    Err(Errno::EINTR) => continue,
                    Err(_) => moves = false,
                }
            } else if let (0, Some(local)) = (count, &local) {
                match read(local, &mut buffer) {
                    Ok(0) | Err(Errno::EIO) => state.local = None,
                    Ok(more) => {
                        state.received += more as u64;
                        count = more;
                    }
                    Err(_) => {}
                }
            }
            let delivered = state.received - state.queue.len() as u64;
            let (closed, finished) = (state.closed, state.finished && state.local.is_none());
            drop(state);
            if let Some(moved) = untold.take() {
                notify(Event::Delivered(moved));
            }
            if count > 0 {
                if !closed && !self.write_all(&buffer[..count]) {
                    self.close(notify);
                }
                notify(Event::Delivered(delivered));
            } else if finished {
                return;
            } else {
                let room = if is_full { PollFlags::POLLOUT } else { PollFlags::empty() };
                let user = (!closed).then_some((self.user.as_fd(), room));
                // What is there waits for room.
                let local = local.as_ref().filter(|_| !is_full).map(|fd| (fd.as_fd(), PollFlags::POLLIN));
                let [user, _] = self.wake.wait([user, local]);
                if user.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL) {
                    self.close(notify);
                }
            }
        }
    }

    fn write_all(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match write(&self.user, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EINTR) => {}
                // The user's descriptor may have been made non-blocking by somebody who shares it.
                Err(Errno::EAGAIN) => {
                    self.wake.wait([Some((self.user.as_fd(), PollFlags::POLLOUT))]);
                }
                Err(_) => return false,
            }
        }
        true
    }

    fn close(&self, notify: &dyn Fn(Event)) {
        let mut state = self.lock();
        state.closed = true;
        state.queue.clear();
        // The job gets SIGPIPE, as if it wrote to the user's pipe itself.
        state.local = None;
        drop(state);
        notify(Event::Closed);
    }
}

/// Moves the front of the queue into the buffer.
fn take(queue: &mut VecDeque<u8>, buffer: &mut [u8]) -> usize {
    let (front, _) = queue.as_slices();
    let count = front.len().min(buffer.len());
    buffer[..count].copy_from_slice(&front[..count]);
    queue.drain(..count);
    count
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;
    use crate::stdio::pipe_from_job;

    fn outlet() -> (Outlet, File, crossbeam_channel::Receiver<Event>) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let (sender, events) = crossbeam_channel::unbounded();
        (
            Outlet::start(writer, None, move |event| {
                let _ = sender.send(event);
            })
            .unwrap(),
            reader.into(),
            events,
        )
    }

    #[test]
    fn output_arrives_once_and_in_order_from_here_and_from_away() {
        let (outlet, mut user, _events) = outlet();
        let (local, job) = pipe_from_job().unwrap();
        outlet.attach(local);
        File::from(job).write_all(b"here ").unwrap();
        assert_eq!(outlet.detach(), 5);
        outlet.push(5, b"away ").unwrap();
        outlet.push(7, b"ay twice").unwrap();
        assert!(outlet.push(99, b"gap").is_err());
        outlet.finish();
        drop(outlet);
        let mut text = String::new();
        user.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here away twice");
    }

    #[test]
    fn a_reader_that_leaves_is_told_to_the_job() {
        let (outlet, user, events) = outlet();
        let (local, job) = pipe_from_job().unwrap();
        outlet.attach(local);
        drop(user);
        assert!(events.iter().any(|event| event == Event::Closed));
        let mut job = File::from(job);
        assert_eq!(job.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
