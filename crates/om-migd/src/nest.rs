//! The nest: the private mount namespace in which one stay of a job on this node runs.
//!
//! It has the node's own root, `/run` on a tmpfs, and at [`ROOT`] what the job sees as its root: at home a
//! recursive bind of `/`, on a guest's node the home file system. CRIU enters this namespace and no other, so it
//! sees no mount namespace to dump and reads nothing from a guest's root. The layout is the same on every node:
//!
//! ```text
//! /                the node's own
//! /run             tmpfs
//! /run/criu.kdat   what CRIU found out about this kernel, from the node's cache
//! /run/om-init     PID 1 of the job
//! /run/om-img      images of a move
//! /run/om-root     the job's root: dev/pts, dev/shm and proc are its own; of a guest also the rest of dev
//! ```
//!
//! A helper process (`om-migd nest`, one thread, asked over descriptor 3) makes it, hands its descriptors to the
//! keeper, launches the job if there is one to launch, and is gone; the namespace lives on in the keeper's
//! descriptor and in the job.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid};
use serde::{Deserialize, Serialize};

use crate::criu::Restoring;
use crate::passing::{receive_frame, send_frame};
use crate::used_files::{self, UsedFile};
use crate::{criu, limits, sys};

/// Where the job's root is, in the nest.
pub const ROOT: &str = "/run/om-root";
/// Where a move's images are, in the nest.
pub const IMAGES: &str = "/run/om-img";
/// PID 1 of the job, in the nest.
pub const INIT: &str = "/run/om-init";
/// A directory of the node on which the home's root is bound before it finds its place.
const STAGE: &str = "/run/om/stage";
/// CRIU's cache of kernel facts, made once by om-migd.
pub const KERNEL_FACTS: &str = "/run/om/criu.kdat";
/// The devices that a guest finds.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// The links in a guest's `/dev`.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// Attributes of a mount, from `linux/mount.h`: nothing is written, no symbolic link is followed.
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;
/// The longest request: a command line and an environment.
const MAX_REQUEST: usize = 8 << 20;

/// The bytes of `om-init`.
pub static OM_INIT: &[u8] = include_bytes!(env!("OM_INIT"));

/// What the keeper asks for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The home's address if the root is the home file system (its device is the last descriptor).
    pub home_file_system: Option<String>,
    /// `om-init` as it was at home.
    pub init: Vec<u8>,
    /// Owner, rows and columns of the terminal to open, if the job has one.
    pub terminal: Option<(u32, u16, u16)>,
    /// The job to launch; none if one is going to be restored.
    pub launch: Option<Launch>,
    /// Its PID 1 stands ready, and begins once a byte comes from a pipe whose end is the last descriptor but the
    /// device. If the pipe is closed it is gone.
    pub waits: bool,
    /// Files of the home file system to fetch from.
    pub used_files: Vec<UsedFile>,
}

/// The job to launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Command and arguments.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub env: Vec<Vec<u8>>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Which of the three streams are the terminal (`t`), a pipe (`p`, its descriptor is attached), the null device
    /// (`n`), the same as stdout (`s`, stderr only), or closed (`c`).
    pub streams: [u8; 3],
    /// Who the job is.
    pub credentials: Credentials,
    /// File mode mask.
    pub umask: u32,
    /// Nice value.
    pub nice: i32,
    /// Soft and hard limits, as [`limits::of`] returns them.
    pub limits: Vec<(u64, u64)>,
    /// CPUs that the job may use; none: all that the node gives it.
    pub cpus: Vec<u32>,
    /// Signals ignored, bit n-1 for signal n.
    pub ignored_signals: u64,
    /// The capabilities that a program of the job may ever have, as a mask.
    pub bounding: u64,
    /// Set-user-id programs gain nothing.
    pub no_new_privileges: bool,
    /// How much the kernel prefers it when it has to kill for memory.
    pub oom_score: i32,
    /// The control groups that it joins, its own last.
    pub joined: Vec<PathBuf>,
}

/// User and groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What the helper answers.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// The home file system is mounted; it must be served from now on, the next steps need it.
    Mounted,
    /// The nest stands; attached: mount namespace, image directory, `/dev/shm`, and master and slave if there is a terminal.
    Ready,
    /// The job's PID 1.
    Launched(i32),
    /// What went wrong; the nest is gone again.
    Failed(String),
}

/// A nest that stands.
#[derive(Debug)]
pub struct Nest {
    /// The mount namespace.
    pub namespace: OwnedFd,
    /// The image directory.
    pub images: OwnedFd,
    /// The job's `/dev/shm`.
    pub shared: OwnedFd,
    /// Master and slave of the job's terminal.
    pub terminal: Option<(OwnedFd, OwnedFd)>,
    /// PID 1 of the job, if it was launched.
    pub init: Option<Pid>,
    /// What restores the job in it.
    pub restoring: Restoring,
}

impl Nest {
    /// Makes a nest, and launches the job in it if the request has one. `fds` are, in order, the job's ends of its
    /// pipes, the report pipe's write end if there is a job, what it waits for, and the FUSE device, if there are such. `serve` is called once the
    /// home file system is mounted and must start to serve it. An error leaves nothing behind.
    pub fn build(
        request: &Request,
        fds: &[BorrowedFd<'_>],
        serve: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = std::process::Command::new("/proc/self/exe");
        command.arg("nest").env_clear().stdin(std::process::Stdio::null());
        sys::prepare(
            &mut command,
            &sys::ChildSetup {
                fds: vec![(theirs.as_fd(), 3)],
                mount_namespace: None,
                real_ids: None,
                own_session: true,
                entrances: Vec::new(),
            },
        );
        let mut helper = command.spawn()?;
        drop(theirs);
        let result = Self::converse(&ours, request, fds, serve);
        drop(ours);
        helper.wait()?;
        result
    }

    fn converse(
        socket: &UnixStream,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        serve: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Self> {
        send_frame(socket, request, fds)?;
        let (mut reply, mut received) = receive_frame(socket, MAX_REQUEST)?;
        if let Reply::Mounted = reply {
            serve()?;
            (reply, received) = receive_frame(socket, MAX_REQUEST)?;
        }
        let mut nest = match reply {
            Reply::Ready => {
                let mut fds = received.drain(..);
                let (Some(namespace), Some(images), Some(shared)) = (fds.next(), fds.next(), fds.next())
                else {
                    return Err(io::Error::other("the nest came without its descriptors"));
                };
                let terminal = fds.next().zip(fds.next());
                Self { namespace, images, shared, terminal, init: None, restoring: Restoring::default() }
            }
            Reply::Failed(message) => return Err(io::Error::other(message)),
            Reply::Launched(_) | Reply::Mounted => {
                return Err(io::Error::other("unexpected answer from the nest"));
            }
        };
        if request.launch.is_some() {
            match receive_frame(socket, MAX_REQUEST)?.0 {
                Reply::Launched(pid) => nest.init = Some(Pid::from_raw(pid)),
                Reply::Failed(message) => return Err(io::Error::other(message)),
                Reply::Ready | Reply::Mounted => {
                    return Err(io::Error::other("unexpected answer from the nest"));
                }
            }
        }
        Ok(nest)
    }
}

/// The helper process.
pub fn main() -> i32 {
    let socket = UnixStream::from(sys::inherited(3));
    match serve(&socket) {
        Ok(()) => 0,
        Err(error) => {
            let _ = send_frame(&socket, &Reply::Failed(error.to_string()), &[]);
            1
        }
    }
}

fn serve(socket: &UnixStream) -> io::Result<()> {
    let (mut request, mut fds): (Request, _) = receive_frame(socket, MAX_REQUEST)?;
    let device = request.home_file_system.as_ref().and_then(|_| fds.pop());
    let gate = if request.waits { fds.pop() } else { None };
    mount_everything(&request, device, socket)?;
    if request.home_file_system.is_some() {
        used_files::fetch(std::mem::take(&mut request.used_files));
    }
    let terminal = request.terminal.map(open_terminal).transpose()?;
    let namespace = File::open("/proc/self/ns/mnt")?;
    let images = File::open(IMAGES)?;
    let shared = File::open(format!("{ROOT}/dev/shm"))?;
    let mut ready = vec![namespace.as_fd(), images.as_fd(), shared.as_fd()];
    if let Some((master, slave)) = &terminal {
        ready.extend([master.as_fd(), slave.as_fd()]);
    }
    send_frame(socket, &Reply::Ready, &ready)?;
    let Some(launch) = request.launch.take() else { return Ok(()) };
    sys::unshare_processes()?;
    // The child tells its failure through a pipe that a successful exec closes.
    let (failed, failure) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let child = sys::fork_single_threaded(|| {
        let gate = gate.as_ref().map(|gate| (gate, failure.as_fd()));
        let error = become_job(&launch, &fds, terminal.as_ref().map(|(_, slave)| slave), gate);
        let _ = File::from(failure.try_clone().unwrap_or_else(|_| sys::inherited(2)))
            .write_all(error.to_string().as_bytes());
        126
    })?;
    drop(failure);
    let message = io::read_to_string(File::from(failed))?;
    if message.is_empty() {
        send_frame(socket, &Reply::Launched(child.as_raw()), &[])
    } else {
        Err(io::Error::other(message))
    }
}

fn mount_everything(request: &Request, device: Option<OwnedFd>, socket: &UnixStream) -> io::Result<()> {
    const NONE: Option<&str> = None;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let on = |path: &str| format!("{ROOT}{path}");
    // The node's /run is about to be covered. CRIU would find the facts again by itself, in some 40 ms.
    let facts = fs::read(KERNEL_FACTS).ok();
    sys::unshare_mounts()?;
    // What the node mounts later appears here too; what is mounted here stays here.
    attempt("/", mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE))?;
    let home_root = if request.home_file_system.is_none() {
        fs::create_dir_all(STAGE)?;
        attempt(STAGE, mount(Some("/"), STAGE, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE))?;
        Some(fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(STAGE)?)
    } else {
        None
    };
    // A job's memory is written there in long runs, which take large pages where the kernel has them.
    let mount_run = |options| mount(Some("om"), "/run", Some("tmpfs"), plain, Some(options));
    let mounted = mount_run("mode=0755,size=90%,huge=within_size");
    attempt("/run", mounted.or_else(|_| mount_run("mode=0755,size=90%")))?;
    for directory in [ROOT, IMAGES] {
        fs::create_dir(directory)?;
    }
    fs::set_permissions(IMAGES, fs::Permissions::from_mode(0o700))?;
    if let Some(facts) = facts.filter(|facts| !facts.is_empty()) {
        fs::write("/run/criu.kdat", facts)?;
    }
    fs::write(INIT, &request.init)?;
    fs::set_permissions(INIT, fs::Permissions::from_mode(0o755))?;

    match (&home_root, &request.home_file_system, device) {
        (Some(stage), ..) => {
            let from = format!("/proc/self/fd/{}", stage.as_raw_fd());
            attempt(ROOT, mount(Some(from.as_str()), ROOT, NONE, MsFlags::MS_MOVE, NONE))?;
        }
        (None, Some(home), Some(device)) => {
            let options = om_homefs::client::mount_options(&device, home);
            let (source, data) = (Some(options.source.as_str()), Some(options.data.as_str()));
            attempt(ROOT, mount(source, ROOT, Some(options.fstype), options.flags, data))?;
            // The mount ends with the keeper's session only if nobody else has the device open.
            drop(device);
            send_frame(socket, &Reply::Mounted, &[])?;
            let sys = on("/sys");
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            attempt(&sys, mount(Some("/sys"), sys.as_str(), NONE, flags, NONE))?;
            change_mounts("/sys", MOUNT_ATTR_RDONLY, 0)?;
            mount_devices()?;
        }
        _ => return Err(io::Error::other("a home file system without its device")),
    }
    let pts = on("/dev/pts");
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    attempt(
        &pts,
        mount(Some("devpts"), pts.as_str(), Some("devpts"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, options),
    )?;
    let (from, to) = (on("/dev/pts/ptmx"), on("/dev/ptmx"));
    attempt(&to, mount(Some(from.as_str()), to.as_str(), NONE, MsFlags::MS_BIND, NONE))?;
    let shm = on("/dev/shm");
    attempt(&shm, mount(Some("om"), shm.as_str(), Some("tmpfs"), plain, Some("mode=1777")))?;
    // CRIU opens the files of a job as root, by the names that they had when it was dumped. The user may have put a
    // symbolic link there since, to a file that is none of his.
    if request.launch.is_none() { change_mounts("", MOUNT_ATTR_NOSYMFOLLOW, 0) } else { Ok(()) }
}

/// Lets symbolic links below the job's root be followed again: for a job that has been restored.
pub fn follow_symlinks() -> io::Result<()> {
    change_mounts("", 0, MOUNT_ATTR_NOSYMFOLLOW)
}

/// Changes attributes of the mount at this path of the job's root, and of those below it.
fn change_mounts(path: &str, set: u64, clear: u64) -> io::Result<()> {
    let path = format!("{ROOT}{path}");
    let target = CString::new(path.as_str())?;
    sys::change_mounts(&target, set, clear)
        .map_err(|error| at("cannot change the mount", Path::new(&path), &error))
}

/// A guest's `/dev`: what is the same everywhere. The node's own devices are none of its business.
fn mount_devices() -> io::Result<()> {
    const NONE: Option<&str> = None;
    let dev = format!("{ROOT}/dev");
    let flags = MsFlags::MS_NOSUID;
    attempt(&dev, mount(Some("om"), dev.as_str(), Some("tmpfs"), flags, Some("mode=0755,size=64k")))?;
    for directory in ["pts", "shm"] {
        fs::create_dir(format!("{dev}/{directory}"))?;
    }
    File::create(format!("{dev}/ptmx"))?;
    for (name, to) in DEVICE_LINKS {
        std::os::unix::fs::symlink(to, format!("{dev}/{name}"))?;
    }
    for name in DEVICES {
        let (from, to) = (format!("/dev/{name}"), format!("{dev}/{name}"));
        File::create(&to)?;
        attempt(&to, mount(Some(from.as_str()), to.as_str(), NONE, MsFlags::MS_BIND, NONE))?;
    }
    Ok(())
}

fn attempt(path: &str, result: nix::Result<()>) -> io::Result<()> {
    result.map_err(|error| {
        io::Error::new(io::Error::from(error).kind(), format!("cannot mount on {path}: {error}"))
    })
}

/// Opens a new terminal of the job's own devpts; returns master and slave.
fn open_terminal((owner, rows, columns): (u32, u16, u16)) -> io::Result<(OwnedFd, OwnedFd)> {
    let open =
        |path: &str| fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    let master = open(&format!("{ROOT}/dev/ptmx"))?;
    sys::unlock_terminal(master.as_fd())?;
    let number = sys::terminal_number(master.as_fd())?;
    let slave = open(&format!("{ROOT}/dev/pts/{number}"))?;
    std::os::unix::fs::fchown(&slave, Some(owner), None)?;
    sys::resize_window(slave.as_fd(), rows, columns)?;
    Ok((master.into(), slave.into()))
}

/// Becomes the job's PID 1; returns only on failure.
fn become_job(
    launch: &Launch,
    fds: &[OwnedFd],
    terminal: Option<&OwnedFd>,
    gate: Option<(&OwnedFd, BorrowedFd<'_>)>,
) -> io::Error {
    match try_become_job(launch, fds, terminal, gate) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_become_job(
    launch: &Launch,
    fds: &[OwnedFd],
    terminal: Option<&OwnedFd>,
    gate: Option<(&OwnedFd, BorrowedFd<'_>)>,
) -> io::Result<std::convert::Infallible> {
    let proc = format!("{ROOT}/proc");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    attempt(&proc, mount(Some("proc"), proc.as_str(), Some("proc"), flags, None::<&str>))?;
    for group in &launch.joined {
        fs::write(group.join("cgroup.procs"), "0")
            .map_err(|error| at("cannot enter the cgroup", group, &error))?;
    }
    let init = File::open(INIT)?;
    // Lower than ours takes CAP_SYS_RESOURCE, which containers lack; the caller's is seldom that.
    let _ = fs::write("/proc/self/oom_score_adj", launch.oom_score.to_string());
    sys::leave_session_keyring();

    if !launch.cpus.is_empty() {
        let _ = nix::sched::sched_setaffinity(Pid::from_raw(0), &sys::cpu_set(&launch.cpus));
    }
    let _ = sys::set_nice(launch.nice);
    umask(Mode::from_bits_truncate(launch.umask));

    nix::unistd::chroot(ROOT)?;
    // Else a relative working directory would begin outside of the root, at the node's own.
    nix::unistd::chdir("/")?;
    // Before the limits: they may allow fewer descriptors than it takes to put these in order.
    place_streams(launch, fds, terminal)?;
    limits::apply(&launch.limits)?;
    let who = &launch.credentials;
    sys::limit_capabilities(launch.bounding)?;
    let groups: Vec<Gid> = who.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    nix::unistd::setgroups(&groups)?;
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    let cwd = Path::new(std::ffi::OsStr::from_bytes(&launch.cwd));
    std::env::set_current_dir(cwd).map_err(|error| at("cannot enter the working directory", cwd, &error))?;

    let tty = launch.streams.iter().position(|kind| *kind == b't').map_or("-".to_owned(), |n| n.to_string());
    let mut argv = vec![CString::from(c"om-init"), CString::new(tty)?];
    argv.push(CString::new(launch.argv.first().cloned().unwrap_or_default())?);
    for argument in &launch.argv {
        argv.push(CString::new(argument.as_slice())?);
    }
    let env = launch.env.iter().map(|v| CString::new(v.as_slice())).collect::<Result<Vec<_>, _>>()?;
    let argv: Vec<_> = argv.iter().map(CString::as_c_str).collect();
    let env: Vec<_> = env.iter().map(CString::as_c_str).collect();
    if launch.no_new_privileges {
        nix::sys::prctl::set_no_new_privs()?;
    }
    sys::reset_signals(launch.ignored_signals);
    sys::close_on_exec(4);
    if let Some((gate, failure)) = gate {
        // Whoever waits for a failure sees that there was none.
        sys::close_number(failure.as_raw_fd());
        if File::from(gate.try_clone()?).read(&mut [0])? == 0 {
            return Err(io::Error::other("the job's keeper has gone"));
        }
    }
    Err(sys::execute_file(&init, &argv, &env))
}

/// Puts the streams at 0, 1 and 2 and the report pipe at 3; everything else closes on exec.
fn place_streams(launch: &Launch, fds: &[OwnedFd], terminal: Option<&OwnedFd>) -> io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // All sources first out of the way of the numbers that are to be filled.
    let high = |fd: BorrowedFd<'_>| nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(100));
    let mut pipes = fds.iter();
    let mut sources = [None; 4];
    for (stream, kind) in launch.streams.iter().enumerate() {
        sources[stream] = match kind {
            b't' => terminal.map(|tty| high(tty.as_fd())).transpose()?,
            b'p' => pipes.next().map(|pipe| high(pipe.as_fd())).transpose()?,
            b's' => sources[1],
            b'n' => Some(high(null.as_fd())?),
            _ => None,
        };
    }
    sources[3] = pipes.next().map(|report| high(report.as_fd())).transpose()?;
    for (number, source) in sources.iter().enumerate() {
        let number = libc::c_int::try_from(number).map_err(io::Error::other)?;
        match source {
            Some(fd) => sys::place(*fd, number)?,
            None => sys::close_number(number),
        }
    }
    Ok(())
}

fn at(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// Lets CRIU find out about this kernel, which it writes to a `/run` that must be a tmpfs, and keeps that for the nests.
/// Fails if CRIU does not work with this kernel.
pub fn refresh_kernel_facts(program: &Path) -> Result<(), criu::Error> {
    let spawn = |error| criu::Error::Spawn(program.to_owned(), error);
    let output = std::process::Command::new("/proc/self/exe")
        .arg("kernel-facts")
        .arg(program)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(spawn)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(criu::Error::Failed { action: "check", message });
    }
    fs::write(KERNEL_FACTS, output.stdout).map_err(spawn)
}

/// The helper process of [`refresh_kernel_facts`]: writes the facts to its stdout.
pub fn find_kernel_facts(program: &Path) -> i32 {
    let find = || -> Result<(), Box<dyn std::error::Error>> {
        sys::unshare_mounts()?;
        attempt(
            "/",
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>),
        )?;
        attempt("/run", mount(Some("om"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>))?;
        criu::check(program)?;
        io::stdout().write_all(&fs::read("/run/criu.kdat").unwrap_or_default())?;
        Ok(())
    };
    match find() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}
