//! A guest sees its home node's files.
//!
//! On the guest's node the job's root is a FUSE mount. Whatever the kernel there asks of it travels, byte for
//! byte as the kernel wrote it, to the job's home, where it is executed with the job's own credentials;
//! the answer goes back the same way. So the guest's side ([`client`]) is small and knows hardly anything of
//! files, and home ([`server`]) is the only place that parses, decides and remembers.
//!
//! ```text
//!  guest's node                                   home
//!  job ─▶ kernel ─▶ /dev/fuse ─▶ client ══ TLS ══▶ server ─▶ kernel, as the job's user
//!                                        channels
//! ```
//!
//! This crate knows nothing of jobs, moves and TLS: the guest's side opens connections through a
//! [`client::Connect`], home is handed each of them as a [`Stream`]. `docs/home-file-system.md` tells what a
//! guest may rely on, and why it is built like this.

mod abi;
pub mod client;
mod frame;
mod identity;
mod poison;
mod reply;
mod request;
pub mod server;
mod stream;
mod sys;
#[cfg(test)]
mod tests;

pub use abi::MAX_IO;
pub use stream::Stream;
