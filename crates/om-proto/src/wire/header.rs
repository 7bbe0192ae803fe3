//! The fixed part of a datagram, little-endian throughout.

use std::net::{IpAddr, Ipv6Addr};

use super::reject::Reject;
use crate::key::KeyId;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 44;
/// The version of the format. A change that an old reader cannot pass over gets a new one.
pub const VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"omDG";

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// What the sender is like now.
    Report = 1,
    /// Asks every node that hears it to send a full report now.
    Ask = 2,
    /// The sender stops: forget it at once.
    Goodbye = 3,
    /// Would you take this job? To one node.
    OfferAsk = 4,
    /// The answer to that.
    OfferAnswer = 5,
    /// I have nothing to do: send me a job. To one node.
    OfferInvite = 6,
    /// Who are you? Say that again, with this echo. To one node.
    OfferChallenge = 7,
}

/// The header's fields. The address is IPv4 wherever that can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the datagram is for.
    pub kind: Kind,
    /// None is defined yet: written as 0, not looked at when read.
    pub flags: u16,
    /// Which key signed it; 0 if none did. A writer's value is replaced by its key's.
    pub key_id: KeyId,
    /// Grows with each start of the sender.
    pub epoch: u64,
    /// Grows with each datagram of the sender since that start.
    pub sequence: u64,
    /// The address that names the sender, whichever way the datagram came; unspecified if the sender is no node
    /// (a tool that asks).
    pub sender: IpAddr,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Report,
            Self::Ask,
            Self::Goodbye,
            Self::OfferAsk,
            Self::OfferAnswer,
            Self::OfferInvite,
            Self::OfferChallenge,
        ]
        .into_iter()
        .find(|kind| kind.byte() == byte)
    }

    /// Whether such a datagram is meant for one node and its MAC covers that node's address. What is for everybody
    /// may be passed on by anybody.
    #[must_use]
    pub const fn is_addressed(self) -> bool {
        match self {
            Self::Report | Self::Ask | Self::Goodbye => false,
            Self::OfferAsk | Self::OfferAnswer | Self::OfferInvite | Self::OfferChallenge => true,
        }
    }

    /// The kind's number on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// Where the kind is in a datagram: for filters in the kernel.
    pub const OFFSET: u32 = 5;
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.kind.byte();
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.key_id.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[28..44].copy_from_slice(&octets(self.sender));
        bytes
    }

    /// Reads the header alone. Nothing vouches for it before the MAC is verified; it is good for dropping a
    /// datagram early, never for believing it.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn peek(bytes: &[u8]) -> Result<Self, Reject> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Err(Reject::TooShort) };
        if header[0..4] != MAGIC {
            return Err(Reject::BadMagic);
        }
        if header[4] != VERSION {
            return Err(Reject::OtherVersion);
        }
        let kind = Kind::from_byte(header[5]).ok_or(Reject::UnknownKind)?;
        let mut fields = Fields(&header[6..]);
        Ok(Self {
            kind,
            flags: u16::from_le_bytes(fields.take()),
            key_id: u32::from_le_bytes(fields.take()),
            epoch: u64::from_le_bytes(fields.take()),
            sequence: u64::from_le_bytes(fields.take()),
            sender: IpAddr::V6(Ipv6Addr::from(fields.take::<16>())).to_canonical(),
        })
    }
}

/// An address as the wire has it.
pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Takes one fixed field after another from the header's bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next N bytes; zeros past the end, which the header's constant length rules out.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *field
    }
}
