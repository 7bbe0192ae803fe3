//! Which datagrams of a sender are news: those with a greater `(epoch, sequence)` than any before.
//!
//! No clocks are compared between nodes. A sender takes as its epoch something that grows from one start to the
//! next, and counts its datagrams in the sequence. A datagram that reaches a listener twice, over IPv4 and IPv6 or
//! through two networks, is news once.

/// The newest that was accepted of one sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Freshness {
    /// The sender's epoch.
    pub epoch: u64,
    /// The sequence within it.
    pub sequence: u64,
}

impl Freshness {
    /// Whether this is newer than what was accepted.
    #[must_use]
    pub fn is_news(&self, epoch: u64, sequence: u64) -> bool {
        Self { epoch, sequence } > *self
    }

    /// Accepts this if it is newer; whether it was.
    pub fn accept(&mut self, epoch: u64, sequence: u64) -> bool {
        let news = self.is_news(epoch, sequence);
        if news {
            *self = Self { epoch, sequence };
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_accepted_twice_and_nothing_older_ever(steps in prop::collection::vec((0u64..4, 0u64..6), 0..40)) {
            let mut freshness = Freshness::default();
            let mut newest = (0, 0);
            for (epoch, sequence) in steps {
                prop_assert_eq!(freshness.accept(epoch, sequence), (epoch, sequence) > newest);
                newest = newest.max((epoch, sequence));
                prop_assert!(!freshness.is_news(epoch, sequence));
            }
        }
    }

    #[test]
    fn a_restarted_sender_counts_from_the_beginning() {
        let mut freshness = Freshness { epoch: 5, sequence: 1_000_000 };
        assert!(freshness.accept(6, 1));
        assert!(!freshness.accept(5, 2_000_000));
    }
}
