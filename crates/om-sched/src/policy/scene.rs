//! Views for the tests of policies: one CPU of speed 1 a node.

use std::net::IpAddr;

use om_proto::omfs::Bounds;

use crate::figures::Figures;
use crate::view::{Here, Job, Target, View};

pub(super) fn figures(movable: f64) -> Figures {
    Figures { movable, background: 0.0, cpus: 1.0, speed: 1.0 }
}

pub(super) fn job(pid: u32, cpu_s: f64) -> Job {
    Job {
        pid,
        uid: 1000,
        home: IpAddr::from([10, 77, 0, 1]),
        tasks: 1.0,
        cpu_s,
        rss_bytes: 10 << 20,
        threads: 1,
        age_s: cpu_s * 4.0,
        moves: 0,
        move_cost_s: 0.2,
        bounds: Bounds::default(),
        cpu_features: 0,
        command: "job".into(),
    }
}

pub(super) fn target(last: u8, movable: f64) -> Target {
    Target {
        address: IpAddr::from([10, 77, 0, last]),
        figures: figures(movable),
        fresh: false,
        memory_total_bytes: Some(8 << 30),
        memory_available_bytes: Some(4 << 30),
        cpu_features: 0,
        guests_left: 8,
        blocked: false,
    }
}

pub(super) fn view(jobs: Vec<Job>, targets: Vec<Target>) -> View {
    let here = Here {
        address: IpAddr::from([10, 77, 0, 1]),
        figures: figures(jobs.iter().map(|job| job.tasks).sum()),
        memory_available_bytes: Some(4 << 30),
        memory_short_bytes: 0,
        memory_reserve: 0.05,
        memory_factor: 2.0,
    };
    View { here, jobs, targets, free_slots: 4 }
}
