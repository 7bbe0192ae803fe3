//! What is said to CRIU's page server and what it answers: `struct page_server_iov` of CRIU's `page-xfer.c`, in the machine's
//! own byte order and layout, and pages behind it.

/// Asks for pages.
const GET: u32 = 7;
/// Says that nothing more will be asked for.
const CLOSE: u32 = 0x1023;
/// Pages follow. Above it are flags.
const ADD: u32 = 6;
const COMMAND: u32 = 0xffff;

/// A few pages of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The task's pid as CRIU's images have it.
    pub task: u32,
    /// Where they begin.
    pub address: u64,
    /// How many there are.
    pub pages: u64,
}

/// The two layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Up to CRIU 4.1: the number of pages has 32 bits.
    Narrow,
    /// Since CRIU 4.2: it has 64.
    Wide,
}

impl Layout {
    /// Bytes of a message.
    #[must_use]
    pub fn length(self) -> usize {
        match self {
            Self::Narrow => 24,
            Self::Wide => 32,
        }
    }

    /// A request for pages.
    #[must_use]
    pub fn get(self, piece: Piece) -> Vec<u8> {
        self.message(GET, piece)
    }

    /// The last request. It is answered by a status of 32 bits, which is 0.
    #[must_use]
    pub fn close(self) -> Vec<u8> {
        self.message(CLOSE, Piece { task: 0, address: 0, pages: 0 })
    }

    /// An answer; none if it is not that pages follow.
    #[must_use]
    pub fn answer(self, message: &[u8]) -> Option<Piece> {
        let number = |at: usize| Some(u64::from_ne_bytes(message.get(at..at + 8)?.try_into().ok()?));
        let short = |at: usize| Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?));
        if short(0)? & COMMAND != ADD {
            return None;
        }
        let (pages, rest) = match self {
            Self::Narrow => (short(4)?.into(), 8),
            Self::Wide => (number(8)?, 16),
        };
        Some(Piece { task: number(rest + 8)?.try_into().ok()?, address: number(rest)?, pages })
    }

    fn message(self, command: u32, piece: Piece) -> Vec<u8> {
        let mut message = command.to_ne_bytes().to_vec();
        match self {
            Self::Narrow => {
                message.extend(u32::try_from(piece.pages).unwrap_or(u32::MAX).to_ne_bytes());
            }
            Self::Wide => {
                message.extend([0; 4]);
                message.extend(piece.pages.to_ne_bytes());
            }
        }
        message.extend(piece.address.to_ne_bytes());
        message.extend(u64::from(piece.task).to_ne_bytes());
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_criu_s_layout() {
        let piece = Piece { task: 17, address: 0x7000_1000, pages: 3 };
        for (layout, pages_at) in [(Layout::Narrow, 4), (Layout::Wide, 8)] {
            let mut message = layout.get(piece);
            assert_eq!(message.len(), layout.length());
            assert_eq!(message[0], 7);
            assert_eq!(message[pages_at], 3);
            assert_eq!(layout.answer(&message), None, "a request is no answer");
            message[..4].copy_from_slice(&0x4_0006_u32.to_ne_bytes());
            assert_eq!(layout.answer(&message), Some(piece));
            assert_eq!(layout.answer(&message[..layout.length() - 1]), None);
            assert_eq!(layout.close().len(), layout.length());
        }
    }
}
