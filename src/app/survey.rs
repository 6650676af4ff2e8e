//! How numbers stand in the store: looked for one by one at first, and as a whole once that has led
//! nowhere too often.

use std::collections::BTreeMap;

use super::past::Past;
use crate::error::Error;
use crate::model::{HostPort, Owner, Protocol};
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
    holders: BTreeMap<Key, Held>,
}

#[derive(Default)]
struct Asked<'a> {
    in_vain: usize,
    listing: Option<Listing<'a>>,
}

/// What somebody holds who is entered.
enum Held {
    /// These, sorted; none if the claimant need not respect it.
    Hosts(Vec<HostPort>),
    /// Whatever it is entered for.
    All,
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
            let held = self.holders.entry(key).or_insert_with_key(|key| held(past, owner, key));
            let holds = match held {
                Held::Hosts(hosts) => hosts.binary_search(&host).is_ok(),
                Held::All => true,
            };
            if holds {
                return Ok(Availability::Held);
            }
        }
        let is_recent = past.is_released(spot.protocol, spot.port, releaser, now)?;
        Ok(if is_recent { Availability::Recent } else { Availability::Free })
    }
}

fn held(past: Past<'_>, owner: &Owner, key: &Key) -> Held {
    match past.who(key) {
        None => Held::Hosts(Vec::new()),
        Some(Who::Attachment(record)) => {
            match plan::standing(owner, &record.owner, netns::is_gone) {
                Standing::Holds | Standing::Sibling => {
                    Held::Hosts(record.mappings.iter().map(|mapping| mapping.host).collect())
                }
                Standing::Same | Standing::Superseded(_) => Held::Hosts(Vec::new()),
            }
        }
        Some(Who::Reservation(reservation)) => Held::Hosts(reservation.hosts),
        Some(Who::Unreadable(_)) => Held::All,
    }
}

#[cfg(test)]
mod tests;
