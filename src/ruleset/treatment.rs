//! The chains of a network: what happens to a packet once its host port is known to be held.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use sha2::{Digest as _, Sha256};

use super::chain::{Chain, Rule, Side, Term, loopback4};
use super::{Set, SetKind};
use crate::model::{Family, Masquerade, Policy, Record};

/// What names a treatment: a digest of its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(u64);

impl Digest {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digest = u64::from_str_radix(text, 16).ok().map(Self)?;
        (digest.to_string() == text).then_some(digest)
    }

    /// The chain that every treatment has, and only a treatment.
    #[must_use]
    pub fn chain(self) -> String {
        format!("net_{self}")
    }

    /// Reads [`Self::chain`] back.
    #[must_use]
    pub fn of_chain(name: &str) -> Option<Self> {
        Self::parse(name.strip_prefix("net_")?)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

/// How a record's packets are treated: its network's policy, and its pods' subnets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Treatment {
    masquerade: MasqueradeWith,
    source_ranges: Vec<IpNetwork>,
    host_addresses: Vec<IpNetwork>,
    counters: bool,
}

/// [`Masquerade`] with what it needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MasqueradeWith {
    Nobody,
    /// The mark bit, and the pods' subnets; a family whose pods have host prefixes has none.
    Local(u8, Vec<IpNetwork>),
    Everybody(u8),
}

/// Whether the prefix leaves no room for neighbours.
fn is_host_prefix(network: &IpNetwork) -> bool {
    match network {
        IpNetwork::V4(network) => network.prefix() == 32,
        IpNetwork::V6(network) => network.prefix() == 128,
    }
}

impl Treatment {
    /// How the packets of `record` are treated.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let policy = &record.policy;
        let subnet = |address: &IpNetwork| IpNetwork::new(address.network(), address.prefix()).ok();
        let masquerade = match policy.masquerade {
            Masquerade::Nobody => MasqueradeWith::Nobody,
            Masquerade::Everybody => MasqueradeWith::Everybody(policy.mark_bit),
            Masquerade::Local => {
                let shared = record.pod_addresses.iter().filter(|address| !is_host_prefix(address));
                MasqueradeWith::Local(policy.mark_bit, shared.filter_map(subnet).collect())
            }
        };
        Self {
            masquerade,
            source_ranges: policy.source_ranges.clone(),
            host_addresses: policy.host_addresses.clone(),
            counters: policy.counters,
        }
    }

    /// Reads a treatment back from `chains`. `None` unless they say exactly what the treatment of
    /// this name says.
    #[must_use]
    pub fn read(digest: Digest, chains: &BTreeMap<String, Vec<Rule>>) -> Option<Self> {
        let rules =
            |prefix: &str| chains.get(&format!("{prefix}_{digest}")).map_or(&[][..], Vec::as_slice);
        let gate = |prefix| rules(prefix).iter().map(network_of).collect::<Option<Vec<_>>>();
        let translation = rules("net");
        let marked: Vec<_> =
            translation.iter().filter_map(|rule| Some((rule, bit(rule)?))).collect();
        let masquerade = match marked[..] {
            [] => MasqueradeWith::Nobody,
            [(rule, bit)] if rule.0.len() == 1 => MasqueradeWith::Everybody(bit),
            [(_, bit), ..] => {
                let clients = marked[1..].iter().filter_map(|(rule, _)| network_of(rule));
                MasqueradeWith::Local(bit, clients.collect())
            }
        };
        let counts = |rule: &Rule| matches!(rule.0[..], [Term::Dnat(set)] if set.counts());
        let mut source_ranges = gate("from")?;
        // Loopback always may.
        source_ranges.pop();
        let read = Self {
            masquerade,
            source_ranges,
            host_addresses: gate("to")?,
            counters: translation.iter().any(counts),
        };
        let is_there = |chain: &Chain| chains.get(&chain.name) == Some(&chain.rules);
        (read.digest() == digest && read.chains().iter().all(is_there)).then_some(read)
    }

    /// The policy that leads to it. Without masquerading no chain says which mark bit would be used:
    /// `mark_bit` then is.
    #[must_use]
    pub fn policy(&self, mark_bit: u8) -> Policy {
        Policy {
            masquerade: match self.masquerade {
                MasqueradeWith::Nobody => Masquerade::Nobody,
                MasqueradeWith::Local(..) => Masquerade::Local,
                MasqueradeWith::Everybody(_) => Masquerade::Everybody,
            },
            mark_bit: self.mark_bit().unwrap_or(mark_bit),
            source_ranges: self.source_ranges.clone(),
            host_addresses: self.host_addresses.clone(),
            counters: self.counters,
        }
    }

    /// The addresses, with their prefixes, of a pod that is treated so and has `pods`. Of a family in
    /// which the pod's address is not among them, its subnet stands for it.
    #[must_use]
    pub fn pod_addresses(&self, pods: &[IpAddr]) -> Vec<IpNetwork> {
        let of_family = |family| pods.iter().copied().find(|pod| Family::of(pod) == family);
        let subnets = match &self.masquerade {
            MasqueradeWith::Local(_, subnets) => subnets.as_slice(),
            MasqueradeWith::Nobody | MasqueradeWith::Everybody(_) => &[],
        };
        let shared = subnets.iter().filter_map(|subnet| {
            let pod = of_family(Family::of(&subnet.ip())).unwrap_or(subnet.ip());
            IpNetwork::new(pod, subnet.prefix()).ok()
        });
        let in_subnets = |family| subnets.iter().any(|subnet| Family::of(&subnet.ip()) == family);
        let alone = Family::ALL.into_iter().filter(|family| !in_subnets(*family));
        shared.chain(alone.filter_map(of_family).map(IpNetwork::from)).collect()
    }

    /// The mark bit its chains set, if they set one.
    #[must_use]
    pub const fn mark_bit(&self) -> Option<u8> {
        match self.masquerade {
            MasqueradeWith::Nobody => None,
            MasqueradeWith::Local(bit, _) | MasqueradeWith::Everybody(bit) => Some(bit),
        }
    }

    /// The map that translates claims on one address, or on every address, of `family`.
    #[must_use]
    pub(super) const fn target_map(&self, family: Family, wildcard: bool) -> Set {
        let kind = match (wildcard, self.counters) {
            (true, false) => SetKind::Ports,
            (true, true) => SetKind::CountedPorts,
            (false, false) => SetKind::HostPorts,
            (false, true) => SetKind::CountedHostPorts,
        };
        Set { kind, family }
    }

    /// Whether a pod with this address can only be recognised as its own client one by one,
    /// because it shares its subnet with nobody.
    #[must_use]
    pub(super) fn needs_hairpin(&self, address: &IpNetwork) -> bool {
        matches!(self.masquerade, MasqueradeWith::Local(..)) && is_host_prefix(address)
    }

    /// Its chains. An optional gate on the node's address, one on the client's, then the chain
    /// that marks and translates.
    #[must_use]
    pub fn chains(&self) -> Vec<Chain> {
        let digest = self.digest();
        let gates = self.gates();
        let next = gates.iter().skip(1).map(|gate| gate.prefix).chain(["net"]);
        let mut chains: Vec<Chain> = gates
            .iter()
            .zip(next)
            .map(|(gate, next)| gate.chain(digest, &format!("{next}_{digest}")))
            .collect();
        chains.push(Chain { name: digest.chain(), base: None, rules: self.translation() });
        chains
    }

    fn gates(&self) -> Vec<Gate> {
        let mut gates = Vec::new();
        if !self.host_addresses.is_empty() {
            let networks = self.host_addresses.clone();
            gates.push(Gate { prefix: "to", side: Side::Destination, networks });
        }
        if !self.source_ranges.is_empty() {
            let networks = self.source_ranges.iter().copied().chain([loopback4()]).collect();
            gates.push(Gate { prefix: "from", side: Side::Source, networks });
        }
        gates
    }

    fn translation(&self) -> Vec<Rule> {
        let mut rules = self.marking();
        for wildcard in [false, true] {
            for family in Family::ALL {
                rules.push(Rule(vec![Term::Dnat(self.target_map(family, wildcard))]));
            }
        }
        rules
    }

    fn marking(&self) -> Vec<Rule> {
        let from_loopback = Term::Within(Side::Source, loopback4());
        match &self.masquerade {
            // Untranslated it is refused at once; translated it could not leave the node.
            MasqueradeWith::Nobody => vec![Rule(vec![from_loopback, Term::Return])],
            MasqueradeWith::Everybody(bit) => vec![Rule(vec![Term::MarkSet(*bit)])],
            MasqueradeWith::Local(bit, subnets) => {
                let subnets_of = |family| {
                    subnets.iter().filter(move |subnet| Family::of(&subnet.ip()) == family)
                };
                let alone = Family::ALL.into_iter().filter(|f| subnets_of(*f).next().is_none());
                let hairpins =
                    alone.map(|family| Term::In(Set { kind: SetKind::Hairpins, family }));
                std::iter::once(from_loopback)
                    .chain(subnets.iter().map(|subnet| Term::within(Side::Source, *subnet)))
                    .chain(hairpins)
                    .map(|condition| Rule(vec![condition, Term::MarkSet(*bit)]))
                    .collect()
            }
        }
    }

    /// A name for this content: equal treatments share their chains, and a chain's content never
    /// changes under its name.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut text = String::new();
        for gate in self.gates() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", gate.prefix);
            for rule in gate.rules("") {
                let _ = writeln!(text, "{rule}");
            }
        }
        for rule in self.translation() {
            let _ = writeln!(text, "{rule}");
        }
        let hash = Sha256::digest(text.as_bytes());
        Digest(hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
    }
}

/// The network that the first condition of a rule is about.
fn network_of(rule: &Rule) -> Option<IpNetwork> {
    let condition = rule.0.first()?;
    if let Term::Within(_, network) = condition {
        return Some(*network);
    }
    let Term::Family(family) = condition else { return None };
    IpNetwork::new(family.wildcard(), 0).ok()
}

/// The mark bit that a rule sets.
fn bit(rule: &Rule) -> Option<u8> {
    let Term::MarkSet(bit) = rule.0.last()? else { return None };
    Some(*bit)
}

/// A chain that lets through what matches one of its networks.
struct Gate {
    prefix: &'static str,
    side: Side,
    networks: Vec<IpNetwork>,
}

impl Gate {
    fn chain(&self, digest: Digest, next: &str) -> Chain {
        Chain { name: format!("{}_{digest}", self.prefix), base: None, rules: self.rules(next) }
    }

    fn rules(&self, next: &str) -> Vec<Rule> {
        let pass = |network: &IpNetwork| {
            Rule(vec![Term::within(self.side, *network), Term::Goto(next.to_owned())])
        };
        self.networks.iter().map(pass).collect()
    }
}
