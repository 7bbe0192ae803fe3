//! Between nodes: how a connection finds its keeper, how the two ends prove themselves, and what they say.

pub mod link;
pub mod message;
pub mod preamble;
pub mod tls;
