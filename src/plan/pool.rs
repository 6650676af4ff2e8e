//! The numbers that may be chosen, in the order of a range.

use std::num::NonZeroU16;
use std::ops::Range;

use crate::model::{PortPolicy, PortRange};

/// A range without what is excluded.
#[derive(Debug)]
pub(super) struct Pool {
    numbers: Vec<NonZeroU16>,
    /// For each number, how many in a row begin with it, inside its part of the range.
    rows: Vec<u16>,
    /// Where the search goes on: past the cursor if that is in the range, else at the start.
    start: usize,
}

impl Pool {
    /// Takes from `ranges` what `policy` permits, in the order written.
    pub(super) fn new(
        ranges: &[PortRange],
        policy: &PortPolicy,
        cursor: Option<NonZeroU16>,
    ) -> Self {
        let mut excluded = policy.excluded.clone();
        excluded.sort_unstable();
        let past = |last: NonZeroU16| u32::from(last.get()) + 1;
        let mut pool = Self { numbers: Vec::new(), rows: Vec::new(), start: 0 };
        for range in ranges {
            let before = pool.numbers.len();
            let mut next = range.first.max(policy.min_port).get().into();
            for gap in &excluded {
                pool.put(next, past(range.last).min(gap.first.get().into()));
                next = next.max(past(gap.last));
            }
            pool.put(next, past(range.last));
            if let Some(cursor) = cursor.filter(|cursor| range.contains(*cursor)) {
                let passed = pool.numbers[before..].partition_point(|number| *number <= cursor);
                pool.start = before + passed;
            }
        }
        if pool.start == pool.numbers.len() {
            pool.start = 0;
        }
        pool
    }

    /// Puts in what is from `first` to before `end`: numbers in a row.
    fn put(&mut self, first: u32, end: u32) {
        let Ok(count) = u16::try_from(end.saturating_sub(first)) else { return };
        let Some(first) = u16::try_from(first).ok().and_then(NonZeroU16::new) else { return };
        self.numbers.extend((0..count).map(|offset| first.saturating_add(offset)));
        self.rows.extend((1..=count).rev());
    }

    pub(super) const fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) const fn start(&self) -> usize {
        self.start
    }

    pub(super) fn numbers(&self) -> &[NonZeroU16] {
        &self.numbers
    }

    /// The places of `count` numbers in a row from `start` on.
    pub(super) fn row(&self, start: usize, count: NonZeroU16) -> Option<Range<usize>> {
        (*self.rows.get(start)? >= count.get()).then(|| start..start + usize::from(count.get()))
    }

    pub(super) fn place_of(&self, number: NonZeroU16) -> Option<usize> {
        self.numbers.iter().position(|one| *one == number)
    }
}
