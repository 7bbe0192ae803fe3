//! What keepers, om-migd and `om run` say to each other.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};

use om_migd::keeper::fetch::pagemap::Pagemap;
use om_migd::keeper::images::Terms;
use om_migd::net::message::{FromHome, MAX_FRAME, Offer, OfferAnswer, PagesAnswer, Part, ToHome};
use om_migd::net::preamble::{CHALLENGE_LENGTH, Challenge, LENGTH, Preamble};
use om_migd::snapshot::{Birth, Command, News};
use om_proto::control::{Reply, Request, Start};
use om_proto::frame;
use om_proto::key::ClusterKeys;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first bytes of a connection, from both sides.
pub fn preamble(bytes: &[u8]) {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let keys = ClusterKeys::for_tests(&[7]);
    let Some((first, rest)) = bytes.split_first_chunk::<CHALLENGE_LENGTH>() else { return };
    let Ok(challenge) = Challenge::decode(*first) else { return };
    let Some(second) = rest.first_chunk::<LENGTH>() else { return };
    if let Ok(preamble) = Preamble::decode(second, &challenge, here, &keys) {
        // Bytes that are not looked at may differ, and the MAC with them.
        let encoded = preamble.encode(&challenge, here, &keys);
        assert_eq!(Preamble::decode(&encoded, &challenge, here, &keys), Ok(preamble));
        assert!(preamble.protocol().len() < 256);
    }
}

/// Frames, one after another, each taken for every kind of message that there is.
pub fn migration(bytes: &[u8]) {
    messages::<Offer>(bytes);
    messages::<OfferAnswer>(bytes);
    messages::<Part>(bytes);
    messages::<PagesAnswer>(bytes);
    messages::<ToHome>(bytes);
    messages::<FromHome>(bytes);
    messages::<Start>(bytes);
    messages::<Request>(bytes);
    messages::<Reply>(bytes);
    messages::<Birth>(bytes);
    messages::<Command>(bytes);
    messages::<News>(bytes);
    images(bytes);
    if let Some(pagemap) = Pagemap::parse(bytes, 4096) {
        assert!(pagemap.ranges.iter().all(|(address, pages)| address.checked_add(pages * 4096).is_some()));
    }
}

/// A thread's image as CRIU will read it: after all has been taken out of it there is nothing more to be taken out.
fn images(bytes: &[u8]) {
    let terms = Terms { groups: &[100, u32::MAX], guest: true };
    if let Some(amended) = terms.amend(bytes) {
        assert_eq!(terms.amend(&amended).as_ref(), Some(&amended));
    }
}

fn messages<M: Serialize + DeserializeOwned + PartialEq + Debug>(mut bytes: &[u8]) {
    while let Ok(message) = frame::read::<M>(&mut bytes, MAX_FRAME) {
        let Ok(encoded) = frame::encode(&message) else { panic!("cannot be encoded: {message:?}") };
        assert_eq!(frame::read::<M>(&mut encoded.as_slice(), MAX_FRAME).ok(), Some(message));
    }
}
