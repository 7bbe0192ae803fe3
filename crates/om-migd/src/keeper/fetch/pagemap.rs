//! What CRIU's image `pagemap-PID.img` says of a task's memory: which of it is still to be fetched.
//!
//! The file is two magic numbers and then messages, each behind its length: a head, and an entry a range, as
//! `pagemap.proto` in CRIU has them.

use crate::protobuf::{Value, take, take_field};

/// The two magic numbers.
const MAGIC: usize = 8;
/// `pagemap_entry`.
const ADDRESS: u64 = 1;
const PAGES_BEFORE_4_2: u64 = 2;
const FLAGS: u64 = 4;
const PAGES: u64 = 5;
/// The flag of a range whose pages are in no image.
const LAZY: u64 = 1 << 1;

/// The memory of one task that is to be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pagemap {
    /// Each range: its address and how many pages it has.
    pub ranges: Vec<(u64, u64)>,
    /// Whether the CRIU that wrote it counts pages in 64 bits, as it does since 4.2, here and in its requests.
    pub is_wide: bool,
}

impl Pagemap {
    /// Understands an image; none if it is no such. `page` is the size of a page in bytes.
    #[must_use]
    pub fn parse(image: &[u8], page: u64) -> Option<Self> {
        let mut rest = image;
        take(&mut rest, MAGIC)?;
        let _head = take_message(&mut rest)?;
        let mut pagemap = Self::default();
        while !rest.is_empty() {
            let mut entry = take_message(&mut rest)?;
            let (mut address, mut narrow, mut wide, mut flags) = (None, None, None, 0);
            while !entry.is_empty() {
                match take_field(&mut entry)? {
                    (ADDRESS, Value::Number(number)) => address = Some(number),
                    (PAGES_BEFORE_4_2, Value::Number(number)) => narrow = Some(number),
                    (PAGES, Value::Number(number)) => wide = Some(number),
                    (FLAGS, Value::Number(number)) => flags = number,
                    _ => {}
                }
            }
            let (address, pages) = (address?, wide.or(narrow)?);
            pagemap.is_wide |= wide.is_some();
            let end = pages.checked_mul(page).and_then(|bytes| address.checked_add(bytes));
            if end.is_none() || address % page != 0 {
                return None;
            }
            if flags & LAZY != 0 && pages > 0 {
                pagemap.ranges.push((address, pages));
            }
        }
        Some(pagemap)
    }
}

fn take_message<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
    take(rest, usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::put_number;

    fn image(entries: &[&[(u64, u64)]]) -> Vec<u8> {
        let mut image = b"magicnrs".to_vec();
        for fields in [[(1, 1)].as_slice()].iter().chain(entries) {
            let mut message = Vec::new();
            for (number, value) in *fields {
                put_number(&mut message, *number, *value);
            }
            image.extend_from_slice(&u32::try_from(message.len()).unwrap().to_le_bytes());
            image.extend_from_slice(&message);
        }
        image
    }

    #[test]
    fn what_is_in_no_image_is_found() {
        let image = image(&[
            &[(ADDRESS, 0x1000), (PAGES_BEFORE_4_2, 0), (FLAGS, 4), (PAGES, 7)],
            &[(ADDRESS, 0x40_0000), (PAGES_BEFORE_4_2, 0), (FLAGS, LAZY), (PAGES, 1 << 33)],
        ]);
        let pagemap = Pagemap::parse(&image, 4096).unwrap();
        assert_eq!(pagemap, Pagemap { ranges: vec![(0x40_0000, 1 << 33)], is_wide: true });
    }

    #[test]
    fn an_older_image_is_understood() {
        let image = image(&[&[(ADDRESS, 0x1000), (PAGES_BEFORE_4_2, 3), (FLAGS, LAZY)]]);
        assert_eq!(Pagemap::parse(&image, 4096), Some(Pagemap { ranges: vec![(0x1000, 3)], is_wide: false }));
    }

    #[test]
    fn what_is_no_image_is_none() {
        let good = image(&[&[(ADDRESS, 0x1000), (FLAGS, LAZY), (PAGES, 1)]]);
        for length in 9..good.len() {
            let parsed = Pagemap::parse(&good[..length], 4096);
            assert!(parsed.is_none_or(|parsed| parsed.ranges.is_empty()), "{length}");
        }
        for odd in [
            [(ADDRESS, 0x1001), (PAGES, 1)],
            [(ADDRESS, 0x1000), (PAGES, u64::MAX)],
            [(FLAGS, 0), (PAGES, 1)],
        ] {
            assert_eq!(Pagemap::parse(&image(&[&odd]), 4096), None);
        }
    }
}
