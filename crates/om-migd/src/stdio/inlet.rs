//! At home: reads the user's stdin and hands it to the job, into its pipe while it is here, over the link while it is
//! away. What the other side has not acknowledged is kept.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Whence, isatty, lseek, read};
use om_homefs::server::Identity;
use om_proto::control::Keyboard;

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

/// How often a terminal is looked at whose keyboard another program has taken for single keys, milliseconds: nobody tells
/// when it gives it back.
const LOOK_EVERY_MS: u16 = 250;

/// Stdin at home.
#[derive(Clone)]
pub struct Inlet {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Wake,
    user: OwnedFd,
    kind: Kind,
}

/// What the user's descriptor is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Reading it never waits, and what was read too far can be given back.
    File,
    /// Others read it too, and what is typed for them must stay there. Reading it never waits.
    Terminal,
    /// A pipe, a socket or a device: reading it may wait.
    Stream,
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
    /// Whose the keyboard is, if this is a terminal.
    keyboard: Keyboard,
    finished: bool,
}

impl Inlet {
    /// Starts the reading thread, which reads as this user: what some files say depends on who reads them. It reads nothing
    /// before the job is attached.
    pub fn start(user: OwnedFd, reader: Option<Identity>) -> io::Result<Self> {
        let mut state = State {
            host: Host::None,
            kept: VecDeque::new(),
            base: 0,
            sent: 0,
            end_sent: false,
            ended: false,
            keyboard: Keyboard::Others,
            finished: false,
        };
        let (user, kind) = if isatty(&user).unwrap_or(false) {
            // One that has been hung up has nothing more to say.
            let anew = open_anew(&user);
            state.ended = anew.is_err();
            (anew.unwrap_or(user), Kind::Terminal)
        } else if fstat(&user)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() {
            (user, Kind::File)
        } else {
            (user, Kind::Stream)
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Wake::new()?, user, kind });
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

    /// Whose the keyboard of the user's terminal is from now on: where this was the job's, nothing is read any more once
    /// this returns.
    pub fn give_keyboard(&self, keyboard: Keyboard) {
        self.change(|state| state.keyboard = keyboard);
    }

    /// The other side has this much.
    pub fn acknowledge(&self, offset: u64) {
        self.change(|state| state.acknowledge(offset));
    }

    /// Up to where the job here has read; none if it is not here, or if its input is no pipe.
    #[must_use]
    pub fn read_by_job(&self) -> Option<u64> {
        match &*self.shared.lock() {
            _ if self.shared.kind != Kind::File => None,
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
                && self.shared.kind == Kind::File
                && !state.finished
            {
                let _ = lseek(&self.shared.user, -ahead, Whence::SeekCur);
            }
            state.finished = true;
        });
    }

    /// Ends the thread, and with it our hold on the user's descriptor. Of a terminal nothing is read once this returns.
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
            let may_read = !state.ended && self.has_turn(state);
            let limit = if state.keyboard == Keyboard::Shared && !state.ended && !may_read {
                PollTimeout::from(LOOK_EVERY_MS)
            } else {
                PollTimeout::NONE
            };
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
            let [user, _] = self.wake.wait_at_most(limit, [user, pipe]);
            if !user.is_empty() && !moves_on {
                self.read(&mut buffer);
            }
        }
    }

    /// Reads what the user's descriptor has.
    fn read(&self, buffer: &mut [u8]) {
        // A stream may block in spite of the poll. Where reading does not, nobody may take the right to it, or want what
        // was read given back, between the look at it and the end of it.
        let guard = (self.kind != Kind::Stream).then(|| self.lock());
        if guard.as_ref().is_some_and(|state| state.finished || !self.has_turn(state)) {
            return;
        }
        let result = read(&self.user, buffer);
        let mut state = guard.unwrap_or_else(|| self.lock());
        match result {
            Ok(count @ 1..) => state.kept.extend(&buffer[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            _ => state.ended = true,
        }
    }

    /// Whether the job may have what comes now.
    fn has_turn(&self, state: &State) -> bool {
        match (self.kind, state.keyboard) {
            (Kind::File | Kind::Stream, _) | (_, Keyboard::Own) => true,
            (_, Keyboard::Others) => false,
            (_, Keyboard::Shared) => {
                tcgetattr(&self.user).is_ok_and(|modes| modes.local_flags.contains(LocalFlags::ICANON))
            }
        }
    }
}

/// Opens a terminal once more, not to block: two that wait for the same key both wake up, and one of them gets it. The
/// user's own descriptor is the same as his shell's, and stays as it is.
fn open_anew(terminal: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", terminal.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    Ok(open(path.as_str(), flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use nix::pty::{OpenptyResult, openpty};
    use nix::sys::termios::{SetArg, tcsetattr};

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

    /// A terminal at which a user types, its inlet, and the job's end of that.
    fn terminal() -> (File, File, Inlet, File) {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let inlet = Inlet::start(slave.try_clone().unwrap(), None).unwrap();
        let (job, ours) = pipe_to_job().unwrap();
        inlet.attach(InputPipe::new(ours).unwrap(), &InputState::default());
        (master.into(), slave.into(), inlet, job.into())
    }

    fn next(mut from: &File) -> String {
        let mut buffer = [0; 64];
        let mut list = [nix::poll::PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut list, PollTimeout::from(20_000u16)), Ok(1), "nothing to read");
        let count = from.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn what_is_typed_while_the_keyboard_is_the_shells_stays_there() {
        let (mut keys, shell, inlet, job) = terminal();
        for round in 0..200 {
            let (first, second) = (format!("job {round}\n"), format!("shell {round}\n"));
            inlet.give_keyboard(Keyboard::Own);
            keys.write_all(first.as_bytes()).unwrap();
            assert_eq!(next(&job), first);
            inlet.give_keyboard(Keyboard::Others);
            keys.write_all(second.as_bytes()).unwrap();
            assert_eq!(next(&shell), second);
        }
    }

    #[test]
    fn a_reader_that_was_quicker_leaves_nobody_waiting_for_the_next_key() {
        let (mut keys, shell, inlet, _job) = terminal();
        let other = open_anew(&shell.try_clone().unwrap().into()).unwrap();
        for round in 0..200 {
            inlet.give_keyboard(Keyboard::Own);
            keys.write_all(b"for the first\n").unwrap();
            while read(&other, &mut [0; 64]).is_err() && is_readable(shell.as_fd()) {}
            inlet.give_keyboard(Keyboard::Others);
            let line = format!("shell {round}\n");
            keys.write_all(line.as_bytes()).unwrap();
            assert_eq!(next(&shell), line);
        }
    }

    #[test]
    fn single_keys_are_for_the_program_that_shares_the_keyboard() {
        let (mut keys, pager, inlet, job) = terminal();
        let line_mode = |on: bool| {
            let mut modes = tcgetattr(&pager).unwrap();
            modes.local_flags.set(LocalFlags::ICANON, on);
            tcsetattr(&pager, SetArg::TCSANOW, &modes).unwrap();
        };
        inlet.give_keyboard(Keyboard::Shared);
        for _ in 0..2 {
            line_mode(true);
            keys.write_all(b"a line\n").unwrap();
            assert_eq!(next(&job), "a line\n");
            line_mode(false);
            keys.write_all(b"q").unwrap();
            assert_eq!(next(&pager), "q");
        }
    }
}
