//! How far an attempt has come, and which searches need not be made again.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::{Spot, Tier, spots};
use crate::model::{HostPort, Wish};

/// What the claim has, by number.
type Taken = BTreeMap<NonZeroU16, Vec<HostPort>>;

/// How far one attempt has come.
#[derive(Default)]
pub(super) struct Attempt<'a> {
    pub(super) taken: Taken,
    pub(super) chosen: BTreeMap<usize, NonZeroU16>,
    /// Where each ring goes on, and the number before that place.
    pub(super) rings: BTreeMap<&'a str, (usize, NonZeroU16)>,
}

impl Attempt<'_> {
    pub(super) fn take(&mut self, wish: &Wish, first: NonZeroU16) {
        for spot in spots(wish, first) {
            self.taken.entry(spot.port).or_default().extend(spot.hosts());
        }
    }

    /// Whether the claim itself stands in the way.
    pub(super) fn is_in_the_way(&self, spot: Spot, shared: bool) -> bool {
        let Some(taken) = self.taken.get(&spot.port) else { return false };
        !shared || spot.hosts().any(|host| taken.iter().any(|other| other.overlaps(&host)))
    }
}

/// Searches that found nothing. The node stands as it stood, so one finds nothing either for a wish
/// of the same kind of a claim that has taken as much or more.
#[derive(Default)]
pub(super) struct Barren<'a>(Vec<(&'a Wish, Tier, Taken)>);

impl<'a> Barren<'a> {
    pub(super) fn note(&mut self, attempt: &Attempt<'_>, wish: &'a Wish, tier: Tier) {
        self.0.push((wish, tier, attempt.taken.clone()));
    }

    pub(super) fn is_known(&self, attempt: &Attempt<'_>, wish: &Wish, tier: Tier) -> bool {
        self.0.iter().any(|(other, searched, taken)| {
            // To share with the claim is no way out where the claim had nothing.
            let covers = *searched == tier || (searched.worst == tier.worst && taken.is_empty());
            covers && is_alike(other, wish) && is_within(taken, &attempt.taken)
        })
    }
}

/// Whether both want the same of a number.
fn is_alike(one: &Wish, other: &Wish) -> bool {
    let kind = |wish: &Wish| (wish.count, wish.address);
    kind(one) == kind(other)
        && one.protocols == other.protocols
        && one.range_name() == other.range_name()
}

fn is_within(part: &Taken, whole: &Taken) -> bool {
    part.iter().all(|(port, hosts)| {
        whole.get(port).is_some_and(|others| hosts.iter().all(|host| others.contains(host)))
    })
}
