//! Where a job may run: what its user said when it was started, the same on every node and for as long as it lives.
//!
//! A job may always come home, whatever its bounds: home is where it goes when it can be nowhere else. Whether it is
//! *wanted* at home is another question, which a scheduler asks.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most nodes that one list may name.
pub const MOST_NODES: usize = 64;

/// The nodes on which a job may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Only these nodes; none: all. At most [`MOST_NODES`].
    pub on: Vec<IpAddr>,
    /// Not these. At most [`MOST_NODES`].
    pub not_on: Vec<IpAddr>,
    /// Only its home.
    pub stay: bool,
}

/// Why a job may not run on a node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OutOfBounds {
    /// It never leaves home.
    #[error("its owner keeps it at home (om run --stay)")]
    Stays,
    /// The node is not among those that it may run on.
    #[error("its owner lets it run on {} only (om run --on)", list(.0, ", "))]
    NotAmong(Vec<IpAddr>),
    /// The node is one of those that it must not run on.
    #[error("its owner does not let it run on {0} (om run --not-on)")]
    Barred(IpAddr),
}

impl Bounds {
    /// Whether it may run anywhere.
    #[must_use]
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a job whose home is `home` may run on `node`. At home it always may.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, node: IpAddr, home: IpAddr) -> Result<(), OutOfBounds> {
        if node == home { Ok(()) } else { self.wants(node, home) }
    }

    /// Whether its user wants it on `node`; otherwise it is there, if it is its home, for want of another place.
    ///
    /// # Errors
    /// Why not.
    pub fn wants(&self, node: IpAddr, home: IpAddr) -> Result<(), OutOfBounds> {
        if self.stay && node != home {
            return Err(OutOfBounds::Stays);
        }
        if self.not_on.contains(&node) {
            return Err(OutOfBounds::Barred(node));
        }
        if !self.stay && !self.on.is_empty() && !self.on.contains(&node) {
            return Err(OutOfBounds::NotAmong(self.on.clone()));
        }
        Ok(())
    }

    /// Whether the lists are of a length that is carried around, and hold what can name a node.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn verify(&self) -> Result<(), String> {
        if self.on.len().max(self.not_on.len()) > MOST_NODES {
            return Err(format!("at most {MOST_NODES} nodes can be named"));
        }
        let odd = |node: &&IpAddr| node.is_unspecified() || node.is_multicast();
        match self.on.iter().chain(&self.not_on).find(odd) {
            Some(node) => Err(format!("{node} is no node's address")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Bounds {
    /// As people read it: `stays`, `on A B`, `not on C`; nothing if it may run anywhere.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stay {
            return f.write_str("stays");
        }
        if !self.on.is_empty() {
            write!(f, "on {}", list(&self.on, " "))?;
        }
        if !self.not_on.is_empty() {
            let gap = if self.on.is_empty() { "" } else { ", " };
            write!(f, "{gap}not on {}", list(&self.not_on, " "))?;
        }
        Ok(())
    }
}

pub(super) fn list(nodes: &[IpAddr], between: &str) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8) -> IpAddr {
        IpAddr::from([10, 77, 0, last])
    }

    fn bounds(on: &[u8], not_on: &[u8], stay: bool) -> Bounds {
        let nodes = |list: &[u8]| list.iter().map(|last| node(*last)).collect();
        Bounds { on: nodes(on), not_on: nodes(not_on), stay }
    }

    #[test]
    fn a_job_may_always_come_home_but_is_not_always_wanted_there() {
        for bounds in [bounds(&[2], &[], false), bounds(&[], &[1], false), bounds(&[], &[1], true)] {
            assert_eq!(bounds.check(node(1), node(1)), Ok(()));
            assert!(bounds.wants(node(1), node(1)).is_err());
        }
        assert_eq!(bounds(&[], &[], true).wants(node(1), node(1)), Ok(()));
    }

    #[test]
    fn each_list_bars_what_it_says_and_says_so() {
        let why = |bounds: Bounds, last| bounds.check(node(last), node(1)).unwrap_err().to_string();
        assert_eq!(why(bounds(&[], &[], true), 2), "its owner keeps it at home (om run --stay)");
        assert_eq!(
            why(bounds(&[2, 3], &[], false), 4),
            "its owner lets it run on 10.77.0.2, 10.77.0.3 only (om run --on)"
        );
        assert_eq!(
            why(bounds(&[2], &[2], false), 2),
            "its owner does not let it run on 10.77.0.2 (om run --not-on)"
        );
        assert_eq!(bounds(&[2, 3], &[4], false).check(node(3), node(1)), Ok(()));
        assert_eq!(bounds(&[], &[4], false).check(node(3), node(1)), Ok(()));
    }

    #[test]
    fn lists_without_end_and_addresses_of_no_node_are_refused() {
        assert!(bounds(&[2], &[3], false).verify().is_ok());
        let long = Bounds { on: vec![node(2); MOST_NODES + 1], ..Bounds::default() };
        assert_eq!(long.verify().unwrap_err(), "at most 64 nodes can be named");
        let odd = Bounds { not_on: vec![IpAddr::from([224, 0, 0, 1])], ..Bounds::default() };
        assert_eq!(odd.verify().unwrap_err(), "224.0.0.1 is no node's address");
    }
}
