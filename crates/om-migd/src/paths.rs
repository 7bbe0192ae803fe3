//! The files that a job uses, by name, so that a target can look them up before the job stands still.
//!
//! It saves the restore the way home for each of them, and it keeps clear of a flaw in kernels from 6.16 on: when several
//! processes look a name up in a FUSE mount for the first time and at the same moment, one of them may be left with an
//! entry that the kernel has dropped already. The file works, but counts as deleted, and CRIU will not dump it. A restore
//! of many processes, which all map the same libraries, provokes just that.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::bytes::Bytes;
use crate::cgroup::Cgroup;
use crate::nest::ROOT;

/// The most paths that are told or looked up, and bytes of all that are told.
const MOST: usize = 2048;
const MOST_BYTES: usize = 256 << 10;
/// The longest path.
const LONGEST: usize = 4096;
/// What is not home's.
const ELSEWHERE: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The paths, as the job sees them, of the files that its processes have mapped or open. A process that goes meanwhile is
/// skipped.
#[must_use]
pub fn of(cgroup: &Cgroup) -> Vec<Bytes> {
    let mut paths = BTreeSet::new();
    for pid in cgroup.processes() {
        let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        paths.extend(maps.split(|byte| *byte == b'\n').filter_map(mapped).filter_map(in_job));
        for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            paths.extend(in_job(link.as_os_str().as_bytes()));
        }
    }
    let mut bytes = 0;
    let mut fits = |path: &Vec<u8>| {
        bytes += path.len();
        bytes <= MOST_BYTES
    };
    paths.into_iter().take(MOST).take_while(|path| fits(path)).map(Bytes).collect()
}

/// The path of a line of `maps`.
fn mapped(line: &[u8]) -> Option<&[u8]> {
    line.iter().position(|byte| *byte == b'/').map(|start| &line[start..])
}

/// The same path without the place of the job's root, if it is below that and home's.
fn in_job(path: &[u8]) -> Option<Vec<u8>> {
    let path = path.strip_prefix(ROOT.as_bytes()).filter(|path| path.starts_with(b"/"))?;
    let is_elsewhere = ELSEWHERE.iter().any(|place| Path::new(OsStr::from_bytes(path)).starts_with(place));
    (!is_elsewhere && !path.ends_with(b" (deleted)")).then(|| path.to_vec())
}

/// Looks each of them up below the job's root, in the nest. What is not there is none of our business.
pub fn look_up(paths: Vec<Bytes>) {
    for path in paths.into_iter().take(MOST).filter_map(|Bytes(path)| below_root(path)) {
        let _ = fs::symlink_metadata(path);
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
    fn a_line_of_maps_has_a_path_or_none() {
        let line = b"7f00-7f01 r--p 00000000 fe:00 12                 /run/om-root/usr/lib/x y.so";
        assert_eq!(mapped(line), Some(&b"/run/om-root/usr/lib/x y.so"[..]));
        assert_eq!(mapped(b"7f00-7f01 rw-p 00000000 00:00 0                  [heap]"), None);
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
