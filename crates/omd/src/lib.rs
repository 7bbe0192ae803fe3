//! omd: gathers what its own host is like and tells it to the others.
//!
//! The parts, each of which knows nothing of the next:
//!
//! * [`sample`] reads `/proc` (any directory that looks like it) and the om files;
//! * [`speed`] measures how fast a CPU is, once;
//! * [`core`] decides what is told, when and to whom: no clock, no socket, no file;
//! * [`net`] owns the sockets, [`run`] the loop, the clock and the signals;
//! * [`config`] and [`cli`] say what the daemon was told to do.
//!
//! omd knows nothing of policy, of migration, or of other nodes' data, and needs no privilege.

pub mod cli;
pub mod config;
pub mod core;
pub mod net;
pub mod run;
pub mod sample;
pub mod speed;
