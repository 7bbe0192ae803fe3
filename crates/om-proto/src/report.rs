//! What a node tells about itself: the sections of `omd`'s datagrams.
//!
//! Every struct here is the postcard body of one section. Bodies only ever grow at their end, and
//! what grew must be read leniently; anything else is a new section with a new tag. A value that
//! the node could not read is `None`: unknown, never 0.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Addresses that a node may tell.
const ADDRESS_LIMIT: usize = 32;

/// Who a node is. Sent at start, on request, on change and about every 10 seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The host name as the kernel has it.
    pub host_name: String,
    /// The kernel's random boot id.
    pub boot_id: [u8; 16],
    /// Milliseconds between two reports: 100 to 60,000.
    pub period_ms: u32,
    /// The node's addresses, the one that names it first; at most 32.
    #[serde(deserialize_with = "few::<_, _, ADDRESS_LIMIT>")]
    pub addresses: Vec<IpAddr>,
}

/// What seldom changes. Sent at start, on request, on change and every 30 periods.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Machine {
    /// As `uname -m` has it, for example `x86_64`.
    pub arch: String,
    /// As `uname -r` has it.
    pub kernel_release: String,
    /// CPU model, as `/proc/cpuinfo` has it; empty if unknown.
    pub cpu_model: String,
    /// What programs can see of the CPU, as a number ([`crate::cpu::Cpu::fingerprint`]); 0 if unknown.
    pub cpu_features: u64,
    /// CPUs online.
    pub online_cpus: u16,
    /// Version of the om software, for example `0.1.0`.
    pub om_version: String,
}

/// What the node can do. Sent at start, on request, on change and about every 10 seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// CPUs that may really be used (affinity and cgroup quota), in thousandths of a CPU.
    pub effective_cpus_milli: u32,
    /// Measured speed of one CPU; 1000 is the documented reference.
    pub speed: u32,
    /// Memory in all, KiB.
    pub mem_total_kib: Option<u64>,
    /// Swap in all, KiB.
    pub swap_total_kib: Option<u64>,
}

/// How busy the node is. Sent with every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Runnable tasks at this moment (the sampler not counted).
    pub runnable: Option<u32>,
    /// Runnable tasks, up at once and down slowly, in thousandths: what others should plan with.
    pub exported_milli: Option<u32>,
    /// Runnable tasks, up slowly and down at once, in thousandths: what the node itself plans with.
    pub smoothed_milli: Option<u32>,
    /// Share of the usable CPUs' time that was busy in the last period, in thousandths.
    pub busy_permille: Option<u16>,
    /// Share of the usable CPUs' time that the hypervisor stole, in thousandths.
    pub steal_permille: Option<u16>,
    /// PSI: total microseconds that some task waited for a CPU.
    pub psi_cpu_some_us: Option<u64>,
    /// PSI: total microseconds that some task waited for memory.
    pub psi_memory_some_us: Option<u64>,
    /// PSI: total microseconds that some task waited for I/O.
    pub psi_io_some_us: Option<u64>,
    /// Processes that exist.
    pub processes: Option<u32>,
}

/// How much memory is left. Sent with every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Memory that can be had without swapping, the cgroup's limit considered, KiB.
    pub available_kib: Option<u64>,
    /// Free swap, KiB.
    pub swap_free_kib: Option<u64>,
}

/// What the node's migration daemon says, as seen in its om files. Absent: this node only tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Jobs of other nodes that run here.
    pub guests: u32,
    /// How many guests this node takes at most.
    pub guest_limit: u32,
    /// The node's own jobs, wherever they run.
    pub own_jobs: u32,
    /// `hpc/admin/block`: takes no guests.
    pub block: bool,
    /// `hpc/admin/stay`: keeps its own jobs here.
    pub stay: bool,
    /// `hpc/admin/expel`: sends guests away.
    pub expel: bool,
    /// `hpc/admin/bring`: calls its own jobs home.
    pub bring: bool,
}

/// Reads a list without taking memory for more of it than there is: a stranger's datagram may announce any number.
pub(crate) fn few<'de, D, T, const LIMIT: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Few<T, const LIMIT: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const LIMIT: usize> Visitor<'de> for Few<T, LIMIT> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {LIMIT}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == LIMIT {
                    return Err(serde::de::Error::invalid_length(LIMIT + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Few::<T, LIMIT>(PhantomData))
}
