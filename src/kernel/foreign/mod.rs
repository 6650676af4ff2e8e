//! What other programs have in the nftables of this network namespace, as far as it decides where a
//! packet to a host port goes: the chains in the hooks, the rules that translate or drop, and the sets
//! that those look into. Rules of iptables-nft are among them; those of iptables-legacy are not.

mod decode;
mod leftover;
mod lookup;
mod portmap;
mod xt;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;

use super::netlink::message::Attributes;
use super::netlink::socket::{DUMP, Socket, question};
use super::{Error, INET};
use crate::kernel::uapi;
use crate::model::Family;
use crate::ruleset::TABLE;

pub use leftover::{Leftover, has_legacy_nat};
pub use portmap::Portmap;

/// What a listing is about, in an error.
const WHAT: &str = "the tables of this node";

/// The family of a table, as nft(8) calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
#[display(rename_all = "lowercase")]
pub enum Space {
    /// `ip`.
    Ip,
    /// `ip6`.
    Ip6,
    /// `inet`: both.
    Inet,
}

impl Space {
    fn of(number: u8) -> Option<Self> {
        [Self::Ip, Self::Ip6, Self::Inet].into_iter().find(|space| space.number() == number)
    }

    const fn number(self) -> u8 {
        match self {
            Self::Ip => uapi::NFPROTO_IPV4,
            Self::Ip6 => uapi::NFPROTO_IPV6,
            Self::Inet => INET,
        }
    }

    /// Whether packets of `family` pass its chains.
    pub(crate) const fn has(self, family: Family) -> bool {
        matches!((self, family), (Self::Inet, _) | (Self::Ip, Family::V4) | (Self::Ip6, Family::V6))
    }
}

/// A chain of some table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
#[display("table {space} {table}, chain {chain}")]
pub struct ChainName {
    pub space: Space,
    pub table: String,
    pub chain: String,
}

/// Where a base chain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooked {
    /// `nat`, `filter` or `route`.
    pub kind: String,
    /// `NF_INET_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// Lower ones come first.
    pub priority: i32,
    /// Whether what no rule decides about is dropped.
    pub drops: bool,
}

impl Hooked {
    /// `NF_INET_PRE_ROUTING`.
    pub const PREROUTING: u32 = 0;
    /// `NF_INET_FORWARD`.
    pub const FORWARD: u32 = 2;
    /// `NF_INET_LOCAL_OUT`.
    pub const OUTPUT: u32 = 3;
}

/// A chain of somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherChain {
    /// Where it is hooked, if it is.
    pub hooked: Option<Hooked>,
    /// Its rules, in order. One that looks into a map is as many as the map has elements.
    pub rules: Vec<OtherRule>,
}

/// Which packets a rule is for, as far as it is understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub family: Option<Family>,
    pub protocol: Option<u8>,
    pub ports: Option<Vec<RangeInclusive<u16>>>,
    pub destination: Option<IpNetwork>,
    /// Whether it is for connections only whose destination was translated.
    pub translated: bool,
    /// Whether there are conditions that are not understood.
    pub unknown: bool,
}

/// A rule of somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherRule {
    pub conditions: Conditions,
    pub does: Does,
}

/// What a rule does with a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Does {
    /// Another destination, as far as the rule says which.
    Translate(String),
    /// To another chain, and perhaps back.
    Jump(String),
    /// To another chain.
    Goto(String),
    /// Lets it pass this hook.
    Accept,
    /// Drops or rejects it.
    Drop,
    /// Back to where the chain was called from.
    Return,
    /// Anything else.
    #[default]
    Nothing,
}

/// The chains of other tables than ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    pub chains: BTreeMap<ChainName, OtherChain>,
}

impl Others {
    /// Lists them, whoever made them. Tables that are dormant are left out.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`], [`Error::Restless`].
    pub fn list() -> Result<Self, Error> {
        let mut socket = Socket::open()?;
        let dormant: BTreeSet<(Space, String)> =
            dump(&mut socket, uapi::NFT_MSG_GETTABLE, |space, table| {
                let flags = table.u32(uapi::NFTA_TABLE_FLAGS).unwrap_or(0);
                let name = table.text(uapi::NFTA_TABLE_NAME)?.to_owned();
                (flags & uapi::NFT_TABLE_F_DORMANT != 0).then_some((space, name))
            })?
            .into_iter()
            .collect();
        let chains = dump(&mut socket, uapi::NFT_MSG_GETCHAIN, |space, chain| {
            let table = chain.text(uapi::NFTA_CHAIN_TABLE)?;
            let name = named(space, table, chain.text(uapi::NFTA_CHAIN_NAME)?)?;
            Some((name, OtherChain { hooked: hooked(chain), rules: Vec::new() }))
        })?;
        let mut others = Self { chains: chains.into_iter().collect() };
        let rules = dump(&mut socket, uapi::NFT_MSG_GETRULE, |space, rule| {
            let table = rule.text(uapi::NFTA_RULE_TABLE)?;
            let name = named(space, table, rule.text(uapi::NFTA_RULE_CHAIN)?)?;
            Some((name, decode::rule(rule)))
        })?;
        let mut sets = BTreeMap::new();
        for (name, (rule, lookup)) in rules {
            let rules = if let Some(lookup) = lookup {
                let set = (name.space, name.table.clone(), lookup.set.clone());
                if !sets.contains_key(&set) {
                    let listed = elements(&mut socket, name.space, &name.table, &lookup.set)?;
                    sets.insert(set.clone(), listed);
                }
                lookup.rules(&rule, &sets[&set])
            } else {
                vec![rule]
            };
            if let Some(chain) = others.chains.get_mut(&name) {
                chain.rules.extend(rules);
            }
        }
        others.chains.retain(|name, _| !dormant.contains(&(name.space, name.table.clone())));
        Ok(others)
    }
}

/// The name of a chain, unless it is ours.
fn named(space: Space, table: &str, chain: &str) -> Option<ChainName> {
    let own = space == Space::Inet && table == TABLE;
    (!own).then(|| ChainName { space, table: table.to_owned(), chain: chain.to_owned() })
}

fn hooked(chain: Attributes<'_>) -> Option<Hooked> {
    let hook = chain.nested(uapi::NFTA_CHAIN_HOOK)?;
    Some(Hooked {
        kind: chain.text(uapi::NFTA_CHAIN_TYPE).unwrap_or_default().to_owned(),
        hook: hook.u32(uapi::NFTA_HOOK_HOOKNUM)?,
        priority: hook.u32(uapi::NFTA_HOOK_PRIORITY)?.cast_signed(),
        drops: chain.u32(uapi::NFTA_CHAIN_POLICY) == Some(uapi::NF_DROP.cast_unsigned()),
    })
}

/// Every object of a kind, of every table of the three families.
fn dump<T>(
    socket: &mut Socket,
    kind: u16,
    read: impl Fn(Space, Attributes<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let question = question(kind, DUMP, uapi::NFPROTO_UNSPEC);
    socket.list(&question, WHAT, |answer, attributes, found| {
        let space = answer.message.first().copied().and_then(Space::of);
        found.extend(space.and_then(|space| read(space, attributes)));
    })
}

fn elements(
    socket: &mut Socket,
    space: Space,
    table: &str,
    set: &str,
) -> Result<Vec<lookup::Element>, Error> {
    let mut question = question(uapi::NFT_MSG_GETSETELEM, DUMP, space.number());
    question.put_text(uapi::NFTA_SET_ELEM_LIST_TABLE, table);
    question.put_text(uapi::NFTA_SET_ELEM_LIST_SET, set);
    socket.list(&question, WHAT, |_, attributes, found| {
        found.extend(lookup::elements(attributes));
    })
}
