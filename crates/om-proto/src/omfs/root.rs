//! The root of the om files, and the node's own switches below it.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::{OmError, ParseError};
use super::process::OmProcess;
use crate::cpu::Baseline;
use crate::ports;

/// More than any om file holds; a command line is the longest thing in them.
const FILE_LIMIT: u64 = 4 << 20;

/// Where the om files are on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OmRoot {
    path: PathBuf,
    /// `om`, or `pms` as the later kernels call it.
    dir_name: &'static str,
}

/// The node's switches, as the 2.4 kernels had them in `/proc/hpc/admin`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// Takes no guests.
    pub block: bool,
    /// Keeps its own processes here.
    pub stay: bool,
    /// Sends guests away.
    pub expel: bool,
    /// Calls its own processes home.
    pub bring: bool,
}

/// One of the node's switches; see [`Admin`] for what each does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Takes no guests.
    Block,
    /// Keeps its own processes here.
    Stay,
    /// Sends guests away.
    Expel,
    /// Calls its own processes home.
    Bring,
    /// All four, and forgotten with the daemon that serves it: the node is about to leave.
    Drain,
}

impl Switch {
    /// All that the 2.4 kernels had.
    pub const ALL: [Self; 4] = [Self::Block, Self::Stay, Self::Expel, Self::Bring];

    /// Its file's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Stay => "stay",
            Self::Expel => "expel",
            Self::Bring => "bring",
            Self::Drain => "drain",
        }
    }
}

impl OmRoot {
    /// The root to use: `explicit`, else `$OM_ROOT`, else `/proc` if this kernel has om files of its own, else
    /// where `om-migd` serves them. Whether anything is there is another question: [`Self::available`].
    #[must_use]
    pub fn discover(explicit: Option<&Path>) -> Self {
        let from_environment = env::var_os("OM_ROOT").filter(|value| !value.is_empty());
        Self::choose(explicit, from_environment.as_deref().map(Path::new), Path::new("/proc"))
    }

    fn choose(explicit: Option<&Path>, from_environment: Option<&Path>, proc: &Path) -> Self {
        let path = explicit.or(from_environment).unwrap_or_else(|| {
            let kernel_has_it = ["self/om", "self/pms"].iter().any(|dir| proc.join(dir).is_dir());
            if kernel_has_it { proc } else { Path::new(ports::OM_ROOT) }
        });
        let is_pms = path.join("self/pms").is_dir() && !path.join("self/om").is_dir();
        Self { path: path.to_owned(), dir_name: if is_pms { "pms" } else { "om" } }
    }

    /// The directory that holds a directory for each pid.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The processes that have om files, in ascending order.
    ///
    /// # Errors
    /// [`OmError::NoDaemon`] if the root is not there.
    pub fn pids(&self) -> Result<Vec<u32>, OmError> {
        let failed = |source| match OmError::from_read(&self.path, source) {
            OmError::Gone { path } => OmError::NoDaemon { path },
            other => other,
        };
        let mut pids = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(pid) = name.to_str().and_then(parse_pid) else { continue };
            if self.process_dir(pid).is_dir() {
                pids.push(pid);
            }
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// The om files of one process, which need not exist.
    #[must_use]
    pub fn process(&self, pid: u32) -> OmProcess<'_> {
        OmProcess::new(self, pid)
    }

    /// The node's switches.
    ///
    /// # Errors
    /// [`OmError::NoDaemon`] if nobody serves them.
    pub fn admin(&self) -> Result<Admin, OmError> {
        Ok(Admin {
            block: self.is_on(Switch::Block)?,
            stay: self.is_on(Switch::Stay)?,
            expel: self.is_on(Switch::Expel)?,
            bring: self.is_on(Switch::Bring)?,
        })
    }

    /// How one of the node's switches stands.
    ///
    /// # Errors
    /// [`OmError::NoDaemon`] if nobody serves it.
    pub fn is_on(&self, switch: Switch) -> Result<bool, OmError> {
        read_flag(&self.switch_file(switch)).map_err(switch_error)
    }

    /// Throws one of the node's switches.
    ///
    /// # Errors
    /// [`OmError::NoDaemon`] if nobody serves them, [`OmError::NotPermitted`] if the caller is not the node's
    /// administrator.
    pub fn set_admin(&self, switch: Switch, on: bool) -> Result<(), OmError> {
        write_text(&self.switch_file(switch), if on { "1" } else { "0" }).map_err(switch_error)
    }

    /// How many guests the node takes at most, from `hpc/admin/guest_limit`; `None` if there is no such file.
    ///
    /// # Errors
    /// If there is one and it cannot be read or holds no number.
    pub fn guest_limit(&self) -> Result<Option<u32>, OmError> {
        self.value("guest_limit", "a number of guests")
    }

    /// Seconds that a node may take to leave, from `hpc/admin/stop_grace`; `None` if there is no such file.
    ///
    /// # Errors
    /// If there is one and it cannot be read or holds no number.
    pub fn stop_grace_s(&self) -> Result<Option<u32>, OmError> {
        self.value("stop_grace", "a number of seconds")
    }

    /// What jobs that are started here use of CPUs if their users do not say, from `hpc/admin/cpu_baseline`; `None` if there
    /// is no such file.
    ///
    /// # Errors
    /// If there is one and it cannot be read or holds no level.
    pub fn cpu_baseline(&self) -> Result<Option<Baseline>, OmError> {
        self.value("cpu_baseline", "a level of x86-64, or native")
    }

    fn value<T: FromStr>(&self, name: &str, what: &'static str) -> Result<Option<T>, OmError> {
        let path = self.path.join("hpc/admin").join(name);
        let text = match read_text(&path) {
            Err(OmError::Gone { .. }) => return Ok(None),
            other => other?,
        };
        let value = text
            .trim()
            .parse()
            .map_err(|_| OmError::Unparseable { path, source: ParseError::new(what, &text) })?;
        Ok(Some(value))
    }

    /// Whether a migration daemon serves this root now.
    #[must_use]
    pub fn available(&self) -> bool {
        read_flag(&self.switch_file(Switch::Block)).is_ok()
    }

    /// Whether there is anything at all under the root: a kernel's files need no daemon.
    pub(super) fn is_served(&self) -> bool {
        self.available() || self.path.join("self").exists()
    }

    pub(super) fn process_dir(&self, pid: u32) -> PathBuf {
        self.path.join(pid.to_string()).join(self.dir_name)
    }

    fn switch_file(&self, switch: Switch) -> PathBuf {
        self.path.join("hpc/admin").join(switch.name())
    }
}

fn switch_error(error: OmError) -> OmError {
    match error {
        OmError::Gone { path } => OmError::NoDaemon { path },
        other => other,
    }
}

/// A pid as the kernel prints it, so that no two names stand for one process.
fn parse_pid(name: &str) -> Option<u32> {
    let pid: u32 = name.parse().ok()?;
    (pid > 0 && name.starts_with(|c: char| ('1'..='9').contains(&c))).then_some(pid)
}

pub(super) fn read_text(path: &Path) -> Result<String, OmError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut bytes))
        .map_err(|source| OmError::from_read(path, source))?;
    String::from_utf8(bytes).map_err(|error| OmError::Unparseable {
        path: path.to_owned(),
        source: ParseError::new("UTF-8", &String::from_utf8_lossy(error.as_bytes())),
    })
}

pub(super) fn read_flag(path: &Path) -> Result<bool, OmError> {
    let text = read_text(path)?;
    match text.trim() {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(OmError::Unparseable { path: path.to_owned(), source: ParseError::new("0 or 1", &text) }),
    }
}

/// Writes `text` and one newline, in one call: the file takes a whole value or none.
pub(super) fn write_text(path: &Path, text: &str) -> Result<(), OmError> {
    let mut file =
        OpenOptions::new().write(true).open(path).map_err(|source| OmError::from_read(path, source))?;
    let line = format!("{text}\n");
    let written = file.write(line.as_bytes()).map_err(|source| OmError::from_write(path, text, source))?;
    if written == line.len() {
        Ok(())
    } else {
        let source = io::Error::new(io::ErrorKind::WriteZero, "the value was taken in part only");
        Err(OmError::Io { path: path.to_owned(), source })
    }
}
