//! Files that are in use and have lost the name by which they are known. CRIU carries the content of a file that has no
//! name left, up to a limit; a file that has another name it would not find again.

use super::findings::Findings;
use super::sys::{Status, status};
use super::{DELETED_FILE_LIMIT, Job};
use crate::nest;

const MARK: &str = " (deleted)";

/// Whether a link in `/proc` says so.
pub fn is_marked(link: &str) -> bool {
    link.ends_with(MARK)
}

/// Looks at a file whose link is marked. `who` says who uses it as what.
pub fn check(
    who: impl FnOnce() -> String,
    link: &str,
    file: &Status,
    job: &Job<'_>,
    findings: &mut Findings,
) {
    let path = seen(link);
    let name = path.trim_end_matches(MARK);
    if !file.is(libc::S_IFREG) {
        return;
    }
    if file.links == 0 {
        if file.bytes > DELETED_FILE_LIMIT {
            let what = || format!("{} the deleted file {name} of {} MiB", who().trim_end(), file.bytes >> 20);
            findings.add("deleted_file", what);
        }
    } else if !is_just_called_so(path, file, job) {
        let path = path.trim_end_matches(MARK);
        findings
            .add("hard_link", || format!("{} {path}, which has lost that name, but not all of them", who()));
    }
}

/// The path as the job sees it.
pub fn seen(link: &str) -> &str {
    match link.strip_prefix(nest::ROOT) {
        Some("") => "/",
        Some(path) if path.starts_with('/') => path,
        _ => link,
    }
}

/// Whether the mark is part of the file's name. Not asked on other machines, nobody calls a file so.
fn is_just_called_so(path: &str, file: &Status, job: &Job<'_>) -> bool {
    let is_remote = job.mounts.on(file.on).is_none_or(super::mounts::Mount::is_remote);
    !is_remote
        && status(&job.init.directory, &format!("root{path}"))
            .is_ok_and(|named| (named.on, named.inode) == (file.on, file.inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_as_the_job_sees_them() {
        assert_eq!(seen("/run/om-root/home/me/x"), "/home/me/x");
        assert_eq!(seen("/run/om-root"), "/");
        assert_eq!(seen("/run/om-rooted"), "/run/om-rooted");
        assert!(is_marked("/x (deleted)") && !is_marked("/x"));
    }
}
