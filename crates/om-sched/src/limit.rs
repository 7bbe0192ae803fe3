//! Keeps what strangers can cause from filling the log.

use std::time::Duration;

use crate::Time;

/// How long a window lasts.
const WINDOW: Duration = Duration::from_secs(10);

/// So many lines in a window, and a count of those left out.
#[derive(Clone, Copy, Debug)]
pub struct LogLimit {
    lines: u32,
    since: Time,
    said: u32,
    left_out: u32,
}

impl LogLimit {
    /// Lets `lines` through every ten seconds.
    #[must_use]
    pub fn new(lines: u32) -> Self {
        Self { lines, since: Time::ZERO, said: 0, left_out: 0 }
    }

    /// Whether a line may be logged now; and, once after each window in which some were not, how many those were.
    pub fn ask(&mut self, now: Time) -> (bool, Option<u32>) {
        let mut left_out = None;
        if now.saturating_sub(self.since) >= WINDOW {
            left_out = Some(self.left_out).filter(|count| *count > 0);
            *self = Self { since: now, ..Self::new(self.lines) };
        }
        let may = self.said < self.lines;
        if may {
            self.said += 1;
        } else {
            self.left_out += 1;
        }
        (may, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_few_lines_and_a_number() {
        let mut limit = LogLimit::new(3);
        let at = Duration::from_millis;
        let said = (0..1000).filter(|turn| limit.ask(at(*turn)).0).count();
        assert_eq!(said, 3);
        assert_eq!(limit.ask(at(10_000)), (true, Some(997)));
        assert_eq!(limit.ask(at(10_001)), (true, None));
    }
}
