//! Our side of the job's stdin: a pipe that can be filled, closed, and looked into without being its reader.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::write;

use super::{CHUNK, peek};
use crate::sys;

/// What became of an attempt to fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Everything was written.
    Done,
    /// There is no room: wait until it is writable.
    Full,
    /// The job has closed its end.
    Broken,
}

/// The job's stdin.
#[derive(Debug)]
pub struct InputPipe {
    writer: Option<Arc<OwnedFd>>,
    /// A name of the pipe that counts neither as reader nor as writer, so that end of file and SIGPIPE still work.
    /// None for a terminal.
    name: Option<OwnedFd>,
    /// After the end: keeps what was not read when the job has gone too.
    rest: Option<OwnedFd>,
}

impl InputPipe {
    /// Takes the end to write to, which must not block.
    pub fn new(writer: OwnedFd) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let name = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
        let is_pipe = name.metadata()?.file_type().is_fifo();
        Ok(Self { writer: Some(Arc::new(writer)), name: is_pipe.then(|| name.into()), rest: None })
    }

    /// The end to write to; none after [`Self::close`].
    #[must_use]
    pub fn writer(&self) -> Option<Arc<OwnedFd>> {
        self.writer.clone()
    }

    /// Writes the front of the queue as far as there is room, and returns the number of bytes taken from it.
    pub fn fill(&mut self, queue: &mut VecDeque<u8>) -> (Fill, u64) {
        let mut taken = 0;
        while !queue.is_empty() {
            let Some(writer) = &self.writer else { return (Fill::Broken, taken) };
            match write(writer, queue.as_slices().0) {
                Ok(count) => {
                    queue.drain(..count);
                    taken += count as u64;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return (Fill::Full, taken),
                Err(_) => return (Fill::Broken, taken),
            }
        }
        (Fill::Done, taken)
    }

    /// Moves what is in a pipe of the user's on to the job, in its order behind what was filled in before; returns how many
    /// bytes, 0 at the end of the user's pipe. `EAGAIN` if there is nothing or no room.
    pub fn splice_from(&self, user: BorrowedFd<'_>) -> nix::Result<usize> {
        let writer = self.writer.as_ref().ok_or(Errno::EPIPE)?;
        sys::splice(user, writer.as_fd(), CHUNK)
    }

    /// The job sees the end of its input after what is in the pipe.
    pub fn close(&mut self) {
        if self.writer.is_some() {
            // A reader that nobody writes to any more takes no SIGPIPE from anybody.
            self.rest = self.reader();
            self.writer = None;
        }
    }

    /// A copy of what the job has not read. Empty for a terminal, whose input cannot be seen from outside.
    #[must_use]
    pub fn unread(&self) -> Vec<u8> {
        self.reader().map(|reader| peek(reader.as_fd())).unwrap_or_default()
    }

    /// Another end to read from, which does not block; none of a terminal.
    fn reader(&self) -> Option<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.name.as_ref()?.as_raw_fd());
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        reader.ok().map(OwnedFd::from)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;
    use crate::stdio::pipe_to_job;

    #[test]
    fn unread_input_is_seen_and_stays_even_after_the_end_and_the_job() {
        let (job, writer) = pipe_to_job().unwrap();
        let mut pipe = InputPipe::new(writer).unwrap();
        let mut queue = VecDeque::from(b"some input".to_vec());
        assert_eq!(pipe.fill(&mut queue), (Fill::Done, 10));
        pipe.close();
        assert_eq!(pipe.unread(), b"some input");
        let mut job = File::from(job);
        let mut text = [0; 4];
        job.read_exact(&mut text).unwrap();
        drop(job);
        assert_eq!(pipe.unread(), b" input");
    }

    #[test]
    fn a_job_that_closes_its_input_breaks_the_pipe() {
        let (job, writer) = pipe_to_job().unwrap();
        let mut pipe = InputPipe::new(writer).unwrap();
        drop(job);
        let mut queue = VecDeque::from(b"x".to_vec());
        assert_eq!(pipe.fill(&mut queue).0, Fill::Broken);
    }

    #[test]
    fn a_full_pipe_takes_what_fits() {
        let (_job, writer) = pipe_to_job().unwrap();
        let mut pipe = InputPipe::new(writer).unwrap();
        let mut queue = VecDeque::from(vec![7; 1 << 20]);
        let (fill, taken) = pipe.fill(&mut queue);
        assert_eq!(fill, Fill::Full);
        assert_eq!(pipe.unread().len() as u64, taken);
    }
}
