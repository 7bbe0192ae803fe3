//! The home file system as a whole: a real mount, a real server, and the plain directory to compare with.
//!
//! Needs root and `/dev/fuse`; a test that cannot run says so and passes.

#![expect(unreachable_pub, reason = "a test has no outside")]

mod chance;
mod permission;
mod random;
mod rig;
mod same;
mod session;
mod story;
mod tools;
