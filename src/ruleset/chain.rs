//! Chains and rules as data, and the chains that every table has.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::{HOSTPORTS, MASQUERADE_PREFIX, POSTROUTING, Set, SetKind};
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
    /// The rules of [`HOSTPORTS`] or [`POSTROUTING`] that lead to it, in order. They go before those that every
    /// table has there; it does not matter which network's go first.
    pub entries: Vec<Rule>,
}

impl Chain {
    pub(super) const fn plain(name: String, rules: Vec<Rule>) -> Self {
        Self { name, base: None, rules, entries: Vec::new() }
    }

    /// What a listing shows beside its name: how many rules it has, and how many lead to it. A later count of
    /// rules then needs to know nothing else of a network. The numbers of every other chain are always known.
    pub(crate) fn comment(&self) -> Option<String> {
        let (rules, entries) = (self.rules.len(), self.entries.len());
        super::is_of_network(&self.name).then(|| format!("rules: {rules} entries: {entries}"))
    }

    /// Reads the numbers of rules and entries out of a chain's comment.
    pub(crate) fn counts_in(comment: &str) -> Option<(usize, usize)> {
        let (rules, entries) = comment.strip_prefix("rules: ")?.split_once(" entries: ")?;
        Some((rules.parse().ok()?, entries.parse().ok()?))
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
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
#[display("{}", terms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))]
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
    /// The destination is an address of this node, by the routing table.
    #[display("fib daddr type local")]
    ToLocalAddress,
    /// The packet is of this family.
    #[display("meta nfproto ipv{}", _0.number())]
    Family(Family),
    /// One of the addresses is in the network.
    #[display("{} {_0} {}", Family::of(&_1.ip()), shortest(_1))]
    Within(Side, IpNetwork),
    /// The key that `set` is keyed by, read from the packet, is in `set`.
    #[display("{}{} @{_0}", _0.family_condition(), _0.key_expression())]
    In(Set),
    /// Connection tracking has replaced one of the addresses. Never true of what it does not track.
    #[display("ct status snat,dnat")]
    Translated,
    /// Of a client whose connection has been translated and answered.
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
    #[display("{}dnat {} to {} map @{_0}", _0.family_condition(), _0.family, _0.key_expression())]
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

/// The chains that do not depend on any record. [`Chain::entries`] of the others are added to
/// `postrouting` and `hostports`.
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
    let translate = rule(&[Term::ToLocalAddress, Term::Jump(HOSTPORTS.into())]);
    // Source ::1 can never leave by another interface than lo, so a translated packet would
    // vanish; untranslated it is refused at once.
    let loopback6 = IpNetwork::V6(Ipv6Network::from(Ipv6Addr::LOCALHOST));
    let own_loopback6 = rule(&[Term::Within(Side::Source, loopback6), Term::Return]);
    let lead = |family| rule(&[Term::Dnat(Set { kind: SetKind::WILDCARD, family })]);
    let chain = |name: &str, base, rules| Chain { base, ..Chain::plain(name.into(), rules) };
    vec![
        chain(
            "guard",
            nat(Hook::Prerouting, BEFORE_DSTNAT),
            vec![from_pod.clone(), to_loopback.clone()],
        ),
        chain("guard_input", filter(Hook::Input, RAW), vec![from_pod, translated, to_loopback]),
        chain("prerouting", nat(Hook::Prerouting, AFTER_DSTNAT), vec![translate.clone()]),
        chain("output", nat(Hook::Output, AFTER_DSTNAT), vec![own_loopback6, translate]),
        chain(POSTROUTING, nat(Hook::Postrouting, BEFORE_SRCNAT), vec![]),
        chain(HOSTPORTS, None, Family::ALL.map(lead).into()),
    ]
}

/// The chain that has [`Chain::entries`] of the chain of this name.
pub(crate) fn entered_from(chain: &str) -> &'static str {
    if chain.starts_with(MASQUERADE_PREFIX) { POSTROUTING } else { HOSTPORTS }
}

/// Masquerades what carries mark bit `bit`, and takes the mark off.
pub(super) fn masquerade_chain(bit: u8) -> Chain {
    let name = format!("{MASQUERADE_PREFIX}{bit}");
    let entry = Rule::new(vec![Term::MarkHas(bit), Term::Goto(name.clone())]);
    let rule = Rule::new(vec![Term::MarkClear(bit), Term::Masquerade]);
    Chain { entries: vec![entry], ..Chain::plain(name, vec![rule]) }
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
