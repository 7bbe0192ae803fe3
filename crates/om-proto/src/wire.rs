//! The datagrams that nodes send each other: a fixed header, sections, a MAC.
//!
//! `docs/wire-format.md` has the byte tables. What this module holds to:
//!
//! * At most [`MAX_DATAGRAM`] bytes, so that no link on the way cuts a datagram into fragments.
//! * The MAC is checked over the raw bytes before any section is looked at: postcard accepts several encodings of
//!   one value, so a MAC over decoded values would prove nothing.
//! * A reader passes over sections it does not know and fields it does not know at the end of one, so an old and a
//!   new node understand each other. Of a section that comes twice the first counts.
//! * No bytes whatever make a reader panic or take memory beyond the datagram's own size.
//!
//! Writing is done into the caller's buffer and reading borrows the caller's bytes: neither allocates.

mod datagram;
mod freshness;
mod header;
mod reject;
mod section;
mod writer;

pub use datagram::Datagram;
pub use freshness::Freshness;
pub use header::{HEADER_LEN, Header, Kind, VERSION};
pub use reject::{Reject, Rejects};
pub use section::{Section, tag};
pub use writer::{DatagramFull, DatagramWriter};

/// The longest datagram, header and MAC included.
pub const MAX_DATAGRAM: usize = 1200;
