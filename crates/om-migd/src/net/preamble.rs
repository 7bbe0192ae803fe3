//! The first bytes of a connection to another node's om-migd, in the clear: the challenge of the one that is called, and
//! for which job the caller comes and what for, with a MAC that only a member can make for this challenge and this node.
//! With them om-migd passes the connection to the job's keeper, which does everything else. So strangers reach a parser
//! of 48 bytes and nothing behind it. Nothing is believed before TLS stands; both messages are bound to its handshake.
//!
//! ```text
//! called: challenge ──▶ caller          | 0 | `omig` | 4 | version | 6 | 0 | 8 | nonce, 16 bytes |
//! caller: preamble ──▶ called, then TLS
//! ```
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `omig` |
//! | 4 | 2 | version, little-endian |
//! | 6 | 1 | purpose: 1 move, 2 link, 3 files, 4 inquiry |
//! | 7 | 1 | zero |
//! | 8 | 16 | the job's name |
//! | 24 | 4 | key id, little-endian |
//! | 28 | 4 | zero |
//! | 32 | 16 | MAC over challenge, address of the node that is called, and the first 32 bytes |

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use om_proto::key::{ClusterKeys, MAC_LEN, random};
use serde::{Deserialize, Serialize};

/// Length of a preamble in bytes.
pub const LENGTH: usize = SIGNED + MAC_LEN;
/// Length of a challenge in bytes.
pub const CHALLENGE_LENGTH: usize = 24;
const SIGNED: usize = 32;
const MAGIC: [u8; 4] = *b"omig";
/// Version of everything that two keepers say to each other.
pub const VERSION: u16 = 4;
/// What the MAC's key is derived under.
const LABEL: &str = "om migration preamble";

/// The name of a job: random, the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub [u8; 16]);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte =
                std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or(())?;
        }
        Ok(Self(bytes))
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A job comes here: source to target.
    Move,
    /// The control and stdio connection: where a job runs to its home.
    Link,
    /// The home file system: where a job runs to its home.
    Files,
    /// What home has decided: a source in doubt that cannot reach home to the target.
    Inquiry,
}

/// The first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preamble {
    /// What for.
    pub purpose: Purpose,
    /// For which job.
    pub job: JobId,
}

/// Why a connection was closed at once.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something else than an om-migd.
    #[error("it does not speak the protocol of om-migd")]
    Magic,
    /// Another release.
    #[error("it speaks version {0} of the protocol, this node version {VERSION}")]
    Version(u16),
    /// A newer release may know more purposes.
    #[error("it wants something unknown ({0})")]
    Purpose(u8),
    /// A stranger, or one who repeats what a member has said to somebody at some time.
    #[error("it has not proved that it has the cluster key")]
    Mac,
}

/// What the node that is called says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    bytes: [u8; CHALLENGE_LENGTH],
}

impl Challenge {
    /// A challenge that was never put before.
    pub fn new() -> io::Result<Self> {
        let mut bytes = [0; CHALLENGE_LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..].copy_from_slice(&random::<16>()?);
        Ok(Self { bytes })
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn bytes(&self) -> &[u8; CHALLENGE_LENGTH] {
        &self.bytes
    }

    /// Checks what the node that was called has said.
    pub fn decode(bytes: [u8; CHALLENGE_LENGTH]) -> Result<Self, Error> {
        check_start(&bytes)?;
        Ok(Self { bytes })
    }
}

/// Magic and version, which both begin with.
fn check_start(bytes: &[u8]) -> Result<(), Error> {
    if bytes[..4] != MAGIC {
        return Err(Error::Magic);
    }
    match u16::from_le_bytes([bytes[4], bytes[5]]) {
        VERSION => Ok(()),
        version => Err(Error::Version(version)),
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

impl Preamble {
    /// The bytes on the wire, to the node at `to` that has put this challenge.
    #[must_use]
    pub fn encode(&self, challenge: &Challenge, to: IpAddr, keys: &ClusterKeys) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let (signed, mac) = bytes.split_at_mut(SIGNED);
        signed[..4].copy_from_slice(&MAGIC);
        signed[4..6].copy_from_slice(&VERSION.to_le_bytes());
        signed[6] = match self.purpose {
            Purpose::Move => 1,
            Purpose::Link => 2,
            Purpose::Files => 3,
            Purpose::Inquiry => 4,
        };
        signed[8..24].copy_from_slice(&self.job.0);
        signed[24..28].copy_from_slice(&keys.signing_id().to_le_bytes());
        mac.copy_from_slice(&keys.sign(LABEL, &[&challenge.bytes, &octets(to), signed]));
        bytes
    }

    /// Checks and decodes what was answered to this challenge of the node `here`: first the MAC, then what it says.
    pub fn decode(
        bytes: &[u8; LENGTH],
        challenge: &Challenge,
        here: IpAddr,
        keys: &ClusterKeys,
    ) -> Result<Self, Error> {
        check_start(bytes)?;
        let Some((signed, mac)) = bytes.split_last_chunk::<MAC_LEN>() else { return Err(Error::Mac) };
        let id = u32::from_le_bytes([signed[24], signed[25], signed[26], signed[27]]);
        if !keys.verify(LABEL, id, &[&challenge.bytes, &octets(here), signed], mac) {
            return Err(Error::Mac);
        }
        let purpose = match signed[6] {
            1 => Purpose::Move,
            2 => Purpose::Link,
            3 => Purpose::Files,
            4 => Purpose::Inquiry,
            other => return Err(Error::Purpose(other)),
        };
        let mut job = [0; 16];
        job.copy_from_slice(&signed[8..24]);
        Ok(Self { purpose, job: JobId(job) })
    }

    /// The name of the protocol that is spoken inside TLS, which is part of the handshake: for this job and purpose only.
    #[must_use]
    pub fn protocol(&self) -> Vec<u8> {
        let purpose = match self.purpose {
            Purpose::Move => "move",
            Purpose::Link => "link",
            Purpose::Files => "files",
            Purpose::Inquiry => "inquiry",
        };
        format!("om/{VERSION}/{purpose}/{}", self.job).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 1));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 2));
    const PREAMBLE: Preamble = Preamble { purpose: Purpose::Move, job: JobId([7; 16]) };

    fn keys() -> ClusterKeys {
        ClusterKeys::for_tests(&[1])
    }

    #[test]
    fn a_preamble_survives_the_wire() {
        let challenge = Challenge::decode(*Challenge::new().unwrap().bytes()).unwrap();
        for purpose in [Purpose::Move, Purpose::Link, Purpose::Files, Purpose::Inquiry] {
            let preamble = Preamble { purpose, ..PREAMBLE };
            let bytes = preamble.encode(&challenge, HERE, &keys());
            assert_eq!(Preamble::decode(&bytes, &challenge, HERE, &keys()), Ok(preamble));
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        let challenge = Challenge::new().unwrap();
        let mut bytes = PREAMBLE.encode(&challenge, HERE, &keys());
        let decode = |bytes: &[u8; LENGTH]| Preamble::decode(bytes, &challenge, HERE, &keys());
        bytes[20] ^= 1;
        assert_eq!(decode(&bytes), Err(Error::Mac));
        bytes[4] = 9;
        assert_eq!(decode(&bytes), Err(Error::Version(9)));
        bytes[0] = b'G';
        assert_eq!(decode(&bytes), Err(Error::Magic));
        for keys in [ClusterKeys::none(), ClusterKeys::for_tests(&[2])] {
            assert_eq!(decode(&PREAMBLE.encode(&challenge, HERE, &keys)), Err(Error::Mac));
        }
        let unkeyed = PREAMBLE.encode(&challenge, HERE, &ClusterKeys::none());
        assert_eq!(Preamble::decode(&unkeyed, &challenge, HERE, &ClusterKeys::none()), Err(Error::Mac));
    }

    #[test]
    fn a_preamble_is_good_for_one_connection_to_one_node() {
        let (challenge, later) = (Challenge::new().unwrap(), Challenge::new().unwrap());
        let bytes = PREAMBLE.encode(&challenge, HERE, &keys());
        assert_eq!(Preamble::decode(&bytes, &later, HERE, &keys()), Err(Error::Mac));
        assert_eq!(Preamble::decode(&bytes, &challenge, ELSEWHERE, &keys()), Err(Error::Mac));
    }

    #[test]
    fn a_job_has_a_printable_name() {
        let job = JobId([0xa5; 16]);
        assert_eq!(job.to_string().parse(), Ok(job));
        assert!("xyz".parse::<JobId>().is_err());
    }
}
