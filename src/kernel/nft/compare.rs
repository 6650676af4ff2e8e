//! The kernel's table against the one that records imply, by content: what CHECK says of one
//! attachment, and what GC and the watch look for in all of it.

use std::collections::BTreeSet;

use super::elements::Seen;
use super::encode::Encoder;
use super::look::{Extent, Look, Table};
use super::message::{Attributes, attributes_of};
use super::{Error, Nft};
use crate::kernel::uapi;
use crate::model::{Family, HostPort};
use crate::ruleset::{
    self, Chain, Data, Digest, Element, HOSTPORTS6, Identity, LAYOUT, MASQUERADE_PREFIX,
    NetworkPolicy, POSTROUTING, PREROUTING, Place, Rule, Ruleset, Set, Side, host_at,
};

impl Look {
    /// Compares all of the table but its elements with `everything`, by content; says why it has to be built
    /// again, if it has to.
    pub(super) fn any_flaw(
        &self,
        expected: &Identity,
        everything: &Ruleset,
    ) -> Result<Option<String>, Error> {
        let flaw = self.flaw(expected, &everything.networks())?;
        let odd = || self.odd.map(|set| format!("{set} had a key that autoport never writes"));
        Ok(flaw.or_else(odd).or_else(|| differing_chain(self, &everything.chains())))
    }
}

impl Nft {
    /// Compares the kernel with `expected`, a table that holds one record, and names the first
    /// difference. Other records' elements and chains do not matter, unless they take packets that
    /// are this record's.
    ///
    /// # Errors
    /// As for [`Self::look`].
    pub fn check(&mut self, expected: &Ruleset) -> Result<Option<String>, Error> {
        let hosts = expected.elements.keys().filter_map(ruleset::host_at);
        let rivals = hosts.flat_map(|host| ruleset::places_of(&host));
        let places: Vec<_> = expected.elements.keys().copied().chain(rivals).collect();
        let look = self.look(Extent::Places(&places))?;
        // A network's chains and sets are named by their content, so another layout names them
        // differently: only what leads to the pod can be compared.
        let other = matches!(&look.table, Table::Ours(found) if found.layout != LAYOUT);
        let mut elements =
            expected.elements.values().filter(|it| !other || matches!(it.data, Data::Target(_)));
        // Another layout may have it in the other map.
        let is_elsewhere = |element: &Element| {
            let mut places = element.host.iter().flat_map(ruleset::places_of);
            other
                && places.any(|place| {
                    look.elements
                        .get(&place)
                        .is_some_and(|it| !it.expiring && it.data.as_ref() == Some(&element.data))
                })
        };
        let lost = || {
            elements.find_map(|element| missing(&look, element).filter(|_| !is_elsewhere(element)))
        };
        let difference = self.check_table(&look).or_else(lost);
        if other || difference.is_some() {
            return Ok(difference);
        }
        let unrecorded = || {
            let mut others = look.elements.iter().filter(|(_, seen)| !seen.expiring);
            let (place, seen) = others.find(|it| !expected.elements.contains_key(it.0))?;
            Some(foreign(place, seen))
        };
        match differing_chain(&look, &expected.chains()).or_else(unrecorded) {
            None => self.check_diversions(expected, &look),
            difference => Ok(difference),
        }
    }

    /// Looks for elements on one address that take the packets of a claim on every address. The
    /// store grants such a claim beside it to the same record only, so nobody recorded any other.
    ///
    /// Their keys cannot be guessed, so the maps are listed: they have only what was claimed for one
    /// address of the node, which is rare.
    fn check_diversions(
        &mut self,
        expected: &Ruleset,
        look: &Look,
    ) -> Result<Option<String>, Error> {
        let hosts = expected.elements.keys().filter_map(host_at);
        let wildcards: BTreeSet<HostPort> = hosts.filter(HostPort::is_wildcard).collect();
        for set in Set::common().chain(look.network_policies().flat_map(Set::of_network_policy)) {
            let has_rivals = |host: &HostPort| Family::of(&host.address) == set.family;
            if set.key_address() != Some(Side::Destination) || !wildcards.iter().any(has_rivals) {
                continue;
            }
            for (key, seen) in self.every_element(set)?.into_iter().flatten() {
                let place = (set, key);
                let takes = host_at(&place).is_some_and(|host| {
                    wildcards.contains(&HostPort { address: set.family.wildcard(), ..host })
                });
                if takes && !seen.expiring && !expected.elements.contains_key(&place) {
                    return Ok(Some(foreign(&place, &seen)));
                }
            }
        }
        Ok(None)
    }

    fn check_table(&self, look: &Look) -> Option<String> {
        match &look.table {
            Table::Absent => Some("table inet autoport is missing".to_owned()),
            Table::Foreign => Some("table inet autoport was not made by autoport".to_owned()),
            Table::Ours(found) if self.identity.is_of_another_boot(found) => {
                Some("table inet autoport was built in an earlier boot".to_owned())
            }
            Table::Ours(found) if found.instance != self.identity.instance => {
                Some(format!("table inet autoport belongs to another store, {}", found.instance))
            }
            Table::Ours(_) if look.dormant => Some("table inet autoport is dormant".to_owned()),
            Table::Ours(_) => None,
        }
    }
}

fn missing(look: &Look, element: &Element) -> Option<String> {
    let Element { set, key, data, .. } = element;
    match look.elements.get(&element.place()) {
        None | Some(Seen { expiring: true, .. }) => {
            Some(format!("element {key} of {set} is missing"))
        }
        Some(Seen { data: Some(seen), .. }) if seen == data => None,
        Some(Seen { data: Some(seen), .. }) => {
            Some(format!("element {key} of {set} leads to {seen}, not {data}"))
        }
        Some(Seen { data: None, .. }) => {
            Some(format!("element {key} of {set} leads elsewhere than to {data}"))
        }
    }
}

fn foreign((set, key): &Place, seen: &Seen) -> String {
    let leads = match &seen.data {
        Some(Data::None) => String::new(),
        Some(data) => format!(", which leads to {data},"),
        None => ", of unknown content,".to_owned(),
    };
    format!("element {key} of {set}{leads} has no record")
}

/// Names what is different in the first of `chains` that the kernel has not just so.
pub(super) fn differing_chain(look: &Look, chains: &[Chain]) -> Option<String> {
    let mut encoder = Encoder::new();
    chains.iter().find_map(|chain| check_chain(chain, look, &mut encoder)).or_else(|| {
        let base = ruleset::base_chains().into_iter();
        let mut entered = base.filter(|chain| chains.iter().any(|one| one.name == chain.name));
        let all = with_others(look, chains);
        entered.find_map(|chain| check_entered(&chain, look, &all, &mut encoder))
    })
}

/// A network policy whose chains are there as they are built. The first of its chains has the entries, and these
/// go on with what its own rules say of the policy.
pub(super) fn network_policy_of(look: &Look, digest: Digest) -> Option<NetworkPolicy> {
    let chains = ["to", "from", "net"].map(|prefix| format!("{prefix}_{digest}"));
    let rules_of = |chain: &str| look.rules.get(chain).into_iter().flatten();
    let mut present = chains.iter().filter(|chain| look.chains.contains_key(*chain));
    let first = present.next()?;
    let entries = [PREROUTING, HOSTPORTS6].into_iter().flat_map(rules_of);
    let entries = entries.filter(|rule| is_of(rule, &digest.chain()));
    let rules = rules_of(first).chain(entries).chain(present.flat_map(|chain| rules_of(chain)));
    let memo = |rule| Attributes(rule).userdata(uapi::NFTA_RULE_USERDATA, uapi::HOLDER);
    let memo = rules.filter_map(|rule| memo(rule)).flatten().copied().collect();
    let network_policy = NetworkPolicy::read(digest, &String::from_utf8(memo).ok()?)?;
    let mut encoder = Encoder::new();
    let chains = network_policy.chains(false);
    let differing = chains.iter().find_map(|chain| check_chain(chain, look, &mut encoder));
    differing.is_none().then_some(network_policy)
}

/// Whether `rule` is an entry of `chain`: it names the chain or a set of its network, or masquerades by the mark
/// bit of the chain.
pub(super) fn is_of(rule: &[u8], chain: &str) -> bool {
    if let Some(bit) = chain.strip_prefix(MASQUERADE_PREFIX).and_then(|bit| bit.parse().ok()) {
        let mut encoder = Encoder::new();
        return ruleset::masquerade_chain(bit).entries.iter().any(|entry| {
            Attributes(rule).contains(attributes_of(encoder.rule(POSTROUTING, entry)))
        });
    }
    let names = |name: &str| {
        let name = [name.as_bytes(), &[0]].concat();
        rule.windows(name.len()).any(|it| it == name)
    };
    let sets = Digest::of_chain(chain).into_iter().flat_map(Set::of_network_policy);
    names(chain) || sets.map(|set| set.to_string()).any(|set| names(&set))
}

/// `chains`, and those of the other networks in the table as far as it says itself what they are.
fn with_others(look: &Look, chains: &[Chain]) -> Vec<Chain> {
    let is_known = |digest: &Digest| chains.iter().any(|chain| chain.name == digest.chain());
    let others = look.network_policies().filter(|digest| !is_known(digest));
    let others = others.filter_map(|digest| {
        let has_specific = look.chains.contains_key(&digest.specific_chain());
        Some(network_policy_of(look, digest)?.chains(has_specific))
    });
    let others: Vec<Chain> = others.flatten().collect();
    chains.iter().cloned().chain(others).collect()
}

/// Names each element that differs from those of `expected`, but for what is at `spared`.
pub(super) fn differing_elements<'a>(
    look: &'a Look,
    expected: &'a Ruleset,
    spared: &'a BTreeSet<Place>,
) -> impl Iterator<Item = String> + 'a {
    let renamed = |element: &Element| {
        let seen = look.elements.get(&element.place()).filter(|seen| !seen.is(element))?;
        let Element { set, key, comment, holder, .. } = element;
        let (found, expected) = if seen.comment == *comment {
            (&seen.holder, holder)
        } else {
            (&seen.comment, comment)
        };
        Some(format!("element {key} of {set} is named {found:?}, not {expected:?}"))
    };
    let lost = expected.elements.values();
    let lost = lost.filter_map(move |element| missing(look, element).or_else(|| renamed(element)));
    let found = look.elements.iter().filter(|(place, seen)| {
        !seen.expiring && !expected.elements.contains_key(place) && !spared.contains(place)
    });
    lost.chain(found.map(|(place, seen)| foreign(place, seen)))
}

pub(super) fn check_chain(chain: &Chain, look: &Look, encoder: &mut Encoder) -> Option<String> {
    let name = &chain.name;
    let Some(seen) = look.chains.get(name) else {
        return Some(format!("chain {name} is missing"));
    };
    if !Attributes(seen).contains(attributes_of(encoder.chain(chain))) {
        return Some(format!("chain {name} has another type, hook, priority or policy"));
    }
    let rules = look.rules.get(name).map_or(&[][..], Vec::as_slice);
    if ruleset::base_chains().iter().any(|base| base.name == *name) {
        return None;
    }
    if rules.len() != chain.rules.len() {
        return Some(miscounted(name, rules.len(), chain.rules.len()));
    }
    chain.rules.iter().zip(rules).find_map(|(rule, seen)| {
        let expected = encoder.rule(name, rule);
        let equal = Attributes(seen).contains(attributes_of(expected));
        (!equal).then(|| format!("a rule of chain {name} is not \"{rule}\""))
    })
}

/// Compares a chain that every table has. The entries of one network go together in their order, before or
/// after those of others, and all of them between the chain's own rules.
fn check_entered(
    base: &Chain,
    look: &Look,
    chains: &[Chain],
    encoder: &mut Encoder,
) -> Option<String> {
    let name = &base.name;
    let seen = look.rules.get(name).map_or(&[][..], Vec::as_slice);
    let (found, due) = (seen.len(), look.rules_due(base));
    if found != due {
        return Some(miscounted(name, found, due));
    }
    let mut is = |rule: &Rule, seen: &[u8]| {
        Attributes(seen).contains(attributes_of(encoder.rule(name, rule)))
    };
    let (first, others) = seen.split_at(base.leading);
    let (entered, last) = others.split_at(due - base.rules.len());
    let own = first.iter().chain(last);
    let differing = base.rules.iter().zip(own).find(|(rule, seen)| !is(rule, seen));
    if let Some((rule, _)) = differing {
        return Some(format!("a rule of chain {name} is not \"{rule}\""));
    }
    let network = |chain: &Chain| chain.name.rsplit_once('_').map(|(_, name)| name.to_owned());
    let absent = chains.chunk_by(|one, other| network(one) == network(other)).find_map(|chains| {
        let mut rest = entered.iter();
        let mut entries = chains.iter().flat_map(|chain| chain.entries_in(name));
        entries.find(|rule| !rest.any(|seen| is(rule, seen)))
    });
    absent.map(|rule| format!("rule \"{rule}\" of chain {name} is missing"))
}

fn miscounted(chain: &str, found: usize, expected: usize) -> String {
    format!("chain {chain} has {found} rules instead of {expected}")
}
