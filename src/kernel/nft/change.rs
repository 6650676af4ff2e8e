//! What one command changes of the table: from what a look showed to what has to be true.

use std::collections::{BTreeMap, BTreeSet};

use super::elements::Seen;
use super::look::Look;
use super::{Error, PATIENCE, Tries};
use crate::model::HostPort;
use crate::ruleset::{self, Chain, Difference, Element, Place, Set, SetKind};

/// What has to become true of the table, for one command.
#[derive(Debug, Default)]
pub struct Change {
    /// The elements that must be there.
    pub wanted: BTreeMap<Place, Element>,
    /// The places that must be empty unless wanted: what is there, and at the places that they cover,
    /// is ours to replace.
    pub released: BTreeSet<Place>,
    /// The chains that the wanted elements lead to.
    pub chains: Vec<Chain>,
    /// Whether nothing of what is wanted has been mapped before.
    pub is_new: bool,
}

impl Change {
    /// Whether the table need not be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.released.is_empty()
    }

    /// The places that `look` saw taken and that have to become empty.
    pub(super) fn vacated(&self, look: &Look) -> Vec<Place> {
        let taken = look.elements.keys().copied();
        taken.filter(|place| self.releases(place) && !self.wanted.contains_key(place)).collect()
    }

    /// Whether what is at `place` is ours to replace.
    fn releases(&self, place: &Place) -> bool {
        ruleset::covers(|place| self.released.contains(place), place)
    }

    /// Whether a packet that finds what is at `place` may be one for what is wanted.
    fn concerns(&self, place: &Place) -> bool {
        ruleset::covers(|place| self.wanted.contains_key(place), place)
    }

    /// Whether a wanted place is still taken by what somebody released a moment ago, or a wanted port
    /// still treated as that was.
    pub(super) fn must_wait(&self, look: &Look, tries: Tries) -> bool {
        let goes = |(place, seen): (&Place, &Seen)| seen.expiring && self.concerns(place);
        tries.waits < PATIENCE && look.elements.iter().any(goes)
    }

    /// What brings a sound table from what `look` saw to what is asked for.
    pub(super) fn difference(&self, look: &Look) -> Result<Difference, Error> {
        let missing = self.chains.iter().filter(|chain| !look.chains.contains_key(&chain.name));
        let mut difference =
            Difference { chains: missing.cloned().collect(), ..Difference::default() };
        for (place, seen) in &look.elements {
            let releases = self.releases(place);
            match (self.wanted.get(place), seen.data) {
                (None, _) if !releases => {
                    if let Some(host) = ruleset::host_at(place).filter(|_| self.concerns(place)) {
                        return Err(unrecorded(host, place.0, seen));
                    }
                }
                (Some(wanted), data) if !releases => match wanted.host {
                    // A hairpin may serve an address that is given out again: it leads nowhere, so
                    // nothing is overwritten. Nor is by an interface of several pods.
                    Some(_) if place.0.kind == SetKind::Hairpins && data.is_some() => {}
                    Some(host) => return Err(unrecorded(host, place.0, seen)),
                    None => {}
                },
                (Some(wanted), _) if seen.is(wanted) => {}
                (None, Some(data)) if !seen.expiring => difference.expired.push((*place, data)),
                (None, Some(_)) => {}
                (Some(_), _) | (None, None) => difference.deleted.push(*place),
            }
        }
        let added = self.wanted.iter().filter(|(place, _)| {
            !look.elements.contains_key(place) || difference.deleted.binary_search(place).is_ok()
        });
        difference.added = added.map(|(_, element)| element.clone()).collect();
        Ok(difference)
    }

    pub(super) fn places(&self) -> Vec<Place> {
        let mut places: Vec<_> = self.wanted.keys().chain(&self.released).copied().collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

fn unrecorded(host: HostPort, set: Set, seen: &Seen) -> Error {
    let target = match (set.network_policy(), &seen.data) {
        (Some(digest), _) => digest.chain(),
        (None, Some(data)) => data.to_string(),
        (None, None) => "an unknown place".to_owned(),
    };
    Error::Unrecorded { host, target, set }
}
