//! Signals on their way to a job that is away from home: each arrives once, also if the link breaks.
//!
//! Where the job is its keeper counts those that it has given to the job, and tells home after each and over each new link.
//! Home keeps what it has sent until it is counted, and sends the rest again over a new link, or to the next node that has the
//! job. A keeper that has frozen the job for a move counts none: they might come after the dump, and be lost with the copy.

use std::collections::VecDeque;

use crate::net::message::{FromHome, ToHome};

use super::run::{Keeper, Side};

/// Home's side.
#[derive(Debug, Default)]
pub struct Signals {
    /// What was sent and is not counted yet, the oldest first.
    sent: VecDeque<FromHome>,
    /// How many the node that has the job has counted.
    counted: u64,
    /// There is a new link, over which no count has come.
    relinked: bool,
}

impl Signals {
    /// Takes note of one that is to be sent; whether that is to be done now.
    pub fn note(&mut self, signal: FromHome) -> bool {
        self.sent.push_back(signal);
        !self.relinked
    }

    /// There is a new link to the node that has the job.
    pub fn relink(&mut self) {
        self.relinked = true;
    }

    /// That node has told its count. Returns what has to be sent now.
    pub fn count(&mut self, count: u64) -> Vec<FromHome> {
        let news = usize::try_from(count.saturating_sub(self.counted)).unwrap_or(usize::MAX);
        self.sent.drain(..news.min(self.sent.len()));
        self.counted = self.counted.max(count);
        let again = std::mem::take(&mut self.relinked);
        self.sent.iter().filter(|_| again).cloned().collect()
    }

    /// Another node has the job now. Returns what the old one has not counted.
    pub fn take_back(&mut self) -> Vec<FromHome> {
        std::mem::take(self).sent.into()
    }
}

impl Keeper {
    /// On a guest's node: gives the job a signal, unless it is about to leave.
    pub(super) fn take_signal(&mut self, signal: FromHome) {
        if self.source.state().is_frozen() {
            return self.held_signals.push(signal);
        }
        self.obey(&signal);
        self.signals_taken += 1;
        self.tell_signals_taken();
    }

    pub(super) fn tell_signals_taken(&self) {
        if let Side::Guest(guest) = &self.side {
            guest.tell_home(&ToHome::SignalsTaken(self.signals_taken));
        }
    }

    /// The job does not leave.
    pub(super) fn take_held_signals(&mut self) {
        for signal in std::mem::take(&mut self.held_signals) {
            self.take_signal(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use om_proto::control::Audience;

    use super::*;

    fn signal(number: i32) -> FromHome {
        FromHome::Signal(number, Audience::Command)
    }

    #[test]
    fn what_was_sent_over_a_link_that_broke_is_sent_again_unless_it_was_counted() {
        let mut signals = Signals::default();
        assert!(signals.note(signal(1)) && signals.note(signal(2)) && signals.note(signal(3)));
        assert_eq!(signals.count(1), []);
        signals.relink();
        assert!(!signals.note(signal(4)), "the count comes first");
        // The second had arrived, its count had not.
        assert_eq!(signals.count(2), [signal(3), signal(4)]);
        assert!(signals.note(signal(5)));
        assert_eq!(signals.count(5), []);
        signals.relink();
        assert_eq!(signals.count(5), []);
    }

    #[test]
    fn another_node_counts_anew_and_gets_what_the_old_one_has_not_counted() {
        let mut signals = Signals::default();
        signals.note(signal(1));
        signals.note(signal(2));
        signals.count(1);
        assert_eq!(signals.take_back(), [signal(2)]);
        assert!(signals.note(signal(2)));
        assert_eq!(signals.count(1), []);
        signals.relink();
        assert_eq!(signals.count(1), []);
    }

    #[test]
    fn a_count_that_is_made_up_does_no_harm() {
        let mut signals = Signals::default();
        signals.note(signal(1));
        assert_eq!(signals.count(u64::MAX), []);
        assert_eq!(signals.count(0), []);
    }
}
