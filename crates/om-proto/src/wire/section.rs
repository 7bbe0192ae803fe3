//! Sections: `(tag u16, length u16, postcard body)`.
//!
//! The rules that let an old and a new node talk:
//!
//! * a tag, once given, keeps its meaning for ever;
//! * a body may grow at its end: old readers stop before what is new (postcard's `take_from_bytes`);
//! * a new reader must do without what an old body lacks; a struct that has grown reads its old form by a
//!   [`Section::decode`] of its own;
//! * no enum that may grow is part of a body, because postcard fails on a variant it does not know.

use serde::{Serialize, de::DeserializeOwned};

use crate::offer::{Answer, Ask, Invite};
use crate::proof::{Challenge, Echo};
use crate::report::{Capacity, Identity, Load, Machine, Memory, Migration};

/// The tags given so far.
pub mod tag {
    /// [`crate::report::Identity`].
    pub const IDENTITY: u16 = 1;
    /// [`crate::report::Machine`].
    pub const MACHINE: u16 = 2;
    /// [`crate::report::Capacity`].
    pub const CAPACITY: u16 = 3;
    /// [`crate::report::Load`].
    pub const LOAD: u16 = 4;
    /// [`crate::report::Memory`].
    pub const MEMORY: u16 = 5;
    /// [`crate::report::Migration`].
    pub const MIGRATION: u16 = 6;
    /// [`crate::proof::Challenge`].
    pub const CHALLENGE: u16 = 7;
    /// [`crate::proof::Echo`].
    pub const ECHO: u16 = 8;
    /// [`crate::offer::Ask`].
    pub const OFFER_ASK: u16 = 16;
    /// [`crate::offer::Answer`].
    pub const OFFER_ANSWER: u16 = 17;
    /// [`crate::offer::Invite`].
    pub const OFFER_INVITE: u16 = 18;
}

/// A struct that is the body of a section.
pub trait Section: Serialize + DeserializeOwned {
    /// Its tag on the wire.
    const TAG: u16;

    /// Reads a body; `None` if it is not one. Bytes after the last known field are passed over.
    #[must_use]
    fn decode(body: &[u8]) -> Option<Self> {
        postcard::take_from_bytes(body).ok().map(|(value, _grown)| value)
    }
}

impl Section for Identity {
    const TAG: u16 = tag::IDENTITY;
}

impl Section for Machine {
    const TAG: u16 = tag::MACHINE;
}

impl Section for Capacity {
    const TAG: u16 = tag::CAPACITY;
}

impl Section for Load {
    const TAG: u16 = tag::LOAD;
}

impl Section for Memory {
    const TAG: u16 = tag::MEMORY;
}

impl Section for Migration {
    const TAG: u16 = tag::MIGRATION;
}

impl Section for Challenge {
    const TAG: u16 = tag::CHALLENGE;
}

impl Section for Echo {
    const TAG: u16 = tag::ECHO;
}

impl Section for Ask {
    const TAG: u16 = tag::OFFER_ASK;
}

impl Section for Answer {
    const TAG: u16 = tag::OFFER_ANSWER;
}

impl Section for Invite {
    const TAG: u16 = tag::OFFER_INVITE;
}

/// Splits the first section off: its tag, its body, what follows. `None` if the bytes are too few for it.
pub(super) fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (body, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((u16::from_le_bytes(*tag), body, rest))
}
