//! What other programs have in the nftables of this network namespace, as far as it decides what becomes of
//! a packet: the chains in the hooks, their rules, and the sets that those look into. Rules of iptables-nft
//! are among them; those of iptables-legacy are not.

mod decode;
mod does;
mod leftover;
mod packet;
mod portmap;
mod rule;
mod set;
mod xt;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::netlink::message::Attributes;
use super::netlink::socket::{DUMP, Socket, question};
use super::{Error, INET};
use crate::kernel::uapi;
use crate::model::Family;
use crate::ruleset::{OFFLOAD_TABLE, TABLE};

pub use does::Does;
pub use leftover::{Leftover, has_legacy_nat};
pub use packet::{Interface, Packet, Tuple};
pub use portmap::Portmap;
pub use rule::{Marks, OtherRule, Source, Step};
pub use set::Set;
pub use xt::{back, masked, some_bit};

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
    /// `bridge`: what passes a bridge.
    Bridge,
    /// `netdev`: what comes in or goes out by an interface.
    Netdev,
}

impl Space {
    fn of(number: u8) -> Option<Self> {
        let all = [Self::Ip, Self::Ip6, Self::Inet, Self::Bridge, Self::Netdev];
        all.into_iter().find(|space| space.number() == number)
    }

    const fn number(self) -> u8 {
        match self {
            Self::Ip => uapi::NFPROTO_IPV4,
            Self::Ip6 => uapi::NFPROTO_IPV6,
            Self::Inet => INET,
            Self::Bridge => uapi::NFPROTO_BRIDGE,
            Self::Netdev => uapi::NFPROTO_NETDEV,
        }
    }

    /// Whether packets of `family` pass its chains.
    pub(crate) const fn has(self, family: Family) -> bool {
        match self {
            Self::Ip => matches!(family, Family::V4),
            Self::Ip6 => matches!(family, Family::V6),
            Self::Inet | Self::Bridge | Self::Netdev => true,
        }
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
    pub hook: Hook,
    /// Lower ones come first.
    pub priority: i32,
    /// Whether what no rule decides about is dropped.
    pub drops: bool,
    /// The interfaces that it is for: `ingress` and `egress` only.
    pub devices: Vec<String>,
}

/// Where a packet meets chains. A bridge has the same five as IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
#[display(rename_all = "UPPERCASE")]
pub enum Hook {
    Ingress,
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Egress,
}

impl Hook {
    fn of(space: Space, number: u32) -> Option<Self> {
        Some(match (space, number) {
            (Space::Netdev, 0) | (_, 5) => Self::Ingress,
            (Space::Netdev, 1) => Self::Egress,
            (Space::Netdev, _) => return None,
            (_, 0) => Self::Prerouting,
            (_, 1) => Self::Input,
            (_, 2) => Self::Forward,
            (_, 3) => Self::Output,
            (_, 4) => Self::Postrouting,
            _ => return None,
        })
    }
}

/// A chain of another program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherChain {
    /// Where it is hooked, if it is.
    pub hooked: Option<Hooked>,
    /// Its rules, in order.
    pub rules: Vec<OtherRule>,
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
            Some((name, OtherChain { hooked: hooked(space, chain), rules: Vec::new() }))
        })?;
        let mut others = Self { chains: chains.into_iter().collect() };
        let mut sets = Sets::list(&mut socket)?;
        let rules = dump(&mut socket, uapi::NFT_MSG_GETRULE, |space, rule| {
            let table = rule.text(uapi::NFTA_RULE_TABLE)?;
            let name = named(space, table, rule.text(uapi::NFTA_RULE_CHAIN)?)?;
            Some((name, rule.0.to_vec()))
        })?;
        for (name, rule) in rules {
            let rule = Attributes(&rule);
            for set in decode::sets_of(rule) {
                sets.fill(&mut socket, (name.space, name.table.clone(), set))?;
            }
            let find = |set: &str| {
                sets.0.get(&(name.space, name.table.clone(), set.to_owned())).map(|it| it.1.clone())
            };
            let rule = decode::rule(name.space, rule, &find);
            if let Some(chain) = others.chains.get_mut(&name) {
                chain.rules.push(rule);
            }
        }
        others.chains.retain(|name, _| !dormant.contains(&(name.space, name.table.clone())));
        Ok(others)
    }
}

impl Others {
    /// The same with only those rules that may be for `packet`.
    pub fn for_packet(&self, packet: &Packet) -> Self {
        let may_meet = |rule: &&OtherRule| !rule.meet(packet).does.is_empty();
        let chains = self.chains.iter().map(|(name, chain)| {
            let rules = chain.rules.iter().filter(may_meet).cloned().collect();
            (name.clone(), OtherChain { hooked: chain.hooked.clone(), rules })
        });
        Self { chains: chains.collect() }
    }
}

/// The family, table and name of a set.
type SetName = (Space, String, String);

/// Every set, and whether its elements were read.
struct Sets(BTreeMap<SetName, (bool, Arc<Set>)>);

impl Sets {
    fn list(socket: &mut Socket) -> Result<Self, Error> {
        let sets = dump(socket, uapi::NFT_MSG_GETSET, |space, set| {
            let [table, name] = [uapi::NFTA_SET_TABLE, uapi::NFTA_SET_NAME].map(|it| set.text(it));
            let name = (space, table?.to_owned(), name?.to_owned());
            Some((name, (false, Arc::new(Set::read(set)))))
        })?;
        Ok(Self(sets.into_iter().collect()))
    }

    /// Reads the elements of a set, once.
    fn fill(&mut self, socket: &mut Socket, name: SetName) -> Result<(), Error> {
        let Some((is_filled @ false, set)) = self.0.get_mut(&name) else { return Ok(()) };
        let (space, table, name) = name;
        let mut question = question(uapi::NFT_MSG_GETSETELEM, DUMP, space.number());
        question.put_text(uapi::NFTA_SET_ELEM_LIST_TABLE, &table);
        question.put_text(uapi::NFTA_SET_ELEM_LIST_SET, &name);
        let elements = socket.list(&question, WHAT, |_, attributes, found| {
            found.extend(set::elements(attributes));
        })?;
        Arc::make_mut(set).fill(elements);
        *is_filled = true;
        Ok(())
    }
}

/// The name of a chain, unless it is ours.
fn named(space: Space, table: &str, chain: &str) -> Option<ChainName> {
    let own = space == Space::Inet && [TABLE, OFFLOAD_TABLE].contains(&table);
    (!own).then(|| ChainName { space, table: table.to_owned(), chain: chain.to_owned() })
}

fn hooked(space: Space, chain: Attributes<'_>) -> Option<Hooked> {
    let hook = chain.nested(uapi::NFTA_CHAIN_HOOK)?;
    let devices = hook.nested(uapi::NFTA_HOOK_DEVS).map(|devices| {
        let names = devices.iter().map(|device| String::from_utf8_lossy(device.payload));
        names.map(|name| name.trim_end_matches('\0').to_owned()).collect()
    });
    let device = hook.text(uapi::NFTA_HOOK_DEV).map(|device| vec![device.to_owned()]);
    Some(Hooked {
        kind: chain.text(uapi::NFTA_CHAIN_TYPE).unwrap_or_default().to_owned(),
        hook: Hook::of(space, hook.u32(uapi::NFTA_HOOK_HOOKNUM)?)?,
        priority: hook.u32(uapi::NFTA_HOOK_PRIORITY)?.cast_signed(),
        drops: chain.u32(uapi::NFTA_CHAIN_POLICY) == Some(uapi::NF_DROP.cast_unsigned()),
        devices: devices.or(device).unwrap_or_default(),
    })
}

/// Every object of a kind, of every table.
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
