//! One stay of a job on this node: its nest, its cgroup, its PID 1, and our ends of what it has from outside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sched::sched_setaffinity;
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::stat::fstat;
use nix::unistd::{Gid, Pid, Uid, tcgetpgrp};
use om_proto::control::Audience;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::criu::{self, Criu, Memory};
use crate::inspect;
use crate::launcher::Launcher;
use crate::nest::{Credentials, Launch, Nest};
use crate::net::message::JobSpec;
use crate::stdio::input_pipe::InputPipe;
use crate::stdio::{
    INPUTS, OUTPUTS, StreamKind, TERMINAL_INPUT, TERMINAL_OUTPUT, pipe_from_job, pipe_to_job, set_nonblocking,
};
use crate::{nest, sys};

/// For so long CRIU may take to let go of a job when its dump has failed.
const LETTING_GO: Duration = Duration::from_secs(10);

/// CRIU's names of what the job has from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Externals {
    /// Pipes: stdin, stdout, stderr, report.
    pub pipes: [Option<String>; 4],
    /// The terminal.
    pub terminal: Option<String>,
}

impl Externals {
    /// All the names that there are.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.pipes.iter().chain([&self.terminal]).flatten().cloned().collect()
    }
}

/// Our ends of what the job has from outside.
#[derive(Debug)]
pub struct Ends {
    /// Ways in: stdin, terminal.
    pub inputs: [Option<InputPipe>; INPUTS],
    /// Ways out: stdout, stderr, terminal.
    pub outputs: [Option<OwnedFd>; OUTPUTS],
    /// What PID 1 reports.
    pub report: OwnedFd,
}

/// The job's ends, to be given to it.
struct JobEnds {
    pipes: [Option<OwnedFd>; 4],
}

/// One stay of a job on this node.
#[derive(Debug)]
pub struct Residence {
    /// Its mount namespace and directories.
    pub nest: Nest,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Its PID 1, as this node sees it.
    pub init: Pid,
    /// What it has from outside.
    pub externals: Externals,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What a job waits for that has not begun; a byte lets it begin, and without us it is gone.
    gate: Option<OwnedFd>,
    /// Whether it may be killed, and is to be.
    hold: Mutex<Hold>,
    /// CRIU has let go.
    released: Condvar,
}

/// Whether CRIU has hold of a job, as the tracer of all its processes. They must not be killed then: a namespace's PID 1
/// does not end before all the others have been reaped, for that they wait for CRIU, and CRIU may be waiting for PID 1.
#[derive(Debug, Default)]
struct Hold {
    /// While CRIU dumps it: what its memory goes through.
    pages: Option<OwnedFd>,
    /// The job is to be killed.
    doomed: bool,
}

/// The files of a job whose home is another node, while its nest is made.
pub struct HomeFiles<'a> {
    /// The home's address.
    pub home: String,
    /// The FUSE device.
    pub device: BorrowedFd<'a>,
}

impl Residence {
    /// Starts a new job at home. An error leaves nothing behind.
    pub fn launch(
        launch: Launch,
        cgroup: Cgroup,
        streams: [StreamKind; 3],
        size: (u16, u16),
    ) -> io::Result<(Self, Ends)> {
        Self::build(launch, cgroup, streams, size, nest::OM_INIT.to_vec(), None, || Ok(()))
    }

    /// Makes everything for a new job where it is a guest, up to its PID 1, which waits for [`Self::begin`]. `serve` must
    /// start to serve the home's files. An error leaves nothing behind.
    pub fn launch_waiting(
        launch: Launch,
        cgroup: Cgroup,
        streams: [StreamKind; 3],
        size: (u16, u16),
        init: Vec<u8>,
        files: HomeFiles<'_>,
        serve: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<(Self, Ends)> {
        Self::build(launch, cgroup, streams, size, init, Some(files), serve)
    }

    fn build(
        mut launch: Launch,
        cgroup: Cgroup,
        streams: [StreamKind; 3],
        size: (u16, u16),
        init: Vec<u8>,
        files: Option<HomeFiles<'_>>,
        serve: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<(Self, Ends)> {
        launch.joined.push(cgroup.path().to_owned());
        let owner = launch.credentials.uid;
        let terminal = streams.contains(&StreamKind::Terminal).then_some((owner, size.0, size.1));
        let (job_ends, ends) = make_pipes(streams, &launch.credentials)?;
        let mut fds: Vec<BorrowedFd<'_>> = job_ends.pipes.iter().flatten().map(AsFd::as_fd).collect();
        let gate = files.as_ref().map(|_| nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)).transpose()?;
        fds.extend(gate.as_ref().map(|(wait, _)| wait.as_fd()));
        fds.extend(files.as_ref().map(|files| files.device));
        let request = nest::Request {
            home_file_system: files.map(|files| files.home),
            init,
            terminal,
            launch: Some(launch),
            waits: gate.is_some(),
            used_files: Vec::new(),
        };
        let mut nest = Nest::build(&request, &fds, serve)?;
        let init = nest.init.ok_or_else(|| io::Error::other("the job has no PID 1"))?;
        let terminal = nest.terminal.take();
        let (mut residence, ends) = Self::complete(nest, cgroup, init, &job_ends, ends, terminal)?;
        residence.gate = gate.map(|(_, begin)| begin);
        Ok((residence, ends))
    }

    /// Lets a job begin that waits for it; others run already.
    pub fn begin(&mut self) -> io::Result<()> {
        self.gate.take().map_or(Ok(()), |gate| File::from(gate).write_all(&[1]))
    }

    /// Restores a job, frozen, in a nest that was built for it, by what waits there to become CRIU. `names` are CRIU's names at the node where it was
    /// dumped; if its memory follows, somebody must be fetching it already.
    pub fn restore(
        mut nest: Nest,
        launcher: Launcher,
        cgroup: Cgroup,
        program: &Path,
        spec: &JobSpec,
        names: &Externals,
        follows: bool,
    ) -> Result<(Self, Ends), criu::Error> {
        let failed = |error: io::Error| criu::Error::Failed { action: "restore", message: error.to_string() };
        let (job_ends, ends) = make_pipes(spec.streams, &spec.credentials).map_err(failed)?;
        let terminal = nest.terminal.take();
        let mut externals = Vec::new();
        for (name, fd) in names.pipes.iter().zip(&job_ends.pipes) {
            if let (Some(name), Some(fd)) = (name, fd) {
                externals.push((name.clone(), fd.try_clone().map_err(failed)?));
            }
        }
        if let (Some(name), Some((_, slave))) = (&names.terminal, &terminal) {
            externals.push((name.clone(), slave.try_clone().map_err(failed)?));
        }
        let criu = Criu {
            program,
            namespace: nest.namespace.as_fd(),
            images: nest.images.as_fd(),
            ids: (Uid::from_raw(spec.credentials.uid), Gid::from_raw(spec.credentials.gid)),
            confines: None,
        };
        let restore = || criu.restore(&cgroup, &externals, follows, &nest.restoring, launcher);
        let init = cgroup.kept_open(restore)?;
        drop(externals);
        Self::complete(nest, cgroup, init, &job_ends, ends, terminal).map_err(failed)
    }

    fn complete(
        nest: Nest,
        cgroup: Cgroup,
        init: Pid,
        job_ends: &JobEnds,
        mut ends: Ends,
        terminal: Option<(OwnedFd, OwnedFd)>,
    ) -> io::Result<(Self, Ends)> {
        let mut externals = Externals::default();
        for (name, fd) in externals.pipes.iter_mut().zip(&job_ends.pipes) {
            *name = fd
                .as_ref()
                .map(|fd| Ok::<_, io::Error>(format!("pipe:[{}]", fstat(fd)?.st_ino)))
                .transpose()?;
        }
        let mut master = None;
        if let Some((our_end, slave)) = terminal {
            let stat = fstat(&slave)?;
            externals.terminal = Some(format!("tty[{:x}:{:x}]", stat.st_rdev, stat.st_dev));
            set_nonblocking(&our_end)?;
            ends.inputs[TERMINAL_INPUT] = Some(InputPipe::new(our_end.try_clone()?)?);
            ends.outputs[TERMINAL_OUTPUT] = Some(our_end.try_clone()?);
            master = Some(our_end);
        }
        let residence = Self {
            nest,
            cgroup,
            init,
            externals,
            terminal: master,
            gate: None,
            hold: Mutex::default(),
            released: Condvar::new(),
        };
        Ok((residence, ends))
    }

    /// Sends a signal to the command, the job's PID 2, to its group or to the terminal's foreground group; to all of the
    /// job's processes if the command has ended.
    pub fn signal(&self, signal: i32, audience: Audience) -> io::Result<()> {
        let Some(command) = self.command() else {
            for pid in self.cgroup.processes().into_iter().filter(|pid| *pid != self.init) {
                let _ = sys::send_signal(pid, signal);
            }
            return Ok(());
        };
        let foreground = || self.terminal.as_ref().and_then(|master| tcgetpgrp(master).ok());
        let target = match audience {
            Audience::Command => command.as_raw(),
            Audience::Group => -command.as_raw(),
            Audience::Foreground => {
                -foreground().filter(|group| group.as_raw() > 1).unwrap_or(command).as_raw()
            }
        };
        sys::send_signal(Pid::from_raw(target), signal)
    }

    /// Whether the command is stopped by a signal at this moment.
    #[must_use]
    pub fn command_is_stopped(&self) -> bool {
        self.command().is_some_and(inspect::is_stopped)
    }

    /// Lets the job run on these CPUs only. A thread that cannot be confined any more has ended.
    pub fn confine(&self, cpus: &[u32]) {
        let set = sys::cpu_set(cpus);
        for pid in self.cgroup.processes() {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                if let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) {
                    let _ = sched_setaffinity(Pid::from_raw(thread), &set);
                }
            }
        }
    }

    /// Whether nothing of the job is left but its PID 1.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cgroup.processes().iter().all(|pid| *pid == self.init)
    }

    /// The command's pid on this node, while it lives.
    #[must_use]
    pub fn command(&self) -> Option<Pid> {
        self.cgroup.processes().into_iter().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            inner.and_then(|pids| pids.split_whitespace().last()) == Some("2")
        })
    }

    /// Dumps the frozen job: its memory to where `memory` says, the rest into the image directory.
    pub fn dump(
        &self,
        program: &Path,
        credentials: &Credentials,
        memory: Memory<'_>,
    ) -> Result<(), criu::Error> {
        let criu = Criu {
            program,
            namespace: self.nest.namespace.as_fd(),
            images: self.nest.images.as_fd(),
            ids: (Uid::from_raw(credentials.uid), Gid::from_raw(credentials.gid)),
            confines: None,
        };
        let pages = memory.pages.try_clone_to_owned();
        let pages = pages.map_err(|error| criu::Error::Spawn(program.to_owned(), error))?;
        {
            let mut hold = self.hold();
            if hold.doomed {
                let message = "the job has been killed".to_owned();
                return Err(criu::Error::Failed { action: "dump", message });
            }
            hold.pages = Some(pages);
        }
        let result = criu.dump(self.init, &self.cgroup, &self.externals.names(), memory);
        let mut hold = self.hold();
        hold.pages = None;
        if hold.doomed {
            self.cgroup.kill();
        }
        self.released.notify_all();
        result
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills every process of the job; if it is being dumped, lets the dump fail and kills them once CRIU has let go.
    pub fn kill(&self) {
        let mut hold = self.hold();
        hold.doomed = true;
        match &hold.pages {
            None => self.cgroup.kill(),
            Some(pages) => drop(shutdown(pages.as_raw_fd(), Shutdown::Both)),
        }
    }

    /// The file of its PID 1.
    #[must_use]
    pub fn init_program(&self) -> Vec<u8> {
        fs::read(format!("/proc/{}/exe", self.init)).unwrap_or_else(|_| nest::OM_INIT.to_vec())
    }

    /// Makes the image directory empty. The memory of what was in it is freed when that is dropped, which may take a while.
    pub fn clear_images(&self) -> io::Result<Vec<File>> {
        clear(&self.nest.images)
    }

    /// The terminal's settings, to go along.
    #[must_use]
    pub fn terminal_state(&self) -> Option<(Vec<u8>, u16, u16)> {
        let master = self.terminal.as_ref()?;
        let (rows, columns) = sys::window_size(master.as_fd()).ok()?;
        Some((sys::terminal_settings(master.as_fd()).ok()?, rows, columns))
    }

    /// Gives the terminal the settings that came along.
    pub fn set_terminal_state(&self, settings: &[u8], rows: u16, columns: u16) -> io::Result<()> {
        let Some(master) = &self.terminal else { return Ok(()) };
        sys::set_terminal_settings(master.as_fd(), settings)?;
        sys::resize_window(master.as_fd(), rows, columns)
    }

    /// Kills whatever is left and removes the cgroup, once CRIU has let go. The nest goes with its last user.
    pub fn destroy(&self) {
        self.kill();
        let held = self.released.wait_timeout_while(self.hold(), LETTING_GO, |hold| hold.pages.is_some());
        if held.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            log::error!("criu dump does not end: the job is killed all the same");
            self.cgroup.kill();
        }
        let _ = nix::sys::wait::waitpid(self.init, None);
        self.cgroup.remove();
    }
}

/// Removes every file of a directory, and returns what keeps them in being.
fn clear(directory: &OwnedFd) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
        let path = entry?.path();
        // It may be a socket of CRIU's. One that cannot be opened is freed at once.
        files.extend(OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(&path));
        fs::remove_file(path)?;
    }
    Ok(files)
}

/// The pipes are the job's user's, as if that had made them: who may open `/dev/stdout` depends on it, and so does our own
/// look at what the job has not read.
fn make_pipes(streams: [StreamKind; 3], owner: &Credentials) -> io::Result<(JobEnds, Ends)> {
    let (report, report_job) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let mut ends = Ends { inputs: [None, None], outputs: [None, None, None], report };
    let mut pipes = [None, None, None, Some(report_job)];
    if streams[0] == StreamKind::Pipe {
        let (job, ours) = pipe_to_job()?;
        ends.inputs[0] = Some(InputPipe::new(ours)?);
        pipes[0] = Some(job);
    }
    for index in [0, 1] {
        if streams[index + 1] == StreamKind::Pipe {
            let (ours, job) = pipe_from_job()?;
            ends.outputs[index] = Some(ours);
            pipes[index + 1] = Some(job);
        }
    }
    for pipe in pipes.iter().flatten() {
        std::os::unix::fs::fchown(pipe, Some(owner.uid), Some(owner.gid))?;
    }
    Ok((JobEnds { pipes }, ends))
}
