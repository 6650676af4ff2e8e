//! The kernel and the records side by side: finding what differs, and what of a table still says
//! whose it is.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::elements::Seen;
use super::message::{Attributes, Messages};
use super::socket::Transaction;
use super::{Applied, Change, Error, Extent, Look, Nft, Table, compare};
use crate::kernel::uapi;
use crate::model::HostPort;
use crate::ruleset::{
    self, Data, Digest, Element, Identity, Key, LAYOUT, MASQUERADE_PREFIX, NetworkPolicy, Place,
    Ruleset, Set, SetKind, TABLE, covers, hairpin_of, host_at,
};

/// What a table holds that explains itself.
#[derive(Debug, Default)]
pub struct Survey {
    /// Every element but those about to go.
    pub elements: BTreeMap<Place, Element>,
    /// How packets are treated. Network policies whose chains are not what their name stands for are left
    /// out.
    pub network_policies: BTreeMap<Digest, NetworkPolicy>,
    /// The interfaces that are guarded.
    pub guarded: Vec<String>,
}

impl Survey {
    /// What `look` saw of a table of this layout; `None` where there is none, or one of another boot.
    fn of(look: Look, identity: &Identity) -> Option<Self> {
        let says = |found: &Identity| found.layout == LAYOUT && !identity.is_of_another_boot(found);
        if !matches!(&look.table, Table::Ours(found) if says(found)) {
            return None;
        }
        let read = |digest| Some((digest, compare::network_policy_of(&look, digest)?));
        let network_policies = look.network_policies().filter_map(read).collect();
        let guarded = look.elements.keys().filter_map(|(_, key)| key.interface()).collect();
        let elements = look.elements.into_iter();
        let elements = elements.filter_map(|(place, seen)| Some((place, element_at(place, seen)?)));
        Some(Self { elements: elements.collect(), network_policies, guarded })
    }
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
            let flaw = look.any_flaw(&nft.identity, everything)?;
            // What is built again is not compared one by one, and a copy of it takes its time.
            if let Some(reason) = flaw.or_else(|| tries.give_up()) {
                let whole = nft.with_spared(Cow::Borrowed(everything))?;
                return Ok(Some(at(look, nft.rebuild(look, &whole, reason))));
            }
            change.wanted.clone_from(&everything.elements);
            let ours = look.elements.keys().filter(|place| !spared.contains(place));
            change.released = ours.copied().collect();
            vacated = change.vacated(look);
            if change.must_wait(look, tries) {
                return Ok(None);
            }
            let (mut transaction, mut applied) =
                Applied::of(&change.difference(look)?, look, false);
            let unused = remove_unused(&mut transaction, look, everything, &spared);
            let elements = compare::differing_elements(look, everything, &spared);
            applied.mended = elements.chain(unused).collect();
            Ok(Some(at(look, (transaction, applied))))
        })?;
        if applied.rebuilt.is_none() {
            applied.unfinished = self.finish(&vacated).err();
        }
        if applied.added > 0 {
            applied.restored.clone_from(&everything.traffic);
        }
        applied.offload(self.offload_exactly(&everything.offload));
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
        if let Some(reason) = look.any_flaw(&self.identity, everything)? {
            return Ok(vec![reason]);
        }
        let spared = spared_in(&look, everything);
        Ok(compare::differing_elements(&look, everything, &spared).collect())
    }

    /// Reads the table back, whosever it is; `None` where none of this layout is.
    ///
    /// # Errors
    /// As for [`Self::look`].
    pub fn survey(&mut self) -> Result<Option<Survey>, Error> {
        Ok(Survey::of(self.look(Extent::Everything)?, &self.identity))
    }

    /// `everything`, and what it spares as far as the table that is there still has it.
    pub(super) fn with_spared<'a>(
        &mut self,
        everything: Cow<'a, Ruleset>,
    ) -> Result<Cow<'a, Ruleset>, Error> {
        if everything.spared.is_empty() {
            return Ok(everything);
        }
        let look = self.look(Extent::Everything)?;
        let spared = spared_in(&look, &everything);
        let Some(survey) = Survey::of(look, &self.identity) else { return Ok(everything) };
        let Survey { mut elements, mut network_policies, .. } = survey;
        elements.retain(|place, _| {
            let network_policy = place.0.network_policy();
            let is_led_to =
                network_policy.is_none_or(|digest| network_policies.contains_key(&digest));
            is_led_to && spared.contains(place)
        });
        let used: BTreeSet<_> =
            elements.keys().filter_map(|(set, _)| set.network_policy()).collect();
        network_policies.retain(|digest, _| used.contains(digest));
        let whole = everything.into_owned();
        Ok(Cow::Owned(whole.with(elements, network_policies)))
    }
}

/// With the generation that the transaction makes, unless another comes before it.
fn at(look: &Look, (transaction, applied): (Transaction, Applied)) -> (Transaction, Applied) {
    let made = u32::from(!transaction.is_empty());
    let generation = look.generation.map(|before| before.wrapping_add(made));
    (transaction, Applied { generation, ..applied })
}

/// The places of what there is and must stay, because nobody knows what belongs at the places that
/// `everything` spares: with the hairpins of what leads to a pod there.
fn spared_in(look: &Look, everything: &Ruleset) -> BTreeSet<Place> {
    let is_spared = |place: &Place| everything.spared.contains(place);
    let seen = look.elements.keys().copied();
    let mut spared: BTreeSet<_> = seen.filter(|place| covers(is_spared, place)).collect();
    for (place, seen) in look.elements.iter().filter(|(place, _)| is_spared(place)) {
        if let (Some(Data::Target(target)), Some(host)) = (seen.data, host_at(place)) {
            spared.insert(hairpin_of(&host, target));
        }
    }
    spared
}

fn element_at(place: Place, seen: Seen) -> Option<Element> {
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

/// Deletes the chains and sets that `look` saw and neither `everything` nor an element needs; says so in
/// words.
fn remove_unused(
    transaction: &mut Transaction,
    look: &Look,
    everything: &Ruleset,
    spared: &BTreeSet<Place>,
) -> Option<String> {
    let needed = everything.networks();
    let is_needed = |name: &str| needed.iter().any(|chain| chain.name == name);
    let used: BTreeSet<Digest> =
        look.elements.keys().filter_map(|(set, _)| set.network_policy()).collect();
    let is_unused = |digest: &Digest| !is_needed(&digest.chain()) && !used.contains(digest);
    let digests: Vec<Digest> = look.network_policies().filter(is_unused).collect();
    let is_used = |kind| look.elements.keys().any(|(set, _)| set.kind == kind);
    let names_no_address = |digest: &Digest| {
        !is_needed(&digest.specific_chain())
            && !is_used(SetKind::Held { wildcard: false, digest: *digest })
    };
    let specific: Vec<String> =
        look.network_policies().filter(names_no_address).map(Digest::specific_chain).collect();
    let goes = |name: &&str| match name.rsplit_once('_') {
        // Which mark bits the spared need is not known.
        Some(_) if name.starts_with(MASQUERADE_PREFIX) => spared.is_empty() && !is_needed(name),
        Some(_) if specific.iter().any(|chain| chain == name) => true,
        Some((_, digest)) => digests.iter().any(|unused| unused.to_string() == digest),
        None => false,
    };
    let chains: Vec<&str> = look.chains.keys().map(String::as_str).filter(goes).collect();
    delete_entries(transaction, look, &chains);
    // A chain goes when it is empty and nothing leads to it: its rules may lead to another of these.
    for name in &chains {
        delete(transaction, uapi::NFT_MSG_DELRULE, name).put_text(uapi::NFTA_RULE_CHAIN, name);
    }
    for name in &chains {
        delete(transaction, uapi::NFT_MSG_DELCHAIN, name).put_text(uapi::NFTA_CHAIN_NAME, name);
    }
    for set in digests.into_iter().flat_map(Set::of_network_policy) {
        let name = set.to_string();
        delete(transaction, uapi::NFT_MSG_DELSET, &name).put_text(uapi::NFTA_SET_NAME, &name);
    }
    let (first, count) = (chains.first()?, chains.len());
    Some(format!("{count} chains without a host port, such as {first}, were left"))
}

/// Deletes the entries of `chains`.
fn delete_entries(transaction: &mut Transaction, look: &Look, chains: &[&str]) {
    for ruleset::Chain { name: from, .. } in ruleset::base_chains() {
        for rule in look.rules.get(&from).into_iter().flatten() {
            let is_its = |name: &&&str| compare::is_of(rule, name);
            let handle = Attributes(rule).get(uapi::NFTA_RULE_HANDLE);
            if let Some((name, handle)) = chains.iter().find(is_its).zip(handle) {
                let message = delete(transaction, uapi::NFT_MSG_DELRULE, name);
                message.put_text(uapi::NFTA_RULE_CHAIN, &from);
                message.put(uapi::NFTA_RULE_HANDLE, &[handle]);
            }
        }
    }
}

/// Begins to delete something of our table; which it is, is for the caller to add.
fn delete<'a>(transaction: &'a mut Transaction, kind: u16, subject: &str) -> &'a mut Messages {
    let message = transaction.message(kind, 0, format!("deleting {subject}"));
    message.put_text(uapi::NFTA_TABLE, TABLE);
    message
}
