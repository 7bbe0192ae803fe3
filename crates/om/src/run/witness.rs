//! The witness: a second process of `om run` in the same process group, which does nothing but keep the signals that
//! come to it.
//!
//! Whether a signal was sent to `om run` alone (`kill PID`) or to its whole process group (`kill %1`, timeout(1)) makes a
//! difference for a job of several processes, and the kernel does not tell. But what was sent to the group the witness
//! has got as well. It sleeps until it is asked, holds no descriptor of the user's, and ends with `om run`.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use crate::sys;

/// The kernel sends to one process of a group after the other, within microseconds.
const SENDING_TAKES: Duration = Duration::from_millis(1);

/// The witness may be stopped (`kill -STOP %1`) while `om run` is not any more.
const PATIENCE: Duration = Duration::from_millis(500);

/// This process's end of it.
pub struct Witness {
    channel: UnixStream,
}

impl Witness {
    /// Starts the process. All signals are blocked, and so they are in it.
    pub fn start() -> io::Result<Self> {
        let (channel, other) = UnixStream::pair()?;
        channel.set_read_timeout(Some(PATIENCE))?;
        sys::fork(|| {
            sys::close_all_but(other.as_raw_fd());
            keep(other);
        })?;
        Ok(Self { channel })
    }

    /// Whether this signal has come to the whole process group since the last question.
    pub fn saw(&mut self, signal: i32) -> bool {
        sleep(SENDING_TAKES);
        let mut answer = [0; 8];
        let asked = self.channel.write_all(&[0]).and_then(|()| self.channel.read_exact(&mut answer));
        if asked.is_err()
            && let Ok(another) = Self::start()
        {
            // What the old one still says must not be taken for an answer to a later question.
            *self = another;
            return false;
        }
        u64::from_le_bytes(answer) >> (signal - 1) & 1 == 1
    }
}

/// The life of the witness.
fn keep(mut channel: UnixStream) {
    let mut question = [0];
    while channel.read_exact(&mut question).is_ok() {
        let answer = sys::take_pending_signals().to_le_bytes();
        if channel.write_all(&answer).is_err() {
            return;
        }
    }
}
