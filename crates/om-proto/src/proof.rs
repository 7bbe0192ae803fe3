//! How a sender proves that its epoch is the present one, and not one that somebody has recorded.
//!
//! ```text
//! listener                                        sender
//!   │◀──────────── a datagram of an unknown epoch ──│     dropped
//!   │── Challenge(nonce) ──────────────────────────▶│
//!   │◀──────────── its next datagram, Echo(nonce) ──│     the epoch is believed from now on
//! ```
//!
//! The nonce was never used before and cannot be guessed, and the answer is signed: so it was made after the question.
//! That is the challenge of RFC 8967 (MAC authentication for Babel), with one difference: questions within a tenth of a
//! second share their nonce, so that one question to everybody serves for a thousand answers. An answer proves an epoch
//! only if its nonce is younger than what was believed of the sender before.
//!
//! [`Proofs`] is pure: times are counted from any point the caller likes, randomness is the caller's seed. It holds at
//! most [`ASKED_LIMIT`] senders that are being asked.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::report::few;

/// Echoes that one datagram may carry.
pub const ECHO_LIMIT: usize = 32;
/// Senders that are being asked at once; more have to wait for their next datagram.
pub const ASKED_LIMIT: usize = 1024;
/// A sender is not asked again within this time, whatever comes in its name.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Questions within this time share a nonce.
const NONCE_SHARED: Duration = Duration::from_millis(100);
/// An answer that takes longer comes too late.
const NONCE_LASTS: Duration = Duration::from_secs(3);

/// A number that is used once.
pub type Nonce = [u8; 8];

/// Asks the receiver to prove that it is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// To be repeated in an [`Echo`].
    pub nonce: Nonce,
}

/// The nonces of those who have asked lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// At most [`ECHO_LIMIT`].
    #[serde(deserialize_with = "few::<_, _, ECHO_LIMIT>")]
    pub nonces: Vec<Nonce>,
}

/// The questions of one listener.
#[derive(Debug)]
pub struct Proofs {
    generator: Hmac<Sha256>,
    made: u64,
    /// Nonces whose answers may still come, and when each was first used; the oldest first.
    nonces: VecDeque<(Nonce, Duration)>,
    /// When each sender was asked last.
    asked: BTreeMap<IpAddr, Duration>,
    /// Those of them to whom the question has yet to be sent.
    due: VecDeque<IpAddr>,
}

impl Proofs {
    /// `seed` must come from the system's random generator: see [`crate::key::random`].
    #[must_use]
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            generator: Hmac::new_from_slice(&seed).expect("HMAC takes a key of any length"),
            made: 0,
            nonces: VecDeque::new(),
            asked: BTreeMap::new(),
            due: VecDeque::new(),
        }
    }

    /// What to put into a question to everybody.
    pub fn challenge(&mut self, now: Duration) -> Challenge {
        while self.nonces.front().is_some_and(|(_, at)| now.saturating_sub(*at) > NONCE_LASTS) {
            self.nonces.pop_front();
        }
        if let Some((nonce, at)) = self.nonces.back()
            && now.saturating_sub(*at) < NONCE_SHARED
        {
            return Challenge { nonce: *nonce };
        }
        self.made += 1;
        let mut generator = self.generator.clone();
        generator.update(&self.made.to_le_bytes());
        let mut nonce = Nonce::default();
        nonce.copy_from_slice(&generator.finalize().into_bytes()[..8]);
        self.nonces.push_back((nonce, now));
        Challenge { nonce }
    }

    /// The sender of a datagram has to prove its epoch; whether it will be asked now.
    pub fn demand(&mut self, now: Duration, sender: IpAddr) -> bool {
        if self.asked.len() >= ASKED_LIMIT {
            self.asked.retain(|_, at| now.saturating_sub(*at) < ASK_EVERY);
        }
        let may = match self.asked.get(&sender) {
            Some(at) => now.saturating_sub(*at) >= ASK_EVERY,
            None => self.asked.len() < ASKED_LIMIT,
        };
        if may {
            self.asked.insert(sender, now);
            self.due.push_back(sender);
        }
        may
    }

    /// The next sender to ask, and what.
    pub fn poll_question(&mut self, now: Duration) -> Option<(IpAddr, Challenge)> {
        let sender = self.due.pop_front()?;
        Some((sender, self.challenge(now)))
    }

    /// Whether an echo proves an epoch of a sender of whom another one has been believed since `believed`, if any has.
    #[must_use]
    pub fn are_in(&self, echo: &Echo, now: Duration, believed: Option<Duration>) -> bool {
        self.nonces.iter().any(|(nonce, at)| {
            now.saturating_sub(*at) <= NONCE_LASTS
                && believed.is_none_or(|believed| *at > believed)
                && echo.nonces.contains(nonce)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn node(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn echo(challenge: &Challenge) -> Echo {
        Echo { nonces: vec![[1; 8], challenge.nonce] }
    }

    #[test]
    fn an_answer_proves_an_epoch_for_a_short_while() {
        let mut proofs = Proofs::new([1; 32]);
        let challenge = proofs.challenge(ms(0));
        assert!(proofs.are_in(&echo(&challenge), ms(200), None));
        assert!(!proofs.are_in(&Echo::default(), ms(200), None));
        assert!(!proofs.are_in(&echo(&challenge), ms(3001), None));
        assert!(!Proofs::new([2; 32]).are_in(&echo(&challenge), ms(200), None));
    }

    #[test]
    fn an_answer_older_than_what_is_believed_proves_nothing() {
        let mut proofs = Proofs::new([1; 32]);
        let old = proofs.challenge(ms(0));
        assert!(!proofs.are_in(&echo(&old), ms(500), Some(ms(400))));
        let new = proofs.challenge(ms(450));
        assert!(proofs.are_in(&echo(&new), ms(500), Some(ms(400))));
    }

    #[test]
    fn no_nonce_comes_twice_but_for_questions_at_the_same_time() {
        let mut proofs = Proofs::new([1; 32]);
        let mut nonces: Vec<Nonce> = (0..100).map(|n| proofs.challenge(ms(n * 100)).nonce).collect();
        assert_eq!(proofs.challenge(ms(9950)).nonce, nonces[99]);
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 100);
        assert!(proofs.nonces.len() <= 31, "old ones are forgotten");
    }

    #[test]
    fn a_sender_is_asked_once_a_second_whatever_comes_in_its_name() {
        let mut proofs = Proofs::new([1; 32]);
        let asked = (0..10_000).filter(|now| proofs.demand(ms(*now), node(1))).count();
        assert_eq!(asked, 10);
        assert_eq!(std::iter::from_fn(|| proofs.poll_question(ms(10_000))).count(), 10);
    }

    #[test]
    fn invented_senders_take_bounded_memory_and_are_forgotten() {
        let mut proofs = Proofs::new([1; 32]);
        assert_eq!((0..10_000).filter(|number| proofs.demand(ms(0), node(*number))).count(), ASKED_LIMIT);
        while proofs.poll_question(ms(0)).is_some() {}
        assert!(proofs.demand(ms(1000), node(20_000)));
        assert_eq!((proofs.asked.len(), proofs.due.len()), (1, 1));
    }
}
