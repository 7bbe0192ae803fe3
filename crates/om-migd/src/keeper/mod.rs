//! The keeper: one process for each job on a node, which outlives om-migd.
//!
//! It holds what must not break while om-migd is restarted or upgraded: our ends of the job's streams, the links to
//! other nodes, the home file system, and CRIU as its child; it reaps the job, so status and CPU time are real. At home
//! it serves the deputy and is the arbiter of the job's moves. om-migd only starts it, passes connections to it, and shows
//! in the om files what it tells.
//!
//! Its main thread alone changes its state ([`run`]); other threads wait for something and post an [`event::Event`].

mod arrive;
mod begin;
mod birth;
pub mod caller;
mod customs;
mod depart;
mod ending;
pub mod event;
pub mod fetch;
mod files;
pub mod guest;
pub mod home;
pub mod images;
mod inquiry;
mod links;
mod memory;
mod newborn;
mod offer;
pub mod residence;
mod run;
mod signals;
mod step;
mod telling;
mod threads;
mod timers;
mod transfer;

pub use birth::main;
