//! Randomness from a seed: enough to keep nodes from speaking all at once, and the same each time in a test.

use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood 2014): small, and good from any seed.
#[derive(Clone, Debug)]
pub(super) struct Jitter {
    state: u64,
}

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A time from 0 up to `limit`, evenly.
    pub(super) fn within(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(self.unit())
    }

    /// A time within a tenth of `middle` around it, evenly; `middle` on average.
    pub(super) fn around(&mut self, middle: Duration) -> Duration {
        middle.mul_f64(0.9 + 0.2 * self.unit())
    }

    /// A number from 0 up to 1.
    fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or_default();
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}
