//! Simulates a cluster of nodes that run the real scheduler core, in virtual time.
//!
//! Every node has an [`om_sched::core::Core`] of its own, the very same that the daemon drives; its reports and questions
//! are encoded and decoded once on their way. Around the cores this crate simulates what they decide about: CPUs
//! that jobs share, memory, links that moves share, a network that delays and loses datagrams, nodes that die.
//!
//! A run follows from its seed alone, on every machine: no clock, no thread, no order of a hash map, no function of the
//! platform's mathematical library. docs/simulator.md says how to use it and what it leaves out.

mod agenda;
mod audit;
mod board;
pub mod chance;
pub mod chronicle;
pub mod cli;
pub mod clock;
mod deciding;
mod failing;
pub mod host;
pub mod job;
pub mod link;
pub mod measure;
pub mod network;
mod omniscient;
mod plot;
pub mod pooled;
mod progress;
pub mod run;
pub mod setup;
mod table;
pub mod trace;
pub mod workload;
pub mod world;
