//! Which bytes of a file somebody has locked: a set of ranges. Pure.
//!
//! Home's kernel keeps the locks; this only remembers whether there are any left, and it is told of each that
//! was taken or dropped.

/// A set of byte positions, as ranges that neither touch nor overlap. Ends are inclusive.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(super) fn add(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        self.0.retain(|(from, to)| {
            let apart = *from > end.saturating_add(1) || start > to.saturating_add(1);
            if !apart {
                (start, end) = (start.min(*from), end.max(*to));
            }
            apart
        });
        self.0.push((start, end));
    }

    pub(super) fn remove(&mut self, start: u64, end: u64) {
        let mut left = Vec::new();
        for (from, to) in self.0.drain(..) {
            if let Some(before) = start.checked_sub(1).filter(|before| *before >= from) {
                left.push((from, to.min(before)));
            }
            if let Some(after) = end.checked_add(1).filter(|after| *after <= to) {
                left.push((from.max(after), to));
            }
        }
        self.0 = left;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(changes in prop::collection::vec((any::<bool>(), 0_u64..64, 0_u64..64), 0..40)) {
            let mut ranges = Ranges::default();
            let mut model = 0_u64;
            for (adds, one, two) in changes {
                let (start, end) = (one.min(two), one.max(two));
                let mask = (start..=end).fold(0, |mask, bit| mask | 1 << bit);
                if adds {
                    ranges.add(start, end);
                    model |= mask;
                } else {
                    ranges.remove(start, end);
                    model &= !mask;
                }
                let seen = ranges.0.iter().flat_map(|(from, to)| *from..=*to).fold(0, |mask, bit| mask | 1_u64 << bit);
                prop_assert_eq!(seen, model);
                prop_assert_eq!(ranges.is_empty(), model == 0);
            }
        }
    }

    #[test]
    fn the_end_of_the_world_is_no_exception() {
        let mut ranges = Ranges::default();
        ranges.add(0, u64::MAX);
        ranges.remove(5, u64::MAX);
        assert_eq!(ranges, Ranges(vec![(0, 4)]));
        ranges.remove(0, u64::MAX);
        assert!(ranges.is_empty());
    }
}
