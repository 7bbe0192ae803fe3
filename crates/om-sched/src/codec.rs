//! An offer as bytes, and bytes as an offer: nothing but the format, so that a simulator can use it as well.

use std::net::IpAddr;

use om_proto::key::ClusterKeys;
use om_proto::wire::{Datagram, DatagramFull, DatagramWriter, Header, Kind, MAX_DATAGRAM, Reject};

use crate::offer::Offer;

/// An offer as it was read; whether it is news is for the reader to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Who says it, and how new it is.
    pub header: Header,
    /// Whether a key of the cluster vouches for it.
    pub authenticated: bool,
    /// What is said.
    pub offer: Offer,
}

/// Writes `offer` in the name of `here`.
///
/// # Errors
/// If it does not fit a datagram, which only a very long refusal could bring about.
pub fn encode<'a>(
    buffer: &'a mut [u8; MAX_DATAGRAM],
    here: IpAddr,
    epoch: u64,
    sequence: u64,
    offer: &Offer,
    keys: &ClusterKeys,
) -> Result<&'a [u8], DatagramFull> {
    let kind = match offer {
        Offer::Ask(_) => Kind::OfferAsk,
        Offer::Answer(_) => Kind::OfferAnswer,
        Offer::Invite(_) => Kind::OfferInvite,
    };
    let header = Header { kind, flags: 0, key_id: 0, epoch, sequence, sender: here };
    let mut writer = DatagramWriter::new(buffer, header);
    match offer {
        Offer::Ask(ask) => writer.section(ask)?,
        Offer::Answer(answer) => writer.section(answer)?,
        Offer::Invite(invite) => writer.section(invite)?,
    }
    Ok(writer.finish(keys))
}

/// Reads an offer.
///
/// # Errors
/// The rule that the bytes break.
pub fn decode(bytes: &[u8], keys: &ClusterKeys) -> Result<Decoded, Reject> {
    let datagram = Datagram::decode(bytes, keys)?;
    let header = datagram.header;
    let offer = match header.kind {
        Kind::OfferAsk => datagram.section().map(Offer::Ask),
        Kind::OfferAnswer => datagram.section().map(Offer::Answer),
        Kind::OfferInvite => datagram.section().map(Offer::Invite),
        _ => return Err(Reject::UnknownKind),
    };
    let offer = offer.ok_or(Reject::TruncatedSection)?;
    Ok(Decoded { header, authenticated: datagram.authenticated, offer })
}
