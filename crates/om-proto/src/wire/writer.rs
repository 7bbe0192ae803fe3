//! Writing a datagram into a buffer of fixed size.

use std::net::{IpAddr, Ipv6Addr};

use thiserror::Error;

use super::MAX_DATAGRAM;
use super::header::{HEADER_LEN, Header, octets};
use super::section::Section;
use crate::key::{ClusterKeys, MAC_LEN};

/// The section does not fit any more. The datagram is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no room for section {tag} in a datagram of {MAX_DATAGRAM} bytes")]
pub struct DatagramFull {
    /// The section's tag.
    pub tag: u16,
}

/// A datagram in the making.
///
/// ```
/// use om_proto::key::ClusterKeys;
/// use om_proto::report::Memory;
/// use om_proto::wire::{Datagram, DatagramWriter, Header, Kind, MAX_DATAGRAM};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = ClusterKeys::none();
/// let sender = "10.77.0.1".parse()?;
/// let header = Header { kind: Kind::Report, flags: 0, key_id: 0, epoch: 1, sequence: 7, sender };
/// let mut buffer = [0; MAX_DATAGRAM];
/// let mut writer = DatagramWriter::new(&mut buffer, header);
/// writer.section(&Memory { available_kib: Some(2_000_000), swap_free_kib: None })?;
/// let bytes = writer.finish(&keys);
///
/// let datagram = Datagram::decode(bytes, &keys)?;
/// assert_eq!(datagram.header.sender, sender);
/// let memory: Memory = datagram.section().ok_or("no memory section")?;
/// assert_eq!(memory.available_kib, Some(2_000_000));
/// # Ok(())
/// # }
/// ```
pub struct DatagramWriter<'a> {
    buffer: &'a mut [u8; MAX_DATAGRAM],
    header: Header,
    len: usize,
}

impl<'a> DatagramWriter<'a> {
    /// Begins a datagram.
    pub fn new(buffer: &'a mut [u8; MAX_DATAGRAM], header: Header) -> Self {
        Self { buffer, header, len: HEADER_LEN }
    }

    /// Adds a section.
    ///
    /// # Errors
    /// [`DatagramFull`]; the datagram can be finished without the section.
    pub fn section<S: Section>(&mut self, section: &S) -> Result<(), DatagramFull> {
        let full = DatagramFull { tag: S::TAG };
        let room = &mut self.buffer[self.len..MAX_DATAGRAM - MAC_LEN];
        let (head, room) = room.split_at_mut_checked(4).ok_or(full)?;
        let body = postcard::to_slice(section, room).map_err(|_| full)?;
        let length = u16::try_from(body.len()).map_err(|_| full)?;
        head[..2].copy_from_slice(&S::TAG.to_le_bytes());
        head[2..].copy_from_slice(&length.to_le_bytes());
        self.len += 4 + usize::from(length);
        Ok(())
    }

    /// Signs a datagram for everybody, if there is a key, and gives its bytes.
    #[must_use]
    pub fn finish(self, keys: &ClusterKeys) -> &'a [u8] {
        self.finish_for(keys, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    }

    /// The same for node `to` alone, if the datagram is of a kind that is meant for one node.
    #[must_use]
    pub fn finish_for(self, keys: &ClusterKeys, to: IpAddr) -> &'a [u8] {
        let header = Header { key_id: keys.signing_id(), ..self.header };
        self.buffer[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        let (signed, reader) = (&self.buffer[..self.len], octets(to));
        let parts = if header.kind.is_addressed() { [signed, &reader[..]] } else { [signed, &[]] };
        let mac = keys.sign_datagram(&parts);
        let end = self.len + MAC_LEN;
        self.buffer[self.len..end].copy_from_slice(&mac);
        &self.buffer[..end]
    }
}
