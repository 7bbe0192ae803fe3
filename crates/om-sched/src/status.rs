//! The socket that tells: one JSON document for each connection, then it is closed.
//!
//! Nothing is ever read from it, so nobody can do anything with it but look. A slow or dead reader costs a buffer
//! for a few seconds and never stops the scheduler.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::Time;
use crate::local;

/// Readers at once; more have to wait.
const READERS: usize = 16;
/// A reader that has not taken its document by then is cut off.
const PATIENCE: Duration = Duration::from_secs(5);
/// A document is given again for this long: making one takes time, and anybody may ask as often as they like.
const DOCUMENT_LASTS: Duration = Duration::from_millis(200);

/// The socket and those who read from it.
pub struct StatusSocket {
    path: PathBuf,
    listener: UnixListener,
    readers: Vec<Reader>,
    document: Option<(Time, Rc<Vec<u8>>)>,
}

struct Reader {
    stream: UnixStream,
    document: Rc<Vec<u8>>,
    written: usize,
    deadline: Time,
}

impl StatusSocket {
    /// Makes the socket at `path`, readable for everybody.
    ///
    /// # Errors
    /// The kernel's, or that somebody serves it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let listener = local::listen(path)?;
        Ok(Self { path: path.to_owned(), listener, readers: Vec::new(), document: None })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor to wait on for new readers.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// Whether some reader has not got its whole document yet: then [`Self::serve`] wants to be called again soon.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.readers.is_empty()
    }

    /// The next reader gets a new document, since something has changed by order of a person.
    pub fn refresh(&mut self) {
        self.document = None;
    }

    /// Takes those who wait and gives each as much as it takes. A `document` is made for those who wait, unless the
    /// last one is nearly new.
    pub fn serve(&mut self, now: Time, document: impl Fn() -> Vec<u8>) {
        self.document.take_if(|(made, _)| now.saturating_sub(*made) >= DOCUMENT_LASTS);
        while self.readers.len() < READERS {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_ok() {
                let (_, document) = self.document.get_or_insert_with(|| (now, Rc::new(document())));
                let document = Rc::clone(document);
                self.readers.push(Reader { stream, document, written: 0, deadline: now + PATIENCE });
            }
        }
        self.readers.retain_mut(|reader| now < reader.deadline && !reader.is_done());
    }
}

impl Reader {
    /// Writes what goes; true once there is nothing more to do for this reader.
    fn is_done(&mut self) -> bool {
        while self.written < self.document.len() {
            match self.stream.write(&self.document[self.written..]) {
                Ok(0) => return true,
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // A path that is gone already was not ours any more.
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("om-sched-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn each_reader_gets_a_whole_document_however_large_and_slow() {
        let dir = Dir::new("status-large");
        let path = dir.0.join("sched.sock");
        let mut socket = StatusSocket::open(&path).unwrap();
        let document = vec![b'x'; 3 << 20];
        let mut reader = UnixStream::connect(&path).unwrap();
        let taken = std::thread::spawn(move || {
            let mut taken = Vec::new();
            reader.read_to_end(&mut taken).map(|_| taken.len())
        });
        let mut served = 0u64;
        while served == 0 || socket.is_busy() {
            socket.serve(Duration::from_millis(served), || document.clone());
            std::thread::sleep(Duration::from_millis(1));
            served += 1;
        }
        assert_eq!(taken.join().unwrap().unwrap(), 3 << 20);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_document_is_made_five_times_a_second_at_most() {
        let dir = Dir::new("status-often");
        let path = dir.0.join("sched.sock");
        let mut socket = StatusSocket::open(&path).unwrap();
        let made = std::cell::Cell::new(0);
        for turn in 0..100 {
            drop(UnixStream::connect(&path).unwrap());
            socket.serve(Duration::from_millis(turn * 10), || {
                made.set(made.get() + 1);
                Vec::new()
            });
        }
        assert_eq!(made.get(), 5);
    }

    #[test]
    fn a_reader_that_takes_nothing_is_cut_off() {
        let dir = Dir::new("status-slow");
        let path = dir.0.join("sched.sock");
        let mut socket = StatusSocket::open(&path).unwrap();
        let _idle = UnixStream::connect(&path).unwrap();
        socket.serve(Duration::ZERO, || vec![b'x'; 8 << 20]);
        assert!(socket.is_busy());
        socket.serve(PATIENCE, Vec::new);
        assert!(!socket.is_busy());
    }

    #[test]
    fn a_dead_scheduler_s_socket_is_replaced_a_living_one_s_is_not() {
        let dir = Dir::new("status-twice");
        let path = dir.0.join("sched.sock");
        let first = StatusSocket::open(&path).unwrap();
        assert_eq!(StatusSocket::open(&path).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        std::mem::forget(first.listener.try_clone().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        drop(first);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        StatusSocket::open(&path).unwrap();
    }
}
