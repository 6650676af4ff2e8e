//! The nftables table that a set of records implies, as a value.
//!
//! Nothing in here talks to the kernel. [`Ruleset`] prints as the nft(8) script that would build
//! the same table, which is what a test compares with what the kernel lists. docs/ruleset.md
//! follows a packet through it.
//!
//! Whatever varies per pod is an [`Element`] of a map or set; whatever varies per network is a
//! [`NetworkPolicy`], a few chains and the sets of the ports that lead to them, named after a digest of
//! their content. So the number of rules depends on the number of networks and never on the number of
//! pods.

mod chain;
mod element;
mod key;
mod network_policy;
mod offload;
mod script;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;

pub use chain::{BaseChain, Chain, Hook, Rule, Side, Term};
pub(crate) use element::{COMMENT_MAX, comment, container_of, holder_name, read_holder};
pub use element::{Data, Element, Set, SetKind};

pub use key::{Interface, Key, Place};
pub use network_policy::{Digest, NetworkPolicy};
pub use offload::{FLOWTABLE, OFFLOAD_TABLE, Offload};
pub use script::Difference;

pub(crate) use chain::{AFTER_DSTNAT, base_chains, is_host, masquerade_chain};

use ipnetwork::IpNetwork;
use serde::Serialize;

use crate::model::{Family, HostPort, Mapping, Masquerade, Record};

/// The name of the table, in family `inet`.
pub const TABLE: &str = "autoport";

/// The chain that translates what arrives, from which the chains of every network are entered.
pub const PREROUTING: &str = "prerouting";

/// The same for what the node sends.
pub const OUTPUT: &str = "output";

/// The chain that both jump to with packets of IPv6.
pub const HOSTPORTS6: &str = "hostports6";

/// The chain that masquerades by mark bits.
pub const POSTROUTING: &str = "postrouting";

/// What the names of the chains begin with that stand for a mark bit.
pub const MASQUERADE_PREFIX: &str = "masquerade_";

/// Whether a chain of this name belongs to a network, or to the mark bit of one.
pub(crate) fn is_of_network(chain: &str) -> bool {
    ["net_", "to_", "from_", "host_", MASQUERADE_PREFIX]
        .iter()
        .any(|prefix| chain.starts_with(prefix))
}

/// The version of everything in this module: names, keys, rules. A table of another layout is
/// replaced when it is older and left alone when it is newer.
pub const LAYOUT: u32 = 4;

/// What identifies a table as ours, carried in its comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, derive_more::Display)]
#[display("autoport layout {layout} instance {instance}{}",
    boot.as_ref().map_or(String::new(), |boot| format!(" boot {boot}")))]
pub struct Identity {
    /// [`LAYOUT`] of the binary that built the table.
    pub layout: u32,
    /// The random ID that the table shares with the store it was built from.
    pub instance: String,
    /// The boot in which it was built. One of another boot was saved then and loaded since, and says
    /// nothing; layout 1 had none.
    pub boot: Option<String>,
}

impl Identity {
    /// The identity of a table built by this binary from the store `instance`.
    pub fn current(instance: &str) -> Self {
        Self { layout: LAYOUT, instance: instance.to_owned(), boot: None }
    }

    /// Whether the table `found` was built in another boot than this.
    pub(crate) fn is_of_another_boot(&self, found: &Self) -> bool {
        self.boot.as_ref().zip(found.boot.as_ref()).is_some_and(|(now, then)| now != then)
    }

    /// Reads a table comment; `None` when it is not one of ours.
    pub fn parse(comment: &str) -> Option<Self> {
        let (layout, rest) = comment.strip_prefix("autoport layout ")?.split_once(" instance ")?;
        let (instance, boot) =
            rest.split_once(" boot ").map_or((rest, None), |(id, boot)| (id, Some(boot)));
        let (instance, boot) = (instance.to_owned(), boot.map(str::to_owned));
        Some(Self { layout: layout.parse().ok()?, instance, boot })
    }
}

/// The packets that mappings of a record translate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The mappings; those without target translate nothing.
    pub mappings: Vec<Mapping>,
    /// The node addresses that wildcard mappings answer on; empty means every local address.
    pub host_addresses: Vec<IpNetwork>,
    /// The clients besides loopback that may connect; empty means all.
    pub source_ranges: Vec<IpNetwork>,
    /// Whether connections from 127.0.0.0/8 are left to the node.
    pub leaves_loopback: bool,
}

impl Traffic {
    /// Those of `mappings`, a part of what `record` has.
    pub(crate) fn of(record: &Record, mappings: Vec<Mapping>) -> Self {
        Self {
            mappings,
            host_addresses: record.policy.host_addresses.clone(),
            source_ranges: record.policy.source_ranges.clone(),
            leaves_loopback: record.policy.masquerade == Masquerade::Nobody,
        }
    }
}

/// A whole table.
#[derive(Clone, Debug)]
pub struct Ruleset {
    /// Whose table it is.
    pub identity: Identity,
    /// The elements, one or more per mapping.
    pub elements: BTreeMap<Place, Element>,
    /// Where somebody has elements of whom nobody knows what they are, because the record cannot be
    /// read: what is there stays.
    pub spared: BTreeSet<Place>,
    /// The packets that they translate.
    pub traffic: Vec<Traffic>,
    /// The other table.
    pub offload: Offload,
    network_policies: BTreeMap<Digest, NetworkPolicy>,
    /// Those of them that have claims on one address.
    specific: BTreeSet<Digest>,
}

impl Ruleset {
    /// The table that `records` imply. Where two records name the same host port, the later one in
    /// the iteration is taken; the caller passes only what each still owns.
    pub fn new<'a>(identity: Identity, records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut network_policies: HashMap<NetworkPolicy, Digest> = HashMap::new();
        let mut elements = BTreeMap::new();
        let mut traffic = Vec::new();
        let mut offload = Offload::default();
        for record in records {
            if record.mappings.iter().all(|mapping| mapping.target.is_none()) {
                continue;
            }
            let network_policy = NetworkPolicy::of(record);
            let digest = network_policies.entry(network_policy.clone());
            let digest = *digest.or_insert_with_key(NetworkPolicy::digest);
            let own = elements_by(record, &record.mappings, network_policy, digest);
            elements.extend(own.map(|element| (element.place(), element)));
            traffic.push(Traffic::of(record, record.mappings.clone()));
            offload.extend([Offload::of(record)]);
        }
        let named =
            network_policies.into_iter().map(|(network_policy, digest)| (digest, network_policy));
        let (network_policies, spared) = (named.collect(), BTreeSet::new());
        let specific = specific_in(&elements);
        Self { identity, elements, spared, traffic, offload, network_policies, specific }
    }

    /// The same table with these elements as well, which are treated so.
    pub(crate) fn with(
        mut self,
        elements: BTreeMap<Place, Element>,
        network_policies: BTreeMap<Digest, NetworkPolicy>,
    ) -> Self {
        for (place, element) in elements {
            self.elements.entry(place).or_insert(element);
        }
        self.network_policies.extend(network_policies);
        self.specific = specific_in(&self.elements);
        self
    }

    /// The same table, in which these interfaces are guarded as well.
    pub(crate) fn guarding<'a>(mut self, interfaces: impl IntoIterator<Item = &'a str>) -> Self {
        let guarded = interfaces.into_iter().filter_map(Interface::named).map(Interface::guarded);
        self.elements.extend(guarded.map(|element| (element.place(), element)));
        self
    }

    /// The chains of the networks, and of the mark bits they use.
    pub fn networks(&self) -> Vec<Chain> {
        let policies = self.network_policies.iter();
        networks(policies.map(|(digest, policy)| (policy, self.specific.contains(digest))))
    }

    /// All chains.
    pub fn chains(&self) -> Vec<Chain> {
        let networks = self.networks();
        let mut chains = base_chains();
        for chain in &mut chains {
            let entries = networks.iter().flat_map(|one| one.entries_in(&chain.name)).cloned();
            chain.rules.splice(chain.leading..chain.leading, entries);
        }
        chains.extend(networks);
        chains
    }

    /// All sets and maps.
    pub fn sets(&self) -> impl Iterator<Item = Set> {
        Set::common().chain(self.network_policies.keys().copied().flat_map(Set::of_network_policy))
    }
}

/// The network policies that have claims on one address.
fn specific_in(elements: &BTreeMap<Place, Element>) -> BTreeSet<Digest> {
    let named = elements.keys().filter(|(set, _)| set.key_address() == Some(Side::Destination));
    named.filter_map(|(set, _)| set.network_policy()).collect()
}

/// The elements that `mappings`, a part of `record`'s, put into the table.
pub fn elements_of<'a>(
    record: &'a Record,
    mappings: &'a [Mapping],
) -> impl Iterator<Item = Element> + 'a {
    let network_policy = NetworkPolicy::of(record);
    let digest = network_policy.digest();
    elements_by(record, mappings, network_policy, digest)
}

/// The same for a record whose network policy and its digest are known: most of a node share them.
fn elements_by<'a>(
    record: &'a Record,
    mappings: &'a [Mapping],
    network_policy: NetworkPolicy,
    digest: Digest,
) -> impl Iterator<Item = Element> + 'a {
    let comment = comment(&record.owner);
    let holder = record.owner.attachment().map(holder_name).unwrap_or_default();
    mappings.iter().flat_map(move |Mapping { host, target, .. }| {
        // Nothing is translated.
        let Some(target) = *target else { return Vec::new() };
        let element = |(set, key): Place, data| Element {
            set,
            key,
            data,
            comment: comment.clone(),
            holder: if set.is_map() { holder.clone() } else { String::new() },
            host: Some(*host),
        };
        let mut elements = vec![
            element(leading_at(host, network_policy.has_gates()), Data::Target(target)),
            element(held_at(host, digest), Data::None),
        ];
        let is_alone =
            |own: &IpNetwork| own.ip() == target.ip() && network_policy.needs_hairpin(own);
        if record.pod_addresses.iter().any(is_alone) {
            elements.push(element(hairpin_of(host, target), Data::None));
        }
        elements
    })
}

/// The place at which a claim on `host` leads to a pod, in a network with gates or without.
pub(crate) fn leading_at(host: &HostPort, has_gates: bool) -> Place {
    let kind = match (host.is_wildcard(), has_gates) {
        (false, _) => SetKind::SPECIFIC,
        (true, false) => SetKind::WILDCARD,
        (true, true) => SetKind::Gated,
    };
    (Set { kind, family: Family::of(&host.address) }, key_of(host))
}

/// The places at which a claim on `host` may lead to a pod: with what they [`covers`], all that
/// there may be of a claim of which nothing else is known, except hairpins.
pub(crate) fn places_of(host: &HostPort) -> impl Iterator<Item = Place> + use<> {
    let gated = host.is_wildcard().then(|| leading_at(host, true));
    std::iter::once(leading_at(host, false)).chain(gated)
}

/// The place of a claim on `host` among those whose packets are treated so.
pub(crate) fn held_at(host: &HostPort, digest: Digest) -> Place {
    let kind = SetKind::Held { wildcard: host.is_wildcard(), digest };
    (Set { kind, family: Family::of(&host.address) }, key_of(host))
}

fn key_of(host: &HostPort) -> Key {
    let address = (!host.is_wildcard()).then_some(host.address);
    Key::Port { address, protocol: host.protocol, port: host.port }
}

/// Whether `place` is among the places that `has` knows, or one where the same claim has something as well: in a
/// set of a network policy, of which there may be any number, or in the other map.
pub(crate) fn covers(has: impl Fn(&Place) -> bool, place: &Place) -> bool {
    has(place) || host_at(place).is_some_and(|host| places_of(&host).any(|place| has(&place)))
}

/// The place in the hairpins of `target`, where a claim on `host` leads to a pod that may share its
/// subnet with nobody.
pub(crate) fn hairpin_of(host: &HostPort, target: SocketAddr) -> Place {
    let set = Set { kind: SetKind::Hairpins, family: Family::of(&target.ip()) };
    let (protocol, port) = (host.protocol, host.port);
    (set, Key::Port { address: Some(target.ip()), protocol, port })
}

/// The host port that an element at this place serves, unless it is a hairpin or an interface.
pub(crate) fn host_at((set, key): &Place) -> Option<HostPort> {
    let Key::Port { address, protocol, port } = *key else { return None };
    let address = match set.key_address() {
        Some(Side::Source) => return None,
        Some(Side::Destination) => address?,
        None => set.family.wildcard(),
    };
    Some(HostPort { protocol, address, port })
}

/// The chains that a change may need to add before `record`'s elements: those of its network, and
/// the one of its mark bit.
pub fn chains_of(record: &Record) -> Vec<Chain> {
    let translated = record.mappings.iter().filter(|mapping| mapping.target.is_some());
    let has_specific = translated.map(|mapping| &mapping.host).any(|host| !host.is_wildcard());
    networks(std::iter::once((&NetworkPolicy::of(record), has_specific)))
}

fn networks<'a>(policies: impl Iterator<Item = (&'a NetworkPolicy, bool)> + Clone) -> Vec<Chain> {
    let bits: BTreeSet<u8> = policies.clone().filter_map(|(policy, _)| policy.mark_bit()).collect();
    let masquerades = bits.into_iter().map(masquerade_chain);
    masquerades
        .chain(policies.flat_map(|(policy, has_specific)| policy.chains(has_specific)))
        .collect()
}

impl fmt::Display for Ruleset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "table inet {TABLE} {{")?;
        writeln!(out, "\tcomment \"{}\"", self.identity)?;
        for set in self.sets() {
            write!(out, "{}", set.declaration())?;
        }
        for chain in self.chains() {
            write!(out, "\n{chain}")?;
        }
        writeln!(out, "}}")?;
        for element in self.elements.values() {
            writeln!(out, "add element inet {TABLE} {} {{ {element} }}", element.set)?;
        }
        Ok(())
    }
}
