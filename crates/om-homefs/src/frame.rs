//! How requests and replies travel: frames on a channel, and the greeting that opens a connection.
//!
//! A *channel* is a numbered lane of one session: one request, one reply, the next request. A connection
//! carries one channel. It may break at any byte; the channel goes on over the next connection, where the
//! guest's node sends its unanswered request again under the same sequence number.
//!
//! ```text
//! greeting  guest → home   "omhomefs" version:u16 channel:u16 0:u32 architecture:[u8;16]
//!           home → guest   "omhomefs" version:u16 verdict:u16 0:u32
//! frame     both ways      length:u32 0:u32 sequence:u64 message:[u8;length]
//! ```
//!
//! Numbers are little-endian. The message is what the guest's kernel wrote, or is to read, byte for byte:
//! `fuse_in_header` and body, or `fuse_out_header` and body; empty in a reply that the kernel does not wait
//! for. Jobs move only within an architecture, so the bytes need no translation; the greeting makes sure.

use std::io::{self, Read, Write};

use thiserror::Error;

use crate::abi;

/// Bytes before a frame's message.
pub(crate) const HEADER: usize = 16;
/// Bytes that the largest frame takes.
pub(crate) const MAX_FRAME: usize = HEADER + abi::MAX_MESSAGE;
/// Channels that one session may have.
pub(crate) const MAX_CHANNELS: u16 = 64;

const MAGIC: &[u8; 8] = b"omhomefs";
const VERSION: u16 = 1;

/// A frame's header.
pub(crate) fn header(length: u32, sequence: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[8..].copy_from_slice(&sequence.to_le_bytes());
    header
}

/// A frame that was received into a [`Buffer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) sequence: u64,
    length: usize,
}

/// Room for one frame. Pages that were never needed are never touched.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn new() -> Buffer {
        Buffer(vec![0; MAX_FRAME].into_boxed_slice())
    }

    /// Where the message begins: the FUSE device is read into it.
    pub(crate) fn message_room(&mut self) -> &mut [u8] {
        &mut self.0[HEADER..]
    }

    /// The message of a received frame, or of `length` bytes put into [`Buffer::message_room`].
    pub(crate) fn message(&self, length: usize) -> &[u8] {
        self.0.get(HEADER..HEADER + length).unwrap_or_default()
    }

    /// Makes a frame of the `length` bytes in [`Buffer::message_room`], ready to send.
    pub(crate) fn frame(&mut self, length: usize, sequence: u64) -> &[u8] {
        self.0[..HEADER].copy_from_slice(&header(u32::try_from(length).unwrap_or(0), sequence));
        self.0.get(..HEADER + length).unwrap_or_default()
    }

    /// Receives one frame. `Ok(None)`: the other side has closed the connection between two frames.
    ///
    /// Channels are strictly request and reply, so that whatever arrives belongs to this frame: reading as
    /// much as there is saves a system call a frame, and bytes left over are an error.
    pub(crate) fn receive(&mut self, stream: &mut (impl Read + ?Sized)) -> io::Result<Option<Frame>> {
        let mut have = 0;
        let mut want = HEADER;
        while have < want {
            match stream.read(self.0.get_mut(have..).unwrap_or_default()) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if want == HEADER && have >= HEADER {
                want += length(&self.0)?;
            }
        }
        if have > want {
            return Err(invalid("bytes after the frame"));
        }
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&self.0[8..HEADER]);
        Ok(Some(Frame { sequence: u64::from_le_bytes(sequence), length: want - HEADER }))
    }

    /// The message of `frame`, the last one received.
    pub(crate) fn received(&self, frame: Frame) -> &[u8] {
        self.message(frame.length)
    }
}

fn length(header: &[u8]) -> io::Result<usize> {
    let mut length = [0; 4];
    length.copy_from_slice(&header[..4]);
    match usize::try_from(u32::from_le_bytes(length)) {
        Ok(length) if length <= abi::MAX_MESSAGE => Ok(length),
        _ => Err(invalid("frame too long")),
    }
}

/// Whether home takes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Welcome,
    /// The session is over: the guest's node should stop trying.
    Over,
    /// Other version, other architecture, or a channel number too high.
    Unfit,
}

/// Home's last word: it does not serve this session, and trying again is no use. Found inside an
/// [`io::Error`], see [`io::Error::other`].
#[derive(Debug, Error)]
#[error("home refuses this file session: {0}")]
pub struct Refused(pub &'static str);

/// Opens a connection, the guest's side. An error that holds [`Refused`] is final.
pub(crate) fn greet(stream: &mut (impl Read + Write + ?Sized), channel: u16) -> io::Result<()> {
    let mut greeting = [0; 32];
    greeting[..8].copy_from_slice(MAGIC);
    greeting[8..10].copy_from_slice(&VERSION.to_le_bytes());
    greeting[10..12].copy_from_slice(&channel.to_le_bytes());
    greeting[16..].copy_from_slice(&architecture());
    stream.write_all(&greeting)?;
    stream.flush()?;
    let mut answer = [0; 16];
    stream.read_exact(&mut answer)?;
    if answer[..8] != *MAGIC {
        return Err(invalid("not a home file server"));
    }
    match answer[10] {
        0 => Ok(()),
        1 => Err(io::Error::other(Refused("it is over"))),
        _ => Err(io::Error::other(Refused("home has another version of om or another CPU architecture"))),
    }
}

/// Hears a greeting, home's side: the channel, or what to answer instead of welcome.
pub(crate) fn hear(stream: &mut (impl Read + ?Sized)) -> io::Result<Result<u16, Verdict>> {
    let mut greeting = [0; 32];
    stream.read_exact(&mut greeting)?;
    if greeting[..8] != *MAGIC {
        return Err(invalid("not a guest's file session"));
    }
    let version = u16::from_le_bytes([greeting[8], greeting[9]]);
    let channel = u16::from_le_bytes([greeting[10], greeting[11]]);
    let fit = version == VERSION && channel < MAX_CHANNELS && greeting[16..] == architecture();
    Ok(if fit { Ok(channel) } else { Err(Verdict::Unfit) })
}

/// Answers a greeting.
pub(crate) fn answer(stream: &mut (impl Write + ?Sized), verdict: Verdict) -> io::Result<()> {
    let mut answer = [0; 16];
    answer[..8].copy_from_slice(MAGIC);
    answer[8..10].copy_from_slice(&VERSION.to_le_bytes());
    answer[10] = match verdict {
        Verdict::Welcome => 0,
        Verdict::Over => 1,
        Verdict::Unfit => 2,
    };
    stream.write_all(&answer)?;
    stream.flush()
}

/// This machine's architecture, cut or filled up with zeroes to 16 bytes.
fn architecture() -> [u8; 16] {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(std::env::consts::ARCH.bytes()) {
        *to = from;
    }
    name
}

pub(crate) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
