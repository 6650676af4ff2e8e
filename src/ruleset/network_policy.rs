//! The chains of a network: what happens to a packet once its host port is known to be held.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::chain::{Chain, Rule, Side, Term, is_host, loopback4};
use super::{Set, SetKind};
use crate::model::{Family, Masquerade, Policy, Record};

/// What names a network policy: a digest of its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, derive_more::Display)]
#[display("{_0:016x}")]
pub struct Digest(u64);

impl Digest {
    /// The chain that every network policy has, and only a network policy.
    pub(crate) fn chain(self) -> String {
        format!("net_{self}")
    }

    /// The chain of those of its claims that name an address.
    pub(crate) fn specific_chain(self) -> String {
        format!("host_{self}")
    }

    /// Reads `Self::chain` back.
    pub fn of_chain(name: &str) -> Option<Self> {
        let text = name.strip_prefix("net_")?;
        let digest = u64::from_str_radix(text, 16).ok().map(Self)?;
        (digest.to_string() == text).then_some(digest)
    }
}

/// How a record's packets are treated: its network's policy, and its pods' subnets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetworkPolicy {
    policy: Policy,
    /// The subnets of the pods, where clients in them are masqueraded; a family whose pods have host
    /// prefixes has none.
    subnets: Vec<IpNetwork>,
    /// The families whose pods have host prefixes, where pods that are their own clients are masqueraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    alone: Vec<Family>,
}

impl NetworkPolicy {
    /// How the packets of `record` are treated.
    pub(crate) fn of(record: &Record) -> Self {
        let subnet = |address: &IpNetwork| IpNetwork::new(address.network(), address.prefix()).ok();
        let mut own =
            Self { policy: record.policy.clone(), subnets: Vec::new(), alone: Vec::new() };
        if own.policy.masquerade == Masquerade::Local {
            let (alone, shared): (Vec<_>, Vec<_>) =
                record.pod_addresses.iter().partition(|address| is_host(address));
            own.subnets = shared.into_iter().filter_map(subnet).collect();
            own.alone = alone.into_iter().map(|address| Family::of(&address.ip())).collect();
            own.alone.sort_unstable();
            own.alone.dedup();
        }
        own
    }

    /// Reads a network policy back from what its rules say beside their terms ([`Rule::memo`]). `None`
    /// unless it is the one of this name.
    pub(crate) fn read(digest: Digest, memo: &str) -> Option<Self> {
        let read: Self = serde_json::from_str(memo).ok()?;
        (read.digest() == digest).then_some(read)
    }

    /// What it consists of, as text.
    fn memo(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The policy that leads to it.
    pub(crate) const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The addresses, with their prefixes, of a pod that is treated so and has `pods`. Of a family in
    /// which the pod's address is not among them, its subnet stands for it.
    pub(crate) fn pod_addresses(&self, pods: &[IpAddr]) -> Vec<IpNetwork> {
        let within = |subnet: &IpNetwork| {
            let own = pods.iter().copied().find(|pod| subnet.contains(*pod));
            IpNetwork::new(own.unwrap_or(subnet.ip()), subnet.prefix()).ok()
        };
        let mut addresses: Vec<_> = self.subnets.iter().filter_map(within).collect();
        for pod in pods {
            let known = |own: &IpNetwork| Family::of(&own.ip()) == Family::of(pod);
            if !addresses.iter().any(known) {
                addresses.push(IpNetwork::from(*pod));
            }
        }
        addresses
    }

    /// The mark bit its chains set, if they set one.
    pub(crate) const fn mark_bit(&self) -> Option<u8> {
        match self.policy.masquerade {
            Masquerade::Nobody => None,
            Masquerade::Local | Masquerade::Everybody => Some(self.policy.mark_bit),
        }
    }

    /// Whether a pod with this address can only be recognised as its own client one by one,
    /// because it shares its subnet with nobody.
    pub(super) fn needs_hairpin(&self, address: &IpNetwork) -> bool {
        matches!(self.policy.masquerade, Masquerade::Local) && is_host(address)
    }

    /// Whether only some clients, or some addresses of the node, lead to its claims on every address.
    pub(crate) const fn has_gates(&self) -> bool {
        !(self.policy.host_addresses.is_empty() && self.policy.source_ranges.is_empty())
    }

    /// Its chains. With gates: one for each, then the chain that marks and translates. Without: one that no packet
    /// enters, whose entries mark the clients that may have to be, and translate. And one for claims on one
    /// address, if there are any.
    pub(crate) fn chains(&self, has_specific: bool) -> Vec<Chain> {
        let digest = self.digest();
        let gates = self.gates();
        let next = gates.iter().skip(1).map(|(name, ..)| *name).chain(["net"]);
        let gate = |((name, side, networks), next): (&(&str, Side, Vec<IpNetwork>), &str)| {
            let pass = |network: &IpNetwork| {
                let next = format!("{next}_{digest}");
                Rule::new(vec![Term::within(*side, *network), Term::Goto(next)])
            };
            Chain::plain(format!("{name}_{digest}"), networks.iter().map(pass).collect())
        };
        let mut chains: Vec<Chain> = gates.iter().zip(next).map(gate).collect();
        // The rule is there for the memo.
        let idle = || vec![Rule::new(vec![Term::Return])];
        let rules = if self.has_gates() { self.translation() } else { idle() };
        chains.push(Chain::plain(digest.chain(), rules));
        if let Some(first) = chains.first_mut() {
            first.entries = if self.has_gates() {
                entries(digest, true, &first.name)
            } else {
                self.held_marking(digest)
            };
        }
        self.put_memo(&mut chains);
        if has_specific {
            chains.insert(0, self.specific(digest));
        }
        chains
    }

    /// Writes what it consists of beside the rules.
    fn put_memo(&self, chains: &mut [Chain]) {
        let memo = self.memo();
        let mut rest = memo.as_str();
        for rule in chains.iter_mut().flat_map(|it| it.rules.iter_mut().chain(&mut it.entries)) {
            let (own, others) = rest.split_at_checked(Rule::MEMO_MAX).unwrap_or((rest, ""));
            (rule.memo, rest) = (own.to_owned(), others);
        }
    }

    /// The chain of claims on one address. The gate on the node's address is not for these.
    fn specific(&self, digest: Digest) -> Chain {
        let name = digest.specific_chain();
        let rules = match (self.has_gates(), self.policy.source_ranges.is_empty()) {
            (false, _) => [self.marking(), leads([SetKind::SPECIFIC])].concat(),
            (true, true) => vec![Rule::new(vec![Term::Goto(digest.chain())])],
            (true, false) => vec![Rule::new(vec![Term::Goto(format!("from_{digest}"))])],
        };
        Chain { entries: entries(digest, false, &name), ..Chain::plain(name, rules) }
    }

    /// The chains that let through what matches one of their networks, in order: how their names begin, by
    /// which address, the networks.
    fn gates(&self) -> Vec<(&'static str, Side, Vec<IpNetwork>)> {
        let hosts = self.policy.host_addresses.clone();
        let mut sources = self.policy.source_ranges.clone();
        if !sources.is_empty() {
            sources.push(loopback4());
        }
        let mut gates = vec![("to", Side::Destination, hosts), ("from", Side::Source, sources)];
        gates.retain(|(.., networks)| !networks.is_empty());
        gates
    }

    /// Marks and translates what has passed the gates.
    fn translation(&self) -> Vec<Rule> {
        [self.marking(), leads([SetKind::SPECIFIC, SetKind::Gated])].concat()
    }

    /// Which clients are treated otherwise than those outside: a condition for each, or none for all.
    fn marked(&self) -> Vec<Option<Term>> {
        let from_loopback = Term::Within(Side::Source, loopback4());
        match self.policy.masquerade {
            Masquerade::Nobody => vec![Some(from_loopback)],
            Masquerade::Everybody => vec![None],
            Masquerade::Local => {
                let hairpin =
                    |family: &Family| Term::In(Set { kind: SetKind::Hairpins, family: *family });
                let hairpins = self.alone.iter().map(hairpin);
                std::iter::once(from_loopback)
                    .chain(self.subnets.iter().map(|subnet| Term::within(Side::Source, *subnet)))
                    .chain(hairpins)
                    .map(Some)
                    .collect()
            }
        }
    }

    /// What is done with them.
    const fn treatment(&self) -> Term {
        match self.policy.masquerade {
            // Untranslated it is refused at once; translated it could not leave the node.
            Masquerade::Nobody => Term::Accept,
            Masquerade::Everybody | Masquerade::Local => Term::MarkSet(self.policy.mark_bit),
        }
    }

    /// Does it with packets that are for a claim of this network.
    fn marking(&self) -> Vec<Rule> {
        let rule = |condition: Option<Term>| {
            Rule::new(condition.into_iter().chain([self.treatment()]).collect())
        };
        self.marked().into_iter().map(rule).collect()
    }

    /// Does it with packets that are for a claim of this network on every address, and translates them at once:
    /// the rules that follow in the base chain have nothing for them.
    fn held_marking(&self, digest: Digest) -> Vec<Rule> {
        let rules = |condition: Option<Term>| {
            let family = condition.as_ref().and_then(Term::family);
            let held =
                Set::held(digest, true).filter(move |set| family.is_none_or(|it| it == set.family));
            let treatment = self.treatment();
            held.map(move |set| {
                let map = Set { kind: SetKind::WILDCARD, ..set };
                let dnat = (treatment != Term::Accept).then_some(Term::Dnat(map));
                let terms = condition.clone().into_iter().chain([Term::In(set), treatment.clone()]);
                Rule::new(terms.chain(dnat).collect())
            })
        };
        let mut all: Vec<Rule> = self.marked().into_iter().flat_map(rules).collect();
        all.sort_by_key(Rule::family);
        all
    }

    /// A name for this content: equal network policies share their chains, and a chain's content never
    /// changes under its name.
    pub(crate) fn digest(&self) -> Digest {
        let hash = Sha256::digest(self.memo().as_bytes());
        Digest(hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
    }
}

/// The rules that lead to `chain` what is for a claim on every address, or on one.
fn entries(digest: Digest, wildcard: bool, chain: &str) -> Vec<Rule> {
    let lead = |set| Rule::new(vec![Term::In(set), Term::Goto(chain.to_owned())]);
    Set::held(digest, wildcard).map(lead).collect()
}

/// The rules that translate by maps of these kinds.
fn leads<const N: usize>(kinds: [SetKind; N]) -> Vec<Rule> {
    let lead = |kind| Family::ALL.map(|family| Set { kind, family });
    kinds.into_iter().flat_map(lead).map(|map| Rule::new(vec![Term::Dnat(map)])).collect()
}
