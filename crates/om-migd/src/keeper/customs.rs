//! What a restored job has with it is looked at before it may run.
//!
//! CRIU makes of the images what they say, as root: user ids, capabilities, open files. The images come from another node,
//! and the names in them from the job's user. So while the job is frozen, and before home grants it to this node: every
//! thread has the ids that were offered, the groups that it may have here, and no capability; no guest is put before the
//! node's own work; every file and directory is below the job's root; and at home, where CRIU was allowed to open whatever lies
//! under a name by now, the job's user may open it too. (On a guest's node home's kernel has decided that when CRIU asked
//! it for the file.)

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use om_homefs::server::Identity;

use crate::cgroup::Cgroup;
use crate::nest::{Credentials, INIT, ROOT};
use crate::{limits, sys};

/// Looks at a frozen job of this owner, with the groups that it may have here.
///
/// # Errors
/// What it has and must not have, in one line for the file `result`. The job must not run.
pub fn inspect(cgroup: &Cgroup, owner: &Credentials, at_home: bool) -> Result<(), String> {
    let mut files = Vec::new();
    for pid in cgroup.processes() {
        let mut has_ended = true;
        let look = |error: io::Error| format!("cannot look at process {pid}: {error}");
        for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(look)?.flatten() {
            let status = fs::read_to_string(task.path().join("status")).map_err(look)?;
            if status.contains("\nState:\tZ") {
                continue;
            }
            has_ended = false;
            check_status(&status, owner).map_err(|what| format!("process {pid} has {what}"))?;
            if !at_home {
                let stat = fs::read_to_string(task.path().join("stat")).map_err(look)?;
                check_rank(&stat).map_err(|what| format!("process {pid} has {what}"))?;
            }
        }
        if !at_home && !has_ended {
            let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).map_err(look)?;
            check_claims(&score, limits::of(pid).map_err(look)?)
                .map_err(|what| format!("process {pid} has {what}"))?;
        }
        // One that has ended has none any more.
        let place = |name| fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_else(|_| ROOT.into());
        if place("root") != Path::new(ROOT) {
            return Err(format!("process {pid} has another root, {}", place("root").display()));
        }
        if !place("cwd").starts_with(ROOT) {
            let cwd = place("cwd");
            return Err(format!("process {pid} is in a directory outside of its root, {}", cwd.display()));
        }
        files.extend(open_files(pid).map_err(look)?.iter().filter_map(|seen| seen.find(at_home)));
        files.extend(mapped_files(pid).map_err(look)?.iter().filter_map(|seen| seen.find(at_home)));
    }
    if let Some(file) = files.iter().find(|file| !file.name.starts_with(ROOT) && file.name != Path::new(INIT))
    {
        return Err(format!("it has a file outside of its root, {}", file.name.display()));
    }
    if !at_home || owner.uid == 0 {
        return Ok(());
    }
    let identity = Identity { uid: owner.uid, gid: owner.gid, groups: owner.groups.clone() };
    let denied = identity.act(|| files.iter().find(|file| !file.is_allowed()).map(|file| file.name.clone()));
    match denied {
        Ok(None) => Ok(()),
        Ok(Some(name)) => {
            let name = name.strip_prefix(ROOT).unwrap_or(&name);
            Err(format!("its user may not open /{} any more", name.display()))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a thread is who it should be; what it has instead, if not.
fn check_status(status: &str, owner: &Credentials) -> Result<(), String> {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
    };
    for (name, wanted) in [("Uid", owner.uid), ("Gid", owner.gid)] {
        let ids = field(name);
        if ids.is_empty() || ids.split_whitespace().any(|id| id.parse() != Ok(wanted)) {
            return Err(format!("{name} {}, but the job is of {wanted}", ids.replace('\t', " ")));
        }
    }
    let groups: Result<BTreeSet<u32>, _> = field("Groups").split_whitespace().map(str::parse).collect();
    if groups != Ok(owner.groups.iter().copied().collect()) {
        return Err(format!("the groups {}, which are not the job's", field("Groups")));
    }
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        if owner.uid != 0 && u64::from_str_radix(field(name), 16) != Ok(0) {
            return Err(format!("capabilities ({name} {})", field(name)));
        }
    }
    Ok(())
}

/// Whether a guest's thread, by its file `stat`, is scheduled as the node's own work is, or behind it.
fn check_rank(stat: &str) -> Result<(), String> {
    // From the third field on; the second has anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let (nice, policy) = (field(19), field(41));
    if !nice.parse().is_ok_and(|nice: i32| nice >= 0) {
        return Err(format!("a nice value of {nice}"));
    }
    if !policy.parse().is_ok_and(|policy| !limits::is_real_time(policy)) {
        return Err(format!("real-time scheduling (policy {policy})"));
    }
    Ok(())
}

/// Whether a guest's process dies for memory before the node's own, and cannot raise its rank.
fn check_claims(oom_score: &str, limits: Vec<(u64, u64)>) -> Result<(), String> {
    if !oom_score.trim().parse().is_ok_and(|score: i32| score >= 0) {
        return Err(format!("an OOM score adjustment of {}", oom_score.trim()));
    }
    match limits::of_guest(limits.clone()) {
        Some(fair) if fair == limits => Ok(()),
        _ => Err("limits that allow it real-time scheduling or a nice value below 0".to_owned()),
    }
}

/// A link in `/proc` to something that a process has.
struct Seen {
    link: PathBuf,
    /// For what: `R_OK`, `W_OK`.
    mode: libc::c_int,
    /// Being allowed to execute it is enough.
    or_execute: bool,
}

/// A file or directory that has a name.
struct Found {
    file: File,
    name: PathBuf,
    mode: libc::c_int,
    or_execute: bool,
}

impl Seen {
    /// What is to be looked at, if there is something. On a guest's node home is not asked about its own files.
    fn find(&self, at_home: bool) -> Option<Found> {
        let name = fs::read_link(&self.link).ok()?;
        if !name.is_absolute() || (!at_home && name.starts_with(ROOT)) {
            return None;
        }
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&self.link).ok()?;
        let metadata = file.metadata().ok()?;
        let is_named = metadata.nlink() > 0 && (metadata.is_file() || metadata.is_dir());
        is_named.then_some(Found { file, name, mode: self.mode, or_execute: self.or_execute })
    }
}

impl Found {
    /// Whether the calling thread's identity may have it.
    fn is_allowed(&self) -> bool {
        let may = |mode| sys::access(self.file.as_fd(), mode).is_ok();
        may(self.mode) || self.or_execute && may(libc::X_OK)
    }
}

fn open_files(pid: Pid) -> io::Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().display()))?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| libc::c_int::from_str_radix(flags.trim(), 8).ok());
        let mode = match flags.unwrap_or(libc::O_RDWR) {
            flags if flags & libc::O_PATH != 0 => libc::F_OK,
            flags if flags & libc::O_ACCMODE == libc::O_RDONLY => libc::R_OK,
            flags if flags & libc::O_ACCMODE == libc::O_WRONLY => libc::W_OK,
            _ => libc::R_OK | libc::W_OK,
        };
        seen.push(Seen { link: entry.path(), mode, or_execute: false });
    }
    Ok(seen)
}

/// Each file once, though most are mapped several times.
fn mapped_files(pid: Pid) -> io::Result<Vec<Seen>> {
    let mut paths = BTreeSet::new();
    let mut seen = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut fields = line.splitn(6, ' ');
        let (Some(range), Some(rights), Some(path)) = (fields.next(), fields.next(), fields.nth(3)) else {
            continue;
        };
        let shared = rights.ends_with('s') && rights.contains('w');
        if path.trim_start().starts_with('/') && paths.insert((path, shared)) {
            // The names in `map_files` have no leading zeros.
            let address = |text| u64::from_str_radix(text, 16).map_err(io::Error::other);
            let (from, to) = range.split_once('-').unwrap_or_default();
            let link = format!("/proc/{pid}/map_files/{:x}-{:x}", address(from)?, address(to)?);
            let mode = if shared { libc::R_OK | libc::W_OK } else { libc::R_OK };
            seen.push(Seen { link: link.into(), mode, or_execute: !shared });
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Credentials {
        Credentials { uid: 1000, gid: 100, groups: vec![100, 27] }
    }

    const STATUS: &str = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\nGroups:\t27 100 \n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\n\
        CapAmb:\t0000000000000000\n";

    #[test]
    fn a_thread_of_the_jobs_user_passes() {
        assert_eq!(check_status(STATUS, &owner()), Ok(()));
    }

    #[test]
    fn other_ids_groups_and_capabilities_do_not_pass() {
        for (from, to) in [
            ("Uid:\t1000\t1000", "Uid:\t1000\t0"),
            ("Gid:\t100", "Gid:\t0"),
            ("27 100", "27 100 0"),
            ("27 100", "100"),
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000200000"),
            ("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000400"),
        ] {
            assert!(STATUS.contains(from), "{from}");
            assert!(check_status(&STATUS.replacen(from, to, 1), &owner()).is_err(), "{to}");
        }
        assert!(check_status("", &owner()).is_err());
    }

    #[test]
    fn a_guest_with_a_claim_before_the_nodes_own_work_does_not_pass() {
        let stat = |nice: i32, policy: i32| {
            let mut fields = vec!["0".to_owned(); 50];
            (fields[16], fields[38]) = (nice.to_string(), policy.to_string());
            format!("7 (a) b) {}", fields.join(" "))
        };
        assert_eq!(check_rank(&stat(0, 0)), Ok(()));
        assert_eq!(check_rank(&stat(19, libc::SCHED_BATCH)), Ok(()));
        assert!(check_rank(&stat(-1, 0)).unwrap_err().contains("nice"));
        for policy in [libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE] {
            assert!(check_rank(&stat(0, policy)).unwrap_err().contains("real-time"));
        }
        assert!(check_rank("").is_err());
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        let nice = sys::nice_of(Pid::this()).unwrap();
        assert_eq!(check_rank(&own).is_ok(), nice >= 0, "{own}");

        let fair = vec![(0, 0); 16];
        assert_eq!(check_claims("0\n", fair.clone()), Ok(()));
        assert!(check_claims("-1\n", fair).unwrap_err().contains("OOM"));
        assert!(check_claims("0\n", vec![(0, 21); 16]).unwrap_err().contains("limits"));
        assert!(check_claims("0\n", Vec::new()).is_err());
    }

    fn names(seen: &[Seen], at_home: bool) -> Vec<PathBuf> {
        seen.iter().filter_map(|seen| seen.find(at_home)).map(|found| found.name).collect()
    }

    #[test]
    fn what_a_process_has_open_and_mapped_is_found() {
        let own = Pid::this();
        let _file = File::open("/etc/passwd").unwrap();
        assert!(names(&open_files(own).unwrap(), true).contains(&"/etc/passwd".into()));
        let program = std::env::current_exe().unwrap();
        let mapped = names(&mapped_files(own).unwrap(), true);
        assert_eq!(mapped.iter().filter(|name| **name == program).count(), 1);
    }
}
