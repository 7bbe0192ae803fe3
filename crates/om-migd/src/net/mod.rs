//! Between nodes: how a connection finds its keeper, how the two ends prove themselves, and what they say.

pub mod identity;
pub mod link;
pub mod message;
pub mod preamble;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;
