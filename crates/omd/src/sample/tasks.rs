//! How many tasks are runnable, counted from the processes that this `/proc` shows.
//!
//! `/proc/loadavg` knows better on a whole machine, but shows the whole machine's figure in a container too. So
//! every process is looked at, each period, which is what this daemon's CPU time goes into:
//!
//! * a process of one thread is asked by its `schedstat`, at a fifth of the price of its `stat`, whether it has
//!   run at all since the last sample. If not, and if it was not runnable then, it sleeps. One that has always
//!   run is asked by its `stat` at once for a while;
//! * the threads of a process are looked at one by one only if the process has used CPU time since the last
//!   sample or had a runnable thread then: the many threads that sleep all day cost nothing;
//! * one file of each of up to [`KEPT_LIMIT`] processes stays open: half the price of opening it by name;
//! * the directory is listed only if `/proc/loadavg` says that a process has been started, and now and then;
//! * kernel threads are recognised once and passed over from then on. They work on behalf of processes that are
//!   counted already.
//!
//! The sampler itself is not counted. A process that ends meanwhile is not there; that is no failure.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use super::file::KeptFile;

/// How many files stay open at most.
const KEPT_LIMIT: usize = 4096;
/// Descriptors left for everything else.
const SPARE_FILES: u64 = 64;
/// After so many samples a kernel thread's pid is looked at again: it may be somebody else's by now.
const KERNEL_THREAD_LASTS: u32 = 30;
/// The directory is listed at least this often.
const LIST_EVERY: u32 = 10;
/// A process that has run in so many samples in a row is asked by its `stat` at once,
const IN_VAIN_LIMIT: u8 = 3;
/// for at least so many samples.
const ACTIVE_LASTS: u32 = 30;
/// `PF_KTHREAD` of the kernel's `sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// How many tasks there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tasks {
    /// Threads that run or wait for a CPU.
    pub(super) runnable: u32,
    /// Processes, without kernel threads.
    pub(super) processes: u32,
}

/// Counts tasks, and remembers what makes counting cheap.
#[derive(Debug)]
pub(super) struct TaskCounter {
    proc: Dir,
    loadavg: KeptFile,
    own_pid: u32,
    known: HashMap<u32, Process>,
    /// How many of `known` have a file open, and how many may.
    kept: usize,
    may_keep: usize,
    round: u32,
    /// The pid that was given last when the directory was listed last, and the round of that.
    listed: Option<(u64, u32)>,
}

#[derive(Debug, Default)]
struct Process {
    kept: Kept,
    /// The round in which it was last seen.
    round: u32,
    /// What its `schedstat` said before its `stat` was read last.
    ran: Option<Ran>,
    /// CPU time used up to the last sample, in clock ticks.
    ticks: Option<u64>,
    /// Whether it had a runnable thread then.
    was_runnable: bool,
    /// In how many samples in a row its `schedstat` was of no use, because it had run.
    in_vain: u8,
    /// The round from which its `schedstat` may be tried again.
    try_again: u32,
    /// Kernel thread: the round in which that was found out.
    kernel_thread: Option<u32>,
}

/// The file of a process that stays open.
#[derive(Debug, Default)]
enum Kept {
    #[default]
    Nothing,
    /// Of a process with several threads or that runs all the time, or on a kernel that has no `schedstat`.
    Stat(File),
    /// Of a process with one.
    Schedstat(File),
}

/// Nanoseconds on a CPU and how often it was given one.
type Ran = (u64, u64);

/// The fields of a `stat` that matter here (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    runnable: bool,
    flags: u64,
    ticks: u64,
    threads: u32,
}

impl TaskCounter {
    /// # Errors
    /// If the directory cannot be opened.
    pub(super) fn open(proc: &Path, own_pid: u32) -> io::Result<Self> {
        let loadavg = KeptFile::open(&proc.join("loadavg"));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc = Dir::open(proc, flags, Mode::empty())?;
        let (known, may_keep) = (HashMap::new(), may_keep());
        Ok(Self { proc, loadavg, own_pid, known, kept: 0, may_keep, round: 0, listed: None })
    }

    /// Counts; `None` if the directory cannot be listed.
    pub(super) fn count(&mut self) -> Option<Tasks> {
        self.round = self.round.wrapping_add(1);
        let mut tasks = Tasks { runnable: 0, processes: 0 };
        for pid in self.pids()? {
            if pid == self.own_pid {
                tasks.processes += 1;
                self.known.entry(pid).or_default().round = self.round;
            } else if let Some(runnable) = self.runnable_of(pid) {
                tasks.processes += 1;
                tasks.runnable += runnable;
            }
        }
        let (round, kept) = (self.round, &mut self.kept);
        self.known.retain(|_, process| {
            let is_there = process.round == round;
            *kept -= usize::from(!is_there && process.kept.is_open());
            is_there
        });
        Some(tasks)
    }

    /// The processes that there may be.
    fn pids(&mut self) -> Option<Vec<u32>> {
        // The last field is the pid that was given last in this namespace.
        let given =
            self.loadavg.read().and_then(|text| number(text.trim_end().rsplit(' ').next()?.as_bytes()));
        if let (Some(given), Some((before, listed))) = (given, self.listed)
            && given == before
            && self.round.wrapping_sub(listed) < LIST_EVERY
        {
            return Some(self.known.keys().copied().collect());
        }
        self.listed = given.map(|given| (given, self.round));
        let mut pids = Vec::with_capacity(self.known.len() + 16);
        for entry in self.proc.iter() {
            pids.extend(parse_pid(entry.ok()?.file_name().to_bytes()));
        }
        Some(pids)
    }

    /// The runnable threads of a process; `None` if it has gone or is a kernel thread.
    fn runnable_of(&mut self, pid: u32) -> Option<u32> {
        let mut process = self.known.remove(&pid).unwrap_or_default();
        self.kept -= usize::from(process.kept.is_open());
        let runnable = match process.look(&self.proc, pid, self.round) {
            Look::At(runnable) => Some(runnable),
            Look::KernelThread => None,
            Look::Gone => {
                // Its file speaks of a process that has ended. There may be another one with the same pid.
                process = Process::default();
                match process.look(&self.proc, pid, self.round) {
                    Look::At(runnable) => Some(runnable),
                    Look::KernelThread => None,
                    Look::Gone => return None,
                }
            }
        };
        process.round = self.round;
        if self.kept >= self.may_keep {
            process.kept = Kept::Nothing;
        }
        self.kept += usize::from(process.kept.is_open());
        self.known.insert(pid, process);
        runnable
    }
}

/// What a look at a process found.
enum Look {
    /// So many runnable threads.
    At(u32),
    KernelThread,
    Gone,
}

impl Process {
    fn look(&mut self, proc: &Dir, pid: u32, round: u32) -> Look {
        if self.kernel_thread.is_some_and(|since| round.wrapping_sub(since) < KERNEL_THREAD_LASTS) {
            return Look::KernelThread;
        }
        let stat = match &self.kept {
            Kept::Schedstat(file) => {
                let Some(ran) = read_schedstat(file) else { return Look::Gone };
                if self.ran == Some(ran) && !self.was_runnable {
                    self.in_vain = 0;
                    return Look::At(0);
                }
                self.ran = Some(ran);
                self.in_vain = self.in_vain.saturating_add(1);
                open_stat(proc, pid).and_then(|file| read_stat(&file))
            }
            Kept::Stat(file) => read_stat(file),
            Kept::Nothing => match open_stat(proc, pid) {
                Some(file) => {
                    let stat = read_stat(&file);
                    self.kept = Kept::Stat(file);
                    stat
                }
                None => None,
            },
        };
        let Some(stat) = stat else { return Look::Gone };
        if stat.flags & KERNEL_THREAD != 0 {
            *self = Self { kernel_thread: Some(round), ..Self::default() };
            return Look::KernelThread;
        }
        self.keep_what_serves(proc, pid, round, stat.threads);
        let may_run = self.was_runnable || stat.runnable || self.ticks != Some(stat.ticks);
        let runnable = if stat.threads > 1 && may_run {
            count_threads(proc, pid).unwrap_or(u32::from(stat.runnable))
        } else {
            u32::from(stat.runnable)
        };
        self.ticks = Some(stat.ticks);
        self.was_runnable = runnable > 0;
        Look::At(runnable)
    }

    /// Keeps the file open that will say most for least at the next sample.
    fn keep_what_serves(&mut self, proc: &Dir, pid: u32, round: u32, threads: u32) {
        match &self.kept {
            Kept::Stat(_) if threads <= 1 && round >= self.try_again => {
                if let Some(file) = open_in(proc, &format!("{pid}/schedstat")) {
                    (self.kept, self.ran, self.in_vain) = (Kept::Schedstat(file), None, 0);
                }
            }
            Kept::Schedstat(_) if threads > 1 || self.in_vain >= IN_VAIN_LIMIT => {
                self.kept = open_stat(proc, pid).map_or(Kept::Nothing, Kept::Stat);
                // At a moment of its own: processes that were started together shall not all be tried together.
                self.try_again = round + ACTIVE_LASTS + pid % ACTIVE_LASTS;
            }
            _ => {}
        }
    }
}

impl Kept {
    fn is_open(&self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

fn count_threads(proc: &Dir, pid: u32) -> Option<u32> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut tasks = Dir::openat(proc, format!("{pid}/task").as_str(), flags, Mode::empty()).ok()?;
    let mut tids = Vec::new();
    for entry in tasks.iter() {
        tids.extend(parse_pid(entry.ok()?.file_name().to_bytes()));
    }
    let is_runnable = |tid: &u32| {
        open_in(&tasks, &format!("{tid}/stat"))
            .and_then(|file| read_stat(&file))
            .is_some_and(|stat| stat.runnable)
    };
    u32::try_from(tids.iter().filter(|tid| is_runnable(tid)).count()).ok()
}

fn open_in(dir: &Dir, name: &str) -> Option<File> {
    let fd: OwnedFd = openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    Some(File::from(fd))
}

fn open_stat(proc: &Dir, pid: u32) -> Option<File> {
    open_in(proc, &format!("{pid}/stat"))
}

/// Three numbers: time on a CPU, time waiting for one, how often it was given one.
fn read_schedstat(file: &File) -> Option<Ran> {
    let mut buffer = [0; 128];
    let length = file.read_at(&mut buffer, 0).ok()?;
    let mut fields = buffer[..length].trim_ascii_end().split(|byte| *byte == b' ');
    Some((number(fields.next()?)?, number(fields.nth(1)?)?))
}

fn read_stat(file: &File) -> Option<Stat> {
    // A command name is at most 64 bytes, and 52 numbers follow.
    let mut buffer = [0; 1024];
    let length = file.read_at(&mut buffer, 0).ok()?;
    parse_stat(&buffer[..length])
}

/// Reads a `stat`. The command name may hold blanks and parentheses; it ends at the last one.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = text.get(name_end + 2..)?.split(|byte| *byte == b' ');
    let state = fields.next()?;
    // After the state, field 3: flags is 9, utime 14, stime 15, num_threads 20.
    let flags = number(fields.nth(5)?)?;
    let user = number(fields.nth(4)?)?;
    let system = number(fields.next()?)?;
    let threads = number(fields.nth(4)?)?;
    Some(Stat {
        runnable: state == b"R",
        flags,
        ticks: user.wrapping_add(system),
        threads: u32::try_from(threads).ok()?,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        digit.is_ascii_digit().then(|| value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    })
}

fn parse_pid(name: &[u8]) -> Option<u32> {
    if !name.first()?.is_ascii_digit() {
        return None;
    }
    number(name).and_then(|pid| u32::try_from(pid).ok())
}

/// How many files may stay open. The soft limit is for programs that use select(2), which this one does not: it
/// is raised as far as that goes without privilege.
fn may_keep() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((256, 256));
    let wanted = hard.min(KEPT_LIMIT as u64 + SPARE_FILES).max(soft);
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(limit.saturating_sub(SPARE_FILES)).unwrap_or(0).min(KEPT_LIMIT)
}

#[cfg(test)]
mod tests;
