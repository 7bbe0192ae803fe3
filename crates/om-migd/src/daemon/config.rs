//! The configuration file, TOML. `Default` is the only home of the defaults.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use om_proto::cpu::Baseline;
use om_proto::omfs::Mode;
use serde::{Deserialize, Serialize};

use crate::confines::Limits;
use crate::uid_map::UidMap;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The address by which other nodes know this one; the first of the default route's interface if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// TCP port, the same on all nodes.
    pub port: u16,
    /// The cluster key.
    pub key_file: PathBuf,
    /// Where the om files are served.
    pub om_root: PathBuf,
    /// Sockets and state.
    pub run_dir: PathBuf,
    /// The CRIU program; looked for if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criu: Option<PathBuf>,
    /// The group whose members may move every process; the scheduler is in it.
    pub group: String,
    /// How many guests this node takes at most.
    pub guest_limit: u32,
    /// MiB of memory that all guests together may use; 0 for no limit.
    pub guest_memory_mib: u64,
    /// How many processes and threads all guests together may have; 0 for no limit.
    pub guest_tasks: u64,
    /// Weight of all guests together for the CPUs, at most 10000; what else this node does has 100. 0 for none: each is
    /// scheduled by itself.
    pub guest_cpu_weight: u64,
    /// How many jobs may be started here, wherever they run.
    pub job_limit: u32,
    /// How many of them may be one user's; root's do not count.
    pub user_job_limit: u32,
    /// The users who may start jobs, besides root; everybody if no user and no group is named.
    pub allow_users: Vec<String>,
    /// The groups whose members may start jobs.
    pub allow_groups: Vec<String>,
    /// The least user id of a guest.
    pub min_uid: u32,
    /// From this id on a guest has the groups here that it has at home.
    pub min_gid: u32,
    /// The groups below that it has here too; besides those that its user has on this node.
    pub guest_groups: Vec<String>,
    /// Whether root's jobs may come as guests.
    pub allow_root: bool,
    /// Which other user ids are the same person's here as at home.
    pub uid_map: UidMap,
    /// Seconds after which a silent node counts as dead: a guest whose home is silent ends, and so does `om run` of a job
    /// whose node is silent.
    pub grace_s: u64,
    /// Seconds that `om drain` may take to send guests away and call own jobs home.
    pub stop_grace_s: u32,
    /// How jobs move if nobody says: `auto`, `copy`, `stream` or `lazy`.
    pub mode: Mode,
    /// What jobs use of CPUs if `om run` does not say: `native`, or a level of x86-64.
    pub cpu_baseline: Baseline,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: None,
            port: om_proto::ports::MIGRATION_PORT,
            key_file: om_proto::ports::KEY_FILE.into(),
            om_root: om_proto::ports::OM_ROOT.into(),
            run_dir: om_proto::ports::RUN_DIR.into(),
            criu: None,
            group: "om".into(),
            guest_limit: 64,
            guest_memory_mib: 0,
            guest_tasks: 10_000,
            guest_cpu_weight: 25,
            job_limit: 1000,
            user_job_limit: 200,
            allow_users: Vec::new(),
            allow_groups: Vec::new(),
            min_uid: 1000,
            min_gid: 1000,
            guest_groups: vec!["users".into()],
            allow_root: false,
            uid_map: UidMap::default(),
            grace_s: 60,
            stop_grace_s: 80,
            mode: Mode::Auto,
            cpu_baseline: Baseline::Native,
        }
    }
}

/// Why a configuration cannot be used. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// The file is no TOML, or has a key or value that is not known.
    #[error("{0}: {1}")]
    Parse(PathBuf, String),
    /// Values that do not fit together, all of them.
    #[error("{0}: {1}")]
    Check(PathBuf, String),
}

impl Config {
    /// Reads and checks a file. A missing file means the defaults, unless it was named.
    pub fn load(path: &Path, named: bool) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => String::new(),
            Err(error) => return Err(Error::Read(path.to_owned(), error)),
        };
        Self::parse(&text, path)
    }

    /// Reads and checks a text; `path` is for errors only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = 1 + before.matches('\n').count();
            Error::Parse(path.to_owned(), format!("line {line}: {}", error.message().replace('\n', " ")))
        })?;
        let problems = config.problems();
        if problems.is_empty() { Ok(config) } else { Err(Error::Check(path.to_owned(), problems.join("; "))) }
    }

    /// What guests may use together.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let memory = (self.guest_memory_mib > 0).then(|| self.guest_memory_mib.saturating_mul(1 << 20));
        let tasks = (self.guest_tasks > 0).then_some(self.guest_tasks);
        let cpu_weight = (self.guest_cpu_weight > 0).then_some(self.guest_cpu_weight);
        Limits { memory, tasks, cpu_weight }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.port == 0 {
            problems.push("port must not be 0".to_owned());
        }
        if self.address.is_some_and(|address| address.is_unspecified() || address.is_multicast()) {
            problems.push("address must be one address of this node".to_owned());
        }
        for (key, path) in
            [("key-file", &self.key_file), ("om-root", &self.om_root), ("run-dir", &self.run_dir)]
        {
            if !path.is_absolute() {
                problems.push(format!("{key} must be an absolute path"));
            }
        }
        if self.guest_cpu_weight > 10_000 {
            problems.push("guest-cpu-weight must not be more than 10000".to_owned());
        }
        if !(5..=86_400).contains(&self.grace_s) {
            problems.push("grace-s must be between 5 and 86400".to_owned());
        }
        if !(1..=86_400).contains(&self.stop_grace_s) {
            problems.push("stop-grace-s must be between 1 and 86400".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Error> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("om-migd-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let result = Config::load(&path, true);
        std::fs::remove_file(path).unwrap();
        result
    }

    #[test]
    fn the_example_names_every_key_with_its_default() {
        let text = include_str!("../../../../examples/om-migd.toml");
        assert_eq!(parse(text).unwrap(), Config::default());
        let uncommented: String = text
            .lines()
            .map(|line| {
                line.strip_prefix("# ").filter(|l| l.contains(" = ")).unwrap_or(line).to_owned() + "\n"
            })
            .collect();
        let table: toml::Table = uncommented.parse().unwrap();
        let known = toml::Table::try_from(Config {
            address: Some([127, 0, 0, 1].into()),
            criu: Some("/x".into()),
            ..Config::default()
        });
        assert!(known.unwrap().keys().eq(table.keys()));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let error = parse("port = 0\nkey-file = \"key\"\n").unwrap_err().to_string();
        assert!(error.contains("port") && error.contains("key-file"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name() {
        assert!(parse("guest_limit = 3\n").unwrap_err().to_string().contains("guest_limit"));
    }
}
