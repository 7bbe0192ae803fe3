//! What share of the usable CPUs' time was busy, and what share the hypervisor stole, since the last sample.
//!
//! From the `cpuN` lines of `/proc/stat`, of the CPUs that this process may use: in a container or on a lab host
//! the others are somebody else's.

use std::collections::BTreeSet;
use std::path::Path;

use super::file::KeptFile;

/// Shares of the time since the last sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Busy, in thousandths.
    pub(super) busy_permille: u16,
    /// Stolen, in thousandths.
    pub(super) steal_permille: u16,
}

/// Clock ticks, summed over the usable CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    idle: u64,
    steal: u64,
}

/// Remembers the last sample.
#[derive(Debug)]
pub(super) struct CpuTimes {
    stat: KeptFile,
    /// The ticks that the last shares were measured from, and the CPUs they are of.
    before: Option<(Ticks, BTreeSet<usize>)>,
    shares: Option<Shares>,
}

/// Ticks come at 100 a second: over fewer a share says nothing, so the last one stands.
const MIN_TICKS: u64 = 20;

impl CpuTimes {
    pub(super) fn open(proc: &Path) -> Self {
        Self { stat: KeptFile::open(&proc.join("stat")), before: None, shares: None }
    }

    /// The shares since the last call; `None` at the first, and while the kernel does not tell.
    pub(super) fn read(&mut self, cpus: &BTreeSet<usize>) -> Option<Shares> {
        // The lines of interest come first; what follows them grows with the number of interrupts.
        let text = self.stat.read_while(|text| !text.windows(5).any(|line| line == b"\nintr"))?;
        let now = ticks(text, cpus)?;
        match &self.before {
            Some((before, of)) if of == cpus => {
                let shares = shares(*before, now);
                if shares.is_some() {
                    self.shares = shares;
                    self.before = Some((now, cpus.clone()));
                }
            }
            _ => {
                self.shares = None;
                self.before = Some((now, cpus.clone()));
            }
        }
        self.shares
    }
}

fn shares(before: Ticks, now: Ticks) -> Option<Shares> {
    // iowait, and with it idle, is known to run backwards at times.
    let busy = now.busy.saturating_sub(before.busy);
    let steal = now.steal.saturating_sub(before.steal);
    let all = busy + steal + now.idle.saturating_sub(before.idle);
    let permille = |part: u64| u16::try_from(part * 1000 / all).unwrap_or(1000);
    (all >= MIN_TICKS).then(|| Shares { busy_permille: permille(busy), steal_permille: permille(steal) })
}

/// Sums the lines `cpuN user nice system idle iowait irq softirq steal guest guest_nice` of the given CPUs. Guest
/// time is part of user time already.
fn ticks(text: &str, cpus: &BTreeSet<usize>) -> Option<Ticks> {
    let mut sum = Ticks::default();
    let mut found = false;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("cpu") else { break };
        let mut fields = rest.split(' ');
        let Some(cpu) = fields.next().and_then(|number| number.parse().ok()) else { continue };
        if !cpus.contains(&cpu) {
            continue;
        }
        let mut field = || fields.next().and_then(|value| value.parse::<u64>().ok());
        let (user, nice, system, idle) = (field()?, field()?, field()?, field()?);
        let (iowait, irq, softirq, steal) = (field()?, field()?, field()?, field().unwrap_or(0));
        sum.busy += user + nice + system + irq + softirq;
        sum.idle += idle + iowait;
        sum.steal += steal;
        found = true;
    }
    found.then_some(sum)
}

/// The CPUs that are online: the `cpuN` lines there are.
pub(super) fn online(text: &str) -> usize {
    let is_cpu_line = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    text.lines().take_while(|line| line.starts_with("cpu")).filter(is_cpu_line).count()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BEFORE: &str = "cpu  9 9 9 9 9 9 9 9 0 0\n\
                          cpu0 100 0 100 1000 0 0 0 0 0 0\n\
                          cpu1 500 0 0 500 0 0 0 0 0 0\n\
                          cpu12 7 0 0 7 0 0 0 0 0 0\n\
                          intr 5 0 0\n";
    const AFTER: &str = "cpu  9 9 9 9 9 9 9 9 0 0\n\
                         cpu0 120 0 105 1065 10 0 0 0 0 0\n\
                         cpu1 600 0 0 500 0 0 0 25 0 0\n\
                         cpu12 907 0 0 7 0 0 0 0 0 0\n\
                         intr 5 0 0\n";

    fn shares_of(cpus: &[usize]) -> Option<Shares> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("stat"), BEFORE).unwrap();
        let cpus = cpus.iter().copied().collect();
        let mut times = CpuTimes::open(dir.path());
        assert_eq!(times.read(&cpus), None, "one look tells nothing of a share");
        fs::write(dir.path().join("stat"), AFTER).unwrap();
        times.read(&cpus)
    }

    #[test]
    fn only_the_usable_cpus_count() {
        assert_eq!(shares_of(&[0]), Some(Shares { busy_permille: 250, steal_permille: 0 }));
        assert_eq!(shares_of(&[1]), Some(Shares { busy_permille: 800, steal_permille: 200 }));
        assert_eq!(shares_of(&[0, 1]), Some(Shares { busy_permille: 555, steal_permille: 111 }));
        assert_eq!(shares_of(&[12]), Some(Shares { busy_permille: 1000, steal_permille: 0 }));
        assert_eq!(shares_of(&[5]), None);
    }

    #[test]
    fn a_sample_right_after_another_repeats_its_shares() {
        let dir = tempfile::tempdir().unwrap();
        let cpus = BTreeSet::from([0]);
        fs::write(dir.path().join("stat"), BEFORE).unwrap();
        let mut times = CpuTimes::open(dir.path());
        times.read(&cpus);
        fs::write(dir.path().join("stat"), AFTER).unwrap();
        let shares = times.read(&cpus);
        assert!(shares.is_some());
        assert_eq!(times.read(&cpus), shares);
    }

    #[test]
    fn when_the_usable_cpus_change_measuring_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("stat"), BEFORE).unwrap();
        let mut times = CpuTimes::open(dir.path());
        times.read(&BTreeSet::from([0]));
        fs::write(dir.path().join("stat"), AFTER).unwrap();
        assert_eq!(times.read(&BTreeSet::from([0, 1])), None);
    }

    #[test]
    fn times_that_run_backwards_do_no_harm() {
        let before = Ticks { busy: 100, idle: 500, steal: 0 };
        let now = Ticks { busy: 150, idle: 490, steal: 0 };
        assert_eq!(shares(before, now), Some(Shares { busy_permille: 1000, steal_permille: 0 }));
        assert_eq!(shares(now, now), None);
    }

    #[test]
    fn online_cpus_are_the_numbered_lines() {
        assert_eq!(online(BEFORE), 3);
        assert_eq!(online(""), 0);
    }
}
