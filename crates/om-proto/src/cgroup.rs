//! The limits that this host's cgroups set: CPU quota and memory, version 1 and 2.
//!
//! In a container the limit of the whole node is that of a cgroup above the daemon, so the way from the daemon's
//! own cgroup up to the root that it can see is walked, and the tightest limit counts.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory limit and what is left of it, KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The limit.
    pub total_kib: u64,
    /// What is left of it.
    pub available_kib: u64,
}

/// Whose limits are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of the node: the limits of a systemd unit's own cgroup (`….service`) are the daemon's and do not count.
    Node,
    /// Those of this process and what it starts.
    Process,
}

/// Where the limits are. The CPU quota is read when they are looked for, memory each time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The tightest CPU quota, in thousandths of a CPU.
    quota_milli: Option<u32>,
    /// Files with a memory limit and its use, of those cgroups that have a limit.
    memory: Vec<(PathBuf, PathBuf)>,
}

impl Limits {
    /// Looks for them by a `/proc` and the root of the file system in which cgroups are mounted.
    #[must_use]
    pub fn find(whose: Whose, proc: &Path, fs_root: &Path) -> Self {
        let own = read_text(&proc.join("self/cgroup")).unwrap_or_default();
        let mounts = read_text(&proc.join("self/mountinfo")).unwrap_or_default();
        let way_up = |kind: &str, controller: Option<&str>, path: &str| -> Vec<PathBuf> {
            let counts =
                |dir: &PathBuf| whose == Whose::Process || dir.extension().is_none_or(|end| end != "service");
            directories_up(&mounts, kind, controller, path, fs_root).into_iter().filter(counts).collect()
        };
        let mut limits = Self::default();
        for line in own.lines() {
            // hierarchy-ID:controllers:path
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let has = |name| controllers.split(',').any(|controller| controller == name);
            if controllers.is_empty() {
                for dir in way_up("cgroup2", None, path) {
                    limits.add_quota(quota_v2(&dir));
                    limits.add_memory(&dir, "memory.max", "memory.current");
                }
            } else if has("cpu") {
                for dir in way_up("cgroup", Some("cpu"), path) {
                    limits.add_quota(quota_v1(&dir));
                }
            } else if has("memory") {
                for dir in way_up("cgroup", Some("memory"), path) {
                    limits.add_memory(&dir, "memory.limit_in_bytes", "memory.usage_in_bytes");
                }
            }
        }
        limits
    }

    /// How much of `cpus` CPUs may be used, in thousandths.
    #[must_use]
    pub fn cpus_milli(&self, cpus: usize) -> u32 {
        let all = u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(1000);
        self.quota_milli.map_or(all, |quota| quota.min(all))
    }

    /// The tightest memory limit, by what is left of it.
    #[must_use]
    pub fn memory(&self) -> Option<MemoryLimit> {
        let read = |(limit, used): &(PathBuf, PathBuf)| {
            let (limit, used) = (bytes(limit)?, bytes(used)?);
            Some(MemoryLimit { total_kib: limit / 1024, available_kib: limit.saturating_sub(used) / 1024 })
        };
        self.memory.iter().filter_map(read).reduce(|one, other| MemoryLimit {
            total_kib: one.total_kib.min(other.total_kib),
            available_kib: one.available_kib.min(other.available_kib),
        })
    }

    fn add_quota(&mut self, quota: Option<u32>) {
        self.quota_milli = match (self.quota_milli, quota) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (known, None) | (None, known) => known,
        };
    }

    fn add_memory(&mut self, dir: &Path, limit: &str, used: &str) {
        let (limit, used) = (dir.join(limit), dir.join(used));
        if bytes(&limit).is_some() {
            self.memory.push((limit, used));
        }
    }
}

/// The directories from a process's cgroup up to the highest one that can be seen, lowest first.
fn directories_up(
    mounts: &str,
    kind: &str,
    controller: Option<&str>,
    path: &str,
    fs_root: &Path,
) -> Vec<PathBuf> {
    let Some((root, mount_point)) = mounts.lines().find_map(|line| cgroup_mount(line, kind, controller))
    else {
        return Vec::new();
    };
    let top = fs_root.join(mount_point.trim_start_matches('/'));
    // What is mounted may itself be a cgroup somewhere below, as in a container without a cgroup namespace. A path
    // outside of it cannot be seen.
    let below = if root == "/" { path } else { path.strip_prefix(root).unwrap_or("/") };
    let mut names: Vec<&str> = below.split('/').filter(|name| !name.is_empty()).collect();
    if names.contains(&"..") {
        names.clear();
    }
    let mut dirs = Vec::new();
    loop {
        dirs.push(top.join(names.join("/")));
        if names.pop().is_none() {
            return dirs;
        }
    }
}

/// Root and mount point of a line of mountinfo, if it is a cgroup mount of this kind.
fn cgroup_mount<'a>(line: &'a str, kind: &str, controller: Option<&str>) -> Option<(&'a str, &'a str)> {
    // ID parent major:minor root mount-point options … - type source super-options
    let (mount, rest) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, mount_point) = (mount.next()?, mount.next()?);
    let mut rest = rest.split(' ');
    let is_kind = rest.next()? == kind;
    let options = rest.nth(1).unwrap_or_default();
    let has = controller.is_none_or(|controller| options.split(',').any(|option| option == controller));
    (is_kind && has).then_some((root, mount_point))
}

/// `max 100000` or `50000 100000`: microseconds of CPU time in each period of so many.
fn quota_v2(dir: &Path) -> Option<u32> {
    let text = read_text(&dir.join("cpu.max"))?;
    let (quota, period) = text.trim().split_once(' ')?;
    milli(quota.parse().ok()?, period.parse().ok()?)
}

/// The quota is -1 where there is none.
fn quota_v1(dir: &Path) -> Option<u32> {
    let quota = read_text(&dir.join("cpu.cfs_quota_us"))?.trim().parse::<i64>().ok()?;
    let period = read_text(&dir.join("cpu.cfs_period_us"))?.trim().parse().ok()?;
    milli(u64::try_from(quota).ok()?, period)
}

fn milli(quota: u64, period: u64) -> Option<u32> {
    u32::try_from(quota.saturating_mul(1000).checked_div(period)?).ok().filter(|milli| *milli > 0)
}

fn read_text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// A number of bytes; none for `max`, and for version 1's huge number that means the same.
fn bytes(file: &Path) -> Option<u64> {
    read_text(file)?.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
    const V1: &str = "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    struct FakeHost(tempfile::TempDir);

    impl FakeHost {
        fn new(cgroup: &str, mountinfo: &str) -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            host.file("proc/self/cgroup", cgroup);
            host.file("proc/self/mountinfo", mountinfo);
            host
        }

        fn file(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn limits(&self) -> Limits {
            Limits::find(Whose::Node, &self.0.path().join("proc"), self.0.path())
        }
    }

    #[test]
    fn without_limits_all_cpus_are_effective() {
        let host = FakeHost::new("0::/\n", V2);
        host.file("sys/fs/cgroup/cpu.max", "max 100000\n");
        host.file("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(host.limits().cpus_milli(4), 4000);
        assert_eq!(host.limits().memory(), None);
        assert_eq!(Limits::default().cpus_milli(4), 4000);
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let host = FakeHost::new("0::/a/b\n", V2);
        host.file("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
        host.file("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
        host.file("sys/fs/cgroup/a/memory.max", "1048576\n");
        host.file("sys/fs/cgroup/a/memory.current", "1047552\n");
        host.file("sys/fs/cgroup/a/b/memory.max", "524288\n");
        host.file("sys/fs/cgroup/a/b/memory.current", "0\n");
        let limits = host.limits();
        assert_eq!((limits.cpus_milli(4), limits.cpus_milli(1)), (1500, 1000));
        assert_eq!(limits.memory(), Some(MemoryLimit { total_kib: 512, available_kib: 1 }));
    }

    #[test]
    fn a_units_own_limits_are_not_the_nodes() {
        let host = FakeHost::new("0::/system.slice/omd.service\n", V2);
        host.file("sys/fs/cgroup/system.slice/omd.service/cpu.max", "10000 100000\n");
        host.file("sys/fs/cgroup/system.slice/omd.service/memory.max", "16777216\n");
        host.file("sys/fs/cgroup/system.slice/omd.service/memory.current", "4096\n");
        host.file("sys/fs/cgroup/system.slice/cpu.max", "200000 100000\n");
        assert_eq!(host.limits().cpus_milli(4), 2000);
        assert_eq!(host.limits().memory(), None);
        let own = Limits::find(Whose::Process, &host.0.path().join("proc"), host.0.path());
        assert_eq!(own.memory().map(|limit| limit.total_kib), Some(16 << 10));
    }

    #[test]
    fn version_1_is_read_from_its_two_hierarchies() {
        let host = FakeHost::new("5:cpu,cpuacct:/box\n4:memory:/box\n", V1);
        host.file("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "250000\n");
        host.file("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n");
        host.file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
        host.file("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        host.file("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1048576\n");
        host.file("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "524288\n");
        host.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        host.file("sys/fs/cgroup/memory/memory.usage_in_bytes", "524288\n");
        assert_eq!(host.limits().cpus_milli(4), 2500);
        assert_eq!(host.limits().memory(), Some(MemoryLimit { total_kib: 1024, available_kib: 512 }));
    }

    #[test]
    fn in_a_container_without_a_namespace_the_mounted_cgroup_is_the_top() {
        let mounts = "30 23 0:26 /docker/123 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let host = FakeHost::new("0::/docker/123\n", mounts);
        host.file("sys/fs/cgroup/cpu.max", "50000 100000\n");
        assert_eq!(host.limits().cpus_milli(4), 500);
    }

    #[test]
    fn a_path_outside_the_namespace_reads_the_top_only() {
        let host = FakeHost::new("0::/../../other\n", V2);
        host.file("sys/fs/cgroup/cpu.max", "50000 100000\n");
        assert_eq!(host.limits().cpus_milli(4), 500);
    }

    #[test]
    fn nonsense_is_no_limit() {
        let host = FakeHost::new("x\n0::/\n", V2);
        host.file("sys/fs/cgroup/cpu.max", "0 0\n");
        host.file("sys/fs/cgroup/memory.max", "lots\n");
        assert_eq!(host.limits(), Limits::default());
    }
}
