//! The scheduler of om, as a library: it listens to what nodes tell and decides which job moves where.
//!
//! The part that decides is pure ([`core::Core`]): inputs with a time go in, outputs come out, and a simulator drives
//! the same code as the daemon. What it is best to move is a [`policy::Policy`]'s to say; what may be moved at all
//! is the [`guard`]'s, whatever the policy. The daemon around them owns the clock, the sockets and the om files.
//!
//! This crate does not know how a process is moved: it writes an address into `where` and looks what comes of it.

pub mod core;
pub mod figures;
pub mod guard;
pub mod history;
pub mod job;
pub mod jobs;
pub mod node;
pub mod offer;
pub mod policy;
pub mod price;
pub mod random;
pub mod settings;
pub mod view;

/// A moment: time since some moment that whoever drives the core has chosen. It never goes back.
pub type Time = std::time::Duration;
