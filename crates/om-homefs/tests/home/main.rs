//! The home file system as a whole: a real mount, a real server, and the plain directory to compare with.
//!
//! Needs root and `/dev/fuse`; a test that cannot run says so and passes.

#![expect(unreachable_pub, reason = "a test has no outside")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test that cannot go on should say so and stop"
)]

mod chance;
mod hostile;
mod outage;
mod permission;
mod random;
mod rig;
mod same;
mod session;
mod story;
mod tools;
