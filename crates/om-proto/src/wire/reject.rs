//! Why a datagram was dropped. Bad datagrams are counted, not reported one by one: anybody can send them.

use std::fmt;

use thiserror::Error;

/// The rule that a datagram broke. Nothing of the datagram was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Reject {
    /// Shorter than header and MAC.
    #[error("too short")]
    TooShort,
    /// Longer than any datagram of om.
    #[error("too long")]
    TooLong,
    /// Not one of om's.
    #[error("bad magic")]
    BadMagic,
    /// Of a version that this reader does not know.
    #[error("other version")]
    OtherVersion,
    /// Of a kind that this reader does not know.
    #[error("unknown kind")]
    UnknownKind,
    /// Signed by a key that this node does not have.
    #[error("unknown key")]
    UnknownKey,
    /// The MAC is not that of the bytes; or there is no key and yet a MAC.
    #[error("bad mac")]
    BadMac,
    /// The sections do not add up to the datagram's length.
    #[error("truncated section")]
    TruncatedSection,
    /// Not newer than what was heard of its sender: a copy that came another way, or a replay.
    #[error("not newer")]
    NotNewer,
    /// Of an epoch of its sender that has not proved to be the present one; the sender is being asked.
    #[error("unproven epoch")]
    UnprovenEpoch,
    /// Unsigned, from a sender whose datagrams are signed.
    #[error("unsigned from a signing sender")]
    Downgrade,
    /// The sender's address names no node.
    #[error("no node's address")]
    BadSender,
    /// The table is full of nodes that count for more.
    #[error("table full")]
    TableFull,
}

impl Reject {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 13] = [
        Self::TooShort,
        Self::TooLong,
        Self::BadMagic,
        Self::OtherVersion,
        Self::UnknownKind,
        Self::UnknownKey,
        Self::BadMac,
        Self::TruncatedSection,
        Self::NotNewer,
        Self::UnprovenEpoch,
        Self::Downgrade,
        Self::BadSender,
        Self::TableFull,
    ];
}

/// How often each rule was broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejects {
    counts: [u64; Reject::ALL.len()],
}

impl Rejects {
    /// Counts one.
    pub fn count(&mut self, reject: Reject) {
        self.counts[reject as usize] += 1;
    }

    /// How many were dropped for this reason.
    #[must_use]
    pub fn of(&self, reject: Reject) -> u64 {
        self.counts[reject as usize]
    }

    /// How many were dropped for being bad. A copy of a datagram that came another way as well is not bad, nor is the
    /// first one of a sender that has been started.
    #[must_use]
    pub fn bad(&self) -> u64 {
        self.counts.iter().sum::<u64>() - self.of(Reject::NotNewer) - self.of(Reject::UnprovenEpoch)
    }

    /// Each reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Reject, u64)> + '_ {
        Reject::ALL.into_iter().zip(self.counts)
    }
}

/// The reasons that occurred: `bad mac 3, too short 1`.
impl fmt::Display for Rejects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (reject, count) in self.iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{reject} {count}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let mut rejects = Rejects::default();
        assert_eq!(rejects.to_string(), "none");
        for (index, reject) in Reject::ALL.into_iter().enumerate() {
            assert_eq!(reject as usize, index);
            rejects.count(reject);
        }
        assert!(rejects.iter().all(|(_, count)| count == 1));
        rejects.count(Reject::BadMac);
        assert!(rejects.to_string().starts_with("too short 1, too long 1"));
        assert!(rejects.to_string().contains("bad mac 2"));
    }
}
