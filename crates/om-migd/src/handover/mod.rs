//! The two-phase handover of a job from node to node, as pure state machines: no clock, socket or file inside.

pub mod arbiter;
