//! The node, as far as it was asked about.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Availability, Spot};
use crate::model::Protocol;

/// Who answers, and what was answered.
pub(super) struct Node<L, X> {
    look: L,
    examine: X,
    seen: Answers,
    examined: Answers,
}

impl<E, L, X> Node<L, X>
where
    L: FnMut(Spot) -> Result<Availability, E>,
    X: FnMut(Spot) -> Result<Availability, E>,
{
    pub(super) fn new(look: L, examine: X) -> Self {
        Self { look, examine, seen: Answers::default(), examined: Answers::default() }
    }

    pub(super) fn look(&mut self, spot: Spot) -> Result<Availability, E> {
        self.seen.of(spot, &mut self.look)
    }

    /// Whether a spot is no worse than `worst`; behind one that is held somebody has to be alive.
    pub(super) fn is_within(&mut self, spot: Spot, worst: Availability) -> Result<bool, E> {
        let seen = self.look(spot)?;
        if seen != Availability::Held || worst != Availability::Held {
            return Ok(seen <= worst);
        }
        Ok(self.examined.of(spot, &mut self.examine)? < Availability::Held)
    }
}

/// How many numbers a page has, and how many pages there are.
const PAGE: usize = 1 << u8::BITS;

/// A page that nobody has asked for is not there.
type Pages = Vec<Option<Box<[Option<Availability>; PAGE]>>>;

/// Answers by protocol, address and number. A range has thousands of numbers, all of which may be
/// asked about more than once: to find one by its hash would take longer than all the rest.
#[derive(Default)]
struct Answers(BTreeMap<(Protocol, Option<IpAddr>), Pages>);

impl Answers {
    /// The answer to the question about a spot, which is asked once.
    fn of<E>(
        &mut self,
        spot: Spot,
        ask: impl FnOnce(Spot) -> Result<Availability, E>,
    ) -> Result<Availability, E> {
        let pages = self.0.entry((spot.protocol, spot.address));
        let pages = pages.or_insert_with(|| vec![None; PAGE]);
        let [page, number] = spot.port.get().to_be_bytes().map(usize::from);
        let answer = &mut pages[page].get_or_insert_with(|| Box::new([None; PAGE]))[number];
        match *answer {
            Some(known) => Ok(known),
            None => Ok(*answer.insert(ask(spot)?)),
        }
    }
}
