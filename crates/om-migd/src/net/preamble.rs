//! The first bytes of a connection to another node's om-migd, in the clear: for which job it is and what for. With
//! them om-migd passes the connection to the job's keeper, which does everything else; nothing is believed before
//! TLS stands, and the job's name is said again inside it.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `omig` |
//! | 4 | 2 | version, little-endian |
//! | 6 | 1 | purpose: 1 move, 2 link, 3 files, 4 inquiry |
//! | 7 | 1 | zero |
//! | 8 | 16 | the job's name |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Length in bytes.
pub const LENGTH: usize = 24;
const MAGIC: [u8; 4] = *b"omig";
/// Version of everything that two keepers say to each other.
pub const VERSION: u16 = 1;

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
}

impl Preamble {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = match self.purpose {
            Purpose::Move => 1,
            Purpose::Link => 2,
            Purpose::Files => 3,
            Purpose::Inquiry => 4,
        };
        bytes[8..].copy_from_slice(&self.job.0);
        bytes
    }

    /// Checks and decodes.
    pub fn decode(bytes: &[u8; LENGTH]) -> Result<Self, Error> {
        if bytes[..4] != MAGIC {
            return Err(Error::Magic);
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let purpose = match bytes[6] {
            1 => Purpose::Move,
            2 => Purpose::Link,
            3 => Purpose::Files,
            4 => Purpose::Inquiry,
            other => return Err(Error::Purpose(other)),
        };
        let mut job = [0; 16];
        job.copy_from_slice(&bytes[8..]);
        Ok(Self { purpose, job: JobId(job) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_survives_the_wire() {
        for purpose in [Purpose::Move, Purpose::Link, Purpose::Files, Purpose::Inquiry] {
            let preamble = Preamble { purpose, job: JobId([7; 16]) };
            assert_eq!(Preamble::decode(&preamble.encode()), Ok(preamble));
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        let mut bytes = Preamble { purpose: Purpose::Move, job: JobId([0; 16]) }.encode();
        bytes[4] = 9;
        assert_eq!(Preamble::decode(&bytes), Err(Error::Version(9)));
        bytes[0] = b'G';
        assert_eq!(Preamble::decode(&bytes), Err(Error::Magic));
    }

    #[test]
    fn a_job_has_a_printable_name() {
        let job = JobId([0xa5; 16]);
        assert_eq!(job.to_string().parse(), Ok(job));
        assert!("xyz".parse::<JobId>().is_err());
    }
}
