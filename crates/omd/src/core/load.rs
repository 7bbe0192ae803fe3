//! One sample, and the loads that follow it smoothly.

use std::time::Duration;

use om_proto::report::{Capacity, Load, Memory, Migration};

/// What was read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What the node can do.
    pub capacity: Capacity,
    /// How busy it is; the smoothed loads are not filled in yet.
    pub load: Load,
    /// How much memory is left.
    pub memory: Memory,
    /// What its migration daemon says.
    pub migration: Option<Migration>,
}

/// The number of runnable tasks, smoothed both ways.
///
/// What others plan with goes up at once and down slowly: a node that has just become idle is not stampeded by
/// everybody who hears of it. What the node itself plans with goes up slowly and down at once, so that a short
/// burst sends nothing away. The asymmetry is MOSIX's own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Smoothed {
    exported: f64,
    own: f64,
    at: Option<Duration>,
}

impl Smoothed {
    /// Follows the sample's number of runnable tasks and fills in both loads. While that number is unknown both
    /// are, and what follows begins anew.
    pub(super) fn follow(&mut self, now: Duration, load: &mut Load, smoothing: Duration) {
        (load.exported_milli, load.smoothed_milli) = (None, None);
        let Some(runnable) = load.runnable.map(f64::from) else {
            self.at = None;
            return;
        };
        if let Some(before) = self.at {
            let seconds = now.saturating_sub(before).as_secs_f64();
            // The exponential's implicit Euler step: as good here, and the mathematics library, half a megabyte of
            // it, is not loaded for it.
            let weight = seconds / (seconds + smoothing.as_secs_f64().max(1e-3));
            let slowly = |from: f64| from + (runnable - from) * weight;
            self.exported = runnable.max(slowly(self.exported));
            self.own = runnable.min(slowly(self.own));
        } else {
            (self.exported, self.own) = (runnable, runnable);
        }
        self.at = Some(now);
        load.exported_milli = Some(milli(self.exported));
        load.smoothed_milli = Some(milli(self.own));
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from f64 saturates")]
fn milli(value: f64) -> u32 {
    (value * 1000.0 + 0.5) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(runnable: &[Option<u32>]) -> Vec<(Option<u32>, Option<u32>)> {
        let mut smoothed = Smoothed::default();
        let mut now = Duration::ZERO;
        let step = |count: &Option<u32>| {
            let mut load = Load {
                runnable: *count,
                exported_milli: None,
                smoothed_milli: None,
                busy_permille: None,
                steal_permille: None,
                psi_cpu_some_us: None,
                psi_memory_some_us: None,
                psi_io_some_us: None,
                processes: None,
            };
            smoothed.follow(now, &mut load, Duration::from_secs(2));
            now += Duration::from_secs(1);
            (load.exported_milli, load.smoothed_milli)
        };
        runnable.iter().map(step).collect()
    }

    #[test]
    fn the_exported_load_goes_up_at_once_and_down_slowly() {
        let exported: Vec<u32> = loads(&[Some(0), Some(4), Some(0), Some(0), Some(4)])
            .iter()
            .map(|both| both.0.unwrap())
            .collect();
        assert_eq!(exported, [0, 4000, 2667, 1778, 4000]);
    }

    #[test]
    fn the_nodes_own_load_goes_up_slowly_and_down_at_once() {
        let own: Vec<u32> =
            loads(&[Some(0), Some(4), Some(4), Some(1)]).iter().map(|both| both.1.unwrap()).collect();
        assert_eq!(own, [0, 1333, 2222, 1000]);
    }

    #[test]
    fn what_is_unknown_stays_unknown_and_leaves_nothing_behind() {
        let both = loads(&[Some(8), None, Some(1)]);
        assert_eq!(both[1], (None, None));
        assert_eq!(both[2], (Some(1000), Some(1000)));
    }

    #[test]
    fn an_idle_node_comes_down_to_nothing() {
        let mut counts = vec![Some(0); 40];
        counts[0] = Some(100);
        assert_eq!(loads(&counts).last(), Some(&(Some(0), Some(0))));
    }
}
