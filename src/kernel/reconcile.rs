//! The kernel and the records side by side: finding what differs, and what of a table still says
//! whose it is.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::elements::Seen;
use super::message::Attributes;
use super::raise::raise;
use super::{Applied, Change, Error, Look, Nft, Table};
use crate::ruleset::{
    Data, Element, Key, LAYOUT, Rule, Ruleset, Set, SetKind, Treatment, hairpin_of, host_at,
};

/// What a table holds that explains itself.
#[derive(Debug, Default)]
pub struct Survey {
    /// Every element but those about to go.
    pub elements: BTreeMap<(Set, Key), Element>,
    /// How packets are treated where a verdict map leads to, by the name of the chain. Chains that
    /// are not what their name stands for are left out.
    pub treatments: BTreeMap<String, Treatment>,
}

impl Survey {
    /// What must stay where nobody knows what belongs at the places of `spared`.
    fn kept(self, spared: &BTreeSet<(Set, Key)>) -> (Vec<Element>, Vec<Treatment>) {
        let hairpins = hairpins_of(spared, self.elements.iter().map(|(at, it)| (at, &it.data)));
        let stays = |element: &Element| {
            let place = element.place();
            let leads_somewhere = match &element.data {
                Data::Goto(chain) => self.treatments.contains_key(chain),
                Data::None | Data::Target(_) => true,
            };
            leads_somewhere && (spared.contains(&place) || hairpins.contains(&place))
        };
        let elements: Vec<Element> = self.elements.into_values().filter(stays).collect();
        let used = |chain: &str| {
            let data = elements.iter().map(|element| &element.data);
            data.into_iter().any(|data| matches!(data, Data::Goto(to) if to == chain))
        };
        let treatments = self.treatments.iter().filter(|(chain, _)| used(chain));
        (elements.clone(), treatments.map(|(_, treatment)| treatment.clone()).collect())
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
            Data::None | Data::Goto(_) => None,
        })
        .collect()
}

impl Nft {
    /// Makes the table exactly that of `everything`, but for what it spares, and changes nothing that
    /// is right already: the way to find what was lost, what somebody else put there, and rules that
    /// were replaced one by one. Where a chain differs, the whole table is built again.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn reconcile(&mut self, everything: &Ruleset) -> Result<Applied, Error> {
        let look = self.look(&[])?;
        look.permit(&self.identity)?;
        if look.table == Table::Absent && everything.elements.is_empty() {
            return Ok(Applied::default());
        }
        if let Some(reason) = self.damage(&look, everything)? {
            self.rebuild(everything)?;
            return Ok(Applied { rebuilt: Some(reason), ..Applied::default() });
        }
        let seen = self.every_element()?;
        let data = seen.iter().filter_map(|(place, seen)| Some((place, seen.data.as_ref()?)));
        let hairpins = hairpins_of(&everything.spared, data);
        let mut released: BTreeSet<_> = seen.into_keys().collect();
        released.retain(|at| !everything.spared.contains(at) && !hairpins.contains(at));
        let change = Change {
            wanted: everything.elements.clone(),
            released,
            chains: everything.networks.clone(),
        };
        self.apply(&change, || Ok(everything.clone()))
    }

    /// Reads the table back, whosever it is; `None` where none of this layout is.
    ///
    /// # Errors
    /// As for [`Self::look`].
    pub fn survey(&mut self) -> Result<Option<Survey>, Error> {
        let look = self.look(&[])?;
        if !matches!(&look.table, Table::Ours(found) if found.layout == LAYOUT) {
            return Ok(None);
        }
        let chains = raised(&look);
        let mut survey = Survey::default();
        for (place, seen) in self.every_element()? {
            let Some(element) = element_at(place, seen) else { continue };
            if let Data::Goto(chain) = &element.data
                && let Some(treatment) = Treatment::read(chain, &chains)
            {
                survey.treatments.insert(chain.clone(), treatment);
            }
            survey.elements.insert(place, element);
        }
        Ok(Some(survey))
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
        let (elements, treatments) = survey.kept(&everything.spared);
        Ok(Cow::Owned(everything.into_owned().with(elements, treatments)))
    }
}

/// The rules of each chain that could be a network's.
fn raised(look: &Look) -> BTreeMap<String, Vec<Rule>> {
    let rules = |rules: &Vec<Vec<u8>>| -> Option<Vec<Rule>> {
        rules.iter().map(|rule| raise(Attributes(rule))).collect()
    };
    let chains = look.rules().iter();
    chains.filter_map(|(name, its)| Some((name.clone(), rules(its)?))).collect()
}

fn element_at(place: (Set, Key), seen: Seen) -> Option<Element> {
    let Seen { data: Some(data), comment, holder, expiring: false } = seen else { return None };
    let (set, key) = place;
    // A hairpin serves its port on any address.
    let host = host_at(&place).or_else(|| {
        let wildcard = Key { address: None, ..key };
        host_at(&(Set { kind: SetKind::Ports, ..set }, wildcard))
    })?;
    Some(Element { set, key, data, comment, holder, host })
}
