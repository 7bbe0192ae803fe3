//! An offer as bytes, and bytes as an offer: nothing but the format, so that a simulator can use it as well.

use std::net::IpAddr;

use om_proto::key::ClusterKeys;
use om_proto::proof::Echo;
use om_proto::wire::{Datagram, DatagramFull, DatagramWriter, Header, Kind, MAX_DATAGRAM, Reject};

use crate::offer::Offer;

/// Writes `offer` to node `to` in the name of `here`; with an echo if the node has put a challenge.
///
/// # Errors
/// If it does not fit a datagram, which only a very long refusal could bring about.
pub fn encode<'a>(
    buffer: &'a mut [u8; MAX_DATAGRAM],
    (here, to): (IpAddr, IpAddr),
    (epoch, sequence): (u64, u64),
    offer: &Offer,
    echo: Option<&Echo>,
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
    if let Some(echo) = echo {
        writer.section(echo)?;
    }
    Ok(writer.finish_for(keys, to))
}

/// Reads the offer of a datagram; whether that is news is for the reader to say.
///
/// # Errors
/// That it holds none, or one that makes no sense.
pub fn decode(datagram: &Datagram<'_>) -> Result<Offer, Reject> {
    let offer = match datagram.header.kind {
        Kind::OfferAsk => datagram.section().map(Offer::Ask),
        Kind::OfferAnswer => datagram.section().map(Offer::Answer),
        Kind::OfferInvite => datagram.section().map(Offer::Invite),
        _ => return Err(Reject::UnknownKind),
    };
    offer.ok_or(Reject::TruncatedSection)
}
