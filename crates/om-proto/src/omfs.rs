//! omfs
