//! Simulated time: whole nanoseconds since the beginning, so that adding it up rounds nowhere.

use std::time::Duration;

/// A moment or a span, in nanoseconds.
pub type Nanos = u64;

/// As seconds, for formulas.
#[must_use]
pub fn seconds(time: Nanos) -> f64 {
    time as f64 * 1e-9
}

/// From seconds, rounded up, so that what takes time takes at least a nanosecond. What is not a time is 0.
#[must_use]
pub fn nanos(seconds: f64) -> Nanos {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from f64 saturates, and what is not a number becomes 0"
    )]
    let nanos = (seconds * 1e9).ceil() as Nanos;
    nanos
}

/// As the scheduler's core counts it.
#[must_use]
pub fn time(at: Nanos) -> om_sched::Time {
    Duration::from_nanos(at)
}
