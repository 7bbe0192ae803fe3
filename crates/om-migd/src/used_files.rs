//! The files that a job uses, so that a target can fetch of them what a restore will want, before the job stands still.
//!
//! It saves the restore the way home for each name, for the beginning of each program and library, by which CRIU knows
//! it again, and for the pages of them that the job has changed: the kernel reads a page of a private mapping before it
//! lets CRIU write to it. And it keeps clear of a flaw in kernels from 6.16 on: when several processes look a name up in
//! a FUSE mount for the first time and at the same moment, one of them may be left with an entry that the kernel has
//! dropped already. The file works, but counts as deleted, and CRIU will not dump it. A restore of many processes,
//! which all map the same libraries, provokes just that.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::cgroup::Cgroup;
use crate::nest::ROOT;

/// The most files that are told or looked up, and bytes of all paths that are told.
const MOST: usize = 2048;
const MOST_BYTES: usize = 256 << 10;
/// The longest path.
const LONGEST: usize = 4096;
/// The most ranges of a file, and bytes of all files, that are fetched: a restore can read the rest for itself.
const MOST_RANGES: usize = 16;
const MOST_FETCHED: u64 = 32 << 20;
/// What is read of a mapped file in any case: where an ELF file has its build id.
const HEADER: u64 = 4096;
/// How much is read at once.
const CHUNK: usize = 128 << 10;
/// What is not home's.
const ELSEWHERE: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A file that a job uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedFile {
    /// Its path, as the job sees it.
    path: Bytes,
    /// What a restore will read of it: begin and end, bytes.
    ranges: Vec<(u64, u64)>,
}

/// The files that the job's processes have mapped or open. A process that goes meanwhile is skipped.
#[must_use]
pub fn of(cgroup: &Cgroup) -> Vec<UsedFile> {
    let mut files: BTreeMap<Vec<u8>, Vec<(u64, u64)>> = BTreeMap::new();
    for pid in cgroup.processes() {
        let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        for (path, range) in changed(&maps) {
            let Some(path) = in_job(path) else { continue };
            let ranges = files.entry(path).or_default();
            if !ranges.contains(&range) && ranges.len() < MOST_RANGES {
                ranges.push(range);
            }
        }
        for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            if let Some(path) = in_job(link.as_os_str().as_bytes()) {
                files.entry(path).or_default();
            }
        }
    }
    let mut bytes = 0;
    let mut fits = |file: &UsedFile| {
        bytes += file.path.0.len();
        bytes <= MOST_BYTES
    };
    let files = files.into_iter().map(|(path, ranges)| UsedFile { path: Bytes(path), ranges });
    files.take(MOST).take_while(|file| fits(file)).collect()
}

/// A line of `/proc/PID/maps` with a file.
struct Mapping<'a> {
    is_private: bool,
    is_writable: bool,
    /// Of the file: begin and end.
    range: (u64, u64),
    path: &'a [u8],
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let (fields, path) = line.split_at(line.iter().position(|byte| *byte == b'/')?);
        let mut fields = std::str::from_utf8(fields).ok()?.split(' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let length = number(end)?.checked_sub(number(start)?)?;
        let modes = fields.next()?.as_bytes();
        let begin = number(fields.next()?)?;
        let (is_private, is_writable) = (modes.get(3) == Some(&b'p'), modes.get(1) == Some(&b'w'));
        Some(Self { is_private, is_writable, range: (begin, begin.checked_add(length)?), path })
    }

    /// Whether the process may have pages of its own here: it can write, or could until its linker was done, which
    /// leaves that part right before one that can be written.
    fn may_differ(&self, next: Option<&Self>) -> bool {
        let precedes =
            |next: &Self| next.path == self.path && next.is_writable && next.range.0 == self.range.1;
        self.is_private && (self.is_writable || next.is_some_and(precedes))
    }
}

/// What a restore reads of the files in this `maps`: paths and ranges.
fn changed(maps: &[u8]) -> Vec<(&[u8], (u64, u64))> {
    let mappings: Vec<Mapping<'_>> = maps.split(|byte| *byte == b'\n').filter_map(Mapping::parse).collect();
    let mut result = Vec::new();
    for (index, mapping) in mappings.iter().enumerate() {
        if mapping.range.0 == 0 {
            result.push((mapping.path, (0, HEADER)));
        }
        if mapping.may_differ(mappings.get(index + 1)) {
            result.push((mapping.path, mapping.range));
        }
    }
    result
}

/// The same path without the place of the job's root, if it is below that and home's.
fn in_job(path: &[u8]) -> Option<Vec<u8>> {
    let path = path.strip_prefix(ROOT.as_bytes()).filter(|path| path.starts_with(b"/"))?;
    let is_elsewhere = ELSEWHERE.iter().any(|place| Path::new(OsStr::from_bytes(path)).starts_with(place));
    (!is_elsewhere && !path.ends_with(b" (deleted)")).then(|| path.to_vec())
}

/// Looks each of them up below the job's root, in the nest, and reads what a restore will read. What is not there, or may
/// not be read, is none of our business.
pub fn fetch(files: Vec<UsedFile>) {
    let mut rest = MOST_FETCHED;
    let mut buffer = vec![0; CHUNK];
    for file in files.into_iter().take(MOST) {
        let Some(path) = below_root(file.path.0) else { continue };
        let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
        if !is_file || file.ranges.is_empty() {
            continue;
        }
        let Ok(opened) =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)
        else {
            continue;
        };
        for range in file.ranges.into_iter().take(MOST_RANGES) {
            read(&opened, range, &mut rest, &mut buffer);
        }
    }
}

/// Reads a range, as far as the file and what may be read still go.
fn read(file: &File, (mut at, end): (u64, u64), rest: &mut u64, buffer: &mut [u8]) {
    while at < end && *rest > 0 {
        let wanted = usize::try_from((end - at).min(*rest)).unwrap_or(usize::MAX).min(buffer.len());
        let Ok(count @ 1..) = file.read_at(&mut buffer[..wanted], at) else { return };
        at += count as u64;
        *rest -= count as u64;
    }
}

/// Where it is in the nest, unless it is no plain path below the root.
fn below_root(path: Vec<u8>) -> Option<PathBuf> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    let mut components = path.components();
    let is_plain = components.next() == Some(Component::RootDir)
        && components.all(|component| matches!(component, Component::Normal(_)))
        && path.as_os_str().len() <= LONGEST;
    is_plain.then(|| Path::new(ROOT).join(path.strip_prefix("/").unwrap_or(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_reads_the_beginning_and_what_the_job_may_have_changed() {
        let maps = b"7f00000-7f01000 r--p 00000000 fe:00 12                 /lib/x y.so
7f01000-7f03000 r-xp 00001000 fe:00 12                 /lib/x y.so
7f03000-7f04000 r--p 00003000 fe:00 12                 /lib/x y.so
7f04000-7f06000 r--p 00004000 fe:00 12                 /lib/x y.so
7f06000-7f07000 rw-p 00006000 fe:00 12                 /lib/x y.so
7f08000-7f09000 rw-p 00000000 00:00 0                  [heap]
7f09000-7f0a000 rw-s 00002000 fe:00 13                 /shared
odd /line
7f0a000-7f09000 rw-p 00000000 fe:00 13                 /odder
";
        let library = &b"/lib/x y.so"[..];
        assert_eq!(
            changed(maps),
            [(library, (0, 4096)), (library, (0x4000, 0x6000)), (library, (0x6000, 0x7000))]
        );
    }

    #[test]
    fn a_range_is_read_as_far_as_there_is_something() {
        let path = std::env::temp_dir().join(format!("om-used-{}", std::process::id()));
        fs::write(&path, [7; 1000]).unwrap();
        let (file, mut buffer, mut rest) = (File::open(&path).unwrap(), [0; 300], 1500);
        fs::remove_file(&path).unwrap();
        read(&file, (500, u64::MAX), &mut rest, &mut buffer);
        assert_eq!(rest, 1000);
        read(&file, (0, u64::MAX), &mut rest, &mut buffer);
        assert_eq!(rest, 0);
        read(&file, (3, 1), &mut rest, &mut buffer);
    }

    #[test]
    fn only_files_of_home_that_have_their_name_are_told() {
        assert_eq!(in_job(b"/run/om-root/usr/bin/env"), Some(b"/usr/bin/env".to_vec()));
        for other in
            ["/run/om-root/dev/null", "/run/om-root/x (deleted)", "/run/om-rooted/x", "/usr/bin/env", ""]
        {
            assert_eq!(in_job(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn nothing_outside_the_root_is_looked_up() {
        assert_eq!(below_root(b"/usr/lib/x".to_vec()), Some(PathBuf::from("/run/om-root/usr/lib/x")));
        for odd in [&b"usr"[..], b"/usr/../../etc/x", b"", &[b'/'; LONGEST + 1]] {
            assert_eq!(below_root(odd.to_vec()), None, "{}", String::from_utf8_lossy(odd));
        }
    }
}
