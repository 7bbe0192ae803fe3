//! On a guest's node: reads one output stream of the job and sends it home. What home has not acknowledged is kept,
//! and sent again on the next link.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::read;

use super::wake::Wake;
use super::{CHUNK, OutputState, WINDOW};
use crate::bytes::Bytes;

/// Sends output home: offset and bytes; no bytes mean the end of the stream. False if the link is broken.
pub type SendOutput = Arc<dyn Fn(u64, &[u8]) -> bool + Send + Sync>;

/// One output stream on this node.
#[derive(Clone)]
pub struct AwayOutput {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Wake,
}

struct State {
    /// The job's pipe or terminal; none once the job has closed it or nobody reads it.
    source: Option<Arc<OwnedFd>>,
    link: Option<SendOutput>,
    /// Bytes from offset `base` on that home has not acknowledged.
    kept: VecDeque<u8>,
    base: u64,
    /// Offset up to which this link has been sent to.
    sent: u64,
    end_sent: bool,
    /// Home's reader has left.
    closed: bool,
    suspended: bool,
    finished: bool,
}

impl AwayOutput {
    /// Starts the sending thread with what the job brought. `source` must not block.
    pub fn start(source: OwnedFd, brought: OutputState) -> io::Result<Self> {
        let state = State {
            source: (!brought.closed).then(|| Arc::new(source)),
            link: None,
            sent: brought.base,
            base: brought.base,
            kept: brought.unacknowledged.0.into(),
            end_sent: false,
            closed: brought.closed,
            suspended: true,
            finished: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Wake::new()? });
        let output = Self { shared: shared.clone() };
        std::thread::Builder::new().name("output".into()).stack_size(64 << 10).spawn(move || shared.run())?;
        Ok(output)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.wake.ring();
    }

    /// There is a link, and home has received up to `received`.
    pub fn attach(&self, received: u64, link: SendOutput) {
        self.change(|state| {
            state.acknowledge(received);
            state.sent = state.base;
            state.end_sent = false;
            state.link = Some(link);
        });
    }

    /// The link is broken.
    pub fn detach(&self) {
        self.change(|state| state.link = None);
    }

    /// Home has delivered this much.
    pub fn acknowledge(&self, offset: u64) {
        self.change(|state| state.acknowledge(offset));
    }

    /// How much home has delivered.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.lock().base
    }

    /// Whether nobody reads it any more.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.shared.lock().closed
    }

    /// Nobody reads it any more: the job gets SIGPIPE.
    pub fn close(&self) {
        self.change(|state| {
            state.closed = true;
            state.source = None;
            state.base += state.kept.len() as u64;
            state.kept.clear();
        });
    }

    /// The job is frozen and may leave: returns what it would take along. Everything that it has written is in it.
    #[must_use]
    pub fn suspend(&self) -> OutputState {
        let mut state = self.shared.lock();
        state.suspended = true;
        state.drain();
        let unacknowledged = Bytes(state.kept.iter().copied().collect());
        OutputState { base: state.base, unacknowledged, closed: state.closed }
    }

    /// The job runs here.
    pub fn resume(&self) {
        self.change(|state| state.suspended = false);
    }

    /// Takes everything out of the pipe and returns the offset at which the stream stands.
    #[must_use]
    pub fn catch_up(&self) -> u64 {
        let mut end = 0;
        self.change(|state| {
            state.drain();
            end = state.base + state.kept.len() as u64;
        });
        end
    }

    /// Ends the thread.
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

    fn drain(&mut self) {
        let Some(source) = self.source.clone() else { return };
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = read(&source, &mut buffer) {
            self.kept.extend(&buffer[..count]);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let mut guard = self.lock();
            let state = &mut *guard;
            if state.finished {
                return;
            }
            let mut idle = true;
            if let (Some(source), false) =
                (state.source.clone(), state.suspended || state.kept.len() >= WINDOW)
            {
                match read(&source, &mut buffer) {
                    Ok(0) | Err(Errno::EIO) => {
                        state.source = None;
                        idle = false;
                    }
                    Ok(count) => {
                        state.kept.extend(&buffer[..count]);
                        idle = false;
                    }
                    Err(_) => {}
                }
            }
            if let Some(link) = state.link.clone() {
                let end = state.base + state.kept.len() as u64;
                let skip = usize::try_from(state.sent - state.base).unwrap_or(usize::MAX);
                if state.sent < end {
                    let count = (state.kept.len() - skip).min(buffer.len());
                    for (to, from) in buffer.iter_mut().zip(state.kept.range(skip..skip + count)) {
                        *to = *from;
                    }
                    let offset = state.sent;
                    state.sent += count as u64;
                    drop(guard);
                    link(offset, &buffer[..count]);
                    continue;
                }
                if state.source.is_none() && !state.end_sent && !state.closed {
                    state.end_sent = true;
                    drop(guard);
                    link(end, &[]);
                    continue;
                }
            }
            let source = state.source.clone().filter(|_| !state.suspended && state.kept.len() < WINDOW);
            drop(guard);
            if idle {
                self.wake.wait([source.as_ref().map(|fd| (fd.as_fd(), PollFlags::POLLIN))]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::stdio::pipe_from_job;

    #[test]
    fn what_home_has_not_acknowledged_travels_on_and_is_sent_again() {
        let (source, job) = pipe_from_job().unwrap();
        let output = AwayOutput::start(source, OutputState::default()).unwrap();
        let (sender, sent) = crossbeam_channel::unbounded();
        let link: SendOutput = Arc::new(move |offset, bytes| sender.send((offset, bytes.to_vec())).is_ok());
        output.attach(0, link.clone());
        output.resume();
        File::from(job.try_clone().unwrap()).write_all(b"abc").unwrap();
        assert_eq!(sent.recv().unwrap(), (0, b"abc".to_vec()));
        output.acknowledge(2);
        File::from(job).write_all(b"def").unwrap();
        let along = output.suspend();
        assert_eq!(along, OutputState { base: 2, unacknowledged: Bytes(b"cdef".to_vec()), closed: false });

        let (source, _job) = pipe_from_job().unwrap();
        let output = AwayOutput::start(source, along).unwrap();
        output.attach(3, link);
        assert!(sent.iter().any(|piece| piece == (3, b"def".to_vec())));
    }
}
