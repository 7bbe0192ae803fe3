//! What a move costs: C = C0 + memory / bandwidth, both learned from the moves that finished here.
//!
//! A line through the observations by weighted least squares, where each observation fades as new ones come. Two
//! invented ones, a job without memory and one of 128 MiB, stand for the configured first guess. They weigh little and
//! never fade: they define the line before anything was learned, and keep its slope sane when all jobs are of
//! one size.

use std::time::Duration;

use serde::Serialize;

const GIB: f64 = 1_073_741_824.0;
/// What an observation still weighs after the next one.
const FADE: f64 = 0.9;
/// What each of the two invented observations weighs; the real ones together weigh up to 1 / (1 − FADE).
const GUESS_WEIGHT: f64 = 0.02;
/// C0 is never less than this, seconds.
const LEAST_FIXED_S: f64 = 0.005;
/// Memory of the second invented observation, GiB.
const GUESS_GIB: f64 = 0.125;

/// Weighted sums of a fit. Memory is counted in GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Sums {
    fn add(&mut self, weight: f64, x: f64, y: f64) {
        self.weight += weight;
        self.x += weight * x;
        self.y += weight * y;
        self.xx += weight * x * x;
        self.xy += weight * x * y;
    }

    fn fade(&mut self) {
        for sum in [&mut self.weight, &mut self.x, &mut self.y, &mut self.xx, &mut self.xy] {
            *sum *= FADE;
        }
    }
}

/// What moves have taught.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    seen: Sums,
    fixed_s: f64,
    bytes_per_s: f64,
    learned: u64,
}

/// The line as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PriceLine {
    /// C0: seconds that a move of no memory takes.
    pub fixed_s: f64,
    /// Bytes that a second carries.
    pub bytes_per_s: f64,
    /// Moves that this was learned from.
    pub learned: u64,
}

impl Price {
    /// A first guess: `fixed` for a job without memory, and `bytes_per_s` for the memory.
    #[must_use]
    pub fn new(fixed: Duration, bytes_per_s: f64) -> Self {
        let bytes_per_s = bytes_per_s.max(1.0);
        Self { seen: Sums::default(), fixed_s: fixed.as_secs_f64(), bytes_per_s, learned: 0 }
    }

    /// Learns from a move that carried `rss_bytes` and took `took`.
    pub fn learn(&mut self, rss_bytes: u64, took: Duration) {
        self.seen.fade();
        self.seen.add(1.0, rss_bytes as f64 / GIB, took.as_secs_f64());
        self.learned += 1;
    }

    /// The line. A slope or an offset that makes no sense is cut to the nearest that does.
    #[must_use]
    pub fn line(&self) -> PriceLine {
        let mut sums = self.seen;
        sums.add(GUESS_WEIGHT, 0.0, self.fixed_s);
        sums.add(GUESS_WEIGHT, GUESS_GIB, self.fixed_s + GUESS_GIB * GIB / self.bytes_per_s);
        let (slowest, fastest) = (GIB / 1e6, GIB / 1e10);
        let slope = (sums.weight * sums.xy - sums.x * sums.y) / (sums.weight * sums.xx - sums.x * sums.x);
        let slope = slope.clamp(fastest, slowest);
        let fixed_s = (sums.y - slope * sums.x) / sums.weight;
        // A line that starts below the least C0 is fitted again as one that starts there.
        let slope = if fixed_s < LEAST_FIXED_S {
            ((sums.xy - LEAST_FIXED_S * sums.x) / sums.xx).clamp(fastest, slowest)
        } else {
            slope
        };
        let fixed_s = fixed_s.clamp(LEAST_FIXED_S, 60.0);
        PriceLine { fixed_s, bytes_per_s: GIB / slope, learned: self.learned }
    }

    /// C: seconds that a move of `rss_bytes` will take.
    #[must_use]
    pub fn of(&self, rss_bytes: u64) -> f64 {
        let line = self.line();
        line.fixed_s + rss_bytes as f64 / line.bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess() -> Price {
        Price::new(Duration::from_millis(200), 117e6)
    }

    #[test]
    fn the_first_guess_is_what_was_configured() {
        let line = guess().line();
        assert!((line.fixed_s - 0.2).abs() < 1e-9);
        assert!((line.bytes_per_s / 117e6 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn finished_moves_replace_the_guess() {
        let mut price = guess();
        for turn in 0..60u64 {
            let mib = 1 + (turn * 37) % 256;
            price.learn(mib << 20, Duration::from_secs_f64(0.05 + mib as f64 / 1000.0));
        }
        let line = price.line();
        assert!((line.fixed_s - 0.05).abs() < 0.03, "{line:?}");
        assert!((line.bytes_per_s / 1_048_576e3 - 1.0).abs() < 0.25, "{line:?}");
    }

    #[test]
    fn noisy_moves_of_one_size_leave_the_slope_sane() {
        let mut price = guess();
        for turn in 0..500u64 {
            price.learn((30 << 20) + (turn % 3) * 4096, Duration::from_millis(60 + (turn * 7919) % 40));
        }
        assert!((price.of(30 << 20) - 0.08).abs() < 0.03, "{:?}", price.line());
        assert!((0.5..60.0).contains(&price.of(1 << 30)), "{:?}", price.line());
        assert!(price.of(0) > 0.0);
    }
}
