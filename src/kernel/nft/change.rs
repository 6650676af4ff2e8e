//! What one command changes of the table: from what a look showed to what has to be true.

use std::collections::{BTreeMap, BTreeSet};

use super::elements::{self, Seen};
use super::encode::Encoder;
use super::look::{Look, Standing};
use super::socket::Transaction;
use super::{Error, PATIENCE, Place, Tries, add_chains, add_rules, add_sets};
use crate::model::HostPort;
use crate::ruleset::{
    self, Chain, Data, Digest, Dispatch, Element, HOSTPORTS, Key, POSTROUTING, Set, SetKind,
};

/// What has to become true of the table, for one command.
#[derive(Debug, Default)]
pub struct Change {
    /// The elements that must be there.
    pub wanted: BTreeMap<(Set, Key), Element>,
    /// The places that must be empty unless wanted: what is there, and at the places that they cover,
    /// is ours to replace.
    pub released: BTreeSet<(Set, Key)>,
    /// The chains that the wanted elements lead to.
    pub chains: Vec<Chain>,
}

impl Change {
    /// Whether the table need not be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.released.is_empty()
    }

    /// The places that `look` saw taken and that have to become empty.
    pub(super) fn vacated(&self, look: &Look) -> Vec<(Set, Key)> {
        let taken = look.elements.keys().copied();
        taken.filter(|place| self.releases(place) && !self.wanted.contains_key(place)).collect()
    }

    /// Whether what is at `place` is ours to replace.
    fn releases(&self, place: &(Set, Key)) -> bool {
        ruleset::covers(|place| self.released.contains(place), place)
    }

    /// Whether a packet that finds what is at `place` may be one for what is wanted.
    fn concerns(&self, place: &(Set, Key)) -> bool {
        ruleset::covers(|place| self.wanted.contains_key(place), place)
    }

    /// Whether a wanted place is still taken by what somebody released a moment ago, or a wanted port
    /// still treated as that was.
    fn must_wait(&self, look: &Look) -> bool {
        look.elements.iter().any(|(place, seen)| seen.expiring && self.concerns(place))
    }

    /// What comes next, after a look that showed the table to stand like this.
    pub(super) fn step(
        &self,
        look: &Look,
        standing: Standing,
        tries: Tries,
    ) -> Result<Step, Error> {
        match standing {
            Standing::Rebuild(reason) => Ok(Step::Rebuild(reason)),
            Standing::Intact { .. } if tries.refusals > 2 => {
                Ok(Step::Rebuild("something in it was missing".to_owned()))
            }
            Standing::Intact { .. } if tries.waits < PATIENCE && self.must_wait(look) => {
                Ok(Step::Wait)
            }
            Standing::Intact { missing } => {
                let (transaction, counts) = Difference::new(self, look, &missing)?.transaction();
                Ok(Step::Difference(transaction, counts))
            }
        }
    }

    /// What the kernel is sent for it where the table has the chains and no element is in the way:
    /// for benchmarks of the encoding alone.
    ///
    /// # Errors
    /// None, as nothing is in the way.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let nothing = Look::at_nothing();
        let (transaction, _) = Difference::new(self, &nothing, &[])?.transaction();
        Ok(transaction.finish().map_or(Vec::new(), |(messages, _)| messages.as_bytes().to_vec()))
    }

    pub(super) fn places(&self) -> Vec<(Set, Key)> {
        let mut places: Vec<_> = self.wanted.keys().chain(&self.released).copied().collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// How a change goes on.
pub(super) enum Step {
    /// It is too early.
    Wait,
    /// This makes it true.
    Difference(Transaction, Counts),
    /// The table has to be built again, for this reason.
    Rebuild(String),
}

/// How many elements were changed one by one; what was replaced counts as both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many were added.
    pub added: usize,
    /// How many were taken away.
    pub removed: usize,
}

/// What brings the elements from what a look saw to what a change asks for.
pub(super) struct Difference<'a> {
    change: &'a Change,
    missing: &'a [Chain],
    deleted: Vec<(Set, Key)>,
    expired: Vec<((Set, Key), &'a Data)>,
    added: Vec<&'a Element>,
}

impl<'a> Difference<'a> {
    pub(super) fn new(
        change: &'a Change,
        look: &'a Look,
        missing: &'a [Chain],
    ) -> Result<Self, Error> {
        let (mut deleted, mut expired) = (Vec::new(), Vec::new());
        for (place, seen) in &look.elements {
            match (change.wanted.get(place), &seen.data) {
                (None, _) if !change.releases(place) => {
                    if let Some(host) = ruleset::host_at(place).filter(|_| change.concerns(place)) {
                        return Err(unrecorded(host, place.0, seen));
                    }
                }
                (Some(_), _) if !change.releases(place) => {}
                (Some(wanted), _) if seen.is(wanted) => {}
                (None, Some(data)) if !seen.expiring => expired.push((*place, data)),
                (None, Some(_)) => {}
                (Some(_), _) | (None, None) => deleted.push(*place),
            }
        }
        let mut added = Vec::new();
        for (place, wanted) in &change.wanted {
            match look.elements.get(place) {
                None => added.push(wanted),
                Some(_) if deleted.binary_search(place).is_ok() => added.push(wanted),
                Some(_) if change.releases(place) => {}
                Some(seen) => match wanted.host {
                    // A hairpin may serve an address that is given out again: it leads nowhere, so
                    // nothing is overwritten. Nor is by an interface of several pods.
                    Some(_) if place.0.kind == SetKind::Hairpins && seen.data.is_some() => {}
                    Some(host) => return Err(unrecorded(host, place.0, seen)),
                    None => {}
                },
            }
        }
        Ok(Self { change, missing, deleted, expired, added })
    }

    fn transaction(&self) -> (Transaction, Counts) {
        let mut transaction = Transaction::begin();
        if !self.missing.is_empty() {
            add_missing(&mut transaction, self.change, self.missing);
        }
        elements::delete(&mut transaction, &self.deleted);
        elements::expire(&mut transaction, &self.expired);
        elements::add(&mut transaction, &self.added);
        let removed = self.deleted.len() + self.expired.len();
        (transaction, Counts { added: self.added.len(), removed })
    }

    /// The same, for nft(8).
    pub(super) fn script(&self) -> ruleset::Difference {
        let expired = self.expired.iter().map(|(place, _)| *place);
        ruleset::Difference {
            chains: self.missing.to_vec(),
            deleted: self.deleted.iter().copied().chain(expired).collect(),
            added: self.added.iter().map(|element| (*element).clone()).collect(),
        }
    }
}

/// Adds chains that `change` leads to, their sets, and what leads to them.
fn add_missing(transaction: &mut Transaction, change: &Change, missing: &[Chain]) {
    let mut encoder = Encoder::new();
    let network_policies = || missing.iter().filter_map(|chain| Digest::of_chain(&chain.name));
    add_sets(transaction, &mut encoder, network_policies().flat_map(Set::of_network_policy));
    add_chains(transaction, &mut encoder, missing.iter());
    let masquerading = missing.iter().filter(|c| c.name.starts_with(ruleset::MASQUERADE_PREFIX));
    let jumps: Vec<_> = masquerading.map(ruleset::jump_to).collect();
    let Dispatch { specific, wildcard } =
        ruleset::dispatch(network_policies(), |name| change.chains.iter().any(|c| c.name == name));
    add_rules(transaction, &mut encoder, POSTROUTING, &jumps, Place::Last, "");
    // Each goes before the one that was put first before it.
    let specific: Vec<_> = specific.into_iter().rev().collect();
    add_rules(transaction, &mut encoder, HOSTPORTS, &specific, Place::First, "");
    add_rules(transaction, &mut encoder, HOSTPORTS, &wildcard, Place::Last, "");
}

fn unrecorded(host: HostPort, set: Set, seen: &Seen) -> Error {
    let target = match (set.network_policy(), &seen.data) {
        (Some(digest), _) => digest.chain(),
        (None, Some(data)) => data.to_string(),
        (None, None) => "an unknown place".to_owned(),
    };
    Error::Unrecorded { host, target, set }
}
