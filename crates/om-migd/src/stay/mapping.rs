//! What a process has mapped.

use super::findings::Findings;
use super::process::Process;
use super::sys::{Status, status};
use super::{Job, deleted, descriptor};
use crate::nest;

/// Names of memory that is in no directory, and that CRIU knows.
const KNOWN: [&str; 5] = ["/memfd:", "/SYSV", "/dev/zero", "/[aio]", "/anon_hugepage"];
/// `/dev/zero`, which is the same everywhere.
const ZERO: (u32, u32) = (1, 5);

/// One line of `maps`.
struct Mapping<'a> {
    process: &'a Process,
    /// Its addresses, as its name in `map_files`.
    range: &'a str,
    path: &'a str,
}

/// Looks at all that a process has mapped.
pub fn check(process: &Process, job: &Job<'_>, findings: &mut Findings) {
    let maps = process.directory.read("maps").unwrap_or_default();
    let mut last = "";
    for (range, path) in maps.lines().filter_map(split) {
        // Most files are mapped in several parts.
        if path != last {
            Mapping { process, range, path }.check(job, findings);
        }
        last = path;
    }
}

/// The addresses and the path of a line of `maps`, if it has a path.
fn split(line: &str) -> Option<(&str, &str)> {
    let (range, rest) = line.split_once(' ')?;
    // Permissions, offset, device, inode.
    let path = rest.splitn(5, ' ').nth(4)?.trim_start();
    (!path.is_empty() && !path.starts_with('[')).then_some((range, path))
}

impl Mapping<'_> {
    fn describe(&self, what: &str) -> String {
        format!("{} has {what} mapped", self.process)
    }

    fn status(&self) -> Option<Status> {
        status(&self.process.directory, &format!("map_files/{}", self.range)).ok()
    }

    fn check(&self, job: &Job<'_>, findings: &mut Findings) {
        let path = deleted::seen(self.path);
        if let Some(kind) = self.path.strip_prefix("anon_inode:") {
            match kind {
                "[io_uring]" => findings.add("io_uring", || self.describe("an io_uring")),
                kind => findings.add("kernel_object", || self.describe(kind)),
            }
        } else if self.path.starts_with("socket:") {
            findings.add("socket", || self.describe("a socket"));
        } else if self.path.starts_with(nest::ROOT) {
            if deleted::is_marked(path) {
                let Some(file) = self.status() else { return };
                deleted::check(|| format!("{} maps", self.process), self.path, &file, job, findings);
            } else if path.starts_with("/sys/") {
                findings.add("mmap_dev", || self.describe(path));
            } else if path.starts_with("/dev/") && !path.starts_with("/dev/shm/") {
                self.check_device(path, findings);
            }
        } else if self.path != nest::INIT && !KNOWN.iter().any(|known| self.path.starts_with(known)) {
            self.check_memory(findings);
        }
    }

    fn check_device(&self, path: &str, findings: &mut Findings) {
        let is_device = |file: Status| file.is(libc::S_IFCHR) && file.device != ZERO;
        if self.status().is_some_and(is_device) {
            findings.add("mmap_dev", || self.describe(&format!("the device {path}")));
        }
    }

    /// What is in no directory: shared memory, or a device's.
    fn check_memory(&self, findings: &mut Findings) {
        if self.status().is_some_and(|file| Some(file.on) != descriptor::memory_file_device()) {
            findings.add("mmap_dev", || self.describe(self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_with_a_path_are_looked_at() {
        let line =
            "7f50bc9e4000-7f50bc9e5000 rw-s 00000000 00:01 8886                       /memfd:x y (deleted)";
        assert_eq!(split(line), Some(("7f50bc9e4000-7f50bc9e5000", "/memfd:x y (deleted)")));
        assert_eq!(split("00a85000-00aca000 rw-p 00000000 00:00 0 "), None);
        assert_eq!(split("23287000-235ee000 rw-p 00000000 00:00 0                          [heap]"), None);
        assert_eq!(
            split("7f0-7f1 rw-s 00000000 00:0e 12 anon_inode:[io_uring]"),
            Some(("7f0-7f1", "anon_inode:[io_uring]"))
        );
        assert_eq!(split(""), None);
    }
}
