//! Chains and rules as data, and the chains that every table has.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::{Digest, HOSTPORTS, MASQUERADE_PREFIX, POSTROUTING, Set};
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
    /// Its part of what its network's policy consists of, from which a lost record can be made again:
    /// user data of its rules, [`Self::MEMO_PER_RULE`] bytes each.
    pub memo: String,
}

impl Chain {
    /// Of the 256 bytes that the kernel keeps with a rule (`NFT_USERDATA_MAXLEN`). A network adds less to
    /// the network policy's text than the rule that is about it has room for.
    pub const MEMO_PER_RULE: usize = 250;

    pub(super) const fn plain(name: String, rules: Vec<Rule>) -> Self {
        Self { name, base: None, rules, memo: String::new() }
    }

    /// What a listing shows beside its name: how many rules it has. So whoever counts them later
    /// needs to know nothing else of a network. The number of every other chain's is always known.
    pub(crate) fn comment(&self) -> Option<String> {
        super::is_of_network(&self.name).then(|| format!("rules: {}", self.rules.len()))
    }

    /// Reads the number out of a chain's comment.
    pub(crate) fn rules_in(comment: &str) -> Option<usize> {
        comment.strip_prefix("rules: ")?.parse().ok()
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
    /// Packets that this node sends.
    Output,
    /// Packets that leave, forwarded or not.
    Postrouting,
}

/// A rule: terms from left to right.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
#[display("{}", _0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))]
pub struct Rule(pub Vec<Term>);

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
    /// Replace the source by the address of the interface the packet leaves by.
    Masquerade,
    /// Drop the packet.
    Drop,
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
/// Just before srcnat (100), so that nobody else sees our mark.
const BEFORE_SRCNAT: i32 = 99;
/// Before connection tracking and every translation: the addresses are those on the wire.
const RAW: i32 = -300;

/// The chains that do not depend on any record. A jump per mark bit in use is added to
/// `postrouting`, the rules of [`dispatch`] to `hostports`.
pub(crate) fn base_chains() -> Vec<Chain> {
    let nat = |hook, priority| Some(BaseChain { is_nat: true, hook, priority });
    let martian =
        |side| Rule(vec![Term::In(Set::GUARDED), Term::Within(side, loopback4()), Term::Drop]);
    let translate = || Rule(vec![Term::ToLocalAddress, Term::Jump(HOSTPORTS.into())]);
    // Source ::1 can never leave by another interface than lo, so a translated packet would
    // vanish; untranslated it is refused at once.
    let loopback6 = IpNetwork::V6(Ipv6Network::from(Ipv6Addr::LOCALHOST));
    let own_loopback6 = Rule(vec![Term::Within(Side::Source, loopback6), Term::Return]);
    let guard = BaseChain { is_nat: false, hook: Hook::Prerouting, priority: RAW };
    let chain = |name: &str, base, rules| Chain { base, ..Chain::plain(name.into(), rules) };
    vec![
        chain("guard", Some(guard), vec![martian(Side::Source), martian(Side::Destination)]),
        chain("prerouting", nat(Hook::Prerouting, AFTER_DSTNAT), vec![translate()]),
        chain("output", nat(Hook::Output, AFTER_DSTNAT), vec![own_loopback6, translate()]),
        chain(POSTROUTING, nat(Hook::Postrouting, BEFORE_SRCNAT), vec![]),
        chain(HOSTPORTS, None, vec![]),
    ]
}

/// The rules of `hostports`, from each set of these network policies to the first of its chains, of which `has`
/// knows whether it is there: those for claims on one address, which go before all others, and those for claims
/// on every address. The gate on the node's address is not for claims that name one.
pub(crate) fn dispatch(
    network_policies: impl IntoIterator<Item = Digest>,
    has: impl Fn(&str) -> bool,
) -> [Vec<Rule>; 2] {
    let (mut specific, mut wildcard) = (Vec::new(), Vec::new());
    for digest in network_policies {
        for set in Set::of_network_policy(digest) {
            let (rules, gates) = match set.key_address() {
                Some(_) => (&mut specific, &["from"][..]),
                None => (&mut wildcard, &["to", "from"][..]),
            };
            let gate = gates.iter().map(|gate| format!("{gate}_{digest}")).find(|gate| has(gate));
            let entry = gate.unwrap_or_else(|| digest.chain());
            rules.push(Rule(vec![Term::In(set), Term::Goto(entry)]));
        }
    }
    [specific, wildcard]
}

/// Masquerades what carries mark bit `bit`, and takes the mark off.
pub(super) fn masquerade_chain(bit: u8) -> Chain {
    let rule = Rule(vec![Term::MarkHas(bit), Term::MarkClear(bit), Term::Masquerade]);
    Chain::plain(format!("{MASQUERADE_PREFIX}{bit}"), vec![rule])
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
