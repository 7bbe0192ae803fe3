//! On a guest's node: what home sends as stdin, on its way into the job's pipe.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::poll::PollFlags;

use super::InputState;
use super::input_pipe::{Fill, InputPipe};
use super::wake::Wake;
use crate::bytes::Bytes;

/// The job's stdin on this node.
#[derive(Clone)]
pub struct AwayInput {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Wake,
}

struct State {
    pipe: InputPipe,
    queue: VecDeque<u8>,
    /// Offset after the last byte received.
    received: u64,
    /// Offset at which the input ends, once that is known.
    end: Option<u64>,
    suspended: bool,
    finished: bool,
}

impl AwayInput {
    /// Starts the writing thread with what the job brought. It delivers nothing before [`Self::resume`]. `taken` is
    /// called with the offset up to which the job's pipe has it.
    pub fn start(
        pipe: InputPipe,
        brought: InputState,
        taken: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let state = State {
            pipe,
            queue: brought.unread.0.into(),
            received: brought.received,
            end: brought.ended.then_some(brought.received),
            suspended: true,
            finished: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Wake::new()? });
        let input = Self { shared: shared.clone() };
        std::thread::Builder::new()
            .name("input".into())
            .stack_size(64 << 10)
            .spawn(move || shared.run(&taken))?;
        Ok(input)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.wake.ring();
    }

    /// Input from home. What is known already is dropped; a gap is home's error and ends here.
    pub fn push(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut result = Ok(());
        self.change(|state| match state.received.checked_sub(offset) {
            Some(known) => {
                let known = usize::try_from(known).unwrap_or(usize::MAX).min(data.len());
                state.queue.extend(&data[known..]);
                state.received += (data.len() - known) as u64;
            }
            None => result = Err(io::Error::other("a gap in the input")),
        });
        result
    }

    /// The input ends at this offset.
    pub fn end(&self, offset: u64) {
        self.change(|state| state.end = Some(offset));
    }

    /// Offset after the last byte received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.lock().received
    }

    /// Up to where the job has read.
    #[must_use]
    pub fn read_by_job(&self) -> u64 {
        let state = self.shared.lock();
        state.received - (state.pipe.unread().len() + state.queue.len()) as u64
    }

    /// The job is frozen and may leave: returns what it would take along.
    #[must_use]
    pub fn suspend(&self) -> InputState {
        let mut state = self.shared.lock();
        state.suspended = true;
        let mut unread = state.pipe.unread();
        unread.extend(&state.queue);
        InputState {
            received: state.received,
            unread: Bytes(unread),
            ended: state.end == Some(state.received),
        }
    }

    /// The job runs here.
    pub fn resume(&self) {
        self.change(|state| state.suspended = false);
    }

    /// Ends the thread.
    pub fn finish(&self) {
        self.change(|state| state.finished = true);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, taken: &dyn Fn(u64)) {
        loop {
            let mut guard = self.lock();
            let state = &mut *guard;
            if state.finished {
                return;
            }
            let mut full = None;
            let mut news = None;
            if !state.suspended {
                let (fill, count) = state.pipe.fill(&mut state.queue);
                news = (count > 0).then(|| state.received - state.queue.len() as u64);
                match fill {
                    Fill::Full => full = state.pipe.writer(),
                    Fill::Done if state.end == Some(state.received) => state.pipe.close(),
                    Fill::Done => {}
                    Fill::Broken => state.queue.clear(),
                }
            }
            drop(guard);
            if let Some(offset) = news {
                taken(offset);
            }
            self.wake.wait([full.as_ref().map(|writer| (writer.as_fd(), PollFlags::POLLOUT))]);
        }
    }
}
