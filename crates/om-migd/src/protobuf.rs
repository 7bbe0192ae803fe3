//! As much of protobuf's wire format as CRIU's images need.

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer.
    Number(u64),
    /// A message, a text or bytes.
    Bytes(&'a [u8]),
    /// Something of a fixed length.
    Other,
}

/// Takes one field off the front of a message: its number and value; none if there is no whole one.
pub fn take_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = take_number(message)?;
    let value = match key & 7 {
        0 => Value::Number(take_number(message)?),
        1 => take(message, 8).map(|_| Value::Other)?,
        2 => {
            let length = usize::try_from(take_number(message)?).ok()?;
            Value::Bytes(take(message, length)?)
        }
        5 => take(message, 4).map(|_| Value::Other)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

/// Takes so many bytes off the front.
pub fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, left) = rest.split_first()?;
        *rest = left;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Appends a field.
pub fn put_number(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

/// Appends a field.
pub fn put_bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_as_they_were_put() {
        let mut message = Vec::new();
        put_number(&mut message, 1, u64::MAX);
        put_bytes(&mut message, 300, b"hello");
        let mut rest = message.as_slice();
        assert_eq!(take_field(&mut rest), Some((1, Value::Number(u64::MAX))));
        assert_eq!(take_field(&mut rest), Some((300, Value::Bytes(b"hello"))));
        assert_eq!(take_field(&mut rest), None);
    }

    #[test]
    fn what_is_no_field_is_none() {
        assert_eq!(take_number(&mut [0xff; 20].as_slice()), None);
        assert_eq!(take_field(&mut [0x0a, 5, 1].as_slice()), None, "shorter than it says");
        assert_eq!(take_field(&mut [0x0f].as_slice()), None, "no such type");
    }
}
