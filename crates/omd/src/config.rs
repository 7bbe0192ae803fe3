//! What an administrator may set: `/etc/om/omd.toml`.
//!
//! Every key has a default, so that a node needs no file at all. `examples/omd.toml` lists them all.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use om_proto::net::Selection;
use om_proto::ports;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::core::Settings;

/// The configuration's file if no other is named.
pub const CONFIG_FILE: &str = "/etc/om/omd.toml";

/// The configuration. [`Default`] is the only home of the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Seconds between two reports, 0.1 to 60. Shorter: others see this node's load sooner, for more datagrams and
    /// CPU time. A node unheard for three periods is no target any more.
    pub period: f64,
    /// Seconds after which the smoothed loads have followed the greater part of a step, 0 to 60. Longer: fewer
    /// moves on short bursts, later ones on lasting changes.
    pub smoothing: f64,
    /// UDP port, the same on every node.
    pub port: u16,
    /// How the others are told.
    pub transport: Transport,
    /// With transport "peers": the addresses of the other nodes.
    pub peers: Vec<IpAddr>,
    /// Names of the network interfaces to use; none: all that are up.
    pub interfaces: Vec<String>,
    /// The address that names this node; "auto": that of the interface with the default route, else the first.
    pub address: Auto<IpAddr>,
    /// How fast a CPU is, 1000 being the reference; "auto": measured once for each CPU model.
    pub speed: Auto<u32>,
    /// The cluster key. No such file: datagrams go out unsigned.
    pub key_file: PathBuf,
    /// Where the om files are; "auto": $OM_ROOT, else /proc if this kernel has them, else /run/om/proc.
    pub om_root: Auto<PathBuf>,
}

/// How the others are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// To a group on each link; needs no configuration.
    Multicast,
    /// To everybody on each link, where multicast does not get through. IPv6 has no broadcast and stays multicast.
    Broadcast,
    /// To each of a list of addresses, through routers too.
    Peers,
}

/// A value, or "auto".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// The daemon finds it out.
    Auto,
    /// This one.
    Set(T),
}

/// Why a configuration cannot be used. The daemon does not start; a running one keeps the configuration it has.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file named on the command line, or one that exists, cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// It is no TOML, or has a key or a type that it should not have.
    #[error("{}: {}", path.display(), say(source))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: Box<toml::de::Error>,
    },
    /// Values that make no sense, all of them.
    #[error("{}: {}", path.display(), problems.join("; "))]
    Senseless {
        /// The file.
        path: PathBuf,
        /// One sentence each.
        problems: Vec<String>,
    },
}

/// A parser's message in one line, with the line of the file it is about.
fn say(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let place = lines.first().and_then(|line| line.strip_prefix("TOML parse error at "));
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    place.map_or(message.clone(), |place| format!("{place}: {message}"))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            period: 1.0,
            smoothing: 2.0,
            port: ports::INFO_PORT,
            transport: Transport::Multicast,
            peers: Vec::new(),
            interfaces: Vec::new(),
            address: Auto::Auto,
            speed: Auto::Auto,
            key_file: PathBuf::from(ports::KEY_FILE),
            om_root: Auto::Auto,
        }
    }
}

impl Config {
    /// Reads the named file, or the usual one, which need not exist.
    ///
    /// # Errors
    /// [`ConfigError`], with every problem that was found.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(CONFIG_FILE));
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
                return Ok(Self::default());
            }
            other => other.map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?,
        };
        Self::parse(&text, path)
    }

    /// Reads a configuration; `path` is for errors only.
    ///
    /// # Errors
    /// [`ConfigError`], with every problem that was found.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Malformed { path: path.to_owned(), source: Box::new(source) })?;
        let problems = config.check();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Senseless { path: path.to_owned(), problems })
        }
    }

    /// What makes no sense, one sentence each.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut must = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        must(
            (0.1..=60.0).contains(&self.period),
            format!("period = {}: must be 0.1 to 60 seconds", self.period),
        );
        must(
            (0.0..=60.0).contains(&self.smoothing),
            format!("smoothing = {}: must be 0 to 60 seconds", self.smoothing),
        );
        must(self.port != 0, "port = 0: must be a UDP port".to_owned());
        must(
            self.transport != Transport::Peers || !self.peers.is_empty(),
            "transport = \"peers\": needs addresses in peers".to_owned(),
        );
        must(
            self.transport == Transport::Peers || self.peers.is_empty(),
            "peers: is used with transport = \"peers\" only".to_owned(),
        );
        for peer in &self.peers {
            must(names_a_host(*peer), format!("peers: {peer} is no address of one host"));
        }
        for name in &self.interfaces {
            must(!name.is_empty(), "interfaces: an interface has no name".to_owned());
        }
        if let Auto::Set(address) = self.address {
            must(names_a_host(address), format!("address = \"{address}\": is no address of one host"));
        }
        if let Auto::Set(speed) = self.speed {
            must((1..=1_000_000).contains(&speed), format!("speed = {speed}: must be 1 to 1000000"));
        }
        problems
    }

    /// The core's share of the configuration.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            period: Duration::from_secs_f64(self.period),
            smoothing: Duration::from_secs_f64(self.smoothing),
        }
    }

    /// Which interfaces to use.
    #[must_use]
    pub fn selection(&self) -> Selection {
        if self.interfaces.is_empty() { Selection::All } else { Selection::Named(self.interfaces.clone()) }
    }

    /// The configuration as a file has it.
    ///
    /// # Errors
    /// None that could happen: every value has its form in TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

fn names_a_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::from([255; 4])
}

impl<T> Auto<T> {
    /// The value, if it is not "auto".
    pub fn set(&self) -> Option<&T> {
        match self {
            Self::Auto => None,
            Self::Set(value) => Some(value),
        }
    }
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Set(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AutoVisitor(std::marker::PhantomData))
    }
}

/// Takes a string or a number; both are read as the value's own text.
struct AutoVisitor<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for AutoVisitor<T> {
    type Value = Auto<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\" or a value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == "auto" {
            return Ok(Auto::Auto);
        }
        text.parse().map(Auto::Set).map_err(|error| E::custom(format!("'{text}': {error}")))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("omd.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse(""), Ok(Config::default()));
        assert!(Config::default().check().is_empty());
    }

    #[test]
    fn the_example_lists_every_key_with_its_default() {
        let example = include_str!("../../../examples/omd.toml");
        assert_eq!(parse(example), Ok(Config::default()));
        let example: toml::Table = example.parse().unwrap();
        let defaults: toml::Table = Config::default().to_toml().unwrap().parse().unwrap();
        assert_eq!(example, defaults);
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let config = Config {
            period: 0.5,
            transport: Transport::Peers,
            peers: vec![IpAddr::from([10, 0, 0, 1])],
            interfaces: vec!["eth0".to_owned()],
            address: Auto::Set("fd00::1".parse().unwrap()),
            speed: Auto::Set(1200),
            om_root: Auto::Set(PathBuf::from("/proc")),
            ..Config::default()
        };
        assert_eq!(parse(&config.to_toml().unwrap()), Ok(config));
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = parse("period = 0.01\nport = 0\nspeed = 0\ntransport = \"peers\"").unwrap_err();
        for key in ["period", "port", "speed", "peers"] {
            assert!(error.contains(key), "{error}");
        }
        assert!(!error.contains('\n'));
    }

    #[test]
    fn each_mistake_is_one_clear_line_with_its_place() {
        for (text, words) in [
            ("perod = 1", "line 1, column 1: unknown field `perod`"),
            ("\nport = 70000", "line 2"),
            ("address = \"mars\"", "'mars'"),
            ("speed = \"fast\"", "'fast'"),
            ("address = \"224.0.0.1\"", "no address of one host"),
            ("peers = [\"10.0.0.1\"]", "transport = \"peers\""),
            ("interfaces = [\"\"]", "no name"),
            ("period = nan", "must be 0.1 to 60"),
            ("transport = \"pigeon\"", "pigeon"),
            ("port", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
            assert!(error.starts_with("omd.toml: "), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_an_error_only_if_it_was_named() {
        assert!(matches!(
            Config::load(Some(Path::new("/nonexistent/omd.toml"))),
            Err(ConfigError::Unreadable { .. })
        ));
    }
}
