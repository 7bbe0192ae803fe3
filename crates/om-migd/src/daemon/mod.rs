//! om-migd itself: serves the om files, starts a keeper for each job, and passes connections to the keepers. It holds
//! nothing that a job needs, so it can be killed, restarted and upgraded at any time.

pub mod access;
mod cli;
mod config;
mod jobs;
mod keepers;
mod listen;
mod node;
mod omfiles;
mod run;

pub use cli::main;
pub use config::Config;
