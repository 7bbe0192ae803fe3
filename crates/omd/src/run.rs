//! The loop: it owns the clock, the sockets, the sampler and the signals, and does what the core says.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{debug, info, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use om_proto::key::KeyFile;
use om_proto::net::NetError;
use om_proto::omfs::OmRoot;
use om_proto::proof::Challenge;
use om_proto::report::Identity;
use om_proto::wire::{Datagram, Kind, MAX_DATAGRAM, Rejects};
use thiserror::Error;

use crate::config::Config;
use crate::core::{Core, Node, Output, millis};
use crate::net::{Arrival, Net};
use crate::sample::{Places, Sampler, boot_id, host_name, machine};
use crate::speed::{self, Source};

const SIGNALS: Token = Token(0);
const SOCKETS: Token = Token(1);
/// Interfaces are looked at with a sample, and not more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The machine is looked at again this often: a CPU may come or go.
const MACHINE_EVERY: Duration = Duration::from_secs(60);
/// Dropped datagrams are told this often, if there are any.
const REJECTS_EVERY: Duration = Duration::from_secs(300);
/// Datagrams taken before it is the timers' turn again, so that a flood does not starve the reports.
const BURST: usize = 256;
const PROC: &str = "/proc";

/// Why the daemon stopped without being asked to.
#[derive(Debug, Error)]
pub enum RunError {
    /// The network cannot be used.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Something that every Linux host has is missing.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl RunError {
    fn new(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`] if the daemon cannot start or go on.
pub fn run(config_file: Option<PathBuf>, config: Config, keys: KeyFile) -> Result<(), RunError> {
    // Before any thread is started: each inherits which signals are held back.
    let signals = hold_signals()?;
    Daemon::start(config_file, config, keys, signals)?.run()
}

struct Daemon {
    config_file: Option<PathBuf>,
    config: Config,
    keys: KeyFile,
    started: Instant,
    core: Core,
    net: Net,
    sampler: Sampler,
    poll: Poll,
    signals: SignalFd,
    looked: Duration,
    machine_looked: Duration,
    rejects: Rejects,
    rejects_told: (Duration, Rejects),
    /// Datagrams may be waiting that no event will tell of.
    unread: bool,
    stopping: bool,
}

impl Daemon {
    fn start(
        config_file: Option<PathBuf>,
        config: Config,
        keys: KeyFile,
        signals: SignalFd,
    ) -> Result<Self, RunError> {
        let proc = Path::new(PROC);
        let net = Net::open(&config)?;
        let places = Places {
            proc: proc.to_owned(),
            fs_root: PathBuf::from("/"),
            om_root: OmRoot::discover(config.om_root.set().map(PathBuf::as_path)),
        };
        let machine = machine(proc);
        let mut sampler = Sampler::new(&places, find_speed(&config, &machine.cpu_model))
            .map_err(RunError::new("read /proc"))?;
        sampler.set_addresses(net.all_addresses());
        let poll = Poll::new().map_err(RunError::new("wait for events"))?;
        register(&poll, signals.as_raw_fd(), SIGNALS)?;
        let epoch = epoch();
        let node = Node {
            name: net.name(),
            epoch,
            identity: identity(&config, &net),
            machine,
            seed: epoch ^ u64::from(std::process::id()) << 32,
        };
        info!(
            "telling as {} every {} s, {}, key {:?}",
            node.name,
            config.period,
            if keys.keys().is_empty() { "unauthenticated" } else { "authenticated" },
            keys.keys(),
        );
        let core = Core::new(Duration::ZERO, config.settings(), keys.keys().clone(), node);
        let daemon = Self {
            config_file,
            config,
            keys,
            started: Instant::now(),
            core,
            net,
            sampler,
            poll,
            signals,
            looked: Duration::ZERO,
            machine_looked: Duration::ZERO,
            rejects: Rejects::default(),
            rejects_told: (Duration::ZERO, Rejects::default()),
            unread: false,
            stopping: false,
        };
        daemon.register_sockets()?;
        Ok(daemon)
    }

    fn run(mut self) -> Result<(), RunError> {
        let mut events = Events::with_capacity(16);
        loop {
            self.drain();
            if self.stopping {
                info!("stopped; {} datagrams dropped: {}", self.rejects.bad(), self.rejects);
                return Ok(());
            }
            let now = self.now();
            let due = self.core.poll_timeout().map(|due| due.saturating_sub(now));
            // The kernel tells once that a socket has something: what was left there must be fetched unasked.
            let timeout = if self.unread { Some(Duration::ZERO) } else { due };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(RunError::new("wait for events"))?,
            }
            self.handle_signals();
            self.handle_datagrams();
            self.core.handle_timeout(self.now());
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Does what the core wants done.
    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { bytes, route } => self.net.send(&bytes, route),
                Output::Sample => {
                    self.look_around();
                    let sample = self.sampler.take();
                    self.core.handle_sample(self.now(), sample);
                }
            }
        }
    }

    /// Notices what has changed around the daemon.
    fn look_around(&mut self) {
        let now = self.now();
        if now.saturating_sub(self.looked) >= LOOK_EVERY {
            self.looked = now;
            match self.net.refresh() {
                Ok(change) => self.handle_change(now, change),
                Err(error) => warn!("{error}; going on with the interfaces known before"),
            }
            self.look_at_key(now);
        }
        if now.saturating_sub(self.machine_looked) >= MACHINE_EVERY {
            self.machine_looked = now;
            self.core.handle_node(now, identity(&self.config, &self.net), self.sampler.machine());
        }
        self.tell_rejects(now);
    }

    /// A new key file is taken over without being asked.
    fn look_at_key(&mut self, now: Duration) {
        match self.keys.refresh() {
            None => {}
            Some(Ok(())) => {
                info!("the key file has changed; key {:?} from now on", self.keys.keys());
                self.core.handle_keys(now, self.keys.keys().clone());
            }
            Some(Err(error)) => warn!("{error}; going on with the key known before"),
        }
    }

    fn handle_change(&mut self, now: Duration, change: crate::net::Change) {
        if change.sockets
            && let Err(error) = self.register_sockets()
        {
            warn!("{error}; questions to this node's new addresses are not heard");
        }
        if change.any {
            self.sampler.set_addresses(self.net.all_addresses());
            self.core.handle_rename(now, self.net.name());
            self.core.handle_node(now, identity(&self.config, &self.net), self.sampler.machine());
        }
        if change.gained {
            self.core.handle_new_network(now);
        }
    }

    fn handle_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGHUP) => self.reload(),
                _ => {
                    self.core.handle_stop();
                    self.stopping = true;
                }
            }
        }
    }

    /// Takes over configuration and key, both or neither.
    fn reload(&mut self) {
        let loaded = Config::load(self.config_file.as_deref()).map_err(|error| error.to_string());
        let both = loaded.and_then(|config| {
            let keys = KeyFile::open(&config.key_file).map_err(|error| error.to_string())?;
            let net = Net::open(&config).map_err(|error| error.to_string())?;
            Ok((config, keys, net))
        });
        let (config, keys, net) = match both {
            Ok(both) => both,
            Err(problem) => {
                warn!("{problem}; the configuration stays as it was");
                return;
            }
        };
        let now = self.now();
        if config.om_root != self.config.om_root {
            warn!("om-root is taken over at the next start only");
        }
        self.net = net;
        self.config = config;
        self.keys = keys;
        if let Err(error) = self.register_sockets() {
            warn!("{error}; questions are not heard");
        }
        let machine = self.sampler.machine();
        self.sampler.set_speed(find_speed(&self.config, &machine.cpu_model));
        self.sampler.set_addresses(self.net.all_addresses());
        self.core.handle_rename(now, self.net.name());
        self.core.handle_settings(now, self.config.settings(), self.keys.keys().clone());
        self.core.handle_node(now, identity(&self.config, &self.net), machine);
        info!(
            "configuration and key read again; telling as {} every {} s",
            self.net.name(),
            self.config.period
        );
    }

    fn handle_datagrams(&mut self) {
        let mut buffer = [0; MAX_DATAGRAM + 1];
        self.unread = true;
        for _ in 0..BURST {
            let Some(arrival) = self.net.receive(&mut buffer) else {
                self.unread = false;
                return;
            };
            self.handle_datagram(&buffer[..arrival.length], arrival);
        }
    }

    fn handle_datagram(&mut self, bytes: &[u8], arrival: Arrival) {
        let datagram = match Datagram::decode(bytes, self.keys.keys()) {
            Ok(datagram) => datagram,
            Err(reject) => {
                self.rejects.count(reject);
                return;
            }
        };
        if self.core.is_own(&datagram.header) {
            return;
        }
        let now = self.now();
        match datagram.header.kind {
            Kind::Ask => {
                debug!("{} asks", arrival.from);
                let challenge = datagram.section::<Challenge>().filter(|_| datagram.authenticated);
                let nonce = challenge.map(|challenge| challenge.nonce);
                self.core.handle_ask(now, arrival.to_host.then_some(arrival.from), nonce);
                if !arrival.to_host {
                    self.net.pass_on(bytes, arrival.from);
                }
            }
            Kind::Report | Kind::Goodbye if arrival.to_host => self.net.repeat_here(bytes),
            _ => {}
        }
    }

    fn tell_rejects(&mut self, now: Duration) {
        let (told_at, told) = self.rejects_told;
        if now.saturating_sub(told_at) >= REJECTS_EVERY {
            if told != self.rejects {
                info!("datagrams dropped since the start: {}", self.rejects);
            }
            self.rejects_told = (now, self.rejects);
        }
    }

    fn register_sockets(&self) -> Result<(), RunError> {
        for descriptor in self.net.descriptors() {
            match register(&self.poll, descriptor, SOCKETS) {
                // It is waited on already. The kernel forgets a socket by itself when it is closed.
                Err(RunError::System { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn register(poll: &Poll, descriptor: i32, token: Token) -> Result<(), RunError> {
    let source = &mut SourceFd(&descriptor);
    poll.registry().register(source, token, Interest::READABLE).map_err(RunError::new("wait for events"))
}

fn hold_signals() -> Result<SignalFd, RunError> {
    let held = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    let hold = || {
        held.thread_block()?;
        SignalFd::with_flags(&held, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
    };
    hold().map_err(|errno| RunError::new("take signals")(errno.into()))
}

fn identity(config: &Config, net: &Net) -> Identity {
    let proc = Path::new(PROC);
    Identity {
        host_name: host_name(proc),
        boot_id: boot_id(proc),
        period_ms: millis(config.settings().period),
        addresses: net.told_addresses(),
    }
}

fn find_speed(config: &Config, cpu_model: &str) -> u32 {
    if let Some(speed) = config.speed.set() {
        return *speed;
    }
    let (speed, source) = speed::find(cpu_model, &speed::directories());
    let how = match source {
        Source::Measured => "measured now",
        Source::Cached => "measured earlier",
    };
    info!("speed {speed} for {cpu_model}, {how}");
    speed
}

/// Microseconds since 1970: grows from start to start as long as the clock is not set back. What happens then is
/// the listeners' business; see `om_proto::table`.
fn epoch() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_a_greater_epoch() {
        let first = epoch();
        std::thread::sleep(Duration::from_millis(1));
        assert!(epoch() > first);
    }
}
