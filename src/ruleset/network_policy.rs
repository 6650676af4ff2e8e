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
}

impl NetworkPolicy {
    /// How the packets of `record` are treated.
    pub(crate) fn of(record: &Record) -> Self {
        let subnet = |address: &IpNetwork| IpNetwork::new(address.network(), address.prefix()).ok();
        let shared = record.pod_addresses.iter().filter(|address| !is_host(address));
        let subnets = match record.policy.masquerade {
            Masquerade::Nobody | Masquerade::Everybody => Vec::new(),
            Masquerade::Local => shared.filter_map(subnet).collect(),
        };
        Self { policy: record.policy.clone(), subnets }
    }

    /// Reads a network policy back from what its chains say beside their rules ([`Chain::memo`]). `None`
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

    /// Its chains. An optional gate on the node's address, one on the client's, then the chain
    /// that marks and translates.
    pub(crate) fn chains(&self) -> Vec<Chain> {
        let digest = self.digest();
        let gates = self.gates();
        let next = gates.iter().skip(1).map(|(name, ..)| *name).chain(["net"]);
        let gate = |((name, side, networks), next): (&(&str, Side, Vec<IpNetwork>), &str)| {
            let pass = |network: &IpNetwork| {
                let next = format!("{next}_{digest}");
                Rule(vec![Term::within(*side, *network), Term::Goto(next)])
            };
            Chain::plain(format!("{name}_{digest}"), networks.iter().map(pass).collect())
        };
        let mut chains: Vec<Chain> = gates.iter().zip(next).map(gate).collect();
        chains.push(Chain::plain(digest.chain(), self.translation()));
        let memo = self.memo();
        let mut rest = memo.as_str();
        for chain in &mut chains {
            let room = (chain.rules.len() * Chain::MEMO_PER_RULE).min(rest.len());
            let (own, others) = rest.split_at_checked(room).unwrap_or((rest, ""));
            (chain.memo, rest) = (own.to_owned(), others);
        }
        chains
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

    fn translation(&self) -> Vec<Rule> {
        let mut rules = self.marking();
        for wildcard in [false, true] {
            for family in Family::ALL {
                rules.push(Rule(vec![Term::Dnat(Set::leading(family, wildcard))]));
            }
        }
        rules
    }

    fn marking(&self) -> Vec<Rule> {
        let from_loopback = Term::Within(Side::Source, loopback4());
        let bit = self.policy.mark_bit;
        match self.policy.masquerade {
            // Untranslated it is refused at once; translated it could not leave the node.
            Masquerade::Nobody => vec![Rule(vec![from_loopback, Term::Return])],
            Masquerade::Everybody => vec![Rule(vec![Term::MarkSet(bit)])],
            Masquerade::Local => {
                let has = |family| self.subnets.iter().any(|one| Family::of(&one.ip()) == family);
                let alone = Family::ALL.into_iter().filter(|family| !has(*family));
                let hairpins =
                    alone.map(|family| Term::In(Set { kind: SetKind::Hairpins, family }));
                std::iter::once(from_loopback)
                    .chain(self.subnets.iter().map(|subnet| Term::within(Side::Source, *subnet)))
                    .chain(hairpins)
                    .map(|condition| Rule(vec![condition, Term::MarkSet(bit)]))
                    .collect()
            }
        }
    }

    /// A name for this content: equal network policies share their chains, and a chain's content never
    /// changes under its name.
    pub(crate) fn digest(&self) -> Digest {
        let hash = Sha256::digest(self.memo().as_bytes());
        Digest(hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
    }
}
