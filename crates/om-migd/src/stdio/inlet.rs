//! At home: reads the user's stdin and hands it to the job, into its pipe while it is here, over the link while it is
//! away. What the other side has not acknowledged is kept.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Whence, lseek, read};
use om_homefs::server::Identity;

use super::input_pipe::{Fill, InputPipe};
use super::wake::Wake;
use super::{CHUNK, InputState, WINDOW, is_pipe, is_readable};
use crate::bytes::Bytes;

/// A piece of input for another node, or its end.
pub enum Piece<'a> {
    /// Bytes from this offset on.
    Data(u64, &'a [u8]),
    /// The input ends at this offset.
    End(u64),
}

/// Sends a piece to where the job is; false if the link is broken.
pub type SendPiece = Arc<dyn Fn(Piece<'_>) -> bool + Send + Sync>;

/// Stdin at home.
#[derive(Clone)]
pub struct Inlet {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Wake,
    user: OwnedFd,
    /// The user's descriptor is a regular file: reading it never waits, and what was read too far can be given back.
    is_file: bool,
}

/// Where the job's end of the stream is.
enum Host {
    /// Nowhere yet, or on a node whose link is broken.
    None,
    /// Here.
    Here(InputPipe),
    /// Here, frozen.
    Suspended(InputPipe),
    /// On another node.
    Away(SendPiece),
}

struct State {
    host: Host,
    /// Bytes from offset `base` on that nobody else has.
    kept: VecDeque<u8>,
    base: u64,
    /// Offset up to which the other node was sent to.
    sent: u64,
    end_sent: bool,
    /// The user's descriptor has come to its end.
    ended: bool,
    /// The user's terminal is somebody else's for now: nothing is read.
    held: bool,
    finished: bool,
}

impl Inlet {
    /// Starts the reading thread, which reads as this user: what some files say depends on who reads them. It reads nothing
    /// before the job is attached.
    pub fn start(user: OwnedFd, reader: Option<Identity>) -> io::Result<Self> {
        let state = State {
            host: Host::None,
            kept: VecDeque::new(),
            base: 0,
            sent: 0,
            end_sent: false,
            ended: false,
            held: false,
            finished: false,
        };
        let is_file = fstat(&user)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Wake::new()?, user, is_file });
        let inlet = Self { shared: shared.clone() };
        std::thread::Builder::new().name("inlet".into()).stack_size(64 << 10).spawn(move || {
            match reader.map_or(Ok(()), |reader| reader.assume()) {
                Ok(()) => {}
                Err(error) => {
                    log::error!("cannot read for the job's user: {error}");
                    shared.lock().ended = true;
                }
            }
            shared.run();
        })?;
        Ok(inlet)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.wake.ring();
    }

    /// The job is here, and has come with this.
    pub fn attach(&self, pipe: InputPipe, came_with: &InputState) {
        self.change(|state| {
            state.acknowledge(came_with.received);
            for byte in came_with.unread.0.iter().rev() {
                state.kept.push_front(*byte);
            }
            state.base -= came_with.unread.0.len() as u64;
            state.host = Host::Here(pipe);
        });
    }

    /// The job is frozen and may leave: nothing is delivered any more. Returns what it would take along.
    #[must_use]
    pub fn suspend(&self) -> InputState {
        let mut result = InputState::default();
        self.change(|state| {
            result.received = state.base;
            if let Host::Here(pipe) = std::mem::replace(&mut state.host, Host::None) {
                result.unread = Bytes(pipe.unread());
                result.ended = pipe.writer().is_none();
                state.host = Host::Suspended(pipe);
            }
        });
        result
    }

    /// The job stays after all.
    pub fn resume(&self) {
        self.change(|state| {
            state.host = match std::mem::replace(&mut state.host, Host::None) {
                Host::Suspended(pipe) => Host::Here(pipe),
                other => other,
            }
        });
    }

    /// The job is away and has received up to `received`.
    pub fn attach_remote(&self, received: u64, send: SendPiece) {
        self.change(|state| {
            state.acknowledge(received);
            state.sent = state.base;
            state.end_sent = false;
            state.host = Host::Away(send);
        });
    }

    /// The job is nowhere: the link is broken, or it is about to move on.
    pub fn detach(&self) {
        self.change(|state| state.host = Host::None);
    }

    /// Whether the user's terminal is somebody else's for now, so that nothing may be read from it.
    pub fn hold(&self, held: bool) {
        self.change(|state| state.held = held);
    }

    /// The other side has this much.
    pub fn acknowledge(&self, offset: u64) {
        self.change(|state| state.acknowledge(offset));
    }

    /// Up to where the job here has read; none if it is not here, or if its input is no pipe.
    #[must_use]
    pub fn read_by_job(&self) -> Option<u64> {
        match &*self.shared.lock() {
            _ if !self.shared.is_file => None,
            State { host: Host::Here(pipe) | Host::Suspended(pipe), base, .. } => {
                Some(base - pipe.unread().len() as u64)
            }
            _ => None,
        }
    }

    /// Nothing of the job reads any more, and it has read up to `offset`: of a regular file, whoever has it open too
    /// reads on from there, as after any program that takes what it needs. Nothing is read from now on.
    pub fn give_back(&self, offset: u64) {
        self.change(|state| {
            let ahead = (state.base + state.kept.len() as u64).saturating_sub(offset);
            if let Ok(ahead) = i64::try_from(ahead)
                && self.shared.is_file
                && !state.finished
            {
                let _ = lseek(&self.shared.user, -ahead, Whence::SeekCur);
            }
            state.finished = true;
        });
    }

    /// Ends the thread, and with it our hold on the user's descriptor.
    pub fn finish(&self) {
        self.change(|state| state.finished = true);
    }
}

impl State {
    fn acknowledge(&mut self, offset: u64) {
        let known =
            usize::try_from(offset.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.kept.len());
        self.kept.drain(..known);
        self.base += known as u64;
        self.sent = self.sent.max(self.base);
    }

    /// The next bytes that the other side has not been sent.
    fn next_piece(&self, buffer: &mut [u8]) -> Option<(u64, usize)> {
        let skip = usize::try_from(self.sent.checked_sub(self.base)?).ok()?;
        let count = self.kept.len().checked_sub(skip).filter(|count| *count > 0)?.min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.kept.range(skip..skip + count)) {
            *to = *from;
        }
        Some((self.sent, count))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut buffer = vec![0; CHUNK];
        // What is in a pipe is moved on without copying it.
        let mut moves = is_pipe(&self.user);
        loop {
            let mut guard = self.lock();
            let state = &mut *guard;
            let mut full = None;
            let may_read = !state.held && !state.ended;
            match &mut state.host {
                _ if state.finished => return,
                Host::Here(pipe) => {
                    let (fill, taken) = pipe.fill(&mut state.kept);
                    state.base += taken;
                    match fill {
                        Fill::Full => full = pipe.writer(),
                        Fill::Done if state.ended => pipe.close(),
                        Fill::Done if may_read && moves => match pipe.splice_from(self.user.as_fd()) {
                            Ok(count) => {
                                state.ended = count == 0;
                                state.base += count as u64;
                                continue;
                            }
                            Err(Errno::EAGAIN) if is_readable(self.user.as_fd()) => full = pipe.writer(),
                            Err(Errno::EPIPE) => return,
                            Err(Errno::EAGAIN | Errno::EINTR) => {}
                            Err(_) => moves = false,
                        },
                        Fill::Done => {}
                        // The job reads no more: neither do we, and the user's writer gets SIGPIPE.
                        Fill::Broken => return,
                    }
                }
                Host::Away(send) => {
                    let send = send.clone();
                    if let Some((offset, count)) = state.next_piece(&mut buffer) {
                        state.sent = offset + count as u64;
                        drop(guard);
                        send(Piece::Data(offset, &buffer[..count]));
                        continue;
                    }
                    if state.ended && !state.end_sent {
                        state.end_sent = true;
                        let end = state.base + state.kept.len() as u64;
                        drop(guard);
                        send(Piece::End(end));
                        continue;
                    }
                }
                Host::None | Host::Suspended(_) => {}
            }
            let attached = matches!(state.host, Host::Here(_) | Host::Away(_));
            let moves_on = moves && matches!(state.host, Host::Here(_));
            // What is moved on stays where it is until there is room for it.
            let has_room = if moves_on { full.is_none() } else { state.kept.len() < WINDOW };
            let hungry = attached && may_read && has_room;
            drop(guard);
            let user = hungry.then_some((self.user.as_fd(), PollFlags::POLLIN));
            let pipe = full.as_ref().map(|writer| (writer.as_fd(), PollFlags::POLLOUT));
            let [user, _] = self.wake.wait([user, pipe]);
            if !user.is_empty() && !moves_on {
                // Without the lock: the user's descriptor may block in spite of the poll. A file does not, and what is
                // read of it may have to be given back.
                let guard = self.is_file.then(|| self.lock());
                if guard.as_ref().is_some_and(|state| state.finished) {
                    return;
                }
                let result = read(&self.user, &mut buffer);
                let mut state = guard.unwrap_or_else(|| self.lock());
                match result {
                    Ok(count @ 1..) => state.kept.extend(&buffer[..count]),
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    _ => state.ended = true,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;
    use crate::stdio::pipe_to_job;

    #[test]
    fn input_that_the_job_has_not_read_goes_along_and_comes_back() {
        let (user, writer) = nix::unistd::pipe().unwrap();
        let mut writer = File::from(writer);
        let inlet = Inlet::start(user, None).unwrap();
        let (job, ours) = pipe_to_job().unwrap();
        inlet.attach(InputPipe::new(ours).unwrap(), &InputState::default());
        writer.write_all(b"read unread").unwrap();
        drop(writer);
        let mut job = File::from(job);
        let mut first = [0; 5];
        job.read_exact(&mut first).unwrap();
        let mut along = inlet.suspend();
        while !along.ended {
            inlet.resume();
            std::thread::yield_now();
            along = inlet.suspend();
        }
        assert_eq!(along, InputState { received: 11, unread: Bytes(b"unread".to_vec()), ended: true });
        let (job, ours) = pipe_to_job().unwrap();
        inlet.attach(InputPipe::new(ours).unwrap(), &along);
        let mut rest = String::new();
        File::from(job).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "unread");
    }

    #[test]
    fn what_was_read_too_far_of_a_file_is_given_back() {
        let path = std::env::temp_dir().join(format!("om-inlet-{}", std::process::id()));
        std::fs::write(&path, "first second third").unwrap();
        let mut file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let inlet = Inlet::start(file.try_clone().unwrap().into(), None).unwrap();
        let (job, ours) = pipe_to_job().unwrap();
        inlet.attach(InputPipe::new(ours).unwrap(), &InputState::default());
        let mut first = [0; 6];
        File::from(job).read_exact(&mut first).unwrap();
        assert_eq!(inlet.read_by_job(), Some(6));
        inlet.give_back(6);
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "second third");
    }

    #[test]
    fn a_broken_link_resumes_where_the_other_side_stood() {
        let (user, writer) = nix::unistd::pipe().unwrap();
        File::from(writer).write_all(b"0123456789").unwrap();
        let inlet = Inlet::start(user, None).unwrap();
        let (sender, pieces) = crossbeam_channel::unbounded();
        let collect: SendPiece = Arc::new(move |piece| match piece {
            Piece::Data(offset, bytes) => sender.send((offset, bytes.to_vec())).is_ok(),
            Piece::End(offset) => sender.send((offset, Vec::new())).is_ok(),
        });
        inlet.attach_remote(0, collect.clone());
        assert_eq!(pieces.recv().unwrap(), (0, b"0123456789".to_vec()));
        inlet.detach();
        inlet.attach_remote(4, collect);
        assert!(pieces.iter().any(|piece| piece == (4, b"456789".to_vec())));
        assert_eq!(pieces.recv().unwrap(), (10, Vec::new()));
    }
}
