//! One process's om directory.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::{OmError, ParseError};
use super::mode::MoveRequest;
use super::place::{Destination, MoveResult, Where, parse_address};
use super::root::{OmRoot, read_flag, read_text, write_text};
use super::stat::JobStat;

/// A process that has an om directory, or had one when it was named; nothing is opened before a method asks.
#[derive(Clone, Debug)]
pub struct OmProcess<'a> {
    root: &'a OmRoot,
    pid: u32,
}

/// How a request stands; see [`OmProcess::progress`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The process is where it was to go.
    Arrived,
    /// It waits for its move, or is in transit.
    UnderWay,
    /// It is somewhere else, and nothing moves it: why, as far as `stay` and `result` tell.
    Idle {
        /// What `stay` says.
        stay_reasons: Vec<String>,
        /// Why the last move failed, if it did.
        failure: Option<String>,
    },
}

impl<'a> OmProcess<'a> {
    pub(super) fn new(root: &'a OmRoot, pid: u32) -> Self {
        Self { root, pid }
    }

    /// The pid; at home the deputy's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where the process is.
    ///
    /// # Errors
    /// As every accessor: [`OmError`] tells.
    pub fn where_is(&self) -> Result<Where, OmError> {
        self.parsed("where")
    }

    /// Asks for a move. Success means that the request is registered, not that it will be granted:
    /// [`Self::progress`] tells how it goes on.
    ///
    /// # Errors
    /// A refusal because of a stay reason, or of the job's bounds, carries what the files said right after it.
    pub fn request(&self, request: impl Into<MoveRequest>) -> Result<(), OmError> {
        let request = request.into();
        let text = request.to_string();
        write_text(&self.file("where"), &text).map_err(|error| match self.lifted(error) {
            OmError::Stays { path, .. } => OmError::Stays { path, reasons: self.why_not(request.to) },
            // Say it as the user did.
            OmError::Invalid { path, .. } => OmError::Invalid { path, text: request.to.to_string() },
            OmError::NoSuchNode { path, .. } => OmError::NoSuchNode { path, text: request.to.to_string() },
            other => other,
        })
    }

    /// What speaks against a move, as far as the files tell.
    fn why_not(&self, destination: Destination) -> Vec<String> {
        let mut reasons = self.stay_reasons().unwrap_or_default();
        if let (Destination::Node(node), Ok(home), Ok(stat)) = (destination, self.home(), self.stat())
            && let Err(reason) = stat.bounds.check(node, home)
            && !stat.bounds.stay
        {
            reasons.push(reason.to_string());
        }
        reasons
    }

    /// How the wish to have the process at `wanted` stands at this moment.
    ///
    /// # Errors
    /// As every accessor.
    pub fn progress(&self, wanted: Destination) -> Result<Progress, OmError> {
        let arrived = match (self.where_is()?, wanted) {
            (Where::Queued | Where::Migrating, _) => return Ok(Progress::UnderWay),
            (Where::Home, Destination::Home) => true,
            (Where::At(here), Destination::Node(there)) => here == there,
            _ => false,
        };
        if arrived {
            return Ok(Progress::Arrived);
        }
        let failure = match self.result()? {
            Some(MoveResult::Failed { reason, .. }) => Some(reason),
            _ => None,
        };
        Ok(Progress::Idle { stay_reasons: self.stay_reasons()?, failure })
    }

    /// Why the process cannot move, one word or short phrase each, as the kernel or `om-migd` has them
    /// (`mem_lock`, `direct_io`, …); empty if it can.
    ///
    /// # Errors
    /// As every accessor.
    pub fn stay_reasons(&self) -> Result<Vec<String>, OmError> {
        let text = self.text("stay")?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// Whether its owner has pinned it. The 2.6 kernels had no pin: false there.
    ///
    /// # Errors
    /// As every accessor.
    pub fn locked(&self) -> Result<bool, OmError> {
        match read_flag(&self.file("lock")).map_err(|error| self.lifted(error)) {
            Err(OmError::Unsupported { .. }) => Ok(false),
            other => other,
        }
    }

    /// Pins the process where it is, or lets it go.
    ///
    /// # Errors
    /// As every accessor; [`OmError::Unsupported`] on a kernel without a pin.
    pub fn set_locked(&self, locked: bool) -> Result<(), OmError> {
        write_text(&self.file("lock"), if locked { "1" } else { "0" }).map_err(|error| self.lifted(error))
    }

    /// How often the process has moved.
    ///
    /// # Errors
    /// As every accessor.
    pub fn nmigs(&self) -> Result<u64, OmError> {
        self.with("nmigs", |text| text.trim().parse().map_err(|_| ParseError::new("a number of moves", text)))
    }

    /// The address of the node where the process was started.
    ///
    /// # Errors
    /// As every accessor.
    pub fn home(&self) -> Result<IpAddr, OmError> {
        self.with("home", |text| {
            parse_address(text.trim()).ok_or_else(|| ParseError::new("the address of a home", text))
        })
    }

    /// What a scheduler needs to know of the job.
    ///
    /// # Errors
    /// As every accessor.
    pub fn stat(&self) -> Result<JobStat, OmError> {
        self.parsed("stat")
    }

    /// How the last move went; `None` if there was none, or on a kernel that does not tell.
    ///
    /// # Errors
    /// As every accessor.
    pub fn result(&self) -> Result<Option<MoveResult>, OmError> {
        let text = match self.text("result") {
            Err(OmError::Unsupported { .. }) => return Ok(None),
            other => other?,
        };
        if text.trim().is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|source| OmError::Unparseable { path: self.file("result"), source })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.process_dir(self.pid).join(name)
    }

    fn text(&self, name: &str) -> Result<String, OmError> {
        read_text(&self.file(name)).map_err(|error| self.lifted(error))
    }

    fn parsed<T: FromStr<Err = ParseError>>(&self, name: &str) -> Result<T, OmError> {
        self.with(name, str::parse)
    }

    fn with<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, ParseError>) -> Result<T, OmError> {
        let text = self.text(name)?;
        parse(&text).map_err(|source| OmError::Unparseable { path: self.file(name), source })
    }

    /// A file that is missing may mean three things: that file, the process, or whoever serves them all.
    fn lifted(&self, error: OmError) -> OmError {
        match error {
            OmError::Gone { path } if self.root.process_dir(self.pid).is_dir() => {
                OmError::Unsupported { path }
            }
            OmError::Gone { path } if !self.root.is_served() => OmError::NoDaemon { path },
            other => other,
        }
    }
}
