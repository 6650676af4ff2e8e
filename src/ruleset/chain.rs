//! Chains and rules as data, and the chains that every table has.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::{HOSTPORTS6, MASQUERADE_PREFIX, OUTPUT, POSTROUTING, PREROUTING, Set, SetKind};
use crate::model::Family;

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where the kernel enters it, for a base chain.
    pub base: Option<BaseChain>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
    /// Of a chain that every table has: how many of its rules come before the entries of others. The rest
    /// follow them.
    pub leading: usize,
    /// The rules that it has in chains which every table has (`Self::entered_from`), in order: they lead to
    /// it, or do what is to be done at once. It does not matter which network's go first.
    pub entries: Vec<Rule>,
}

impl Chain {
    pub(super) const fn plain(name: String, rules: Vec<Rule>) -> Self {
        Self { name, base: None, rules, leading: 0, entries: Vec::new() }
    }

    /// The chains that each have `rule`, one of its entries.
    pub(super) fn entered_from(&self, rule: &Rule) -> &'static [&'static str] {
        match rule.family() {
            _ if self.name.starts_with(MASQUERADE_PREFIX) => &[POSTROUTING],
            Some(Family::V6) => &[HOSTPORTS6],
            Some(Family::V4) | None => &[PREROUTING, OUTPUT],
        }
    }

    /// Its entries in the chain of this name.
    pub(crate) fn entries_in(&self, name: &str) -> impl DoubleEndedIterator<Item = &Rule> {
        self.entries.iter().filter(move |rule| self.entered_from(rule).contains(&name))
    }

    /// What a listing shows beside its name: how many rules it has, and how many entries where. A later count of
    /// rules then needs to know nothing else of a network. The numbers of every other chain are always known.
    pub(crate) fn comment(&self) -> Option<String> {
        let places = self.entries.chunk_by(|a, b| self.entered_from(a) == self.entered_from(b));
        let counted = places.filter_map(|entries| {
            let from = self.entered_from(entries.first()?).join(" and ");
            Some(format!(", in {from}: {}", entries.len()))
        });
        let counted: String = counted.collect();
        super::is_of_network(&self.name).then(|| format!("rules: {}{counted}", self.rules.len()))
    }

    /// Reads a chain's comment: how many rules it has, and how many entries in the chain `from`.
    pub(crate) fn counts_in(comment: &str, from: &str) -> Option<(usize, usize)> {
        let mut parts = comment.split(", in ");
        let rules = parts.next()?.strip_prefix("rules: ")?.parse().ok()?;
        let entries = parts.filter_map(|part| {
            let (chains, count) = part.split_once(": ")?;
            chains.split(" and ").any(|chain| chain == from).then(|| count.parse::<usize>().ok())?
        });
        Some((rules, entries.sum()))
    }
}

/// What makes a chain a base chain. The policy is always accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// Whether it sees only the first packet of each connection, to translate it, and not every packet.
    pub is_nat: bool,
    /// The netfilter hook.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
}

/// The hooks in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
#[display(rename_all = "lowercase")]
pub enum Hook {
    /// Packets that arrive.
    Prerouting,
    /// Packets for this node.
    Input,
    /// Packets that this node sends.
    Output,
    /// Packets from others for others.
    Forward,
    /// Packets that leave, forwarded or not.
    Postrouting,
}

/// A rule: terms from left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its terms.
    pub terms: Vec<Term>,
    /// A part of what its network's policy consists of, from which a lost record can be made again: user
    /// data, at most [`Self::MEMO_MAX`] bytes.
    pub memo: String,
}

impl Rule {
    /// Of the 256 bytes that the kernel keeps with a rule (`NFT_USERDATA_MAXLEN`). A network adds less to
    /// the network policy's text than the rule that is about it has room for.
    pub const MEMO_MAX: usize = 250;

    pub(super) const fn new(terms: Vec<Term>) -> Self {
        Self { terms, memo: String::new() }
    }

    /// The family of the packets that it is about, if it is about one.
    pub(super) fn family(&self) -> Option<Family> {
        self.terms.iter().find_map(Term::family)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut family = None;
        for (index, term) in self.terms.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            let mut condition = "";
            // nft prints the family once, and not at all where an address implies it.
            if let (None, Term::In(set) | Term::Dnat(set)) = (family, term) {
                condition = set.family_condition();
            }
            write!(out, "{space}{condition}{term}")?;
            family = family.or_else(|| term.family());
        }
        Ok(())
    }
}

/// Which of a packet's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
pub enum Side {
    /// The source.
    #[display("saddr")]
    Source,
    /// The destination.
    #[display("daddr")]
    Destination,
}

/// A part of a rule: a condition, or what is done.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
#[display(rename_all = "lowercase")]
pub enum Term {
    /// The destination is no address of this node, by the routing table.
    #[display("fib daddr type != local")]
    ToOtherAddress,
    /// The packet is of this family.
    #[display("meta nfproto ipv{}", _0.number())]
    Family(Family),
    /// One of the addresses is in the network.
    #[display("{} {_0} {}", Family::of(&_1.ip()), shortest(_1))]
    Within(Side, IpNetwork),
    /// The key that `set` is keyed by, read from the packet, is in `set`.
    #[display("{} @{_0}", _0.key_expression())]
    In(Set),
    /// Connection tracking has replaced one of the addresses. Never true of what it does not track.
    #[display("ct status snat,dnat")]
    Translated,
    /// Of a client whose connection has been translated and answered. What nobody translates, which passes by
    /// with every packet, is asked one question.
    #[display("ct status dnat ct state established ct direction original")]
    FromEstablishedClient,
    /// The mark has this bit.
    #[display("meta mark & {0:#010x} == {0:#010x}", 1_u32 << _0)]
    MarkHas(u8),
    /// Set this bit of the mark.
    #[display("meta mark set meta mark | {:#010x}", 1_u32 << _0)]
    MarkSet(u8),
    /// Clear this bit of the mark.
    #[display("meta mark set meta mark & {:#010x}", !(1_u32 << _0))]
    MarkClear(u8),
    /// Translate the destination to what the map says.
    #[display("dnat {} to {} map @{_0}", _0.family, _0.key_expression())]
    Dnat(Set),
    /// Have the kernel forward the rest of the connection by the flowtable.
    #[display("flow add @{}", super::FLOWTABLE)]
    Offload,
    /// Replace the source by the address of the interface the packet leaves by.
    Masquerade,
    /// Drop the packet.
    Drop,
    /// Leave the packet to the chains of others.
    Accept,
    /// Go back to the calling chain.
    Return,
    /// Continue in the chain, then come back.
    #[display("jump {_0}")]
    Jump(String),
    /// Continue in the chain and do not come back.
    #[display("goto {_0}")]
    Goto(String),
}

/// A network as nft(8) lists it: that of one address without its prefix.
fn shortest(network: &IpNetwork) -> String {
    if is_host(network) { network.ip().to_string() } else { network.to_string() }
}

/// Whether the prefix leaves no room for neighbours.
pub(crate) fn is_host(network: &IpNetwork) -> bool {
    *network == IpNetwork::from(network.ip())
}

impl Term {
    /// A condition on an address, or only on the family where the network holds all of it.
    pub(crate) fn within(side: Side, network: IpNetwork) -> Self {
        match network.prefix() {
            0 => Self::Family(Family::of(&network.ip())),
            _ => Self::Within(side, network),
        }
    }

    /// The family of the packets that it is about, if it is about one.
    pub(super) fn family(&self) -> Option<Family> {
        if let Self::Within(_, network) = self {
            return Some(Family::of(&network.ip()));
        }
        let (Self::Family(family) | Self::In(Set { family, .. }) | Self::Dnat(Set { family, .. })) =
            self
        else {
            return None;
        };
        (*self != Self::In(Set::GUARDED)).then_some(*family)
    }
}

/// 127.0.0.0/8.
pub(super) fn loopback4() -> IpNetwork {
    let network = Ipv4Network::new_checked(Ipv4Addr::new(127, 0, 0, 0), 8);
    IpNetwork::V4(network.expect("8 is a prefix length"))
}

/// Just after dstnat (-100), so that what kube-proxy translates is already translated and never
/// looked up here.
pub(crate) const AFTER_DSTNAT: i32 = -99;
/// Just before dstnat, so that the addresses are those on the wire.
const BEFORE_DSTNAT: i32 = -101;
/// Just before srcnat (100), so that nobody else sees our mark.
const BEFORE_SRCNAT: i32 = 99;
/// Before everybody else's filters.
const RAW: i32 = -300;

/// The chains that do not depend on any record, but for the [`Chain::entries`] of the others. Rules of IPv4 are
/// in `prerouting` and again in `output`: a chain that both jump to would cost every new connection the jump.
/// Rules of IPv6 are behind such a jump, so that no packet of IPv4 passes them.
pub(crate) fn base_chains() -> Vec<Chain> {
    let nat = |hook, priority| Some(BaseChain { is_nat: true, hook, priority });
    let filter = |hook, priority| Some(BaseChain { is_nat: false, hook, priority });
    let rule = |terms: &[Term]| Rule::new(terms.to_vec());
    let from = Term::Within(Side::Source, loopback4());
    let to = Term::Within(Side::Destination, loopback4());
    let guarded = Term::In(Set::GUARDED);
    let from_pod = rule(&[from, guarded.clone(), Term::Drop]);
    let to_loopback = rule(&[to.clone(), guarded, Term::Drop]);
    // The answers of pods to 127.0.0.0/8: the packet had another destination on the wire.
    let translated = rule(&[to, Term::Translated, Term::Accept]);
    let elsewhere = rule(&[Term::ToOtherAddress, Term::Return]);
    // Source ::1 can never leave by another interface than lo, so a translated packet would
    // vanish; untranslated it is refused at once.
    let loopback6 = IpNetwork::V6(Ipv6Network::from(Ipv6Addr::LOCALHOST));
    let own_loopback6 = rule(&[Term::Within(Side::Source, loopback6), Term::Return]);
    let lead = |family| rule(&[Term::Dnat(Set { kind: SetKind::WILDCARD, family })]);
    let to_ipv6 = rule(&[Term::Family(Family::V6), Term::Jump(HOSTPORTS6.into())]);
    let chain = |name: &str, base, rules| Chain { base, ..Chain::plain(name.into(), rules) };
    let translating = |name, hook| {
        let rules = vec![elsewhere.clone(), lead(Family::V4), to_ipv6.clone()];
        Chain { leading: 1, ..chain(name, nat(hook, AFTER_DSTNAT), rules) }
    };
    let ipv6 = chain(HOSTPORTS6, None, vec![own_loopback6, lead(Family::V6)]);
    vec![
        chain(
            "guard",
            nat(Hook::Prerouting, BEFORE_DSTNAT),
            vec![from_pod.clone(), to_loopback.clone()],
        ),
        chain("guard_input", filter(Hook::Input, RAW), vec![from_pod, translated, to_loopback]),
        translating(PREROUTING, Hook::Prerouting),
        translating(OUTPUT, Hook::Output),
        chain(POSTROUTING, nat(Hook::Postrouting, BEFORE_SRCNAT), vec![]),
        Chain { leading: 1, ..ipv6 },
    ]
}

/// An empty chain, which says that a rule of `postrouting` belongs to the table: its entry masquerades packets
/// with mark bit `bit`, and takes the mark off.
pub(crate) fn masquerade_chain(bit: u8) -> Chain {
    let terms = vec![Term::MarkHas(bit), Term::MarkClear(bit), Term::Masquerade];
    let name = format!("{MASQUERADE_PREFIX}{bit}");
    Chain { entries: vec![Rule::new(terms)], ..Chain::plain(name, Vec::new()) }
}

impl fmt::Display for Chain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "\tchain {} {{", self.name)?;
        if let Some(BaseChain { is_nat, hook, priority }) = self.base {
            let kind = if is_nat { "nat" } else { "filter" };
            writeln!(out, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
        }
        if let Some(comment) = self.comment() {
            writeln!(out, "\t\tcomment \"{comment}\"")?;
        }
        for rule in &self.rules {
            writeln!(out, "\t\t{rule}")?;
        }
        writeln!(out, "\t}}")
    }
}
