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
        let mut excluded = vec![false; 1 << u16::BITS];
        for range in &policy.excluded {
            excluded[usize::from(range.first.get())..=usize::from(range.last.get())].fill(true);
        }
        let mut pool = Self { numbers: Vec::new(), rows: Vec::new(), start: 0 };
        for range in ranges {
            let first = pool.numbers.len();
            for number in range.first.get()..=range.last.get() {
                let Some(number) = NonZeroU16::new(number) else { continue };
                if number >= policy.min_port && !excluded[usize::from(number.get())] {
                    pool.numbers.push(number);
                }
                if cursor == Some(number) {
                    pool.start = pool.numbers.len();
                }
            }
            pool.count_rows(first);
        }
        if pool.start == pool.numbers.len() {
            pool.start = 0;
        }
        pool
    }

    /// Counts from the end: a row of another part of the range, or past a gap, is another row.
    fn count_rows(&mut self, first: usize) {
        self.rows.resize(self.numbers.len(), 1);
        for at in (first..self.numbers.len()).rev().skip(1) {
            if self.numbers[at].checked_add(1) == Some(self.numbers[at + 1]) {
                self.rows[at] = self.rows[at + 1].saturating_add(1);
            }
        }
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
