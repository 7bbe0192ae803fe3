//! Length-prefixed postcard frames over a byte stream, for the local sockets and for the connections
//! between migration daemons.
//!
//! A frame is a little-endian u32 length and that many bytes of postcard. The reader names the largest
//! frame that it accepts; a longer one is an error before any memory is taken for it.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes one message. Returns the I/O error of the stream, or `InvalidData` if it cannot be encoded.
pub fn write<T: Serialize + ?Sized>(out: &mut impl Write, message: &T) -> io::Result<()> {
    out.write_all(&encode(message)?)
}

/// The bytes that [`write`] would write.
pub fn encode<T: Serialize + ?Sized>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    bytes = postcard::to_extend(message, bytes).map_err(invalid)?;
    let length = u32::try_from(bytes.len() - 4).map_err(invalid)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Reads one message of at most `limit` bytes. `UnexpectedEof` if the stream ended between two frames or
/// within one, `InvalidData` if the frame is too long or cannot be decoded.
pub fn read<T: DeserializeOwned>(input: &mut impl Read, limit: usize) -> io::Result<T> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(invalid)?;
    if length > limit {
        return Err(invalid(format!("a frame of {length} bytes where at most {limit} are allowed")));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(invalid)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = Vec::new();
        write(&mut bytes, &("where", 7_u32)).unwrap();
        write(&mut bytes, &("home", 8_u32)).unwrap();
        let mut input = bytes.as_slice();
        assert_eq!(read::<(String, u32)>(&mut input, 64).unwrap(), ("where".to_owned(), 7));
        assert_eq!(read::<(String, u32)>(&mut input, 64).unwrap(), ("home".to_owned(), 8));
        assert_eq!(read::<u8>(&mut input, 64).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_frame_that_is_too_long_takes_no_memory() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(read::<u8>(&mut bytes.as_slice(), 64).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
