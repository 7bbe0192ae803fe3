//! One lane to home: a request goes out, its reply comes in, over however many connections that takes.

use std::io::{self, Write};
use std::time::Duration;

use crate::abi;
use crate::frame::{self, Buffer, Refused};
use crate::stream::{self, Stream};

use super::pool::Pool;

/// First pause after a failed connection; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The pause from which on it is not just a hiccup.
const WORTH_TELLING: Duration = Duration::from_millis(300);

/// See the module.
pub(super) struct Channel<'a> {
    pool: &'a Pool,
    number: u16,
    sequence: u64,
    connection: Option<Box<dyn Stream>>,
    reply: Buffer,
}

impl<'a> Channel<'a> {
    pub(super) fn new(pool: &'a Pool, number: u16) -> Channel<'a> {
        Channel { pool, number, sequence: 0, connection: None, reply: Buffer::new() }
    }

    /// Has home execute the request of `length` bytes in `request`, once, and returns its reply: empty if the
    /// kernel waits for none. `None`: the session is over.
    pub(super) fn call(&mut self, request: &mut Buffer, length: usize, unique: u64) -> Option<&[u8]> {
        self.sequence += 1;
        // What breaks a connection that worked is over as a rule: the first time, try again at once.
        let mut pause = if self.connection.is_some() { Duration::ZERO } else { FIRST_PAUSE };
        let end = loop {
            if self.pool.is_over() {
                return None;
            }
            match self.attempt(request, length, unique) {
                Ok(end) => break end,
                Err(error) => {
                    self.disconnect();
                    if error.get_ref().is_some_and(|inner| inner.is::<Refused>()) {
                        log::warn!("{error}");
                        self.pool.close();
                    }
                    log::debug!("channel {} to home: {error}; again in {pause:?}", self.number);
                    if pause > WORTH_TELLING {
                        self.pool.home_is_lost(&error);
                    }
                    self.pool.stop.sleep(pause);
                    pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                }
            }
        };
        Some(self.reply.message(end))
    }

    /// One try over the connection there is, or a new one. Returns the reply's length.
    fn attempt(&mut self, request: &mut Buffer, length: usize, unique: u64) -> io::Result<usize> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let mut connection = self.pool.connector.connect()?;
                self.pool.home_is_found();
                stream::prepare(&connection);
                self.pool.register(self.number, &*connection)?;
                frame::greet(&mut connection, self.number)?;
                self.connection.insert(connection)
            }
        };
        connection.write_all(request.frame(length, self.sequence))?;
        connection.flush()?;
        let frame = self.reply.receive(connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let reply = self.reply.received(frame);
        let fits =
            reply.is_empty() || (reply.len() >= abi::OUT_HEADER && reply[8..16] == unique.to_ne_bytes());
        if frame.sequence != self.sequence || !fits {
            return Err(frame::invalid("a reply to something else"));
        }
        Ok(reply.len())
    }

    fn disconnect(&mut self) {
        self.connection = None;
        self.pool.unregister(self.number);
    }
}

impl Drop for Channel<'_> {
    fn drop(&mut self) {
        self.disconnect();
    }
}
