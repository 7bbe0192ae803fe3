//! What the daemons of om share: the wire format, the accessors of the `/proc/$pid/om` files, the
//! cluster key, what programs can see of a CPU, and the local control protocol between `om run` and `om-migd`.
//!
//! This crate knows nothing of policy, event loops or CRIU.

pub mod cgroup;
pub mod control;
pub mod cpu;
pub mod frame;
pub mod key;
pub mod net;
pub mod offer;
pub mod omfs;
pub mod ports;
pub mod proof;
pub mod report;
pub mod table;
pub mod wire;

/// Compiles and runs the examples of the document.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/wire-format.md")]
mod wire_format {}
