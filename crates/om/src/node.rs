//! One node as it was heard; the JSON of `om nodes`.
//!
//! What a node has not told, or could not read itself, is `None`, never 0.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::table::Node;
use serde::Serialize;

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeSeen {
    /// The address that names it.
    pub address: IpAddr,
    /// It is the node on which this runs.
    pub here: bool,
    /// Its host name.
    pub host_name: Option<String>,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
    /// Milliseconds since it was heard.
    pub heard_ms_ago: u64,
    /// Milliseconds between two of its reports.
    pub period_ms: u64,
    /// It has missed three of its reports and may be dead.
    pub stale: bool,
    /// The cluster's key vouches for all this; `null`: there is no key here to tell by.
    pub authenticated: Option<bool>,
    /// The id of the key that it signs with, 8 hexadecimal digits.
    pub key: Option<String>,
    /// It has a migration daemon; without one it only tells.
    pub migrates: bool,
    /// What it is and does, in words.
    pub roles: Vec<&'static str>,
    /// Runnable tasks, up at once and down slowly.
    pub load: Option<f64>,
    /// Runnable tasks at the moment of its report.
    pub runnable: Option<u32>,
    /// Share of its CPUs' time that was busy, thousandths.
    pub busy_permille: Option<u16>,
    /// Share of its CPUs' time that a hypervisor stole, thousandths.
    pub steal_permille: Option<u16>,
    /// Processes that exist.
    pub processes: Option<u32>,
    /// CPUs that may really be used.
    pub effective_cpus: Option<f64>,
    /// CPUs online.
    pub online_cpus: Option<u16>,
    /// Measured speed of one CPU; 1000 is the reference.
    pub speed: Option<u32>,
    /// Memory in all.
    pub mem_total_bytes: Option<u64>,
    /// Memory that can be had without swapping.
    pub mem_available_bytes: Option<u64>,
    /// Swap in all.
    pub swap_total_bytes: Option<u64>,
    /// Free swap.
    pub swap_free_bytes: Option<u64>,
    /// Jobs of other nodes that run there.
    pub guests: Option<u32>,
    /// How many it takes at most.
    pub guest_limit: Option<u32>,
    /// Its own jobs, wherever they run.
    pub own_jobs: Option<u32>,
    /// Takes no guests.
    pub block: Option<bool>,
    /// Keeps its own jobs.
    pub stay: Option<bool>,
    /// Sends guests away.
    pub expel: Option<bool>,
    /// Calls its own jobs home.
    pub bring: Option<bool>,
    /// As `uname -m` has it.
    pub arch: Option<String>,
    /// As `uname -r` has it.
    pub kernel_release: Option<String>,
    /// CPU model.
    pub cpu_model: Option<String>,
    /// Fingerprint of its CPU's features, 16 hexadecimal digits.
    pub cpu_features: Option<String>,
    /// Version of its om software.
    pub om_version: Option<String>,
    /// Its kernel's random boot id, 32 hexadecimal digits.
    pub boot_id: Option<String>,
}

impl NodeSeen {
    /// What the table knows of a node at `now`. `own_addresses` are this host's.
    pub fn new(now: Duration, node: &Node, has_key: bool, own_addresses: &[IpAddr]) -> Self {
        let (identity, machine) = (node.identity.as_ref(), node.machine.as_deref());
        let (capacity, load) = (node.capacity.as_ref(), node.load.as_ref());
        let (memory, migration) = (node.memory.as_ref(), node.migration.as_ref());
        let bytes = |kib: Option<u64>| kib.map(|kib| kib.saturating_mul(1024));
        let stale = node.is_stale(now);
        let authenticated = has_key.then_some(node.authenticated);
        let switch = |on: bool, word| on.then_some(word);
        let mut roles = vec![if migration.is_some() { "migrates" } else { "monitor" }];
        if let Some(migration) = migration {
            roles.extend(switch(migration.block, "blocked"));
            roles.extend(switch(migration.stay, "stays"));
            roles.extend(switch(migration.expel, "expels"));
            roles.extend(switch(migration.bring, "brings"));
            roles.extend(switch(migration.guests >= migration.guest_limit, "full"));
        }
        roles.extend(switch(stale, "stale"));
        roles.extend(switch(authenticated == Some(false), "unauthenticated"));
        roles.extend(switch(authenticated.is_none(), "unverified"));
        Self {
            address: node.address,
            here: own_addresses.contains(&node.address),
            host_name: identity.map(|identity| identity.host_name.clone()),
            addresses: identity.map(|identity| identity.addresses.clone()).unwrap_or_default(),
            heard_ms_ago: millis(node.silence(now)),
            period_ms: millis(node.period()),
            stale,
            authenticated,
            key: (node.key_id != 0).then(|| format!("{:08x}", node.key_id)),
            migrates: migration.is_some(),
            roles,
            load: load.and_then(|load| load.exported_milli).map(thousandths),
            runnable: load.and_then(|load| load.runnable),
            busy_permille: load.and_then(|load| load.busy_permille),
            steal_permille: load.and_then(|load| load.steal_permille),
            processes: load.and_then(|load| load.processes),
            effective_cpus: capacity.map(|capacity| thousandths(capacity.effective_cpus_milli)),
            online_cpus: machine.map(|machine| machine.online_cpus),
            speed: capacity.map(|capacity| capacity.speed),
            mem_total_bytes: bytes(capacity.and_then(|capacity| capacity.mem_total_kib)),
            mem_available_bytes: bytes(memory.and_then(|memory| memory.available_kib)),
            swap_total_bytes: bytes(capacity.and_then(|capacity| capacity.swap_total_kib)),
            swap_free_bytes: bytes(memory.and_then(|memory| memory.swap_free_kib)),
            guests: migration.map(|migration| migration.guests),
            guest_limit: migration.map(|migration| migration.guest_limit),
            own_jobs: migration.map(|migration| migration.own_jobs),
            block: migration.map(|migration| migration.block),
            stay: migration.map(|migration| migration.stay),
            expel: migration.map(|migration| migration.expel),
            bring: migration.map(|migration| migration.bring),
            arch: machine.map(|machine| machine.arch.clone()),
            kernel_release: machine.map(|machine| machine.kernel_release.clone()),
            cpu_model: machine.map(|machine| machine.cpu_model.clone()),
            cpu_features: machine.map(|machine| format!("{:016x}", machine.cpu_features)),
            om_version: machine.map(|machine| machine.om_version.clone()),
            boot_id: identity
                .map(|identity| identity.boot_id.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }

    /// Whether it would take a job now, as far as it tells.
    pub fn takes_guests(&self) -> bool {
        let is_on = |switch: Option<bool>| switch == Some(true);
        let has_room = self.guests.zip(self.guest_limit).is_some_and(|(guests, limit)| guests < limit);
        self.migrates
            && has_room
            && !self.stale
            && !is_on(self.block)
            && !is_on(self.expel)
            && self.authenticated != Some(false)
    }

    /// Seconds that one second of work at the reference's speed would take there for one more task. `None` if it does
    /// not tell enough to say.
    pub fn slowdown_with_one_more(&self) -> Option<f64> {
        let (load, cpus, speed) = (self.load?, self.effective_cpus?, f64::from(self.speed?));
        (cpus > 0.0 && speed > 0.0).then(|| ((load + 1.0) / cpus).max(1.0) * 1000.0 / speed)
    }
}

fn thousandths(milli: u32) -> f64 {
    f64::from(milli) / 1000.0
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
