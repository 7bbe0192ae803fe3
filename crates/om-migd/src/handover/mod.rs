//! The two-phase handover of a job from node to node, as three pure state machines: no clock, socket or file inside.
//!
//! | machine | runs in the keeper | decides |
//! |---|---|---|
//! | [`source`] | where the job is | when the job is frozen, and whether it goes on there |
//! | [`target`] | where it is to go | when its copy runs, or is destroyed |
//! | [`arbiter`] | at home | who has the job |
//!
//! Each is one total function from state and input to state and actions; the keeper does the actions and decides nothing.
//! Every stay of a job has an epoch, and so has every attempt to begin one. What is said of another epoch than the
//! present one is dropped by the machines themselves, so that they may hear everything late, twice or never.
//!
//! docs/migration-protocol.md has the tables, and why at no moment two copies run, and at none no copy.

pub mod arbiter;
pub mod source;
pub mod target;
