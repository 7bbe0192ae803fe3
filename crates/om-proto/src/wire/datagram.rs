//! Reading a datagram.

use std::net::{IpAddr, Ipv6Addr};

use super::MAX_DATAGRAM;
use super::header::{HEADER_LEN, Header, octets};
use super::reject::Reject;
use super::section::{Section, split};
use crate::key::{ClusterKeys, MAC_LEN};

/// A datagram whose MAC and outline have been checked. It borrows the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The header's fields.
    pub header: Header,
    /// Whether a live cluster key vouches for every byte. False for an unsigned datagram, and for any datagram if
    /// this reader has no key itself.
    pub authenticated: bool,
    sections: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads what was told to everybody: checks length, header and MAC, in this order, and then that the sections add
    /// up to the whole.
    ///
    /// An unsigned datagram passes as not authenticated: what may be done with it is for the caller to say. A
    /// reader without any key cannot check a MAC and takes every datagram as not authenticated.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn decode(bytes: &'a [u8], keys: &ClusterKeys) -> Result<Self, Reject> {
        Self::decode_for(bytes, keys, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    }

    /// The same on node `here`: what is signed for another node does not pass.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_for(bytes: &'a [u8], keys: &ClusterKeys, here: IpAddr) -> Result<Self, Reject> {
        if bytes.len() > MAX_DATAGRAM {
            return Err(Reject::TooLong);
        }
        let (signed, mac) = bytes.split_last_chunk::<MAC_LEN>().ok_or(Reject::TooShort)?;
        let header = Header::peek(signed)?;
        let reader = octets(here);
        let parts = if header.kind.is_addressed() { [signed, &reader[..]] } else { [signed, &[]] };
        let authenticated = match header.key_id {
            0 if *mac != [0; MAC_LEN] => return Err(Reject::BadMac),
            0 => false,
            _ if keys.is_empty() => false,
            id if !keys.knows(id) => return Err(Reject::UnknownKey),
            id if !keys.verify_datagram(id, &parts, mac) => return Err(Reject::BadMac),
            _ => true,
        };
        let sections = &signed[HEADER_LEN..];
        let mut rest = sections;
        while !rest.is_empty() {
            rest = split(rest).ok_or(Reject::TruncatedSection)?.2;
        }
        Ok(Self { header, authenticated, sections })
    }

    /// Every section's tag and body, known or not, in the order in which they were written.
    pub fn sections(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = self.sections;
        std::iter::from_fn(move || {
            let (tag, body, after) = split(rest)?;
            rest = after;
            Some((tag, body))
        })
    }

    /// The first section of this type; `None` if there is none, or if it makes no sense.
    #[must_use]
    pub fn section<S: Section>(&self) -> Option<S> {
        self.sections().find(|(tag, _)| *tag == S::TAG).and_then(|(_, body)| S::decode(body))
    }
}
