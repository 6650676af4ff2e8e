//! What one command changes of the table: from what a look showed to what has to be true.

use std::collections::{BTreeMap, BTreeSet};

use super::elements::{self, Seen};
use super::encode::Encoder;
use super::look::{Look, Standing};
use super::socket::Transaction;
use super::{Error, PATIENCE, Tries, add_chains, add_rules};
use crate::ruleset::{self, Chain, Data, Element, Key, Set};

/// What has to become true of the table, for one command.
#[derive(Debug, Default)]
pub struct Change {
    /// The elements that must be there.
    pub wanted: BTreeMap<(Set, Key), Element>,
    /// The places that must be empty unless wanted: what is there is ours to replace.
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

    /// The places that have to become empty.
    pub(super) fn vacated(&self) -> impl Iterator<Item = &(Set, Key)> {
        self.released.iter().filter(|place| !self.wanted.contains_key(place))
    }

    /// Whether a wanted place is still taken by what somebody released a moment ago.
    fn must_wait(&self, look: &Look) -> bool {
        let expiring = |place| look.elements.get(place).is_some_and(|seen: &Seen| seen.expiring);
        self.wanted.keys().any(expiring)
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
                let (difference, counts) = difference(self, look, &missing)?;
                Ok(Step::Difference(difference, counts))
            }
        }
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

/// The transaction that brings the elements from what `look` saw to what `change` asks for.
fn difference(
    change: &Change,
    look: &Look,
    missing: &[Chain],
) -> Result<(Transaction, Counts), Error> {
    let (mut deleted, mut expired) = (Vec::new(), Vec::new());
    for place in &change.released {
        let Some(seen) = look.elements.get(place) else { continue };
        match (change.wanted.get(place), &seen.data) {
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
            // A hairpin may serve an address that is given out again: it leads nowhere, so
            // nothing is overwritten.
            Some(Seen { data: Some(Data::None), .. }) => {}
            Some(_) if change.released.contains(place) => {}
            Some(seen) => return Err(unrecorded(wanted, seen)),
        }
    }
    let mut transaction = Transaction::begin();
    if !missing.is_empty() {
        let mut encoder = Encoder::new();
        add_chains(&mut transaction, &mut encoder, missing.iter());
        for chain in missing.iter().filter(|c| c.name.starts_with(ruleset::MASQUERADE_PREFIX)) {
            let postrouting = Chain {
                name: ruleset::POSTROUTING.to_owned(),
                base: None,
                rules: vec![ruleset::jump_to(chain)],
            };
            add_rules(&mut transaction, &mut encoder, &postrouting);
        }
    }
    elements::delete(&mut transaction, &deleted);
    elements::expire(&mut transaction, &expired);
    elements::add(&mut transaction, &added);
    let counts = Counts { added: added.len(), removed: deleted.len() + expired.len() };
    Ok((transaction, counts))
}

fn unrecorded(wanted: &Element, seen: &Seen) -> Error {
    let target = seen.data.as_ref().map_or("an unknown place".to_owned(), Data::to_string);
    Error::Unrecorded { host: wanted.host, target, set: wanted.set.name() }
}
