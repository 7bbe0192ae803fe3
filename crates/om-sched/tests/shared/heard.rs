//! What a core is told, with everything filled in: a node's report and a job of the om files.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::cpu::Baseline;
use om_proto::omfs::Bounds;
use om_sched::Time;
use om_sched::core::{Core, Input};
use om_sched::job::{LocalJob, Place};
use om_sched::node::Report;

use crate::told::Told;

impl Told {
    pub(crate) fn tell(&self, core: &mut Core, now: Time) {
        let report = Report {
            address: self.address,
            authenticated: self.authenticated,
            period: self.period,
            machine: Some(&self.machine),
            capacity: Some(&self.capacity),
            load: Some(&self.load),
            memory: Some(&self.memory),
            migration: self.migration.as_ref(),
        };
        core.handle(now, Input::Report(report));
    }
}

/// A job at home that runs and may move.
pub(crate) fn local_job(pid: u32, home: IpAddr) -> LocalJob {
    LocalJob {
        pid,
        uid: 1000,
        home,
        is_own: true,
        place: Place::Here,
        cpu: Duration::from_secs(2),
        runnable: 1,
        rss_bytes: 8 << 20,
        threads: 1,
        age: Duration::from_secs(8),
        since_move: None,
        moves: 0,
        bounds: Bounds::default(),
        locked: false,
        stay_reasons: Vec::new(),
        cpu_baseline: Baseline::Native,
        command: "job".into(),
    }
}
