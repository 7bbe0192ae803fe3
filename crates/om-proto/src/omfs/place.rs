//! Where a process is, where it shall go, and how its last move went: the one-line values of `where` and `result`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ParseError;
use super::text::{escape, unescape};

/// What reading `where` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Where {
    /// At home.
    Home,
    /// A move has been asked for and has not begun.
    Queued,
    /// Between two nodes.
    Migrating,
    /// Away, at this address; on the guest's node: the address of its home.
    At(IpAddr),
}

/// What may be written to `where`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Back to where it was started.
    Home,
    /// To the node with this address.
    Node(IpAddr),
}

/// What `result` says of the last move.
#[derive(Clone, Debug, PartialEq)]
pub enum MoveResult {
    /// It went through.
    Ok {
        /// Where the process went.
        to: IpAddr,
        /// Downtime in seconds: from the last instruction there to the first here.
        seconds: f64,
    },
    /// It did not; the process went on where it was.
    Failed {
        /// Where the process should have gone.
        to: IpAddr,
        /// Why it did not, in a few plain words.
        reason: String,
    },
}

impl Destination {
    /// The text to write, for kernels that know IPv6 in its full form of eight groups only. Newer readers
    /// understand it as well.
    #[must_use]
    pub fn to_kernel_text(&self) -> String {
        match self {
            Self::Node(IpAddr::V6(address)) => {
                address.segments().map(|group| format!("{group:04x}")).join(":")
            }
            other => other.to_string(),
        }
    }
}

impl From<IpAddr> for Destination {
    fn from(address: IpAddr) -> Self {
        Self::Node(address.to_canonical())
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.pad("home"),
            Self::Queued => f.pad("queued"),
            Self::Migrating => f.pad("migrating"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl FromStr for Where {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match one_line(text) {
            "queued" => Ok(Self::Queued),
            "migrating" => Ok(Self::Migrating),
            word if word.eq_ignore_ascii_case("home") => Ok(Self::Home),
            word => parse_address(word)
                .map(Self::At)
                .ok_or_else(|| ParseError::new("home, queued, migrating or an address", text)),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.pad("home"),
            Self::Node(address) => address.fmt(f),
        }
    }
}

impl FromStr for Destination {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match one_line(text) {
            word if word.eq_ignore_ascii_case("home") => Ok(Self::Home),
            word => parse_address(word)
                .map(Self::Node)
                .ok_or_else(|| ParseError::new("home or an IPv4 or IPv6 address", text)),
        }
    }
}

impl fmt::Display for MoveResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok { to, seconds } => write!(f, "ok {to} {seconds:.6}"),
            Self::Failed { to, reason } => write!(f, "failed {to} {}", escape(reason)),
        }
    }
}

impl FromStr for MoveResult {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse_result(one_line(text))
            .ok_or_else(|| ParseError::new("'ok ADDRESS SECONDS' or 'failed ADDRESS REASON'", text))
    }
}

fn parse_result(line: &str) -> Option<MoveResult> {
    let (verdict, rest) = line.split_once(' ')?;
    let (to, rest) = rest.split_once(' ')?;
    let to = parse_address(to)?;
    match verdict {
        "ok" => {
            let seconds = rest.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)?;
            Some(MoveResult::Ok { to, seconds })
        }
        "failed" => Some(MoveResult::Failed { to, reason: unescape(rest)? }),
        _ => None,
    }
}

/// `text` without the newline that may end it.
fn one_line(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

/// An address; one of IPv4 that is dressed up as IPv6 comes out as IPv4, so that each node has one name.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
            .prop_map(|address| address.to_canonical())
    }

    proptest! {
        #[test]
        fn a_place_printed_is_the_place_read(at in address(), newline in any::<bool>()) {
            let end = if newline { "\n" } else { "" };
            for place in [Where::Home, Where::Queued, Where::Migrating, Where::At(at)] {
                prop_assert_eq!(format!("{place}{end}").parse(), Ok(place));
            }
            for goal in [Destination::Home, Destination::Node(at)] {
                prop_assert_eq!(format!("{goal}{end}").parse(), Ok(goal));
                prop_assert_eq!(format!("{}{end}", goal.to_kernel_text()).parse(), Ok(goal));
            }
        }

        #[test]
        fn a_result_printed_is_the_result_read(to in address(), reason in ".*", millis in 0u32..10_000_000) {
            for result in [
                MoveResult::Ok { to, seconds: f64::from(millis) / 1e3 },
                MoveResult::Failed { to, reason },
            ] {
                prop_assert_eq!(result.to_string().parse(), Ok(result));
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>()) {
            let _ = text.parse::<Where>();
            let _ = text.parse::<Destination>();
            let _ = text.parse::<MoveResult>();
        }
    }

    #[test]
    fn home_is_understood_in_any_case_and_with_one_newline_at_most() {
        for text in ["home", "HOME", "Home\n"] {
            assert_eq!(text.parse(), Ok(Destination::Home), "{text:?}");
        }
        for text in
            ["", "\n", "home\n\n", " home", "home ", "10.0.0", "10.0.0.1 ", "10.0.0.1\r\n", "fe80::1%eth0"]
        {
            assert!(text.parse::<Destination>().is_err(), "{text:?}");
            assert!(text.parse::<Where>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_it_stands_for() {
        assert_eq!("::ffff:10.77.0.2".parse(), Ok(Destination::Node(IpAddr::from([10, 77, 0, 2]))));
    }

    #[test]
    fn ipv6_is_written_in_eight_groups() {
        let goal: Destination = "fd00::2".parse().unwrap();
        assert_eq!(goal.to_kernel_text(), "fd00:0000:0000:0000:0000:0000:0000:0002");
    }

    #[test]
    fn an_impossible_duration_is_refused() {
        for text in [
            "ok 10.0.0.1 -1",
            "ok 10.0.0.1 NaN",
            "ok 10.0.0.1 inf",
            "ok 10.0.0.1",
            "ok home 1",
            "maybe 10.0.0.1 1",
        ] {
            assert!(text.parse::<MoveResult>().is_err(), "{text:?}");
        }
    }
}
