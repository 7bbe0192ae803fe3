//! A frozen job over a move connection: its memory while CRIU reads it, then the small images, the files of its `/dev/shm`,
//! the luggage. Nothing touches a disk on either side, and at the source nothing is kept in memory either.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use crate::bytes::Bytes;
use crate::nest::{Credentials, Nest};
use crate::net::link::{Receiver, Sender};
use crate::net::message::{Luggage, PagesAnswer, Part};

/// How much is sent at once.
const CHUNK: usize = 512 << 10;

/// Sends everything of a dumped job but its memory. It has been frozen since `frozen_at`.
pub fn send(out: &Sender, nest: &Nest, mut luggage: Luggage, frozen_at: Instant) -> io::Result<()> {
    for (name, file) in files_below(&nest.images)? {
        let size = file.metadata()?.len();
        out.send(&Part::Image { name: name_of(&name)?, size })?;
        send_file(out, &file, size)?;
    }
    for (name, file) in files_below(&nest.shared)? {
        let metadata = file.metadata()?;
        let size = metadata.len();
        out.send(&Part::Shared { name: name_of(&name)?, mode: metadata.mode(), size })?;
        send_file(out, &file, size)?;
    }
    luggage.frozen_for_us = u64::try_from(frozen_at.elapsed().as_micros()).unwrap_or(u64::MAX);
    out.send(&Part::Luggage(Box::new(luggage)))
}

/// At the source: what CRIU writes to its page server goes to the target. Ends when CRIU closes its end.
pub fn send_pages(mut dump: &UnixStream, out: &Sender) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = dump.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        out.send_with(&Part::Pages(u32::try_from(count).unwrap_or_default()), &buffer[..count])?;
    }
}

/// At the source: what CRIU at the target answers or asks for goes to the dump. Ends with the connection.
pub fn receive_answers(input: &mut Receiver, mut dump: &UnixStream) {
    while let Ok(PagesAnswer(bytes)) = input.receive() {
        if dump.write_all(&bytes.0).is_err() {
            return;
        }
    }
    // CRIU waits for the other side, and would for ever: it must not wait for a target that is gone.
    let _ = dump.shutdown(Shutdown::Both);
}

/// At the target: what CRIU answers or asks for goes to the source. Ends when it has everything.
pub fn send_answers(mut server: &UnixStream, out: &Sender) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        if out.send(&PagesAnswer(Bytes(buffer[..count].to_vec()))).is_err() {
            return;
        }
    }
}

/// Receives what [`send`] and [`send_pages`] sent into a nest, up to the luggage; memory that comes before it by way of the
/// page server. Every name and size is checked.
pub fn receive(
    input: &mut Receiver,
    nest: &Nest,
    owner: &Credentials,
    pages: Option<&UnixStream>,
) -> io::Result<Luggage> {
    let mut buffer = Vec::new();
    loop {
        match input.receive()? {
            Part::Pages(count) => match pages {
                Some(pages) => pass_pages(input, count, &mut buffer, pages)?,
                None => return Err(io::Error::new(io::ErrorKind::InvalidData, "memory before the job")),
            },
            Part::Image { name, size } => {
                let path = below(&nest.images, &name, 1)?;
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                receive_file(input, &file, size)?;
            }
            Part::Shared { name, mode, size } => {
                let path = below(&nest.shared, &name, 16)?;
                if let Some(directory) = path.parent() {
                    fs::create_dir_all(directory)?;
                }
                let file = OpenOptions::new().write(true).create_new(true).open(path)?;
                receive_file(input, &file, size)?;
                file.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
                std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
            Part::Luggage(luggage) => return Ok(*luggage),
            Part::Abandoned(reason) => return Err(io::Error::other(reason)),
            Part::Data(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes of no file")),
        }
    }
}

/// Receives memory that follows the job, for who fetches it. Ends with the connection; an error says that the source or the
/// one who fetches has gone.
pub fn receive_pages(input: &mut Receiver, mut pages: &UnixStream) -> io::Result<()> {
    let mut following = Following::new(input);
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = following.read(&mut buffer)?;
        pages.write_all(&buffer[..count])?;
    }
}

/// The bytes of memory that follows the job. Its end is an error: whoever reads knows when all has come.
pub struct Following<'a> {
    input: &'a mut Receiver,
    left: usize,
}

impl<'a> Following<'a> {
    /// What comes from a source whose luggage has come.
    pub fn new(input: &'a mut Receiver) -> Self {
        Self { input, left: 0 }
    }
}

impl Read for Following<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            self.left = match self.input.receive()? {
                Part::Pages(count) => checked(count)?,
                Part::Abandoned(reason) => return Err(io::Error::other(reason)),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "something else than memory")),
            };
        }
        let most = buffer.len().min(self.left);
        let count = self.input.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        Ok(count)
    }
}

/// How much memory comes at once.
fn checked(count: u32) -> io::Result<usize> {
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= CHUNK)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "more memory at once than is ever sent"))
}

/// Hands on so many bytes that follow.
fn pass_pages(
    input: &mut Receiver,
    count: u32,
    buffer: &mut Vec<u8>,
    mut pages: &UnixStream,
) -> io::Result<()> {
    let count = checked(count)?;
    buffer.resize(CHUNK, 0);
    input.read_exact(&mut buffer[..count])?;
    pages.write_all(&buffer[..count])
}

fn send_file(out: &Sender, mut file: &File, size: u64) -> io::Result<()> {
    let mut rest = size;
    while rest > 0 {
        let mut buffer = vec![0; CHUNK.min(usize::try_from(rest).unwrap_or(CHUNK))];
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other("a file of the job became shorter while it was sent"));
        }
        buffer.truncate(count);
        rest -= count as u64;
        out.send(&Part::Data(Bytes(buffer)))?;
    }
    Ok(())
}

fn receive_file(input: &mut Receiver, mut file: &File, size: u64) -> io::Result<()> {
    let mut rest = size;
    while rest > 0 {
        match input.receive()? {
            Part::Data(Bytes(bytes)) if !bytes.is_empty() && bytes.len() as u64 <= rest => {
                file.write_all(&bytes)?;
                rest -= bytes.len() as u64;
            }
            Part::Abandoned(reason) => return Err(io::Error::other(reason)),
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "something else than the bytes of a file",
                ));
            }
        }
    }
    Ok(())
}

/// The regular files below a directory, with their paths relative to it.
fn files_below(directory: &OwnedFd) -> io::Result<Vec<(PathBuf, File)>> {
    let root = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let mut files = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(at) = directories.pop() {
        for entry in fs::read_dir(root.join(&at))? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, at.join(entry.file_name()));
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                let file =
                    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(root.join(&path))?;
                files.push((path, file));
            }
        }
    }
    Ok(files)
}

fn name_of(path: &Path) -> io::Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other("a file name in /dev/shm that is no UTF-8"))
}

/// The path of a file that another node named, in this directory and not outside it.
fn below(directory: &OwnedFd, name: &str, depth: usize) -> io::Result<PathBuf> {
    let name = Path::new(name);
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || name.as_os_str().is_empty() || name.components().count() > depth {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a file with an odd name: {}", name.display()),
        ));
    }
    Ok(PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link;
    use crate::net::tests::pair;

    #[test]
    fn a_dump_hears_that_its_target_has_gone() {
        let (source, target) = pair();
        drop(target);
        let (_out, mut input) = link::split(source).unwrap();
        let (ours, mut criu) = UnixStream::pair().unwrap();
        receive_answers(&mut input, &ours);
        criu.set_nonblocking(true).unwrap();
        assert_eq!(criu.read(&mut [0; 1]).unwrap(), 0, "the end, though our side still has its socket");
    }

    #[test]
    fn a_name_from_another_node_stays_in_its_directory() {
        let directory = OwnedFd::from(File::open("/tmp").unwrap());
        assert!(below(&directory, "pages-1.img", 1).is_ok());
        for name in ["", "..", "/etc/passwd", "a/b", "../x", "."] {
            assert!(below(&directory, name, 1).is_err(), "{name:?}");
        }
    }
}
