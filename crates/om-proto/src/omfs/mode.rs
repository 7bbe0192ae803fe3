//! How a job's memory comes along on a move, and a whole request to move: what may be written to `where`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ParseError;
use super::place::Destination;

/// How a job's memory comes along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As is best for its size: `copy` or `stream`.
    #[default]
    Auto,
    /// While the job stands still, first to the target, then into the restored processes.
    Copy,
    /// While the job stands still, straight into the restored processes.
    Stream,
    /// While the job runs on already: it stands still for the shortest time, and is lost if the node that it has left dies before
    /// all has come.
    Lazy,
}

/// A request to move: where to, and how if that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveRequest {
    /// Where to.
    pub to: Destination,
    /// How; none: as the node is configured.
    pub mode: Option<Mode>,
}

impl Mode {
    /// All of them.
    const ALL: [Self; 4] = [Self::Auto, Self::Copy, Self::Stream, Self::Lazy];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Copy => "copy",
            Self::Stream => "stream",
            Self::Lazy => "lazy",
        })
    }
}

impl FromStr for Mode {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = Self::ALL.into_iter().find(|mode| mode.to_string() == text);
        found.ok_or_else(|| ParseError::new("auto, copy, stream or lazy", text))
    }
}

impl fmt::Display for MoveRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to.to_kernel_text())?;
        self.mode.map_or(Ok(()), |mode| write!(f, " {mode}"))
    }
}

impl FromStr for MoveRequest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.strip_suffix('\n').unwrap_or(text).split_once(' ') {
            Some((to, mode)) => Ok(Self { to: to.parse()?, mode: Some(mode.parse()?) }),
            None => Ok(Self { to: text.parse()?, mode: None }),
        }
    }
}

impl From<Destination> for MoveRequest {
    fn from(to: Destination) -> Self {
        Self { to, mode: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_say_how() {
        let request: MoveRequest = "10.77.0.2 lazy\n".parse().unwrap();
        assert_eq!(request, MoveRequest { to: "10.77.0.2".parse().unwrap(), mode: Some(Mode::Lazy) });
        assert_eq!(request.to_string(), "10.77.0.2 lazy");
        assert_eq!("home\n".parse(), Ok(MoveRequest::from(Destination::Home)));
        assert_eq!("HOME copy".parse(), Ok(MoveRequest { to: Destination::Home, mode: Some(Mode::Copy) }));
    }

    #[test]
    fn what_is_no_way_to_move_is_refused() {
        for text in [
            "10.77.0.2 fast",
            "10.77.0.2 ",
            "10.77.0.2  lazy",
            "lazy",
            "lazy 10.77.0.2",
            "home lazy lazy",
            "",
        ] {
            assert!(text.parse::<MoveRequest>().is_err(), "{text:?}");
        }
    }
}
