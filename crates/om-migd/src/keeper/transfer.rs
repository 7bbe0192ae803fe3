//! A frozen, dumped job over a move connection: the images, the files of its `/dev/shm`, the luggage. Nothing touches a
//! disk on either side.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use om_proto::frame;

use crate::nest::{Credentials, Nest};
use crate::net::message::{Luggage, MAX_FRAME, Part};

/// How much is copied at once.
const CHUNK: usize = 1 << 20;

/// Sends everything of a dumped job, which has been frozen since `frozen_at`.
pub fn send(stream: &mut impl Write, nest: &Nest, mut luggage: Luggage, frozen_at: Instant) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(CHUNK, stream);
    for (name, file) in files_below(&nest.images)? {
        let size = file.metadata()?.len();
        frame::write(&mut out, &Part::Image { name: name_of(&name)?, size })?;
        copy_exactly(&file, &mut out, size)?;
    }
    for (name, file) in files_below(&nest.shared)? {
        let metadata = file.metadata()?;
        let size = metadata.len();
        frame::write(&mut out, &Part::Shared { name: name_of(&name)?, mode: metadata.mode(), size })?;
        copy_exactly(&file, &mut out, size)?;
    }
    luggage.frozen_for_us = u64::try_from(frozen_at.elapsed().as_micros()).unwrap_or(u64::MAX);
    frame::write(&mut out, &Part::Luggage(Box::new(luggage)))?;
    out.flush()
}

/// Receives what [`send`] sent into a nest. Every name and size is checked.
pub fn receive(stream: &mut impl Read, nest: &Nest, owner: &Credentials) -> io::Result<Luggage> {
    let mut input = BufReader::with_capacity(CHUNK, stream);
    loop {
        match frame::read(&mut input, MAX_FRAME)? {
            Part::Image { name, size } => {
                let path = below(&nest.images, &name, 1)?;
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                receive_file(&mut input, &file, size)?;
            }
            Part::Shared { name, mode, size } => {
                let path = below(&nest.shared, &name, 16)?;
                if let Some(directory) = path.parent() {
                    fs::create_dir_all(directory)?;
                }
                let file = OpenOptions::new().write(true).create_new(true).open(path)?;
                receive_file(&mut input, &file, size)?;
                file.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
                std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
            Part::Luggage(luggage) => return Ok(*luggage),
            Part::Abandoned(reason) => return Err(io::Error::other(reason)),
        }
    }
}

fn receive_file(input: &mut impl Read, file: &File, size: u64) -> io::Result<()> {
    let copied = io::copy(&mut input.take(size), &mut &*file)?;
    if copied == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn copy_exactly(file: &File, out: &mut impl Write, size: u64) -> io::Result<()> {
    let mut reader = file.take(size);
    let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK)).max(1)];
    let mut rest = size;
    while rest > 0 {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other("a file of the job became shorter while it was sent"));
        }
        out.write_all(&buffer[..count])?;
        rest -= count as u64;
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
                let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(root.join(&path))?;
                files.push((path, file));
            }
        }
    }
    Ok(files)
}

fn name_of(path: &Path) -> io::Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| io::Error::other("a file name in /dev/shm that is no UTF-8"))
}

/// The path of a file that another node named, in this directory and not outside it.
fn below(directory: &OwnedFd, name: &str, depth: usize) -> io::Result<PathBuf> {
    let name = Path::new(name);
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || name.as_os_str().is_empty() || name.components().count() > depth {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a file with an odd name: {}", name.display())));
    }
    Ok(PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_another_node_stays_in_its_directory() {
        let directory = OwnedFd::from(File::open("/tmp").unwrap());
        assert!(below(&directory, "pages-1.img", 1).is_ok());
        for name in ["", "..", "/etc/passwd", "a/b", "../x", "."] {
            assert!(below(&directory, name, 1).is_err(), "{name:?}");
        }
    }
}
