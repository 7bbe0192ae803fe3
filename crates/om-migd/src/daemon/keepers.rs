//! The keepers' sockets as the main loop sees them: starts keepers, finds those that an earlier om-migd left, and reads
//! what they tell.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command as Program, Stdio};

use om_proto::frame;

use crate::net::preamble::JobId;
use crate::passing::send_frame;
use crate::snapshot::{self, Birth, News};
use crate::sys;

/// How much is read at once.
const CHUNK: usize = 16 << 10;

/// Whether nobody listens at the job's socket any more.
#[must_use]
pub fn is_dead(directory: &Path, job: JobId) -> bool {
    let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    UnixStream::connect(directory.join(format!("{job}.sock")))
        .is_err_and(|error| gone.contains(&error.kind()))
}

/// A keeper's socket and what has come of its next frame.
pub struct KeeperSocket {
    /// The socket, which does not block.
    pub socket: UnixStream,
    /// The job, once it is known.
    pub job: Option<JobId>,
    /// The user who started it here.
    pub started_by: Option<u32>,
    buffer: Vec<u8>,
}

impl KeeperSocket {
    fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, job: None, started_by: None, buffer: Vec::new() })
    }

    /// Starts a keeper for this connection.
    pub fn start(birth: &Birth, connection: BorrowedFd<'_>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut program = Program::new("/proc/self/exe");
        program.arg("keeper").stdin(Stdio::null()).stdout(Stdio::null());
        let setup = sys::ChildSetup {
            fds: vec![(theirs.as_fd(), 3)],
            mount_namespace: None,
            real_ids: None,
            own_session: true,
            entrances: Vec::new(),
        };
        sys::prepare(&mut program, &setup);
        // The child is reaped when it ends: see the main loop.
        program.spawn()?;
        send_frame(&ours, birth, &[connection])?;
        Self::new(ours)
    }

    /// Connects to the keepers that there are; removes what dead ones have left.
    pub fn find_all(directory: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            match UnixStream::connect(&path) {
                Ok(socket) => {
                    let name = path.file_stem().and_then(|stem| stem.to_str());
                    let job = name.and_then(|name| name.parse().ok());
                    found.push(Self { job, ..Self::new(socket)? });
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let _ = fs::remove_file(&path);
                }
                // A keeper that cannot be reached now may live all the same.
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
                }
            }
        }
        Ok(found)
    }

    /// Appends everything that has come to `news`. An error, the end of the stream too, means that the keeper has gone;
    /// what it said before counts.
    pub fn read(&mut self, news: &mut Vec<News>) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        loop {
            match (&self.socket).read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            while let Some(size) = self.complete_frame()? {
                news.push(frame::read(&mut &self.buffer[..size], snapshot::MAX_FRAME)?);
                self.buffer.drain(..size);
            }
        }
    }

    /// The size of the first frame with its length, if all of it is here.
    fn complete_frame(&self) -> io::Result<Option<usize>> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let size = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)? + 4;
        if size > snapshot::MAX_FRAME {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok((self.buffer.len() >= size).then_some(size))
    }
}
