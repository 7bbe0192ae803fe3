//! Which jobs arrive when and where, on which nodes: made from a seed before the simulation starts, so that every
//! policy gets exactly the same ones.
//!
//! | name | jobs | nodes |
//! |---|---|---|
//! | `unix` | 96 % log-uniform from 8 ms to 1 s, 4 % bounded Pareto (α 1.25) from 1 to 2,710 s: mean 0.37 s, squared coefficient of variation 182, as processes of UNIX workstations were measured (Harchol-Balter and Downey, 1997) | alike |
//! | `exp` | exponential, mean 1 s | alike |
//! | `hotspot` | `unix`, all of them submitted on an eighth of the nodes | alike |
//! | `burst` | `unix`, in bursts of 16 on the average on one node at once | alike |
//! | `mixed` | `unix`, a quarter with 2 to 4 threads | 1 to 4 times the CPUs, speeds from 0.6 to 1.6 |
//!
//! Arrivals are Poisson at the rate that makes the load; memory is lognormal, median 32 MiB, σ 1.2. Of each of these a
//! share can wait now and then: I/O-bound jobs run for 6 ms and wait for 14, interactive ones run for 20 ms and wait for 180.

use std::fmt;
use std::str::FromStr;

use om_sched::random::Random;
use thiserror::Error;

use crate::chance;
use crate::clock::{Nanos, nanos};

const SHORT: (f64, f64) = (0.008, 1.0);
const TAIL_SHARE: f64 = 0.04;
const TAIL: (f64, f64, f64) = (1.25, 1.0, 2710.0);
const EXPONENTIAL_MEAN_S: f64 = 1.0;
const MEMORY_MEDIAN_BYTES: f64 = 32.0 * 1_048_576.0;
const MEMORY_SIGMA: f64 = 1.2;
/// No job is larger: it would fit nowhere.
const MEMORY_LIMIT_BYTES: f64 = 2.0 * 1_073_741_824.0;
const BURST_MEAN: f64 = 16.0;

/// A job that will be submitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// When.
    pub at: Nanos,
    /// On which node.
    pub node: u32,
    /// CPU seconds that it needs on CPUs of speed 1, over all its threads.
    pub work_s: f64,
    /// Threads; all run at the same times.
    pub threads: u32,
    /// Resident memory.
    pub rss_bytes: u64,
    /// How it waits in between; `None`: it runs all the time.
    pub rhythm: Option<Rhythm>,
}

impl Arrival {
    /// The least time that it takes on CPUs of speed 1, waiting included.
    #[must_use]
    pub fn alone_s(&self) -> f64 {
        self.alone_at_s(1.0)
    }

    /// The same on CPUs of this speed.
    #[must_use]
    pub fn alone_at_s(&self, speed: f64) -> f64 {
        let each_s = self.work_s / f64::from(self.threads);
        let waiting_s = self.rhythm.map_or(0.0, |it| ((each_s / it.run_s).ceil() - 1.0).max(0.0) * it.wait_s);
        each_s / speed + waiting_s
    }
}

/// A job that waits for disks or people again and again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rhythm {
    /// CPU seconds, of speed 1, that each thread needs between two waits.
    pub run_s: f64,
    /// Seconds of each wait.
    pub wait_s: f64,
}

const IO: Rhythm = Rhythm { run_s: 0.006, wait_s: 0.014 };
const INTERACTIVE: Rhythm = Rhythm { run_s: 0.02, wait_s: 0.18 };

/// Which shares of the jobs wait in between, 0 to 1 together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waiting {
    /// For disks.
    pub io: f64,
    /// For people.
    pub interactive: f64,
}

impl Waiting {
    fn draw(self, random: &mut Random) -> Option<Rhythm> {
        if self.io + self.interactive == 0.0 {
            return None;
        }
        let drawn = chance::uniform(random);
        if drawn < self.io { Some(IO) } else { (drawn < self.io + self.interactive).then_some(INTERACTIVE) }
    }
}

/// What a node is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// CPUs.
    pub cpus: u32,
    /// Speed of one of them, 1 is the reference.
    pub speed: f64,
    /// Memory in all.
    pub memory_bytes: u64,
}

/// A kind of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Heavy-tailed UNIX processes.
    Unix,
    /// Exponential.
    Exp,
    /// All on an eighth of the nodes.
    Hotspot,
    /// Many at once.
    Burst,
    /// Nodes and jobs of several kinds.
    Mixed,
}

impl Workload {
    const ALL: [(&'static str, Self); 5] = [
        ("unix", Self::Unix),
        ("exp", Self::Exp),
        ("hotspot", Self::Hotspot),
        ("burst", Self::Burst),
        ("mixed", Self::Mixed),
    ];

    /// The nodes that it runs on. `cpus` of speed 1 each, unless it has a mind of its own.
    #[must_use]
    pub fn nodes(self, count: u32, cpus: u32, memory_bytes: u64) -> Vec<Shape> {
        let shape = |index: u32| match self {
            Self::Mixed => Shape {
                cpus: cpus * [1, 2, 4, 1][index as usize % 4],
                speed: [1.0, 0.6, 1.3, 1.6][index as usize % 4],
                memory_bytes,
            },
            _ => Shape { cpus, speed: 1.0, memory_bytes },
        };
        (0..count).map(shape).collect()
    }

    /// The jobs of `seconds` seconds that keep `nodes` busy to the share `load`, in the order of their arrival.
    #[must_use]
    pub fn arrivals(
        self,
        nodes: &[Shape],
        load: f64,
        seconds: f64,
        waiting: Waiting,
        seed: u64,
    ) -> Vec<Arrival> {
        let mut random = Random::from_seed(seed ^ 0x776f_726b_6c6f_6164);
        let capacity: f64 = nodes.iter().map(|node| f64::from(node.cpus) * node.speed).sum();
        let burst = if self == Self::Burst { BURST_MEAN } else { 1.0 };
        let between_s = burst * self.mean_work_s() / (load * capacity).max(1e-9);
        let homes = if self == Self::Hotspot { (nodes.len() / 8).max(1) } else { nodes.len() };
        let mut arrivals = Vec::new();
        let mut at_s = 0.0;
        loop {
            at_s += chance::exponential(&mut random, between_s);
            if at_s >= seconds {
                return arrivals;
            }
            let node = u32::try_from(random.below(homes)).unwrap_or(0);
            let mut more = true;
            while more {
                let job = self.arrival(&mut random, nanos(at_s), node);
                arrivals.push(Arrival { rhythm: waiting.draw(&mut random), ..job });
                more = self == Self::Burst && chance::uniform(&mut random) < 1.0 - 1.0 / BURST_MEAN;
            }
        }
    }

    fn arrival(self, random: &mut Random, at: Nanos, node: u32) -> Arrival {
        let work_s = match self {
            Self::Exp => chance::exponential(random, EXPONENTIAL_MEAN_S).max(0.001),
            _ if chance::uniform(random) < TAIL_SHARE => {
                chance::bounded_pareto(random, TAIL.0, TAIL.1, TAIL.2)
            }
            _ => chance::log_uniform(random, SHORT.0, SHORT.1),
        };
        let threads = if self == Self::Mixed && random.below(4) == 0 {
            2 + u32::try_from(random.below(3)).unwrap_or(0)
        } else {
            1
        };
        let bytes = chance::lognormal(random, MEMORY_MEDIAN_BYTES, MEMORY_SIGMA).min(MEMORY_LIMIT_BYTES);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited above")]
        let rss_bytes = bytes as u64;
        Arrival { at, node, work_s, threads, rss_bytes, rhythm: None }
    }

    /// What a job needs on the average.
    #[must_use]
    pub fn mean_work_s(self) -> f64 {
        if self == Self::Exp {
            return EXPONENTIAL_MEAN_S;
        }
        let tail = chance::bounded_pareto_mean(TAIL.0, TAIL.1, TAIL.2);
        TAIL_SHARE * tail + (1.0 - TAIL_SHARE) * chance::log_uniform_mean(SHORT.0, SHORT.1)
    }
}

/// There is no workload of that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown workload '{0}'; there are: unix, exp, hotspot, burst, mixed")]
pub struct UnknownWorkload(String);

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, workload)| workload).ok_or_else(|| UnknownWorkload(name.to_owned()))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.into_iter().find(|(_, workload)| workload == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_jobs_have_the_published_mean_and_tail() {
        assert!((Workload::Unix.mean_work_s() - 0.37).abs() < 0.01, "{}", Workload::Unix.mean_work_s());
        let nodes = Workload::Unix.nodes(64, 1, 8 << 30);
        let jobs = Workload::Unix.arrivals(&nodes, 0.7, 3000.0, Waiting::default(), 1);
        let over_a_second = jobs.iter().filter(|job| job.work_s > 1.0).count();
        assert!((over_a_second as f64 / jobs.len() as f64 - 0.04).abs() < 0.002);
        let work_s: f64 = jobs.iter().map(|job| job.work_s).sum();
        assert!((work_s / (64.0 * 3000.0) - 0.7).abs() < 0.1, "{work_s}");
    }

    #[test]
    fn a_hot_spot_is_an_eighth_of_the_nodes() {
        let nodes = Workload::Hotspot.nodes(64, 1, 8 << 30);
        let jobs = Workload::Hotspot.arrivals(&nodes, 0.5, 60.0, Waiting::default(), 1);
        assert!(jobs.iter().all(|job| job.node < 8));
    }

    #[test]
    fn shares_of_the_jobs_wait_and_take_longer_for_it() {
        let nodes = Workload::Unix.nodes(64, 1, 8 << 30);
        let waiting = Waiting { io: 0.5, interactive: 0.2 };
        let jobs = Workload::Unix.arrivals(&nodes, 0.7, 300.0, waiting, 1);
        let share = |wanted: Option<Rhythm>| {
            jobs.iter().filter(|job| job.rhythm == wanted).count() as f64 / jobs.len() as f64
        };
        assert!((share(Some(IO)) - 0.5).abs() < 0.02 && (share(Some(INTERACTIVE)) - 0.2).abs() < 0.02);
        let job = Arrival { work_s: 0.12, threads: 2, rhythm: Some(INTERACTIVE), ..jobs[0] };
        // 20 ms three times, 180 ms in between.
        assert!((job.alone_s() - 0.42).abs() < 1e-9);
    }

    #[test]
    fn names_are_read_and_written() {
        for (name, workload) in Workload::ALL {
            assert_eq!(name.parse::<Workload>().unwrap().to_string(), name);
            assert_eq!(name.parse::<Workload>(), Ok(workload));
        }
        assert!("unixx".parse::<Workload>().unwrap_err().to_string().contains("hotspot"));
    }
}
