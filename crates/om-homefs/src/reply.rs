//! What the server answers: one FUSE reply, built in place behind room for its two headers.
//!
//! Pure. The buffer is kept from one reply to the next, so that reading a file costs neither an
//! allocation nor the zeroing of a megabyte.

use std::time::Duration;

use nix::errno::Errno;

use crate::abi;
use crate::frame;
use crate::sys::Stat;

/// Where a reply's body begins.
const BODY: usize = frame::HEADER + abi::OUT_HEADER;

/// A reply under construction, and once finished the bytes to send.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    end: usize,
}

impl Reply {
    /// Forgets what was built.
    pub(crate) fn begin(&mut self) {
        self.end = BODY;
        if self.bytes.len() < BODY {
            self.bytes.resize(BODY, 0);
        }
    }

    /// Bytes of body so far.
    pub(crate) fn len(&self) -> usize {
        self.end - BODY
    }

    /// Takes back all of the body after its first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.end = self.end.min(BODY + len);
    }

    /// Room for `size` bytes of body, whatever they were before; [`Reply::fill`] says how many were used.
    pub(crate) fn room(&mut self, size: usize) -> &mut [u8] {
        let end = self.end + size;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.end..end).unwrap_or_default()
    }

    /// Counts the first `size` bytes of the last [`Reply::room`] to the body.
    pub(crate) fn fill(&mut self, size: usize) {
        self.end = (self.end + size).min(self.bytes.len());
    }

    /// Appends bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.fill(bytes.len());
    }

    /// Appends zeroes up to a multiple of 8.
    pub(crate) fn pad(&mut self) {
        let odd = self.len() % 8;
        if odd != 0 {
            self.bytes(&[0; 8][odd..]);
        }
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_ne_bytes());
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_ne_bytes());
        self
    }

    /// `struct fuse_attr`, with `ino` in place of the file system's own number.
    pub(crate) fn attributes(&mut self, stat: &Stat, ino: u64) {
        let (atime, mtime, ctime) = (stat.stx_atime, stat.stx_mtime, stat.stx_ctime);
        self.u64(ino).u64(stat.stx_size).u64(stat.stx_blocks);
        self.u64(atime.tv_sec.cast_unsigned())
            .u64(mtime.tv_sec.cast_unsigned())
            .u64(ctime.tv_sec.cast_unsigned());
        self.u32(atime.tv_nsec).u32(mtime.tv_nsec).u32(ctime.tv_nsec);
        self.u32(u32::from(stat.stx_mode)).u32(stat.stx_nlink).u32(stat.stx_uid).u32(stat.stx_gid);
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        self.u32((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)).u32(stat.stx_blksize).u32(0);
    }

    /// `struct fuse_attr_out`: attributes that are good for `valid`.
    pub(crate) fn attr_out(&mut self, stat: &Stat, ino: u64, valid: Duration) {
        self.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0);
        self.attributes(stat, ino);
    }

    /// `struct fuse_entry_out`: a name that leads to `node` for as long as `valid`; attributes are good for no time.
    pub(crate) fn entry(&mut self, node: u64, stat: &Stat, ino: u64, valid: Duration) {
        self.u64(node).u64(0).u64(valid.as_secs()).u64(0).u32(valid.subsec_nanos()).u32(0);
        self.attributes(stat, ino);
    }

    /// `struct fuse_open_out`.
    pub(crate) fn opened(&mut self, handle: u64, flags: u32) {
        self.u64(handle).u32(flags).u32(0);
    }

    /// Writes the headers of an answer to `unique` and returns the frame. An error has no body.
    pub(crate) fn finish(&mut self, sequence: u64, unique: u64, result: Result<(), Errno>) {
        let error = match result {
            Ok(()) => 0,
            Err(errno) => {
                self.end = BODY;
                -(errno as i32)
            }
        };
        let length = u32::try_from(self.end - frame::HEADER).unwrap_or(0);
        let mut out = [0; abi::OUT_HEADER];
        out[..4].copy_from_slice(&length.to_ne_bytes());
        out[4..8].copy_from_slice(&error.to_ne_bytes());
        out[8..].copy_from_slice(&unique.to_ne_bytes());
        self.bytes[..frame::HEADER].copy_from_slice(&frame::header(length, sequence));
        self.bytes[frame::HEADER..BODY].copy_from_slice(&out);
    }

    /// Makes the frame that says "done" to what the kernel wants no answer for.
    pub(crate) fn finish_silently(&mut self, sequence: u64) {
        self.end = frame::HEADER;
        self.bytes[..frame::HEADER].copy_from_slice(&frame::header(0, sequence));
    }

    /// The finished frame.
    pub(crate) fn frame(&self) -> &[u8] {
        self.bytes.get(..self.end).unwrap_or_default()
    }
}

/// The lower 32 bits' worth of a number that has no business being larger.
pub(crate) fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
