//! The handover's three machines together and alone: every order of everything, long random histories, and the tables
//! in docs/migration-protocol.md.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod chance;
mod document;
mod explore;
mod heal;
mod tables;
mod world;
