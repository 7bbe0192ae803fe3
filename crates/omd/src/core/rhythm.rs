//! How often what is told: the sections' rhythm, and a limit to answers.

use std::time::Duration;

/// Who a node is and what it can do is told about this often, if nothing of it changes.
const IDENTITY_EVERY: Duration = Duration::from_secs(10);
/// And at least every so many periods.
const IDENTITY_PERIODS: u32 = 10;
/// What seldom changes is told every so many periods.
const MACHINE_PERIODS: u32 = 30;

/// Which of the seldom sections the next report carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Identity and capacity.
    pub(super) identity: bool,
    /// The machine.
    pub(super) machine: bool,
}

/// Counts reports.
#[derive(Clone, Debug)]
pub(super) struct Rhythm {
    identity_every: u32,
    until_identity: u32,
    until_machine: u32,
}

impl Rhythm {
    pub(super) fn new(period: Duration) -> Self {
        let in_time = IDENTITY_EVERY.as_millis() / period.as_millis().max(1);
        let identity_every = u32::try_from(in_time).unwrap_or(u32::MAX).clamp(1, IDENTITY_PERIODS);
        Self { identity_every, until_identity: 0, until_machine: 0 }
    }

    /// The next report carries everything.
    pub(super) fn everything_soon(&mut self) {
        (self.until_identity, self.until_machine) = (0, 0);
    }

    /// What the report carries that is made now.
    pub(super) fn next(&mut self) -> Parts {
        let parts = Parts { identity: self.until_identity == 0, machine: self.until_machine == 0 };
        self.until_identity = self.until_identity.checked_sub(1).unwrap_or(self.identity_every - 1);
        self.until_machine = self.until_machine.checked_sub(1).unwrap_or(MACHINE_PERIODS - 1);
        parts
    }
}

/// How many questions are answered: a few at once, two a second in the long run. Questions that come while an
/// answer is on its way are answered by it.
#[derive(Clone, Debug)]
pub(super) struct AskBudget {
    tokens: u32,
    since: Duration,
}

impl AskBudget {
    const BURST: u32 = 8;
    const REFILL: Duration = Duration::from_millis(500);

    pub(super) fn new(now: Duration) -> Self {
        Self { tokens: Self::BURST, since: now }
    }

    /// Whether one more question may be answered.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        while self.tokens < Self::BURST && now.saturating_sub(self.since) >= Self::REFILL {
            self.tokens += 1;
            self.since += Self::REFILL;
        }
        if self.tokens == Self::BURST {
            self.since = now;
        }
        let may = self.tokens > 0;
        self.tokens -= u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_seldom_changes_is_told_seldom() {
        let mut rhythm = Rhythm::new(Duration::from_secs(1));
        let told: Vec<Parts> = (0..60).map(|_| rhythm.next()).collect();
        assert_eq!(told[0], Parts { identity: true, machine: true });
        assert_eq!(told.iter().filter(|parts| parts.identity).count(), 6);
        assert_eq!(told.iter().filter(|parts| parts.machine).count(), 2);
        rhythm.everything_soon();
        assert_eq!(rhythm.next(), Parts { identity: true, machine: true });
    }

    #[test]
    fn a_node_that_tells_once_a_minute_says_each_time_who_it_is() {
        let mut rhythm = Rhythm::new(Duration::from_secs(60));
        assert!((0..20).all(|_| rhythm.next().identity));
    }

    #[test]
    fn endless_questions_get_two_answers_a_second() {
        let mut budget = AskBudget::new(Duration::ZERO);
        let answered = (0..10_000).filter(|ms| budget.take(Duration::from_millis(*ms))).count();
        assert_eq!(answered, 8 + 19);
        assert!(budget.take(Duration::from_secs(3600)));
    }
}
