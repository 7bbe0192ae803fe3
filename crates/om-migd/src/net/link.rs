//! A connection of which one thread reads while others write: the link between where a job runs and its home.
//!
//! The two directions share the TLS state, which is locked only while bytes are encrypted or decrypted, never while
//! the socket waits.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use om_proto::frame;
use rustls::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::MAX_FRAME;
use super::tls::{Cipher, Stream};

/// How much is encrypted at once, bytes. It fits into a CPU's nearer caches, and what rustls frees after it into what the
/// allocator keeps: from 128 KiB on that goes back to the kernel, and each page of it is faulted in again.
const BATCH: usize = 64 << 10;

/// The writing half; clones share the connection.
#[derive(Clone)]
pub struct Sender {
    shared: Arc<Shared>,
}

/// The reading half.
pub struct Receiver {
    shared: Arc<Shared>,
    socket: TcpStream,
    cipher: Cipher,
}

struct Shared {
    /// For ending the connection while somebody writes.
    closer: TcpStream,
    /// Taken before `tls`, never after it.
    out: Mutex<Out>,
    tls: Mutex<Connection>,
}

struct Out {
    socket: TcpStream,
    /// What is encrypted and not yet written; kept for its room.
    cipher: Vec<u8>,
}

/// Makes two halves of a connection.
pub fn split(stream: Stream) -> io::Result<(Sender, Receiver)> {
    let Stream { mut tls, socket, cipher } = stream;
    tls.set_buffer_limit(Some(BATCH));
    let reading = socket.try_clone()?;
    let closer = socket.try_clone()?;
    let shared = Arc::new(Shared {
        closer,
        out: Mutex::new(Out { socket, cipher: Vec::new() }),
        tls: Mutex::new(tls),
    });
    let receiver = Receiver { shared: shared.clone(), socket: reading, cipher };
    Ok((Sender { shared }, receiver))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sender {
    /// Sends one message; messages of several threads do not mix. After an error the connection is of no more use.
    pub fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        self.send_with(message, &[])
    }

    /// Sends one message and right behind it these bytes, which [`Receiver`] is to read as they are.
    pub fn send_with<T: Serialize>(&self, message: &T, bytes: &[u8]) -> io::Result<()> {
        let frame = frame::encode(message)?;
        let mut out = lock(&self.shared.out);
        let Out { socket, cipher } = &mut *out;
        for mut rest in [frame.as_slice(), bytes] {
            while !rest.is_empty() {
                cipher.clear();
                {
                    let mut tls = lock(&self.shared.tls);
                    let taken = tls.writer().write(rest)?;
                    rest = &rest[taken..];
                    while tls.wants_write() {
                        tls.write_tls(cipher)?;
                    }
                }
                socket.write_all(cipher)?;
            }
        }
        Ok(())
    }

    /// Ends the connection in both directions; the reader gets an end of file.
    pub fn close(&self) {
        let _ = self.shared.closer.shutdown(Shutdown::Both);
    }
}

impl Receiver {
    /// Waits for the next message.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        frame::read(self, MAX_FRAME)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            {
                let mut tls = lock(&self.shared.tls);
                match tls.reader().read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
                if self.cipher.decrypt(&mut tls)? {
                    continue;
                }
            }
            // An end without a goodbye of TLS is an end all the same, as when a node dies.
            if !self.cipher.fill(&mut self.socket)? {
                return Ok(0);
            }
        }
    }
}
