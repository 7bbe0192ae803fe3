//! A small file of `/proc` that is read again and again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What one read returns at most; longer files come in several.
const CHUNK: usize = 4096;
/// No file of interest is longer: a `stat` of some thousand CPUs.
const LIMIT: usize = 1 << 20;

/// An open file and room for its text. A file that cannot be opened or read has no text.
#[derive(Debug)]
pub(super) struct KeptFile {
    file: Option<File>,
    buffer: Vec<u8>,
}

impl KeptFile {
    pub(super) fn open(path: &Path) -> Self {
        Self { file: File::open(path).ok(), buffer: Vec::new() }
    }

    /// The file's text of now.
    pub(super) fn read(&mut self) -> Option<&str> {
        self.read_while(|_| true)
    }

    /// The file's text of now, as far as `more`, which sees what has been read, wants to read on.
    pub(super) fn read_while(&mut self, more: impl Fn(&[u8]) -> bool) -> Option<&str> {
        let file = self.file.as_ref()?;
        let mut length = 0;
        loop {
            if self.buffer.len() < length + CHUNK {
                self.buffer.resize(length + CHUNK, 0);
            }
            let read = file.read_at(&mut self.buffer[length..], length as u64).ok()?;
            length += read;
            if read == 0 || length >= LIMIT || !more(&self.buffer[..length]) {
                break;
            }
        }
        let text = &self.buffer[..length];
        match std::str::from_utf8(text) {
            Ok(text) => Some(text),
            // Cut off in the middle of a character, or odd from the start: what is good will do.
            Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).ok(),
        }
    }
}
