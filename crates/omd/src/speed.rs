//! How fast one CPU of this node is: measured, because clock frequencies say little across CPU models.
//!
//! A fixed piece of work, half integer arithmetic with branches that cannot be foreseen, half reads and writes all
//! over a megabyte, is timed several times by the thread's own CPU time; the quickest counts, because everything
//! else that the machine does can only slow a run down. **1000 is a CPU that does it in 4 ms**; twice the number is
//! twice as fast.
//!
//! That takes less than 100 ms. At a node's first three starts it is done anew, and the best of the three results
//! stands ever after: the first start may have been a busy moment. Results are kept for each CPU model in the first
//! of these directories that can be written: `$CACHE_DIRECTORY` (systemd's), `/var/cache/om`,
//! `$XDG_CACHE_HOME/om`, `$XDG_RUNTIME_DIR/om`, `/run/om`. An administrator's `speed` in the configuration goes
//! before all of it.

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use om_proto::ports;

/// The time that stands for 1000.
const REFERENCE: Duration = Duration::from_millis(4);
/// How often the work is timed.
const ROUNDS: u32 = 20;
/// Steps of each half of the work. Part of what 1000 means: never change.
const INTEGER_STEPS: u32 = 350_000;
const MEMORY_STEPS: u32 = 350_000;
/// 64-bit words of memory that are worked on: one MiB.
const WORDS: usize = 1 << 17;
/// The work that cached results are of: another kernel gets another number.
const KERNEL_VERSION: u32 = 1;
const FILE: &str = "speed";
/// So many results are collected before the best is believed.
const ENOUGH: usize = 3;
/// What can be true of any CPU.
const PLAUSIBLE: std::ops::RangeInclusive<u32> = 10..=100_000;

/// Where a speed came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was measured now.
    Measured,
    /// It was measured earlier on this CPU model.
    Cached,
}

/// The speed of a CPU of this model: the best that was measured, now or earlier.
#[must_use]
pub fn find(cpu_model: &str, directories: &[PathBuf]) -> (u32, Source) {
    let known: Vec<u32> =
        directories.iter().flat_map(|directory| look_up(&directory.join(FILE), cpu_model)).collect();
    let best = known.iter().copied().max();
    if let Some(best) = best.filter(|_| known.len() >= ENOUGH) {
        return (best, Source::Cached);
    }
    let speed = measure();
    for directory in directories {
        if keep(directory, cpu_model, speed) {
            break;
        }
    }
    (best.map_or(speed, |best| best.max(speed)), Source::Measured)
}

/// The directories where speeds are kept, in the order in which they are tried.
#[must_use]
pub fn directories() -> Vec<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    [
        variable("CACHE_DIRECTORY"),
        Some(PathBuf::from("/var/cache/om")),
        variable("XDG_CACHE_HOME").map(|dir| dir.join("om")),
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("om")),
        Some(PathBuf::from(ports::RUN_DIR)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Measures the speed of the CPU that this runs on.
#[must_use]
pub fn measure() -> u32 {
    let mut memory = vec![1u64; WORDS];
    let quickest = (0..ROUNDS).map(|_| {
        let start = cpu_time();
        black_box(work(black_box(&mut memory)));
        cpu_time().saturating_sub(start)
    });
    let quickest = quickest.filter(|time| !time.is_zero()).min().unwrap_or(REFERENCE);
    // To the nearest 10: the last digit is noise.
    let speed = (REFERENCE.as_nanos() * 100 / quickest.as_nanos().max(1)) * 10;
    u32::try_from(speed).unwrap_or(u32::MAX).clamp(*PLAUSIBLE.start(), *PLAUSIBLE.end())
}

/// CPU time of this thread. Other programs that use the CPU meanwhile do not count.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn work(memory: &mut [u64]) -> u64 {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut sum = 0u64;
    for _ in 0..INTEGER_STEPS {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        sum = if x & 4 == 0 { sum.wrapping_mul(x | 1) } else { sum.rotate_left(5) ^ x };
    }
    let mask = memory.len() - 1;
    let mut at = 0;
    for _ in 0..MEMORY_STEPS {
        let word = memory[at];
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(word | 1);
        memory[at] = x;
        at = usize::try_from(x >> 40).unwrap_or(0) & mask;
    }
    sum ^ x
}

/// What was measured of this model. Each line of the file: version of the work, speed, CPU model.
fn look_up(file: &Path, cpu_model: &str) -> Vec<u32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let speed = |line: &str| {
        let mut fields = line.splitn(3, ' ');
        let version: u32 = fields.next()?.parse().ok()?;
        let speed: u32 = fields.next()?.parse().ok()?;
        let model = fields.next()?;
        (version == KERNEL_VERSION && model == cpu_model && PLAUSIBLE.contains(&speed)).then_some(speed)
    };
    text.lines().filter_map(speed).collect()
}

/// Adds a line; whether that could be done.
fn keep(directory: &Path, cpu_model: &str, speed: u32) -> bool {
    // Its parent must be there: nobody wants a cache in a place that does not exist. The run directory is made by
    // those who know what its mode must be.
    if directory != Path::new(ports::RUN_DIR) {
        let _ = fs::create_dir(directory);
    }
    let file = directory.join(FILE);
    let mut text = fs::read_to_string(&file).unwrap_or_default();
    text.push_str(&format!("{KERNEL_VERSION} {speed} {cpu_model}\n"));
    let new = directory.join(format!("{FILE}.new.{}", std::process::id()));
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &file));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_measured_three_times_and_the_best_stands() {
        let dir = tempfile::tempdir().unwrap();
        let cache = vec![dir.path().join("missing/om"), dir.path().join("om")];
        let measured: Vec<u32> = (0..3)
            .map(|_| {
                let (speed, source) = find("Imaginary 3000", &cache);
                assert!(source == Source::Measured && PLAUSIBLE.contains(&speed));
                speed
            })
            .collect();
        assert!(measured.is_sorted(), "{measured:?}");
        assert_eq!(find("Imaginary 4000", &cache).1, Source::Measured);
        assert_eq!(find("Imaginary 3000", &cache), (measured[2], Source::Cached));
    }

    #[test]
    fn a_damaged_cache_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        for text in ["", "1", "1 x M", "1 0 M", "1 4000000000 M", "0 900 M", "1 900 other", "\u{0}"] {
            fs::write(&file, text).unwrap();
            assert_eq!(look_up(&file, "M"), [], "{text:?}");
        }
        fs::write(&file, "junk\n1 900 M\n1 950 M\n").unwrap();
        assert_eq!(look_up(&file, "M"), [900, 950]);
    }

    #[test]
    fn with_nowhere_to_keep_it_the_speed_is_still_known() {
        assert_eq!(find("M", &[]).1, Source::Measured);
        assert_eq!(find("M", &[PathBuf::from("/proc/no/om")]).1, Source::Measured);
    }
}
