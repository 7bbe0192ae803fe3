//! What a process has open.

use std::collections::HashSet;
use std::sync::OnceLock;

use super::directory::Directory;
use super::findings::Findings;
use super::mounts::Mount;
use super::process::Process;
use super::socket::Sockets;
use super::sys::{Status, status};
use super::{Job, deleted};

/// The nameless kinds of files that CRIU can always carry along.
const KNOWN: [&str; 4] = ["[eventfd]", "[eventpoll]", "[fanotify]", "[signalfd]"];
/// Memory devices that are not the same everywhere: mem, kmem, port.
const MACHINE_MEMORY: [u32; 3] = [1, 2, 4];
const MEMORY: u32 = 1;
const TERMINAL: u32 = 5;
/// Unix98 terminals, masters and slaves.
const PTYS: std::ops::RangeInclusive<u32> = 128..=143;
/// So many descriptors of a process are looked at; a search must not take long.
const MOST: usize = 1000;
/// Clocks that wake the machine.
const ALARM_CLOCKS: [&str; 2] = ["8", "9"];

/// What has been seen of the descriptors of all processes.
#[derive(Default)]
pub struct Descriptors {
    /// To be looked at together, once all of them are known.
    pub sockets: Sockets,
    pipes: HashSet<u64>,
}

impl Descriptors {
    /// Looks at all that a process has open, but for sockets.
    pub fn check(&mut self, process: &Process, job: &Job<'_>, findings: &mut Findings) {
        let (Ok(links), Ok(infos)) = (process.directory.below("fd"), process.directory.below("fdinfo"))
        else {
            return;
        };
        for number in links.numbers().into_iter().take(MOST) {
            let Some(link) = links.link(&number.to_string()) else { continue };
            let descriptor = Descriptor { process, links: &links, infos: &infos, number, link: &link };
            if link.starts_with('/') {
                descriptor.check_file(job, findings);
            } else if let Some(kind) = link.strip_prefix("anon_inode:") {
                descriptor.check_nameless(kind, job, findings);
            } else if let Some(inode) = bracketed("socket", &link) {
                self.sockets.add(process, number, inode);
            } else if let Some(inode) = bracketed("pipe", &link) {
                // Most are open several times; only an end for writing tells its mode.
                if !self.pipes.contains(&inode) && descriptor.check_pipe(findings) {
                    self.pipes.insert(inode);
                }
            } else {
                descriptor.check_namespace(job, findings);
            }
        }
    }
}

/// The number in `kind:[number]`.
fn bracketed(kind: &str, link: &str) -> Option<u64> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

/// One of a process's descriptors.
struct Descriptor<'a> {
    process: &'a Process,
    /// The process's `fd` and `fdinfo`.
    links: &'a Directory,
    infos: &'a Directory,
    number: i32,
    /// Where its link leads.
    link: &'a str,
}

impl Descriptor<'_> {
    fn describe(&self, what: &str) -> String {
        format!("{}: descriptor {} is {what}", self.process, self.number)
    }

    fn info(&self) -> Info {
        Info(self.infos.read_record(&self.number.to_string()).unwrap_or_default())
    }

    fn status(&self) -> Option<Status> {
        status(self.links, &self.number.to_string()).ok()
    }

    fn check_file(&self, job: &Job<'_>, findings: &mut Findings) {
        let info = self.info();
        let Some(mount) = info.mount() else { return };
        let path = deleted::seen(self.link);
        let Some(mount) = job.mounts.get(mount) else { return self.check_unmounted(path, findings) };
        // Devices are looked for nowhere else: to ask for the status of each file would take too long.
        if path.starts_with("/dev/") {
            self.check_device(path, findings);
        }
        if deleted::is_marked(self.link)
            && let Some(file) = self.status()
        {
            deleted::check(|| self.describe(""), self.link, &file, job, findings);
        }
        if mount.kind == "proc" {
            self.check_proc(path, job, findings);
        }
        self.check_locks(&info, mount, path, findings);
    }

    fn check_unmounted(&self, path: &str, findings: &mut Findings) {
        // Memory files are on a mount that nobody sees.
        let is_memory = |file: Status| Some(file.on) == memory_file_device();
        if !self.link.starts_with("/memfd:") && !self.status().is_none_or(is_memory) {
            findings.add("mount", || self.describe(&format!("{path}, which is on no mount of the job")));
        }
    }

    fn check_device(&self, path: &str, findings: &mut Findings) {
        let is_device = |file: &Status| file.is(libc::S_IFCHR) || file.is(libc::S_IFBLK);
        let Some(file) = self.status().filter(is_device) else { return };
        let (major, minor) = file.device;
        match (file.is(libc::S_IFCHR), major) {
            (true, TERMINAL) if minor == 0 => {
                findings.add("tty", || self.describe("/dev/tty"));
            }
            (true, TERMINAL) if minor <= 2 => {}
            (true, MEMORY) if !MACHINE_MEMORY.contains(&minor) => {}
            (true, major) if PTYS.contains(&major) => {}
            _ => findings.add("device", || self.describe(&format!("the device {path}"))),
        }
    }

    /// An open file below the directory of a process that has ended.
    fn check_proc(&self, path: &str, job: &Job<'_>, findings: &mut Findings) {
        let below = path.trim_end_matches(" (deleted)").strip_prefix("/proc/");
        let number = below.and_then(|below| below.split('/').next()?.parse::<i32>().ok());
        if number.is_some_and(|number| !is_task(number, job)) {
            findings.add("dead_proc", || self.describe(&format!("{path}, but that process has ended")));
        }
    }

    /// A lock would be asked for on the other node while this one still holds it. Files in the job's own memory go
    /// along with it.
    fn check_locks(&self, info: &Info, mount: &Mount, path: &str, findings: &mut Findings) {
        if mount.kind == "tmpfs" && path.starts_with("/dev/shm/") {
            return;
        }
        // A lease for reading is taken again, by any number at a time.
        let stays =
            |line: &str| line.starts_with("lock:") && !(line.contains(" LEASE ") && line.contains(" READ "));
        if info.0.lines().any(stays) {
            findings.add("file_lock", || self.describe(&format!("{path}, on which it has a lock")));
        }
    }

    fn check_nameless(&self, kind: &str, job: &Job<'_>, findings: &mut Findings) {
        match kind {
            "[io_uring]" => findings.add("io_uring", || self.describe("an io_uring")),
            "[pidfd]" => self.check_pidfd(job, findings),
            "[timerfd]" => {
                let info = self.info();
                if info.value("clockid:").is_some_and(|clock| ALARM_CLOCKS.contains(&clock)) {
                    findings.add("alarm_timer", || self.describe("a timer that wakes the machine"));
                }
            }
            "inotify" => self.check_watches(job, findings),
            kind if KNOWN.contains(&kind) => {}
            kind => findings.add("kernel_object", || self.describe(&format!("of this kernel: {kind}"))),
        }
    }

    fn check_pidfd(&self, job: &Job<'_>, findings: &mut Findings) {
        let info = self.info();
        if info.flags() & libc::O_EXCL != 0 {
            findings.add("pidfd", || self.describe("a pidfd of a thread"));
        }
        let pid = info.value("Pid:").and_then(|pid| pid.parse().ok()).filter(|pid: &i32| *pid > 0);
        if let Some(pid) = pid.filter(|pid| !is_of_job(*pid, job)) {
            findings
                .add("pidfd", || self.describe(&format!("a pidfd of pid {pid}, which is outside the job")));
        }
    }

    fn check_watches(&self, job: &Job<'_>, findings: &mut Findings) {
        let info = self.info();
        let devices = info.0.lines().filter(|line| line.starts_with("inotify wd:")).filter_map(|line| {
            let device = line.split(' ').find_map(|field| field.strip_prefix("sdev:"))?;
            let device = u32::from_str_radix(device, 16).ok()?;
            Some((device >> 20, device & 0xf_ffff))
        });
        for mount in devices.filter_map(|device| job.mounts.on(device)).filter(|mount| !mount.has_handles) {
            findings.add("inotify", || {
                self.describe(&format!("an inotify that watches a file on {}", mount.kind))
            });
        }
    }

    /// Whether it has told what there is to tell.
    fn check_pipe(&self, findings: &mut Findings) -> bool {
        let flags = self.info().flags();
        if flags & libc::O_DIRECT != 0 {
            findings.add("packet_pipe", || self.describe("a pipe in packet mode (O_DIRECT)"));
        }
        flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    /// What is none of the others, as `net:[4026531840]`.
    fn check_namespace(&self, job: &Job<'_>, findings: &mut Findings) {
        let is_own = |namespace: &Option<String>| namespace.as_deref() == Some(self.link);
        if !job.namespaces.iter().any(is_own) {
            findings.add("kernel_object", || self.describe(self.link));
        }
    }
}

/// What fdinfo says of a descriptor.
struct Info(String);

impl Info {
    fn value(&self, key: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
    }

    fn flags(&self) -> libc::c_int {
        self.value("flags:").and_then(|flags| libc::c_int::from_str_radix(flags, 8).ok()).unwrap_or(0)
    }

    /// The number of the mount; none if the descriptor has gone.
    fn mount(&self) -> Option<u32> {
        self.value("mnt_id:")?.parse().ok()
    }
}

/// Whether this is a process of the job, or a child of one that has ended and is not waited for yet.
fn is_of_job(pid: i32, job: &Job<'_>) -> bool {
    let is = |pid: i32| job.processes.iter().any(|process| process.pid.as_raw() == pid);
    is(pid)
        || Process::open(nix::unistd::Pid::from_raw(pid)).is_some_and(|process| is(process.parent.as_raw()))
}

/// Whether the job's own `/proc` has a task with this number: a process, a thread, or a child that is not waited for.
fn is_task(number: i32, job: &Job<'_>) -> bool {
    let is = |status: &str| {
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        pids.and_then(|pids| pids.split_whitespace().last()?.parse().ok()) == Some(number)
    };
    job.processes.iter().any(|process| process.inner_pid == number)
        || job.processes.iter().any(|process| {
            let of = |task: i32, file: &str| {
                process.directory.read_record(&format!("task/{task}/{file}")).unwrap_or_default()
            };
            let child =
                |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            process.numbers("task").into_iter().any(|task| {
                is(&of(task, "status")) || of(task, "children").split_whitespace().any(|pid| is(&child(pid)))
            })
        })
}

/// The device of memory files and shared memory: major, minor. It has no name, so one is made to see.
pub fn memory_file_device() -> Option<(u32, u32)> {
    static DEVICE: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = nix::sys::memfd::memfd_create(c"om-stay", flags).ok()?;
        let device = nix::sys::stat::fstat(&file).ok()?.st_dev;
        Some((libc::major(device), libc::minor(device)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_with_numbers_are_understood() {
        assert_eq!(bracketed("socket", "socket:[1234]"), Some(1234));
        assert_eq!(bracketed("pipe", "socket:[1234]"), None);
        assert_eq!(bracketed("pipe", "/pipe:[1]"), None);
    }

    #[test]
    fn fdinfo_is_understood() {
        let info =
            Info("pos:\t5\nflags:\t02140002\nmnt_id:\t603\nino:\t2\nlock:\t1: FLOCK\nPid:\t-1\n".into());
        assert_eq!((info.mount(), info.value("Pid:")), (Some(603), Some("-1")));
        assert_ne!(info.flags() & libc::O_DIRECT, 0);
        assert_eq!(Info(String::new()).mount(), None);
    }

    #[test]
    fn memory_files_have_a_device() {
        assert!(memory_file_device().is_some());
    }
}
