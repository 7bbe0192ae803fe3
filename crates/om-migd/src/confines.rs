//! The control groups whose limits hold for a job: at home those of its caller, on a guest's node those of all guests.
//!
//! The freezer that stops a job is its own cgroup v2 ([`crate::cgroup`]). Limits may be there too, or in hierarchies of
//! version 1, or in both. A job at home is put where its caller is in each of them, so that what is limited for the
//! caller is limited for both together. Guests share one group, `om-guests`, wherever there is a controller to limit
//! them by. CRIU works inside these groups when it restores, since memory counts where it was first touched.
//!
//! Version 2 keeps a directory that has limits for its children free of processes. So om-migd limits guests there only if its own
//! directory can be kept free: at the root of the tree, or in a unit with `DelegateSubgroup=` ([`LEAF`]).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup;

/// The subgroup of its unit in which systemd is to start om-migd.
const LEAF: &str = "om-migd";
/// The group of all guests.
const GUESTS: &str = "om-guests";

/// The hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchies {
    /// Where version 2 is mounted.
    unified: PathBuf,
    /// Where each of version 1 is mounted, and what it is called in `/proc/PID/cgroup`.
    legacy: Vec<(String, PathBuf)>,
}

/// Where the processes of a job belong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confines {
    /// The directory of version 2 below which the job gets its own.
    pub parent: PathBuf,
    /// Its directories in hierarchies of version 1.
    pub joined: Vec<PathBuf>,
}

impl Confines {
    /// Memory that is left of the limits of these groups, bytes; none if there is no limit.
    #[must_use]
    pub fn memory_left(&self) -> Option<u64> {
        let number =
            |group: &Path, name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        let left =
            |group: &Path, limit, usage| Some(number(group, limit)?.saturating_sub(number(group, usage)?));
        let unified = left(&self.parent, "memory.max", "memory.current");
        let joined = self.joined.iter();
        let joined = joined.filter_map(|group| left(group, "memory.limit_in_bytes", "memory.usage_in_bytes"));
        joined.chain(unified).min()
    }
}

/// What guests may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory; no limit if none.
    pub memory: Option<u64>,
    /// Processes and threads; no limit if none.
    pub tasks: Option<u64>,
    /// Weight for the CPUs, 1 to 10000, where a group of the node's own has 100; no group for that if none.
    pub cpu_weight: Option<u64>,
}

impl Hierarchies {
    /// Finds them. Mounts version 2 below `run_dir` if it is mounted nowhere.
    pub fn find(run_dir: &Path) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mut found = Self::parse(&mounts);
        if found.unified.as_os_str().is_empty() {
            found.unified = run_dir.join("cgroup");
            fs::create_dir_all(&found.unified)?;
            mount(Some("om"), &found.unified, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
        }
        Ok(found)
    }

    fn parse(mounts: &str) -> Self {
        let mut found = Self { unified: PathBuf::new(), legacy: Vec::new() };
        for line in mounts.lines() {
            let Some((mount, file_system)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let mut fields = file_system.split(' ');
            match (fields.next(), fields.nth(1)) {
                (Some("cgroup2"), _) if found.unified.as_os_str().is_empty() => found.unified = point.into(),
                (Some("cgroup"), Some(options)) => found.legacy.push((options.to_owned(), point.into())),
                _ => {}
            }
        }
        found
    }

    /// The directory of version 2 of a process, given its `/proc/PID/cgroup`.
    fn unified_of(&self, membership: &str) -> PathBuf {
        let path = membership.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        self.unified.join(path.trim_start_matches('/'))
    }

    /// Its directories of version 1, with their controllers.
    fn legacy_of<'a>(&'a self, membership: &'a str) -> impl Iterator<Item = (&'a str, PathBuf)> {
        membership.lines().filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_it =
                |options: &str| controllers.split(',').all(|name| options.split(',').any(|o| o == name));
            let (_, point) =
                self.legacy.iter().find(|(options, _)| !controllers.is_empty() && is_it(options))?;
            Some((controllers, point.join(path.trim_start_matches('/'))))
        })
    }

    /// Where a process is.
    fn membership(process: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{process}/cgroup"))
    }

    /// The confines of a job of this caller.
    ///
    /// A directory that the user may change is no place for the job's own: he could take processes out of it, and it would
    /// not stop as a whole. The nearest one above is taken, whose limits are those that he cannot change either.
    pub fn of_caller(&self, caller: Pid) -> io::Result<Confines> {
        let membership = Self::membership(&caller.to_string())?;
        let own = Self::membership("self")?;
        let mut parent = self.unified_of(&membership);
        while parent != self.unified && (is_of_a_job(&parent) || !is_roots(&parent)) && parent.pop() {}
        let own: Vec<_> = self.legacy_of(&own).collect();
        let joined =
            self.legacy_of(&membership).filter(|at| !own.contains(at)).map(|(_, path)| path).collect();
        Ok(Confines { parent, joined })
    }

    /// The confines of guests, made if they are not there, with what is in force as a text for the log.
    pub fn of_guests(&self, limits: Limits) -> io::Result<(Confines, String)> {
        let membership = Self::membership("self")?;
        let mut base = self.unified_of(&membership);
        if base.ends_with(LEAF) {
            base.pop();
        }
        let parent = base.join(GUESTS);
        make(&parent)?;
        let mut in_force = InForce::default();
        let text = |limit: Option<u64>, none: &str| limit.map_or(none.to_owned(), |limit| limit.to_string());
        for (controller, file, value, is_set) in [
            ("+memory", "memory.max", text(limits.memory, "max"), &mut in_force.memory),
            ("+pids", "pids.max", text(limits.tasks, "max"), &mut in_force.tasks),
            ("+cpu", "cpu.weight", text(limits.cpu_weight, ""), &mut in_force.cpu),
        ] {
            if !value.is_empty() {
                // Refused where there is no such controller, or where processes are in the way.
                let _ = fs::write(base.join("cgroup.subtree_control"), controller);
                *is_set |= set(&parent.join(file), &value)?;
            }
        }

        let mut joined = Vec::new();
        let shares = limits.cpu_weight.map(|weight| (weight * 1024 / 100).max(2));
        for (controllers, own) in self.legacy_of(&membership) {
            let group = own.join(GUESTS);
            let mut is_limited = false;
            for (controller, file, value, is_set) in [
                ("memory", "memory.limit_in_bytes", text(limits.memory, "-1"), &mut in_force.memory),
                ("pids", "pids.max", text(limits.tasks, "max"), &mut in_force.tasks),
                // Where real-time tasks have a budget this group has none: no guest is one ([`crate::limits`]).
                ("cpu", "cpu.shares", text(shares, ""), &mut in_force.cpu),
            ] {
                if !value.is_empty() && controllers.split(',').any(|name| name == controller) {
                    make(&group)?;
                    *is_set |= set(&group.join(file), &value)?;
                    is_limited = true;
                }
            }
            if is_limited {
                joined.push(group);
            }
        }
        Ok((Confines { parent, joined }, in_force.describe(limits)))
    }
}

/// Which limits there are controllers for.
#[derive(Default)]
struct InForce {
    memory: bool,
    tasks: bool,
    cpu: bool,
}

impl InForce {
    fn describe(&self, limits: Limits) -> String {
        let memory = match (limits.memory, self.memory) {
            (None, _) => "no limit of memory".to_owned(),
            (Some(bytes), true) => format!("{} MiB of memory together", bytes >> 20),
            (Some(_), false) => "no limit of memory, for lack of the controller".to_owned(),
        };
        let tasks = match (limits.tasks, self.tasks) {
            (None, _) => "no limit of processes".to_owned(),
            (Some(tasks), true) => format!("{tasks} processes and threads together"),
            (Some(_), false) => "no limit of processes, for lack of the controller".to_owned(),
        };
        let cpu = match (limits.cpu_weight, self.cpu) {
            (None, _) => "the same CPU weight as others".to_owned(),
            (Some(weight), true) => format!("CPU weight {weight}"),
            (Some(_), false) => "the same CPU weight as others, for lack of the controller".to_owned(),
        };
        format!("{memory}, {tasks}, {cpu}")
    }
}

impl Confines {
    /// The same, or what is left of it: a session that has ended takes its groups along.
    #[must_use]
    pub fn remaining(&self) -> Self {
        let existing = |path: &PathBuf| {
            path.ancestors()
                .find(|path| path.join("cgroup.procs").exists())
                .map_or(path.clone(), Path::to_owned)
        };
        Self { parent: existing(&self.parent), joined: self.joined.iter().map(existing).collect() }
    }

    /// The files that put CRIU, which writes `0` there, into all of them; into the parent only if that may have processes.
    pub fn entrances_for_criu(&self) -> io::Result<Vec<fs::File>> {
        let mut entrances =
            self.joined.iter().map(|path| open_entrance(path)).collect::<io::Result<Vec<_>>>()?;
        let is_free = fs::read_to_string(self.parent.join("cgroup.subtree_control"))
            .is_ok_and(|text| text.trim().is_empty());
        if is_free {
            entrances.push(open_entrance(&self.parent)?);
        }
        Ok(entrances)
    }
}

fn open_entrance(group: &Path) -> io::Result<fs::File> {
    let path = group.join("cgroup.procs");
    fs::OpenOptions::new().write(true).open(&path).map_err(|error| named(&path, &error))
}

fn is_of_a_job(group: &Path) -> bool {
    group.file_name().and_then(cgroup::job_of).is_some()
}

fn is_roots(group: &Path) -> bool {
    let owner = |path: &Path| fs::metadata(path).map(|metadata| metadata.uid());
    owner(group).is_ok_and(|uid| uid == 0) && owner(&group.join("cgroup.procs")).is_ok_and(|uid| uid == 0)
}

fn make(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(named(group, &error)),
        _ => Ok(()),
    }
}

/// Sets a limit; false if there is no controller for it.
fn set(file: &Path, value: &str) -> io::Result<bool> {
    if !file.exists() {
        return Ok(false);
    }
    fs::write(file, value).map(|()| true).map_err(|error| named(file, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 25 0:26 / /cg/memory rw - cgroup cgroup rw,memory\n\
        31 25 0:27 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 25 0:28 / /cg/systemd rw - cgroup systemd rw,xattr,name=systemd\n\
        33 25 0:29 / /cg/unified rw - cgroup2 cgroup2 rw\n\
        34 25 0:29 / /other rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_process_has_a_directory_in_each_hierarchy() {
        let found = Hierarchies::parse(MOUNTS);
        let membership = "9:name=systemd:/user\n8:pids:/p\n4:memory:/m/x\n1:cpuacct,cpu:/\n0::/u/y\n";
        assert_eq!(found.unified_of(membership), Path::new("/cg/unified/u/y"));
        let legacy: Vec<_> = found.legacy_of(membership).collect();
        assert_eq!(
            legacy,
            [
                ("name=systemd", "/cg/systemd/user".into()),
                ("memory", "/cg/memory/m/x".into()),
                ("cpuacct,cpu", "/cg/cpu/".into())
            ]
        );
    }

    #[test]
    fn a_group_that_has_gone_is_replaced_by_the_one_above() {
        let root = std::env::temp_dir().join(format!("om-confines-{}", std::process::id()));
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(root.join("a/cgroup.procs"), "").unwrap();
        let confines = Confines { parent: root.join("a/b/c"), joined: vec![root.join("a")] };
        let remaining = confines.remaining();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(remaining, Confines { parent: root.join("a"), joined: vec![root.join("a")] });
    }

    #[test]
    fn limits_that_are_not_in_force_are_said_to_be_missing() {
        let limits = Limits { memory: Some(64 << 20), tasks: Some(500), cpu_weight: Some(20) };
        let all = InForce { memory: true, tasks: true, cpu: true }.describe(limits);
        assert_eq!(all, "64 MiB of memory together, 500 processes and threads together, CPU weight 20");
        assert_eq!(InForce::default().describe(limits).matches("for lack of the controller").count(), 3);
        let none = Limits { memory: None, tasks: None, cpu_weight: None };
        assert!(!InForce::default().describe(none).contains("for lack of the controller"));
    }
}
