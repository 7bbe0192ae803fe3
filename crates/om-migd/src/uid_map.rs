//! Whose jobs may come as guests: the key `uid-map`.
//!
//! A guest has on this node the user id that it has at home, because that is in its memory images and in every file that
//! it asks home for. (Another one would take a user namespace, which CRIU cannot make in a job's root.) So the map says of
//! each user id whether it means the same person here, `same`, or must not come, `refuse`. The first rule that a user id
//! is in decides; one that is in none is refused.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The rules, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct UidMap(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    uids: RangeInclusive<u32>,
    same: bool,
}

impl UidMap {
    /// Whether a user id is the same person's here as at home.
    #[must_use]
    pub fn is_same(&self, uid: u32) -> bool {
        self.0.iter().find(|rule| rule.uids.contains(&uid)).is_some_and(|rule| rule.same)
    }
}

impl Default for UidMap {
    fn default() -> Self {
        Self(vec![Rule { uids: 0..=u32::MAX, same: true }])
    }
}

impl TryFrom<Vec<String>> for UidMap {
    type Error = String;

    fn try_from(rules: Vec<String>) -> Result<Self, String> {
        rules.iter().map(|rule| rule.parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl From<UidMap> for Vec<String> {
    fn from(map: UidMap) -> Self {
        map.0.iter().map(ToString::to_string).collect()
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("uid-map: {text:?} is no rule such as \"1000-1999 = same\" or \"* = refuse\"");
        let (uids, what) = text.split_once('=').ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse().map_err(|_| wrong());
        let uids = match uids.trim().split_once('-') {
            None if uids.trim() == "*" => 0..=u32::MAX,
            None => number(uids)?..=number(uids)?,
            Some((from, to)) => number(from)?..=number(to)?,
        };
        let same = match what.trim() {
            "same" => true,
            "refuse" => false,
            other if other.starts_with(['+', '-']) || other.parse::<u32>().is_ok() => {
                return Err(format!(
                    "uid-map: {text:?}: a guest keeps the user id that it has at home, or is refused"
                ));
            }
            _ => return Err(wrong()),
        };
        if uids.is_empty() { Err(wrong()) } else { Ok(Self { uids, same }) }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.same { "same" } else { "refuse" };
        match (*self.uids.start(), *self.uids.end()) {
            (0, u32::MAX) => write!(f, "* = {what}"),
            (from, to) if from == to => write!(f, "{from} = {what}"),
            (from, to) => write!(f, "{from}-{to} = {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rules: &[&str]) -> Result<UidMap, String> {
        UidMap::try_from(rules.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_rule_decides_and_none_refuses() {
        let map = map(&["1005 = refuse", "1000-1999=same", " 3000 - 3999 = same"]).unwrap();
        for (uid, same) in
            [(999, false), (1000, true), (1005, false), (1999, true), (2000, false), (3999, true)]
        {
            assert_eq!(map.is_same(uid), same, "{uid}");
        }
        assert!(UidMap::default().is_same(1000));
        assert!(!UidMap(Vec::new()).is_same(1000));
    }

    #[test]
    fn rules_are_written_as_they_are_read() {
        let rules = ["1005 = refuse", "1000-1999 = same", "* = refuse"];
        assert_eq!(Vec::from(map(&rules).unwrap()), rules);
    }

    #[test]
    fn what_is_no_rule_is_refused_and_another_user_id_with_a_reason() {
        for rule in ["", "same", "x = same", "5-3 = same", "1-2-3 = same", "1 = you", "* same", "-1 = same"] {
            assert!(map(&[rule]).unwrap_err().contains("is no rule"), "{rule}");
        }
        for rule in ["2000-2999 = +98000", "1000 = 100000"] {
            assert!(map(&[rule]).unwrap_err().contains("keeps the user id"), "{rule}");
        }
    }
}
