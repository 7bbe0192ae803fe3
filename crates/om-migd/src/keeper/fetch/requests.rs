//! Which pages are asked for next: several requests are under way at a time, so that nobody waits for the way there and back.
//! Knows nothing of sockets and tasks.

use std::collections::VecDeque;

use super::wire::Piece;

/// So many requests are under way.
const WINDOW: usize = 6;
/// The most pages of one request. CRIU answers with less, up to where the memory that it holds in one pipe ends.
const MOST: u64 = 1024;

/// What becomes of a page that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is asked for now.
    Ask(Piece),
    /// It is under way, from the source or from here into the task, or there by now.
    Coming,
    /// The job has never written to it.
    Empty,
}

/// What has not come yet.
#[derive(Debug)]
pub struct Requests {
    /// Bytes of a page.
    page: u64,
    /// Everything that is to be fetched, whether it has come or not: none of it is ever taken for empty.
    whole: Vec<Piece>,
    waiting: VecDeque<Piece>,
    /// In the order in which they are answered.
    asked: VecDeque<Piece>,
    begun: bool,
}

impl Requests {
    /// Nothing yet.
    #[must_use]
    pub fn new(page: u64) -> Self {
        let (whole, waiting, asked) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Self { page, whole, waiting, asked, begun: false }
    }

    /// This is to be fetched too.
    pub fn add(&mut self, piece: Piece) {
        self.whole.push(piece);
        self.waiting.push_back(piece);
    }

    /// From now on more is asked for than what somebody waits for.
    pub fn begin(&mut self) {
        self.begun = true;
    }

    /// Whether all has come.
    #[must_use]
    pub fn are_done(&self) -> bool {
        self.begun && self.waiting.is_empty() && self.asked.is_empty()
    }

    /// What to ask for now; it counts as asked for.
    pub fn next(&mut self) -> Option<Piece> {
        if !self.begun || self.asked.len() >= WINDOW {
            return None;
        }
        let first = self.waiting.front_mut()?;
        let piece = Piece { pages: first.pages.min(MOST), ..*first };
        first.address += piece.pages * self.page;
        first.pages -= piece.pages;
        if first.pages == 0 {
            self.waiting.pop_front();
        }
        self.asked.push_back(piece);
        Some(piece)
    }

    /// Somebody waits for the page at this address.
    pub fn fault(&mut self, task: u32, address: u64) -> Fault {
        let address = address - address % self.page;
        let end = |piece: &Piece| piece.address + piece.pages * self.page;
        let has = |piece: &Piece| piece.task == task && piece.address <= address && address < end(piece);
        if !self.whole.iter().any(has) {
            return Fault::Empty;
        }
        let Some(at) = self.waiting.iter().position(has) else { return Fault::Coming };
        let whole = self.waiting[at];
        let before = (address - whole.address) / self.page;
        let after = Piece { task, address: address + self.page, pages: whole.pages - before - 1 };
        let around = [Piece { pages: before, ..whole }, after];
        self.waiting.remove(at);
        for piece in around.into_iter().rev().filter(|piece| piece.pages > 0) {
            self.waiting.insert(at, piece);
        }
        let piece = Piece { task, address, pages: 1 };
        self.asked.push_back(piece);
        Fault::Ask(piece)
    }

    /// These pages come. False if they are not what was asked for.
    #[must_use]
    pub fn answered(&mut self, piece: Piece) -> bool {
        let Some(asked) = self.asked.front() else { return false };
        if (asked.task, asked.address) != (piece.task, piece.address)
            || !(1..=asked.pages).contains(&piece.pages)
        {
            return false;
        }
        let rest = Piece {
            task: asked.task,
            address: asked.address + piece.pages * self.page,
            pages: asked.pages - piece.pages,
        };
        self.asked.pop_front();
        if rest.pages > 0 {
            self.waiting.push_front(rest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = 4096;

    fn piece(address: u64, pages: u64) -> Piece {
        Piece { task: 7, address: address * PAGE, pages }
    }

    #[test]
    fn nothing_is_asked_for_before_the_beginning_but_what_somebody_waits_for() {
        let mut requests = Requests::new(PAGE);
        requests.add(piece(10, 5));
        assert_eq!(requests.next(), None);
        assert_eq!(requests.fault(7, 12 * PAGE + 5), Fault::Ask(piece(12, 1)));
        assert_eq!(requests.fault(7, 12 * PAGE), Fault::Coming);
        assert_eq!(requests.fault(7, 15 * PAGE), Fault::Empty);
        assert_eq!(requests.fault(8, 11 * PAGE), Fault::Empty, "another task");
        requests.begin();
        assert_eq!((requests.next(), requests.next()), (Some(piece(10, 2)), Some(piece(13, 2))));
        assert_eq!(requests.next(), None);
        for piece in [piece(12, 1), piece(10, 2), piece(13, 2)] {
            assert!(!requests.are_done());
            assert!(requests.answered(piece));
        }
        assert!(requests.are_done());
    }

    #[test]
    fn what_has_been_answered_and_may_not_be_filled_in_yet_is_not_empty() {
        let mut requests = Requests::new(PAGE);
        requests.add(piece(10, 5));
        requests.begin();
        assert_eq!(requests.next(), Some(piece(10, 5)));
        assert!(requests.answered(piece(10, 5)));
        assert_eq!(requests.fault(7, 12 * PAGE), Fault::Coming);
    }

    #[test]
    fn what_was_not_asked_for_is_no_answer() {
        let mut requests = Requests::new(PAGE);
        requests.add(piece(10, 5));
        assert!(!requests.answered(piece(10, 5)));
        requests.begin();
        assert_eq!(requests.next(), Some(piece(10, 5)));
        for odd in [piece(10, 6), piece(10, 0), piece(11, 1), Piece { task: 8, ..piece(10, 5) }] {
            assert!(!requests.answered(odd), "{odd:?}");
        }
        assert!(requests.answered(piece(10, 5)));
    }

    proptest! {
        #[test]
        fn each_page_comes_once(
            ranges in prop::collection::vec(1_u64..5000, 1..6),
            answers in prop::collection::vec((1_u64..1500, any::<bool>(), 0_u64..30_000), 0..60),
        ) {
            let mut requests = Requests::new(PAGE);
            let mut expected = Vec::new();
            let mut at = 1;
            for pages in ranges {
                requests.add(piece(at, pages));
                expected.extend(at..at + pages);
                at += pages + 3;
            }
            let mut under_way = VecDeque::new();
            let mut come = Vec::new();
            let mut answers = answers.into_iter();
            requests.begin();
            while !requests.are_done() {
                while let Some(piece) = requests.next() {
                    under_way.push_back(piece);
                }
                let (most, faults, page) = answers.next().unwrap_or((u64::MAX, false, 0));
                if faults && let Fault::Ask(piece) = requests.fault(7, page * PAGE) {
                    under_way.push_back(piece);
                }
                let asked: Piece = under_way.pop_front().unwrap();
                let got = Piece { pages: asked.pages.min(most), ..asked };
                prop_assert!(requests.answered(got));
                come.extend(got.address / PAGE..got.address / PAGE + got.pages);
            }
            come.sort_unstable();
            prop_assert_eq!(come, expected);
        }
    }
}
