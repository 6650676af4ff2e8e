//! How numbers stand in the store: looked for one by one at first, and as a whole once that has led
//! nowhere too often.

use std::collections::BTreeMap;

use super::past::Past;
use crate::error::Error;
use crate::model::{Owner, Protocol};
use crate::netns;
use crate::plan::{self, Availability, Spot, Standing};
use crate::store::{Key, Listing, Releaser, Who};

/// After so many numbers that were not free a listing is cheaper than more look-ups: up to three
/// for each number, and a range has thousands.
const PATIENCE: usize = 64;

/// What one choice has asked of the store.
pub(super) struct Survey<'a> {
    past: Past<'a>,
    owner: &'a Owner,
    releaser: &'a Releaser,
    now: u64,
    protocols: BTreeMap<Protocol, Asked<'a>>,
    /// Whom the claimant has to respect, of those who were looked at.
    holders: BTreeMap<Key, Option<Who>>,
}

#[derive(Default)]
struct Asked<'a> {
    in_vain: usize,
    listing: Option<Listing<'a>>,
}

impl<'a> Survey<'a> {
    pub(super) fn new(past: Past<'a>, owner: &'a Owner, releaser: &'a Releaser, now: u64) -> Self {
        let (protocols, holders) = (BTreeMap::new(), BTreeMap::new());
        Self { past, owner, releaser, now, protocols, holders }
    }

    /// How a number stands, by the names in the store; whoever is entered counts.
    pub(super) fn look(
        &mut self,
        Spot { protocol, port, .. }: Spot,
    ) -> Result<Availability, Error> {
        let Self { past, releaser, now, .. } = *self;
        let asked = self.protocols.entry(protocol).or_default();
        if asked.in_vain == PATIENCE && asked.listing.is_none() {
            asked.listing = past.listing(protocol, releaser, now)?;
        }
        let found = match &asked.listing {
            Some(listing) if listing.is_entered(port) => Availability::Held,
            Some(listing) if listing.is_released(port)? => Availability::Recent,
            None if past.entered_at(protocol, port)? => Availability::Held,
            None if past.is_released(protocol, port, releaser, now)? => Availability::Recent,
            Some(_) | None => Availability::Free,
        };
        asked.in_vain += usize::from(found != Availability::Free);
        Ok(found)
    }

    /// Looks behind the entries: who is no more holds nothing. Every record is read once, since one
    /// may hold all numbers of a range.
    pub(super) fn examine(&mut self, spot: Spot) -> Result<Availability, Error> {
        let Self { past, owner, releaser, now, .. } = *self;
        for (host, key) in past.entries_at(spot.protocol, spot.port)? {
            if !spot.hosts().any(|wanted| wanted.overlaps(&host)) {
                continue;
            }
            let holder = self.holders.entry(key);
            let holder = holder
                .or_insert_with_key(|key| past.who(key).filter(|who| is_respected(owner, who)));
            if holder.as_ref().is_some_and(|who| who.counts_at(&host)) {
                return Ok(Availability::Held);
            }
        }
        let is_recent = past.is_released(spot.protocol, spot.port, releaser, now)?;
        Ok(if is_recent { Availability::Recent } else { Availability::Free })
    }
}

/// Whether `owner` has to leave to somebody what that one holds.
fn is_respected(owner: &Owner, who: &Who) -> bool {
    match who {
        Who::Record(record) => {
            let standing = plan::standing(owner, &record.owner, netns::is_gone);
            matches!(standing, Standing::Holds | Standing::Sibling)
        }
        Who::Reservation(_) | Who::Unreadable(_) => true,
    }
}

#[cfg(test)]
mod tests;
