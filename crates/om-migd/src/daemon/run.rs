//! om-migd's main loop.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream, UnixListener};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use om_proto::control::Reply;
use om_proto::frame;
use om_proto::key::KeyFile;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use super::access::{Access, Starters};
use super::config::Config;
use super::jobs::{Job, Jobs};
use super::keepers::{self, KeeperSocket};
use super::listen::{self, Stranger, TurnedAway};
use super::node::{self, Node};
use super::omfiles;
use crate::cgroup::Cgroup;
use crate::confines::Hierarchies;
use crate::guest_groups::GuestGroups;
use crate::net::preamble::{JobId, Preamble, Purpose};
use crate::passing::send_frame;
use crate::peer::Peer;
use crate::snapshot::{self, Birth, Cause, Command, News};
use crate::{cgroup, criu, nest};

const CONTROL: Token = Token(0);
const CHILD: Token = Token(1);
const STOP: Token = Token(2);
const FIRST_LISTENER: usize = 3;
const FIRST_OTHER: usize = 16;

/// How often the key file and the strangers' patience are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest pause between two looks whether a keeper is dead.
const DYING_LIMIT: Duration = Duration::from_secs(2);

/// Keepers at a time that have not told yet which job they have: those of offers that TLS has not authenticated.
const MOST_UNPROVEN: usize = 32;

/// The daemon.
struct Daemon {
    poll: Poll,
    jobs: Jobs,
    starters: Starters,
    birth: Birth,
    control: UnixListener,
    listeners: Vec<TcpListener>,
    keepers: HashMap<Token, KeeperSocket>,
    strangers: HashMap<Token, Stranger>,
    turned_away: TurnedAway,
    keys: KeyFile,
    next_token: usize,
}

/// Serves until it is told to stop. Jobs, guests and their keepers go on afterwards.
pub fn run(config: &Config) -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(io::Error::other(
            "must be started by root: it starts jobs as other users and moves them",
        ));
    }
    let directory = |path: &Path, mode: u32| -> io::Result<()> {
        fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    let sockets = config.run_dir.join("keepers");
    // One that is there may have been made so that the other daemons can put their sockets into it too.
    if !config.run_dir.is_dir() {
        directory(&config.run_dir, 0o755)?;
    }
    directory(&sockets, 0o700)?;
    let cgroups = config.run_dir.join("cgroups");
    directory(&cgroups, 0o700)?;
    let keys = KeyFile::open(&config.key_file).map_err(io::Error::other)?;
    if keys.keys().is_empty() {
        log::warn!(
            "no cluster key in {}: no job can be moved; om keygen makes one",
            config.key_file.display()
        );
    }
    let mut node = Node {
        address: node::find_address(config.address)?,
        criu: find_criu(config),
        has_key: !keys.keys().is_empty(),
        switches: [false; 4],
        draining: false,
        switch_file: config.run_dir.join("switches"),
    };
    node.load_switches();
    let hierarchies = Hierarchies::find(&config.run_dir)?;
    let (guests, in_force) = hierarchies.of_guests(config.limits())?;
    log::info!("guests have {in_force}");
    let birth = Birth {
        cause: Cause::Start,
        address: node.address,
        port: config.port,
        criu: node.criu.clone(),
        key_file: config.key_file.clone(),
        hierarchies,
        guests,
        cgroups: cgroups.clone(),
        sockets: sockets.clone(),
        grace_s: config.grace_s,
        min_uid: config.min_uid,
        allow_root: config.allow_root,
        cpu_baseline: config.cpu_baseline,
        mode: config.mode,
        can_follow: node.criu.as_deref().is_some_and(criu::can_follow),
        uid_map: config.uid_map.clone(),
        guest_groups: GuestGroups::of(config.min_gid, &config.guest_groups),
    };
    let access = Access::of_group(&config.group);
    if access.group.is_none() {
        log::info!("there is no group {}: only root and owners may move jobs", config.group);
    }
    let listeners = listen::listeners(config.port)?;
    let control = control_socket(&config.run_dir.join("migd.sock"))?;
    let jobs = Jobs::new(node, config);
    let session = omfiles::mount(jobs.clone(), access, &config.om_root).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot serve the om files at {}: {error}", config.om_root.display()),
        )
    })?;

    let mut daemon = Daemon {
        poll: Poll::new()?,
        jobs,
        starters: Starters::of(config),
        birth,
        control,
        listeners,
        keepers: HashMap::new(),
        strangers: HashMap::new(),
        turned_away: TurnedAway::default(),
        keys,
        next_token: FIRST_OTHER,
    };
    for keeper in KeeperSocket::find_all(&sockets)? {
        daemon.add_keeper(keeper)?;
    }
    let known: Vec<JobId> = daemon.keepers.values().filter_map(|keeper| keeper.job).collect();
    remove_remains(&cgroups, |job| !known.contains(&job) && keepers::is_dead(&sockets, job));
    log::info!("node {}: ready, {} jobs found", daemon.birth.address, daemon.keepers.len());
    let result = daemon.serve();
    // Not waited for: where mounts are private each job keeps a copy of it, and so the session goes on as long as they do.
    drop(session);
    let _ = fs::remove_file(config.run_dir.join("migd.sock"));
    result
}

/// CRIU if it works with this kernel; what it found out is kept for the nests.
fn find_criu(config: &Config) -> Option<std::path::PathBuf> {
    let found = criu::find(config.criu.as_deref()).and_then(|program| {
        nest::refresh_kernel_facts(&program)?;
        Ok(program)
    });
    found.inspect_err(|error| log::error!("jobs can be started but not moved: {error}")).ok()
}

fn control_socket(path: &Path) -> io::Result<UnixListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::other(format!("another om-migd answers at {}", path.display())));
    }
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(named)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(named)?;
    Ok(listener)
}

impl Daemon {
    fn serve(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(&mut self.control, CONTROL, Interest::READABLE)?;
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            registry.register(listener, Token(FIRST_LISTENER + index), Interest::READABLE)?;
        }
        let child = signal_pipe(&[SIGCHLD])?;
        let stop = signal_pipe(&[SIGTERM, SIGINT])?;
        for (pipe, token) in [(&child, CHILD), (&stop, STOP)] {
            registry.register(
                &mut SourceFd(&std::os::fd::AsRawFd::as_raw_fd(pipe)),
                token,
                Interest::READABLE,
            )?;
        }
        let mut events = Events::with_capacity(64);
        loop {
            match self.poll.poll(&mut events, Some(LOOK_EVERY)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    STOP => {
                        log::info!("stopping; {} jobs go on without om-migd", self.keepers.len());
                        return Ok(());
                    }
                    CHILD => {
                        let mut buffer = [0; 64];
                        while io::Read::read(&mut &child, &mut buffer)
                            .is_ok_and(|count| count == buffer.len())
                        {}
                        reap();
                    }
                    CONTROL => self.accept_deputies(),
                    Token(token) if token < FIRST_OTHER => self.accept_strangers(token - FIRST_LISTENER),
                    token if self.keepers.contains_key(&token) => self.hear_keeper(token),
                    token => self.hear_stranger(token),
                }
            }
            self.drop_late_strangers();
            self.look_at_key();
        }
    }

    /// A new key file is taken over without being asked. The keepers look for themselves.
    fn look_at_key(&mut self) {
        match self.keys.refresh() {
            None => {}
            Some(Ok(())) => {
                log::info!("the key file has changed; key {:?} from now on", self.keys.keys());
                self.jobs.lock().node.has_key = !self.keys.keys().is_empty();
            }
            Some(Err(error)) => log::warn!("{error}; going on with the key known before"),
        }
    }

    fn accept_deputies(&mut self) {
        loop {
            match self.control.accept() {
                Ok((socket, _)) => {
                    let socket = UnixStream::from(OwnedFd::from(socket));
                    if let Err(error) = self.start_job(&socket) {
                        let refusal = Reply::Refused { message: error.to_string(), status: 125 };
                        let _ = frame::write(&mut &socket, &refusal);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return log::warn!("cannot accept om run: {error}"),
            }
        }
    }

    fn start_job(&mut self, deputy: &UnixStream) -> io::Result<()> {
        deputy.set_nonblocking(false)?;
        let who = Peer::of(deputy)?.credentials;
        let of_user = self.keepers.values().filter(|keeper| keeper.started_by == Some(who.uid)).count();
        self.starters.admit(&who, self.keepers.len(), of_user).map_err(io::Error::other)?;
        let birth = Birth { cause: Cause::Start, ..self.birth.clone() };
        let mut keeper = KeeperSocket::start(&birth, deputy.as_fd())?;
        keeper.started_by = Some(who.uid);
        self.add_keeper(keeper)
    }

    fn accept_strangers(&mut self, listener: usize) {
        while let Some(Ok((socket, from))) = self.listeners.get(listener).map(TcpListener::accept) {
            if !listen::has_room(self.strangers.values(), from.ip()) {
                self.turned_away.count(from, &"too many connections that say nothing");
                continue;
            }
            if let Err(error) = self.add_stranger(socket, from) {
                self.turned_away.count(from, &error);
            }
        }
    }

    fn add_stranger(&mut self, socket: TcpStream, from: SocketAddr) -> io::Result<()> {
        let mut stranger = Stranger::new(socket, from)?;
        let token = self.token();
        self.poll.registry().register(&mut stranger.socket, token, Interest::READABLE)?;
        self.strangers.insert(token, stranger);
        self.hear_stranger(token);
        Ok(())
    }

    fn hear_stranger(&mut self, token: Token) {
        let Some(stranger) = self.strangers.get_mut(&token) else { return };
        let read = stranger.read(self.birth.address, self.keys.keys());
        if matches!(read, Ok(None)) {
            return;
        }
        let Some(mut stranger) = self.strangers.remove(&token) else { return };
        let _ = self.poll.registry().deregister(&mut stranger.socket);
        match read {
            Ok(None) => {}
            Ok(Some(preamble)) => {
                let from = stranger.from;
                if let Err(error) = self.pass_on(&preamble, OwnedFd::from(stranger.socket)) {
                    log::warn!("{from}: job {}: {:?}: {error}", preamble.job, preamble.purpose);
                }
            }
            // Somebody who looks whether the port is open.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => self.turned_away.count(stranger.from, &error),
        }
    }

    /// Gives a connection to the job's keeper, or starts one for a job that arrives.
    fn pass_on(&mut self, preamble: &Preamble, socket: OwnedFd) -> io::Result<()> {
        let jobs = self.jobs.lock();
        if let Some(job) = jobs.jobs.get(&preamble.job) {
            return send_frame(&job.keeper, &Command::Attach(preamble.purpose), &[socket.as_fd()]);
        }
        drop(jobs);
        let cause = match preamble.purpose {
            Purpose::Move => Cause::Arrival(preamble.job),
            // A keeper that has not told yet which job it has is not nobody.
            Purpose::Inquiry if keepers::is_dead(&self.birth.sockets, preamble.job) => {
                Cause::Absence(preamble.job)
            }
            _ => return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such job here")),
        };
        // A keeper costs a process, and a member may be slow.
        if self.keepers.values().filter(|keeper| keeper.job.is_none()).count() >= MOST_UNPROVEN {
            return Err(io::Error::other("too many unproven offers at once"));
        }
        let birth = Birth { cause, ..self.birth.clone() };
        let keeper = KeeperSocket::start(&birth, socket.as_fd())?;
        self.add_keeper(keeper)
    }

    fn add_keeper(&mut self, keeper: KeeperSocket) -> io::Result<()> {
        let token = self.token();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&keeper.socket);
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        self.keepers.insert(token, keeper);
        self.hear_keeper(token);
        Ok(())
    }

    fn hear_keeper(&mut self, token: Token) {
        let Some(keeper) = self.keepers.get_mut(&token) else { return };
        let mut news = Vec::new();
        let result = keeper.read(&mut news);
        news.into_iter().for_each(|news| self.handle_news(token, news));
        if let Err(error) = result {
            self.forget_keeper(token, &error);
        }
    }

    fn forget_keeper(&mut self, token: Token, error: &io::Error) {
        let Some(keeper) = self.keepers.remove(&token) else { return };
        let fd = std::os::fd::AsRawFd::as_raw_fd(&keeper.socket);
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        if let Some(job) = keeper.job {
            log::debug!("job {job}: its keeper has ended: {error}");
            self.jobs.lock().jobs.remove(&job);
            await_death(&self.birth, job);
        }
    }

    fn handle_news(&mut self, token: Token, news: News) {
        let Some(keeper) = self.keepers.get_mut(&token) else { return };
        match news {
            News::Version(version) if version == snapshot::VERSION => {}
            News::Version(version) => log::warn!("a keeper of another release (protocol {version})"),
            News::Job(snapshot) => {
                let job: JobId = snapshot.job;
                keeper.job = Some(job);
                keeper.started_by = snapshot.own.then_some(snapshot.uid);
                match keeper.socket.try_clone() {
                    Ok(socket) => {
                        let entry = Job { keeper: socket, snapshot: Some(*snapshot) };
                        self.jobs.lock().jobs.insert(job, entry);
                    }
                    Err(error) => log::error!("job {job}: {error}"),
                }
            }
            News::Admit { .. } => {
                let answer = Command::Admission(self.jobs.lock().admit());
                if let Err(error) = send_frame(&keeper.socket, &answer, &[]) {
                    log::debug!("cannot answer a keeper: {error}");
                }
            }
        }
    }

    fn drop_late_strangers(&mut self) {
        let now = Instant::now();
        self.strangers.retain(|_, stranger| !stranger.is_late(now));
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }
}

/// Removes what a keeper has left that has closed its connection, in a thread: the kernel closes what a dying process has open
/// one after the other, so it seems to live for a moment. One that lives on has only been misunderstood, as one of another
/// release may be.
fn await_death(birth: &Birth, job: JobId) {
    let (sockets, cgroups) = (birth.sockets.clone(), birth.cgroups.clone());
    aside(move || {
        let mut pause = Duration::from_millis(1);
        while !keepers::is_dead(&sockets, job) {
            if pause > DYING_LIMIT {
                return;
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        remove_remains(&cgroups, |of| of == job);
    });
}

fn aside(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name("remains".into()).spawn(work) {
        log::error!("what a keeper has left is not all removed: {error}");
    }
}

/// Removes what keepers that were killed have left: the processes of their jobs, which nobody would ever collect, and
/// their cgroups, to which there are links. A keeper that ends by itself leaves nothing.
fn remove_remains(links: &Path, is_orphan: impl Fn(JobId) -> bool) {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        let Some(job) = cgroup::job_of(&entry.file_name()) else { continue };
        if is_orphan(job) {
            let Ok(remains) = Cgroup::linked(entry.path()) else { continue };
            if !remains.processes().is_empty() {
                log::error!("job {job}: its keeper was killed, and the job with it");
            }
            remains.kill();
            // The dead need a moment to leave.
            aside(move || remains.remove());
        }
    }
}

/// A pipe that becomes readable at one of these signals.
fn signal_pipe(signals: &[i32]) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

/// Reaps keepers that have ended.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
