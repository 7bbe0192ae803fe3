//! Reads what the host is like from its `/proc`, and its guests from the om files.
//!
//! The root of `/proc` is an argument, so that tests bring their own. A file that is missing or makes no sense is
//! "unknown" on the wire, not 0 and not a failure: a container may hide any of them.
//!
//! Cost rules the design: files that are read each period stay open and are read by `pread`, what cannot change
//! between two periods is read seldom, and nothing is read that is not told.

mod cpu;
mod file;
mod guests;
mod host;
mod memory;
mod pressure;
mod tasks;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use om_proto::cgroup::{Limits, Whose};
use om_proto::omfs::OmRoot;
use om_proto::report::{Capacity, Load, Machine, Memory};

use crate::core::Sample;
use cpu::CpuTimes;
use guests::GuestWatch;
use memory::MemoryInfo;
use pressure::Pressure;
use tasks::TaskCounter;

pub use host::{boot_id, host_name, machine};

/// What hardly changes while the daemon runs (affinity, limits of cgroups) is looked up every so many samples.
const SELDOM: u32 = 10;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/proc`, or what stands in for it.
    pub proc: PathBuf,
    /// The root of the file system in which cgroups are mounted: `/` but for tests.
    pub fs_root: PathBuf,
    /// The om files.
    pub om_root: OmRoot,
}

/// Takes samples of this host.
#[derive(Debug)]
pub struct Sampler {
    proc: PathBuf,
    fs_root: PathBuf,
    tasks: TaskCounter,
    cpu: CpuTimes,
    memory: MemoryInfo,
    pressure: Pressure,
    limits: Limits,
    guests: GuestWatch,
    own_cpus: BTreeSet<usize>,
    speed: u32,
    count: u32,
}

impl Sampler {
    /// Opens what stays open. `speed` is told with each sample; `own_addresses` tell own jobs from guests.
    ///
    /// # Errors
    /// If there is no `/proc` to be read, or no thread can be started.
    pub fn new(places: &Places, speed: u32) -> io::Result<Self> {
        let proc = &places.proc;
        Ok(Self {
            tasks: TaskCounter::open(proc, own_pid(proc))?,
            cpu: CpuTimes::open(proc),
            memory: MemoryInfo::open(proc),
            pressure: Pressure::open(proc),
            limits: Limits::find(Whose::Node, proc, &places.fs_root),
            guests: GuestWatch::start(places.om_root.clone())?,
            own_cpus: affinity(),
            proc: proc.clone(),
            fs_root: places.fs_root.clone(),
            speed,
            count: 0,
        })
    }

    /// The addresses by which guests are told from the node's own jobs.
    pub fn set_addresses(&mut self, addresses: Vec<std::net::IpAddr>) {
        self.guests.set_addresses(addresses);
    }

    /// From now on this speed is told.
    pub fn set_speed(&mut self, speed: u32) {
        self.speed = speed;
    }

    /// The machine as it is now.
    #[must_use]
    pub fn machine(&self) -> Machine {
        machine(&self.proc)
    }

    /// Takes a sample.
    pub fn take(&mut self) -> Sample {
        self.guests.ask();
        if self.count % SELDOM == SELDOM - 1 {
            self.own_cpus = affinity();
            self.limits = Limits::find(Whose::Node, &self.proc, &self.fs_root);
        }
        self.count = self.count.wrapping_add(1);

        let tasks = self.tasks.count();
        let cpu = self.cpu.read(&self.own_cpus);
        let memory = self.memory.read();
        let limit = self.limits.memory();
        let pressure = self.pressure.read();
        Sample {
            capacity: Capacity {
                effective_cpus_milli: self.limits.cpus_milli(self.own_cpus.len()),
                speed: self.speed,
                mem_total_kib: least(memory.total_kib, limit.map(|limit| limit.total_kib)),
                swap_total_kib: memory.swap_total_kib,
            },
            load: Load {
                runnable: tasks.map(|tasks| tasks.runnable),
                exported_milli: None,
                smoothed_milli: None,
                busy_permille: cpu.map(|cpu| cpu.busy_permille),
                steal_permille: cpu.map(|cpu| cpu.steal_permille),
                psi_cpu_some_us: pressure.cpu_us,
                psi_memory_some_us: pressure.memory_us,
                psi_io_some_us: pressure.io_us,
                processes: tasks.map(|tasks| tasks.processes),
            },
            memory: Memory {
                available_kib: least(memory.available_kib, limit.map(|limit| limit.available_kib)),
                swap_free_kib: memory.swap_free_kib,
            },
            migration: self.guests.answer(),
        }
    }
}

/// The lesser of two figures of which either may be unknown.
fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (known, None) | (None, known) => known,
    }
}

/// The CPUs that this process may use; what it starts may use no others.
fn affinity() -> BTreeSet<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return BTreeSet::new() };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// This process's pid as this `/proc` has it, which may be that of another namespace.
fn own_pid(proc: &Path) -> u32 {
    let link = std::fs::read_link(proc.join("self")).ok();
    link.and_then(|link| link.to_str()?.parse().ok()).unwrap_or_else(std::process::id)
}

/// Reads a small file as text; `None` if that cannot be done.
fn read_text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_host_that_tells_nothing_is_unknown_and_not_idle() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            proc: dir.path().to_owned(),
            fs_root: dir.path().to_owned(),
            om_root: OmRoot::discover(Some(&dir.path().join("om"))),
        };
        let sample = Sampler::new(&places, 1000).unwrap().take();
        assert_eq!(sample.load.busy_permille, None);
        assert_eq!(sample.load.psi_cpu_some_us, None);
        assert_eq!(sample.memory.available_kib, None);
        assert_eq!(sample.capacity.mem_total_kib, None);
        assert_eq!(sample.migration, None);
    }

    #[test]
    fn the_sampler_knows_itself_in_a_proc_of_another_namespace() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(own_pid(dir.path()), std::process::id());
        std::os::unix::fs::symlink("4711", dir.path().join("self")).unwrap();
        assert_eq!(own_pid(dir.path()), 4711);
        assert_eq!(own_pid(Path::new("/proc")), std::process::id());
    }

    #[test]
    fn without_a_proc_there_is_nothing_to_sample() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            proc: dir.path().join("missing"),
            fs_root: dir.path().to_owned(),
            om_root: OmRoot::discover(Some(dir.path())),
        };
        assert!(Sampler::new(&places, 1000).is_err());
    }

    #[test]
    fn this_host_is_read_as_it_is() {
        let places = Places {
            proc: PathBuf::from("/proc"),
            fs_root: PathBuf::from("/"),
            om_root: OmRoot::discover(Some(Path::new("/nonexistent"))),
        };
        let mut sampler = Sampler::new(&places, 1000).unwrap();
        let sample = sampler.take();
        let online = fs::read_to_string("/proc/stat").unwrap().matches("\ncpu").count();
        assert_eq!(usize::from(sampler.machine().online_cpus), online);
        assert!(sample.capacity.effective_cpus_milli > 0);
        assert!(sample.memory.available_kib <= sample.capacity.mem_total_kib);
        assert!(sample.load.processes.unwrap() > 0);
    }
}
