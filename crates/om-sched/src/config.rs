//! The configuration file: what it may hold, its defaults, and what is wrong with it.
//!
//! `Default` is the only home of the defaults; `examples/om-sched.toml` shows them all and a test compares.
//! [`Config::check`] reports every problem at once. A policy's own settings are its own business: they stand in a
//! table `[policies.NAME]` and are checked by making the policy.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use om_proto::ports;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::policy::{Policy, Registry};
use crate::settings::Settings;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Which policy decides.
    pub policy: String,
    /// Decide and tell, but move nothing and ask nobody.
    pub dry_run: bool,
    /// Where the om files are; found by itself if left out.
    pub om_root: Option<PathBuf>,
    /// The cluster key.
    pub key_file: PathBuf,
    /// Move jobs although there is no key. Then anybody on the network can make nodes move jobs: for trials on a
    /// network of your own only.
    pub allow_without_key: bool,
    /// Where `om nodes`, `om why` and `om history` ask. Anybody on this node may.
    pub status_socket: PathBuf,
    /// Where `om run` asks on which node a job is to start. Anybody on this node may.
    pub start_socket: PathBuf,
    /// The interfaces to listen on, by name; none: all.
    pub interfaces: Vec<String>,
    /// The address that names this node; found by itself if left out. It has to be the one that omd tells.
    pub address: Option<IpAddr>,
    /// UDP port of omd, the same on all nodes.
    pub info_port: u16,
    /// UDP port on which schedulers ask each other, the same on all nodes.
    pub offer_port: u16,
    /// Milliseconds between two readings of the om files, 100 to 60,000. Less notices new jobs earlier and costs more.
    pub poll_ms: u64,
    /// The same while jobs come, go or move, 50 to 60,000.
    pub busy_poll_ms: u64,
    /// Moves and questions that may be under way at once, 1 to 64. They share the network.
    pub max_moves: usize,
    /// Milliseconds that a node has to answer, 10 to 10,000. It is asked twice.
    pub ask_timeout_ms: u64,
    /// Milliseconds for which a promise is kept beside the time that the move takes, 100 to 60,000.
    pub promise_ms: u64,
    /// The least milliseconds for which a job that arrived stays, 0 to 3,600,000. It always stays for as long as
    /// its move cost.
    pub cool_down_ms: u64,
    /// Share of a node's memory that has to stay free, 0 to 0.9. A node with less sends jobs away.
    pub memory_reserve: f64,
    /// How many times its resident memory a job needs for a moment where it arrives, 1 to 10.
    pub memory_factor: f64,
    /// What a move of no memory costs until moves have been seen, milliseconds, 1 to 60,000.
    pub move_cost_ms: u64,
    /// MiB that a move carries a second until moves have been seen, 1 to 100,000.
    pub move_mib_per_s: f64,
    /// This node's own user comes first: guests leave, and none are taken, while the node's own load wants the CPUs
    /// that they use.
    pub owner_first: bool,
    /// Ask loaded nodes for work while this one is idle.
    pub invite: bool,
    /// How many nodes are asked where a new job shall start, 0 to 16; 0: every job starts where it is submitted.
    pub start_among: usize,
    /// How often others are asked, twice as many each time, while none of those asked has a CPU free, 1 to 8.
    pub start_rounds: usize,
    /// Milliseconds that they have to answer each time, 1 to 1,000. Usually it takes one or two.
    pub start_timeout_ms: u64,
    /// Milliseconds for which a node keeps a CPU free for a job that it was chosen for, until it sees the job, 1 to 10,000:
    /// more than a start elsewhere takes. Longer keeps others from CPUs whose job has come and gone.
    pub start_promise_ms: u64,
    /// Decisions kept for `om why` and `om history`, 1 to 100,000.
    pub history: usize,
    /// The policies' own settings, by name.
    pub policies: BTreeMap<String, toml::Table>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: "cost".to_owned(),
            dry_run: false,
            om_root: None,
            key_file: PathBuf::from(ports::KEY_FILE),
            allow_without_key: false,
            status_socket: PathBuf::from(ports::STATUS_SOCKET),
            start_socket: PathBuf::from(ports::START_SOCKET),
            interfaces: Vec::new(),
            address: None,
            info_port: ports::INFO_PORT,
            offer_port: ports::OFFER_PORT,
            poll_ms: 1000,
            busy_poll_ms: 250,
            max_moves: 4,
            ask_timeout_ms: 300,
            promise_ms: 3000,
            cool_down_ms: 1000,
            memory_reserve: 0.05,
            memory_factor: 2.0,
            move_cost_ms: 200,
            move_mib_per_s: 112.0,
            owner_first: false,
            invite: true,
            start_among: 8,
            start_rounds: 3,
            start_timeout_ms: 50,
            start_promise_ms: 100,
            history: 256,
            policies: BTreeMap::new(),
        }
    }
}

/// Why there is no configuration to go by. Nothing has changed.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// It is no such configuration.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what, in one line.
        message: String,
    },
    /// Its values make no sense.
    #[error("{}: {}", place.display(), problems.join("; "))]
    Values {
        /// The file, or the program's name if there is none.
        place: PathBuf,
        /// All that is wrong.
        problems: Vec<String>,
    },
}

impl Config {
    /// Where the configuration is looked for unless told otherwise.
    #[must_use]
    pub fn default_path() -> PathBuf {
        Path::new(ports::CONFIG_DIR).join("om-sched.toml")
    }

    /// Reads `path`, or the default path if there is one; without either the defaults hold.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::Parse`].
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Self::default_path();
        let file = path.unwrap_or(&default);
        match fs::read_to_string(file) {
            Ok(text) => {
                Self::parse(&text).map_err(|message| ConfigError::Parse { path: file.to_owned(), message })
            }
            Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: file.to_owned(), source }),
        }
    }

    /// Reads a configuration from its text.
    ///
    /// # Errors
    /// Where and what, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map(|span| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count());
            let message = error.message().replace('\n', " ");
            line.map_or_else(|| message.clone(), |line| format!("line {line}: {message}"))
        })
    }

    /// Makes the policy that is configured.
    ///
    /// # Errors
    /// All that is wrong with the values, the policy's included.
    pub fn check(&self, registry: &Registry) -> Result<Box<dyn Policy>, Vec<String>> {
        let mut problems = Vec::new();
        let mut range = |key: &str, value: f64, least: f64, most: f64| {
            if !(least..=most).contains(&value) {
                problems.push(format!("{key} = {value}: must be {least} to {most}"));
            }
        };
        let count = |number: usize| u32::try_from(number).map_or(f64::MAX, f64::from);
        range("info-port", self.info_port.into(), 1.0, 65_535.0);
        range("offer-port", self.offer_port.into(), 1.0, 65_535.0);
        range("poll-ms", self.poll_ms as f64, 100.0, 60_000.0);
        range("busy-poll-ms", self.busy_poll_ms as f64, 50.0, 60_000.0);
        range("max-moves", count(self.max_moves), 1.0, 64.0);
        range("ask-timeout-ms", self.ask_timeout_ms as f64, 10.0, 10_000.0);
        range("promise-ms", self.promise_ms as f64, 100.0, 60_000.0);
        range("cool-down-ms", self.cool_down_ms as f64, 0.0, 3_600_000.0);
        range("memory-reserve", self.memory_reserve, 0.0, 0.9);
        range("memory-factor", self.memory_factor, 1.0, 10.0);
        range("move-cost-ms", self.move_cost_ms as f64, 1.0, 60_000.0);
        range("move-mib-per-s", self.move_mib_per_s, 1.0, 100_000.0);
        range("start-among", count(self.start_among), 0.0, 16.0);
        range("start-rounds", count(self.start_rounds), 1.0, 8.0);
        range("start-timeout-ms", self.start_timeout_ms as f64, 1.0, 1000.0);
        range("start-promise-ms", self.start_promise_ms as f64, 1.0, 10_000.0);
        range("history", count(self.history), 1.0, 100_000.0);
        if self.busy_poll_ms > self.poll_ms {
            problems.push(format!(
                "busy-poll-ms = {}: must not be more than poll-ms = {}",
                self.busy_poll_ms, self.poll_ms
            ));
        }
        if self.info_port == self.offer_port {
            problems.push(format!("info-port and offer-port are both {}", self.info_port));
        }
        if self.address.is_some_and(|address| address.is_unspecified() || address.is_multicast()) {
            problems.push("address: must be an address of this node".to_owned());
        }
        for name in self.policies.keys().filter(|name| *name != &self.policy) {
            // The settings of a policy that is not chosen must be right too: it may be chosen next.
            if let Err(error) = registry.make(name, self.policy_settings(name)) {
                problems.push(error.to_string());
            }
        }
        let policy = registry.make(&self.policy, self.policy_settings(&self.policy));
        match policy {
            Ok(policy) if problems.is_empty() => Ok(policy),
            Ok(_) => Err(problems),
            Err(error) => {
                problems.push(error.to_string());
                Err(problems)
            }
        }
    }

    /// What of this the core goes by.
    #[must_use]
    pub fn settings(&self, has_key: bool) -> Settings {
        Settings {
            dry_run: self.dry_run,
            has_key,
            allow_without_key: self.allow_without_key,
            max_moves: self.max_moves,
            ask_timeout: Duration::from_millis(self.ask_timeout_ms),
            promise: Duration::from_millis(self.promise_ms),
            start_promise: Duration::from_millis(self.start_promise_ms),
            cool_down: Duration::from_millis(self.cool_down_ms),
            memory_reserve: self.memory_reserve,
            memory_factor: self.memory_factor,
            move_cost: Duration::from_millis(self.move_cost_ms),
            move_bytes_per_s: self.move_mib_per_s * 1_048_576.0,
            owner_first: self.owner_first,
            invite: self.invite,
            start_among: self.start_among,
            start_rounds: self.start_rounds,
            start_timeout: Duration::from_millis(self.start_timeout_ms),
            history: self.history,
        }
    }

    fn policy_settings(&self, name: &str) -> toml::Table {
        self.policies.get(name).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CostSettings, SpreadSettings};

    const EXAMPLE: &str = include_str!("../../../examples/om-sched.toml");

    #[test]
    fn the_example_lists_every_key_with_its_default() {
        let mut example = Config::parse(EXAMPLE).unwrap();
        assert!(example.check(&Registry::stock()).is_ok());
        let cost: CostSettings = example.policies.remove("cost").unwrap().try_into().unwrap();
        let spread: SpreadSettings = example.policies.remove("spread").unwrap().try_into().unwrap();
        assert_eq!(spread, SpreadSettings::default());
        assert_eq!(cost, CostSettings::default());
        assert_eq!(example, Config::default());
        let keys = toml::Table::try_from(Config::default()).unwrap();
        let cost = toml::Table::try_from(CostSettings::default()).unwrap();
        let optional = ["om-root", "address"].into_iter();
        for key in keys.keys().chain(cost.keys()).map(String::as_str).chain(optional) {
            let stands = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            assert!(key == "policies" || EXAMPLE.lines().any(stands), "{key} is missing in the example");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = "poll-ms = 3\nmax-moves = 0\npolicy = \"best\"\n[policies.cost]\nsample = 0\n";
        let problems = Config::parse(text).unwrap().check(&Registry::stock()).err().unwrap();
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems.contains(&"poll-ms = 3: must be 100 to 60000".to_owned()));
        assert!(problems.iter().any(|problem| problem.starts_with("unknown policy 'best'; there are: cost")));
    }

    #[test]
    fn a_key_that_does_not_exist_is_refused_with_its_line() {
        let message = Config::parse("policy = \"cost\"\npoll = 5\n").unwrap_err();
        assert!(message.starts_with("line 2: unknown field `poll`"), "{message}");
    }

    #[test]
    fn what_is_printed_is_read_back_as_the_same() {
        let config = Config { address: Some(IpAddr::from([10, 77, 0, 1])), ..Config::default() };
        assert_eq!(Config::parse(&toml::to_string(&config).unwrap()).unwrap(), config);
    }
}
