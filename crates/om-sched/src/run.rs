//! The daemon around the core: it owns the clock, the sockets, the om files and the signals, and decides nothing.
//!
//! One thread waits in one place for whichever comes first: a datagram, a reader of the status socket, a signal, or
//! the time of the next thing to do. Everything that happened is handed to the core; then the core's outputs are
//! carried out until there are none.
//!
//! What another program may take away and give back (om-migd, omd, the network) is waited for and said once; only
//! what a person must mend ends the daemon.

mod network;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use om_proto::key::{KeyError, KeyFile, random};
use om_proto::net::{Interface, Listener, NetError, Selection, Speaker};
use om_proto::omfs::{Destination, OmError, OmRoot};
use om_proto::table::NodeTable;
use om_proto::wire::Rejects;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use thiserror::Error;

use crate::Time;
use crate::cli::Cli;
use crate::config::{Config, ConfigError};
use crate::core::{Core, Input, MoveEnd, Output};
use crate::document::{About, document};
use crate::follow::{Follow, Seen};
use crate::history::{Decision, Outcome};
use crate::limit::LogLimit;
use crate::net::{OfferSocketError, Offers};
use crate::offer::Offer;
use crate::policy::{Policy, Registry};
use crate::random::Random;
use crate::reading::Reader;
use crate::start_socket::StartSocket;
use crate::status::StatusSocket;

const LISTENER: Token = Token(0);
const OFFERS: Token = Token(1);
const STATUS: Token = Token(2);
const SIGNALS: Token = Token(3);
const STARTS: Token = Token(4);

/// How often a job in a move is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);
/// How often an unfinished reader of the status socket is served.
const SERVE_EVERY: Duration = Duration::from_millis(20);
/// How often the network interfaces are looked at.
const INTERFACES_EVERY: Duration = Duration::from_secs(2);
/// Dropped datagrams are told this often, if there are any.
const REJECTS_EVERY: Duration = Duration::from_secs(300);
/// For so long after the start it is normal that nothing is known yet.
const SETTLING: Duration = Duration::from_secs(3);
/// Lines about nodes that come and go, every ten seconds.
const COMINGS: u32 = 32;
/// Reading the om files may take one part in so many of the daemon's time.
const READING_SHARE: u32 = 20;

/// Why the daemon ended, or did not start.
#[derive(Debug, Error)]
pub enum RunError {
    /// The configuration, as a whole.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The socket for offers.
    #[error(transparent)]
    Offers(#[from] OfferSocketError),
    /// Waiting itself failed.
    #[error("cannot {what}: {source}")]
    Loop {
        /// What was tried.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

/// What a configuration stands for once it was found to be right.
struct Ready {
    config: Config,
    policy: Box<dyn Policy>,
    keys: KeyFile,
}

/// Reads and checks everything that can be wrong before anything is done.
fn prepare(cli: &Cli, registry: &Registry) -> Result<Ready, RunError> {
    let config = cli.over(Config::load(cli.config.as_deref())?);
    let place = cli.config.clone().unwrap_or_else(Config::default_path);
    let policy = config.check(registry).map_err(|problems| ConfigError::Values { place, problems })?;
    let keys = KeyFile::open(&config.key_file)?;
    Ok(Ready { config, policy, keys })
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What a person must mend.
pub fn run(cli: &Cli, registry: &Registry) -> Result<(), RunError> {
    Daemon::start(prepare(cli, registry)?)?.run(cli, registry)
}

struct Daemon {
    started: Instant,
    config: Config,
    keys: KeyFile,
    poll: Poll,
    core: Core,
    table: NodeTable,
    listener: Listener,
    /// Puts the questions that omd answers.
    asker: Speaker,
    interfaces: Vec<Interface>,
    here: Option<IpAddr>,
    offer_socket: Option<UdpSocket>,
    offers: Offers,
    status: Option<StatusSocket>,
    starts: Option<StartSocket>,
    root: OmRoot,
    reader: Reader,
    follows: BTreeMap<u32, Follow>,
    terminate: UnixStream,
    reload: UnixStream,
    epoch: u64,
    questions: u64,
    asked: Time,
    /// Since when some node has left out what it seldom tells.
    incomplete: Option<Time>,
    next_read: Time,
    next_interfaces: Time,
    next_rejects: Time,
    said_rejects: (Rejects, Rejects),
    last_read: Option<Time>,
    reading_took: Duration,
    /// There may be more to take although nothing new will be announced.
    unfinished: bool,
    /// Nodes come and go; without a key anybody can have that said.
    comings: LogLimit,
    /// What was said last about why nothing can be decided.
    problem: Option<String>,
}

impl Daemon {
    fn start(ready: Ready) -> Result<Self, RunError> {
        let Ready { config, policy, keys } = ready;
        let poll = Poll::new().map_err(failed("wait for events"))?;
        let listener = Listener::open(config.info_port, selection(&config))?;
        let (terminate, reload) = signals().map_err(failed("take signals"))?;
        for signal in [&terminate, &reload] {
            watch(&poll, signal.as_raw_fd(), SIGNALS).map_err(failed("wait for signals"))?;
        }
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = u64::try_from(epoch.as_micros()).unwrap_or(u64::MAX);
        let seed = epoch ^ (u64::from(std::process::id()) << 40);
        let no_random = failed("make random numbers");
        let core = Core::new(config.settings(!keys.keys().is_empty()), policy, Random::from_seed(seed));
        let mut daemon = Self {
            started: Instant::now(),
            offers: Offers::new(config.offer_port, epoch, random().map_err(&no_random)?)?,
            asker: Speaker::open(config.info_port)?,
            root: OmRoot::discover(config.om_root.as_deref()),
            interfaces: Interface::all()?,
            keys,
            poll,
            core,
            table: NodeTable::new(random().map_err(&no_random)?),
            listener,
            here: None,
            offer_socket: None,
            status: None,
            starts: None,
            reader: Reader::default(),
            follows: BTreeMap::new(),
            terminate,
            reload,
            epoch,
            questions: 0,
            asked: Time::ZERO,
            incomplete: None,
            next_read: Time::ZERO,
            next_interfaces: Time::ZERO,
            next_rejects: REJECTS_EVERY,
            said_rejects: Default::default(),
            last_read: None,
            reading_took: Duration::ZERO,
            unfinished: false,
            comings: LogLimit::new(COMINGS),
            problem: None,
            config,
        };
        daemon.watch_listener()?;
        daemon.open_status();
        daemon.open_starts();
        daemon.find_here()?;
        daemon.say_start();
        daemon.ask_everybody();
        Ok(daemon)
    }

    fn say_start(&self) {
        log::info!(
            "om-sched {}: policy {}, om files in {}, {}{}",
            env!("CARGO_PKG_VERSION"),
            self.config.policy,
            self.root.path().display(),
            if self.keys.keys().is_empty() { "no cluster key" } else { "with the cluster key" },
            if self.config.dry_run { ", dry run: nothing is moved" } else { "" },
        );
        if self.keys.keys().is_empty() && self.config.allow_without_key {
            log::warn!("jobs are moved without a cluster key: anybody on the network can have them moved");
        }
    }

    fn run(mut self, cli: &Cli, registry: &Registry) -> Result<(), RunError> {
        let mut events = Events::with_capacity(64);
        loop {
            let wait = self.wait();
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(failed("wait for events")(error));
                }
                _ => {}
            }
            if drain(&mut self.terminate) {
                log::info!("stopped");
                return Ok(());
            }
            if drain(&mut self.reload) {
                self.reconfigure(cli, registry);
            }
            self.turn()?;
        }
    }

    /// Everything that may be due, each as far as it is.
    fn turn(&mut self) -> Result<(), RunError> {
        self.unfinished = false;
        self.hear_reports();
        self.hear_offers();
        self.hear_starts();
        self.follow_moves();
        let now = self.now();
        if now >= self.next_interfaces {
            self.next_interfaces = now + INTERFACES_EVERY;
            self.look_at_interfaces();
            self.look_at_key();
            self.say_rejects(now);
        }
        if now >= self.next_read {
            self.find_here()?;
            self.table.expire(now);
            self.offers.forget(|address| self.table.get(address).is_some());
            self.ask_if_something_is_missing(now);
            self.read();
            self.say_problem();
        }
        let now = self.now();
        if self.core.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.core.handle_timeout(now);
        }
        self.carry_out();
        self.serve_status();
        Ok(())
    }

    fn now(&self) -> Time {
        self.started.elapsed()
    }

    fn wait(&self) -> Duration {
        if self.unfinished {
            return Duration::ZERO;
        }
        let now = self.now();
        let mut next = self.next_read.min(self.next_interfaces);
        if let Some(timeout) = self.core.poll_timeout() {
            next = next.min(timeout);
        }
        if !self.follows.is_empty() {
            next = next.min(now + FOLLOW_EVERY);
        }
        if self.status.as_ref().is_some_and(StatusSocket::is_busy) {
            next = next.min(now + SERVE_EVERY);
        }
        // Rounded up by the kernel to whole milliseconds.
        next.saturating_sub(now)
    }

    /// A new key file is taken over without being asked.
    fn look_at_key(&mut self) {
        match self.keys.refresh() {
            None => {}
            Some(Ok(())) => {
                log::info!("the key file has changed; key {:?} from now on", self.keys.keys());
                self.core.set_has_key(!self.keys.keys().is_empty());
                self.ask_everybody();
            }
            Some(Err(error)) => log::warn!("{error}; going on with the key known before"),
        }
    }

    /// Dropped datagrams are told now and then, if there are any.
    fn say_rejects(&mut self, now: Time) {
        if now < self.next_rejects {
            return;
        }
        self.next_rejects = now + REJECTS_EVERY;
        let rejects = (*self.table.rejects(), *self.offers.rejects());
        if rejects != self.said_rejects {
            log::info!("dropped since the start: reports: {}; offers: {}", rejects.0, rejects.1);
            self.said_rejects = rejects;
        }
    }

    /// Reads the om files and sets the time of the next reading.
    fn read(&mut self) {
        let now = self.now();
        match self.reader.read(now, &self.root, self.here) {
            Ok(snapshot) => {
                self.last_read = Some(now);
                self.core.handle(now, Input::Snapshot(snapshot));
            }
            Err(error) => {
                log::debug!("{error}");
                self.last_read = None;
                self.core.handle(now, Input::NoSnapshot);
            }
        }
        self.reading_took = self.now().saturating_sub(now);
        let pause = if self.core.is_busy(now) { self.config.busy_poll_ms } else { self.config.poll_ms };
        let pause = Duration::from_millis(pause).max(self.reading_took * READING_SHARE);
        self.next_read = now + pause;
    }

    /// Does what the core wants until it wants nothing more.
    fn carry_out(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { to, offer } => {
                    let Some(here) = self.here else { continue };
                    if self.config.dry_run {
                        continue;
                    }
                    match &offer {
                        Offer::Answer(answer) => log::debug!("to {to}: {answer:?}"),
                        other => log::trace!("to {to}: {other:?}"),
                    }
                    let now = self.now();
                    if let Err(error) = self.offers.send(now, (here, to), &offer, self.keys.keys()) {
                        log::debug!("cannot send to {to}: {error}");
                    }
                }
                Output::Move { pid, to, home } => self.request(pid, to, home),
                Output::Decided(decision) => say(&decision),
                Output::Start { ticket, to } => {
                    if let Some(starts) = &mut self.starts {
                        starts.answer(ticket, to);
                    }
                }
            }
        }
    }

    fn request(&mut self, pid: u32, to: IpAddr, home: bool) {
        let process = self.root.process(pid);
        let destination = if home { Destination::Home } else { Destination::Node(to) };
        let before = process.where_is().and_then(|at| Ok((at, process.result()?)));
        let requested = before.and_then(|before| process.request(destination).map(|()| before));
        let now = self.now();
        match requested {
            Ok((from, last_result)) => {
                self.follows.insert(pid, Follow::new(to, home, now, from, last_result));
            }
            Err(error) => {
                self.reader.doubt(pid);
                let only_the_job = !matches!(error, OmError::NoSuchNode { .. });
                let end = match error {
                    OmError::Gone { .. } => MoveEnd::JobEnded,
                    error => MoveEnd::Failed { reason: error.to_string(), only_the_job },
                };
                self.core.handle(now, Input::MoveEnded { pid, end });
            }
        }
    }

    fn follow_moves(&mut self) {
        let now = self.now();
        let mut ended = Vec::new();
        for (pid, follow) in &mut self.follows {
            let process = self.root.process(*pid);
            let seen = match process.where_is().and_then(|at| Ok(Seen::At(at, process.result()?))) {
                Ok(seen) => seen,
                Err(OmError::Gone { .. }) => Seen::Gone,
                // om-migd may be restarted in the middle of a move; the keepers carry it on.
                Err(_) => continue,
            };
            if let Some(end) = follow.judge(now, seen) {
                ended.push((*pid, end));
            }
        }
        if ended.is_empty() {
            return;
        }
        for (pid, end) in ended {
            self.follows.remove(&pid);
            self.reader.doubt(pid);
            self.core.handle(now, Input::MoveEnded { pid, end });
        }
        self.carry_out();
        self.read();
    }

    /// Says once why nothing can be decided, and once when that is over.
    fn say_problem(&mut self) {
        let now = self.now();
        let problem = self.core.explain_here(now);
        if problem == self.problem || (now < SETTLING && problem.is_some()) {
            return;
        }
        match &problem {
            Some(problem) => log::warn!("nothing is decided: {problem}"),
            None if self.problem.is_some() => log::info!("deciding again"),
            None => {}
        }
        self.problem = problem;
    }

    fn open_status(&mut self) {
        let path: PathBuf = self.config.status_socket.clone();
        let opened = StatusSocket::open(&path)
            .and_then(|socket| watch(&self.poll, socket.descriptor(), STATUS).map(|()| socket));
        match opened {
            Ok(socket) => self.status = Some(socket),
            Err(error) => {
                self.status = None;
                log::warn!("{}: {error}; going on without a status socket", path.display());
            }
        }
    }

    fn open_starts(&mut self) {
        let path = &self.config.start_socket;
        let opened = StartSocket::open(path)
            .and_then(|socket| watch(&self.poll, socket.descriptor(), STARTS).map(|()| socket));
        self.starts = opened
            .inspect_err(|error| log::warn!("{}: {error}; om run starts every job here", path.display()))
            .ok();
    }

    fn serve_status(&mut self) {
        let now = self.now();
        let about = About {
            now,
            here: self.here,
            policy: &self.config.policy,
            dry_run: self.config.dry_run,
            rejected_offers: self.offers.rejects(),
        };
        if let Some(status) = &mut self.status {
            status.serve(now, || document(&about, &self.core, &self.table));
        }
    }

    /// Takes over a new configuration as a whole, or none of it.
    fn reconfigure(&mut self, cli: &Cli, registry: &Registry) {
        match self.try_reconfigure(cli, registry) {
            Ok(()) => log::info!("configuration read again, policy {}", self.config.policy),
            Err(error) => log::error!("the old configuration goes on: {error}"),
        }
    }

    fn try_reconfigure(&mut self, cli: &Cli, registry: &Registry) -> Result<(), RunError> {
        let Ready { config, policy, keys } = prepare(cli, registry)?;
        // First all that can fail, then all that changes.
        let listener = if (config.info_port, &config.interfaces)
            == (self.config.info_port, &self.config.interfaces)
        {
            None
        } else {
            Some((Listener::open(config.info_port, selection(&config))?, Speaker::open(config.info_port)?))
        };
        if config.offer_port != self.config.offer_port {
            self.offers.set_port(config.offer_port)?;
        }
        let rebind = config.offer_port != self.config.offer_port || config.dry_run != self.config.dry_run;
        let reopen = config.status_socket != self.config.status_socket || self.status.is_none();
        let reopen_starts = config.start_socket != self.config.start_socket || self.starts.is_none();
        self.core.reconfigure(config.settings(!keys.keys().is_empty()), policy);
        self.root = OmRoot::discover(config.om_root.as_deref());
        self.keys = keys;
        self.config = config;
        if let Some((listener, asker)) = listener {
            (self.listener, self.asker) = (listener, asker);
            self.watch_listener()?;
        }
        if rebind {
            self.offer_socket = None;
        }
        if reopen {
            self.status = None;
            self.open_status();
        }
        if reopen_starts {
            self.starts = None;
            self.open_starts();
        }
        if let Some(status) = &mut self.status {
            status.refresh();
        }
        self.next_read = Time::ZERO;
        Ok(())
    }
}

/// One line for each turn that a decision takes.
fn say(decision: &Decision) {
    match decision.outcome {
        Outcome::Asked => log::debug!("{decision}"),
        // Most jobs are short, and many.
        Outcome::Started { .. } if decision.to == decision.from => log::debug!("{decision}"),
        Outcome::Failed { .. } => log::warn!("{decision}"),
        _ => log::info!("{decision}"),
    }
}

fn selection(config: &Config) -> Selection {
    if config.interfaces.is_empty() { Selection::All } else { Selection::Named(config.interfaces.clone()) }
}

/// Ends of pipes that become readable: one when the daemon is to stop, one when it is to read its configuration.
fn signals() -> io::Result<(UnixStream, UnixStream)> {
    let (terminate, raise) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, raise.try_clone()?)?;
    }
    let (reload, raise) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGHUP, raise)?;
    terminate.set_nonblocking(true)?;
    reload.set_nonblocking(true)?;
    Ok((terminate, reload))
}

/// Empties a pipe; whether anything was in it.
fn drain(pipe: &mut UnixStream) -> bool {
    let mut buffer = [0; 64];
    let mut any = false;
    while matches!(pipe.read(&mut buffer), Ok(count) if count > 0) {
        any = true;
    }
    any
}

fn watch(poll: &Poll, descriptor: i32, token: Token) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&descriptor), token, Interest::READABLE)
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Loop { what, source }
}
