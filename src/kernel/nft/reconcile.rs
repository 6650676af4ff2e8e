//! The kernel and the records side by side: finding what differs, and what of a table still says
//! whose it is.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::change::Step;
use super::elements::{self, Seen};
use super::look::Standing;
use super::{Applied, Change, Error, Extent, Look, Nft, Table, compare, unused};
use crate::model::HostPort;
use crate::ruleset::{
    Data, Digest, Element, Identity, Key, LAYOUT, NetworkPolicy, Ruleset, Set, covers, hairpin_of,
    host_at,
};

/// What a table holds that explains itself.
#[derive(Debug, Default)]
pub struct Survey {
    /// Every element but those about to go.
    pub elements: BTreeMap<(Set, Key), Element>,
    /// How packets are treated. Network policies whose chains are not what their name stands for are left
    /// out.
    pub network_policies: BTreeMap<Digest, NetworkPolicy>,
    /// The interfaces that are guarded.
    pub guarded: Vec<String>,
}

impl Survey {
    /// What must stay where nobody knows what belongs at the places of `spared`.
    fn kept(self, spared: &BTreeSet<(Set, Key)>) -> (Vec<Element>, Vec<NetworkPolicy>) {
        let hairpins = hairpins_of(spared, self.elements.iter().map(|(at, it)| (at, &it.data)));
        let stays = |element: &Element| {
            let place = element.place();
            let network_policy = element.set.network_policy();
            let leads_somewhere =
                network_policy.is_none_or(|digest| self.network_policies.contains_key(&digest));
            let is_spared = covers(|place| spared.contains(place), &place);
            leads_somewhere && (is_spared || hairpins.contains(&place))
        };
        let elements: Vec<Element> = self.elements.into_values().filter(stays).collect();
        let used: BTreeSet<Digest> =
            elements.iter().filter_map(|element| element.set.network_policy()).collect();
        let network_policies =
            self.network_policies.into_iter().filter(|(digest, _)| used.contains(digest));
        (elements, network_policies.map(|(_, network_policy)| network_policy).collect())
    }
}

/// The places of hairpins that belong to what is at the places of `spared`.
fn hairpins_of<'a>(
    spared: &BTreeSet<(Set, Key)>,
    elements: impl Iterator<Item = (&'a (Set, Key), &'a Data)>,
) -> BTreeSet<(Set, Key)> {
    elements
        .filter(|(place, _)| spared.contains(place))
        .filter_map(|(place, data)| match data {
            Data::Target(target) => Some(hairpin_of(&host_at(place)?, *target)),
            Data::None => None,
        })
        .collect()
}

impl Nft {
    /// Makes the table exactly that of `everything`, but for what it spares, and changes nothing that
    /// is right already: the way to find what was lost, and what nobody recorded. A difference among
    /// the elements is mended one by one, any other by building the table again.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn reconcile(&mut self, everything: &Ruleset) -> Result<Applied, Error> {
        let mut change = Change::default();
        let mut vacated = Vec::new();
        let mut applied = self.attempt::<_, Error>(Extent::Everything, |nft, look, tries| {
            let spared = spared_in(look, everything);
            let standing = look.thorough_standing(&nft.identity, everything)?;
            // What is built again is not compared one by one, and a copy of it takes its time.
            if matches!(standing, Standing::Intact { .. }) {
                change.wanted.clone_from(&everything.elements);
                let ours = look.elements.keys().filter(|place| !spared.contains(place));
                change.released = ours.copied().collect();
                vacated = change.vacated(look);
            }
            Ok(Some(match change.step(look, standing, tries)? {
                Step::Wait => return Ok(None),
                Step::Difference(difference) => {
                    let (mut transaction, mut applied) = Applied::of(&difference);
                    let unused = unused::remove(&mut transaction, look, everything, &spared);
                    let elements = compare::differing_elements(look, everything, &spared);
                    applied.mended = elements.chain(unused).collect();
                    (transaction, applied)
                }
                Step::Rebuild(reason) => {
                    let whole = nft.with_spared(Cow::Borrowed(everything))?;
                    nft.rebuild(look, &whole, reason)
                }
            }))
        })?;
        if applied.rebuilt.is_none() {
            applied.unfinished = self.finish(&vacated).err();
        }
        if applied.counts.added > 0 {
            applied.restored.clone_from(&everything.traffic);
        }
        Ok(applied)
    }

    /// Names what differs between the table and the one that `everything` implies, and changes nothing.
    ///
    /// # Errors
    /// As for [`Self::look`]; [`Error::OtherInstance`], [`Error::NewerLayout`].
    pub fn differences(&mut self, everything: &Ruleset) -> Result<Vec<String>, Error> {
        let look = self.look(Extent::Everything)?;
        if look.table == Table::Absent && everything.elements.is_empty() {
            return Ok(Vec::new());
        }
        Ok(match look.thorough_standing(&self.identity, everything)? {
            Standing::Rebuild(reason) => vec![reason],
            Standing::Intact { .. } => {
                let spared = spared_in(&look, everything);
                compare::differing_elements(&look, everything, &spared).collect()
            }
        })
    }

    /// Reads the table back, whosever it is; `None` where none of this layout is.
    ///
    /// # Errors
    /// As for [`Self::look`].
    pub fn survey(&mut self) -> Result<Option<Survey>, Error> {
        let look = self.look(Extent::Everything)?;
        let says =
            |found: &Identity| found.layout == LAYOUT && !self.identity.is_of_another_boot(found);
        if !matches!(&look.table, Table::Ours(found) if says(found)) {
            return Ok(None);
        }
        let read = |digest| Some((digest, network_policy_of(&look, digest)?));
        let network_policies = look.network_policies().filter_map(read).collect();
        let guarded = look.elements.keys().filter_map(|(_, key)| key.interface()).collect();
        let elements = look.elements.into_iter();
        let elements = elements.filter_map(|(place, seen)| Some((place, element_at(place, seen)?)));
        Ok(Some(Survey { elements: elements.collect(), network_policies, guarded }))
    }

    /// `everything`, and what it spares as far as the table that is there still has it.
    pub(super) fn with_spared<'a>(
        &mut self,
        everything: Cow<'a, Ruleset>,
    ) -> Result<Cow<'a, Ruleset>, Error> {
        if everything.spared.is_empty() {
            return Ok(everything);
        }
        let Some(survey) = self.survey()? else { return Ok(everything) };
        let (elements, network_policies) = survey.kept(&everything.spared);
        Ok(Cow::Owned(everything.into_owned().with(elements, network_policies)))
    }
}

/// What is there of those of whom nobody knows what belongs there.
fn spared_in(look: &Look, everything: &Ruleset) -> BTreeSet<(Set, Key)> {
    let seen = look.elements.iter();
    let mut spared =
        hairpins_of(&everything.spared, seen.filter_map(|(at, it)| Some((at, it.data.as_ref()?))));
    let seen = look.elements.keys().copied();
    spared.extend(seen.filter(|place| covers(|place| everything.spared.contains(place), place)));
    spared
}

/// A network policy whose chains are there as they are built.
fn network_policy_of(look: &Look, digest: Digest) -> Option<NetworkPolicy> {
    let chains = ["to", "from", "net"].map(|prefix| format!("{prefix}_{digest}"));
    let rules = chains.iter().filter_map(|chain| look.rules.get(chain)).flatten();
    let memo = rules.flat_map(|rule| elements::read_rule_memo(rule)).copied().collect();
    let network_policy = NetworkPolicy::read(digest, &String::from_utf8(memo).ok()?)?;
    compare::has_chains(look, &network_policy.chains()).then_some(network_policy)
}

fn element_at(place: (Set, Key), seen: Seen) -> Option<Element> {
    let Seen { data: Some(data), comment, holder, expiring: false, .. } = seen else {
        return None;
    };
    let (set, key) = place;
    // A hairpin serves its port on any address.
    let host = host_at(&place).or_else(|| {
        let Key::Port { protocol, port, .. } = key else { return None };
        Some(HostPort { protocol, port, address: set.family.wildcard() })
    });
    Some(Element { set, key, data, comment, holder, host })
}
