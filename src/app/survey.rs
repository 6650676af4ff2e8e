//! How numbers stand in the store, for one choice.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use crate::error::Error;
use crate::model::{Owner, Protocol};
use crate::netns;
use crate::plan::{self, Availability, Spot, Standing};
use crate::store::{Key, Memory, Shared, Times, Who};

/// After so many numbers that were not free, one listing is cheaper than more look-ups: a range has
/// thousands.
const PATIENCE: usize = 64;

/// How many directories of entries, and records that they lead to, one choice reads under the lock to see
/// whether the holders are gone.
const READ: usize = 512;

/// What one choice has asked of the store. Without one, nothing is recorded.
pub(super) struct Survey<'a> {
    shared: Option<&'a Shared>,
    owner: &'a Owner,
    memory: &'a Memory,
    now: u64,
    times: Times,
    in_vain: usize,
    /// What is left of [`READ`].
    left: usize,
    listed: BTreeMap<Protocol, Vec<NonZeroU16>>,
    /// The holders that were looked at, as far as they have to be respected.
    holders: BTreeMap<Key, Option<Who>>,
}

impl<'a> Survey<'a> {
    pub(super) fn new(
        shared: Option<&'a Shared>,
        owner: &'a Owner,
        memory: &'a Memory,
        now: u64,
    ) -> Self {
        let (times, listed, holders) = (Times::default(), BTreeMap::new(), BTreeMap::new());
        Self { shared, owner, memory, now, times, in_vain: 0, left: READ, listed, holders }
    }

    /// How a number stands, by the names in the store. Whatever is entered counts, unless the records are
    /// examined too.
    pub(super) fn look(&mut self, spot: Spot, examined: bool) -> Result<Availability, Error> {
        let found = self.named(spot)?;
        if examined && found == Availability::Held { self.examine(spot) } else { Ok(found) }
    }

    fn named(&mut self, spot: Spot) -> Result<Availability, Error> {
        let Some(shared) = self.shared else { return Ok(Availability::Free) };
        let Spot { protocol, port, .. } = spot;
        let is_entered = match self.listed.get(&protocol) {
            Some(listed) => listed.binary_search(&port).is_ok(),
            None => shared.entered_at(protocol, port)?,
        };
        let found = if is_entered { Availability::Held } else { self.released(shared, spot) };
        self.in_vain += usize::from(found != Availability::Free);
        if self.in_vain >= PATIENCE && !self.listed.contains_key(&protocol) {
            self.listed.insert(protocol, shared.entered_ports(protocol)?);
        }
        Ok(found)
    }

    /// Looks behind the entries: a holder that is gone holds nothing. Every record is read once, since
    /// one may hold all numbers of a range.
    fn examine(&mut self, spot: Spot) -> Result<Availability, Error> {
        let Some(shared) = self.shared else { return Ok(Availability::Free) };
        if self.left == 0 {
            return Ok(Availability::Held);
        }
        self.left -= 1;
        for (host, key) in shared.entries_at(spot.protocol, spot.port)? {
            if !spot.hosts().any(|wanted| wanted.overlaps(&host)) {
                continue;
            }
            if !self.holders.contains_key(&key) {
                if self.left == 0 {
                    return Ok(Availability::Held);
                }
                self.left -= 1;
                let keeps = |who: &Who| {
                    matches!(standing(self.owner, who), Standing::Holds | Standing::Sibling)
                };
                let who = shared.who(&key).filter(keeps);
                self.holders.insert(key.clone(), who);
            }
            let holder = self.holders.get(&key).and_then(Option::as_ref);
            if holder.is_some_and(|who| who.counts_at(&host)) {
                return Ok(Availability::Held);
            }
        }
        Ok(self.released(shared, spot))
    }

    fn released(&mut self, shared: &Shared, spot: Spot) -> Availability {
        let Spot { protocol, port, .. } = spot;
        let released = self.times.of(shared, protocol, port, self.now);
        match released.filter(|at| !self.memory.has(protocol, port, *at)) {
            Some(_) => Availability::Recent,
            None => Availability::Free,
        }
    }
}

/// How a holder stands to `claimant`, by the evidence there is now.
pub(super) fn standing(claimant: &Owner, who: &Who) -> Standing {
    match who {
        Who::Record(record) => plan::standing(claimant, &record.owner, netns::is_gone),
        Who::Reservation(_) | Who::Unreadable(_) => Standing::Holds,
    }
}

#[cfg(test)]
mod tests;
