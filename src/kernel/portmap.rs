//! The rules of `portmap`, which stand before ours: what they translate never gets here.
//!
//! Read in ADD, so first only whether the chains are there at all, in one volley. Both of portmap's
//! backends are known, the older one as far as iptables writes nftables; what it writes in the older
//! tables of the kernel is not seen.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::message::{Attributes, Body, Kind, Messages};
use super::socket::{DUMP, NFTABLES, REQUEST};
use super::{Error, Nft};
use crate::model::{Family, HostPort, Protocol};

/// `linux/netfilter/nf_tables.h`, `linux/netfilter/xt_multiport.h`.
mod uapi {
    pub(super) const NFPROTO_IPV4: u8 = 2;
    pub(super) const NFPROTO_IPV6: u8 = 10;
    pub(super) const NFT_MSG_GETCHAIN: u8 = 4;
    pub(super) const NFT_MSG_GETRULE: u8 = 7;
    pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
    pub(super) const NFTA_CHAIN_NAME: u16 = 3;
    pub(super) const NFTA_RULE_TABLE: u16 = 1;
    pub(super) const NFTA_RULE_CHAIN: u16 = 2;
    pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
    pub(super) const NFTA_EXPR_NAME: u16 = 1;
    pub(super) const NFTA_EXPR_DATA: u16 = 2;
    pub(super) const NFTA_DATA_VALUE: u16 = 1;
    pub(super) const NFTA_META_KEY: u16 = 2;
    pub(super) const NFTA_PAYLOAD_BASE: u16 = 2;
    pub(super) const NFTA_PAYLOAD_OFFSET: u16 = 3;
    pub(super) const NFTA_CMP_DATA: u16 = 3;
    pub(super) const NFTA_MATCH_NAME: u16 = 1;
    pub(super) const NFTA_MATCH_INFO: u16 = 3;
    pub(super) const NFT_META_L4PROTO: u32 = 16;
    pub(super) const NETWORK_HEADER: u32 = 1;
    pub(super) const TRANSPORT_HEADER: u32 = 2;
    pub(super) const XT_MULTI_PORTS: usize = 15;
}

/// A chain with a rule for each host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    family: Family,
    table: &'static str,
    name: &'static str,
}

const CHAINS: [Chain; 4] = {
    const fn iptables(family: Family) -> Chain {
        Chain { family, table: "nat", name: "CNI-HOSTPORT-DNAT" }
    }
    const fn nftables(family: Family) -> Chain {
        Chain { family, table: "cni_hostport", name: "hostports" }
    }
    [iptables(Family::V4), iptables(Family::V6), nftables(Family::V4), nftables(Family::V6)]
};

impl Chain {
    const fn number(self) -> u8 {
        match self.family {
            Family::V4 => uapi::NFPROTO_IPV4,
            Family::V6 => uapi::NFPROTO_IPV6,
        }
    }

    /// As nft(8) names it.
    fn shown(self) -> String {
        let family = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        format!("{family} {} {}", self.table, self.name)
    }
}

/// Host ports that one rule of portmap translates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    chain: Chain,
    protocol: Protocol,
    ports: Vec<(u16, u16)>,
    /// `None` where the rule does not say so.
    address: Option<IpAddr>,
}

/// Everything that portmap translates on this node.
#[derive(Clone, Debug, Default)]
pub struct Portmap {
    rules: BTreeSet<Rule>,
}

impl Portmap {
    /// Whether it translates nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The chain whose rule gets packets to `host` first, as nft(8) names it.
    #[must_use]
    pub fn chain_of(&self, host: &HostPort) -> Option<String> {
        let covers = |rule: &&Rule| {
            let address = rule.address.unwrap_or(rule.chain.family.wildcard());
            let port = host.port.get();
            rule.ports
                .iter()
                .any(|(first, last)| RangeInclusive::new(*first, *last).contains(&port))
                && host.overlaps(&HostPort { protocol: rule.protocol, address, port: host.port })
        };
        self.rules.iter().find(covers).map(|rule| rule.chain.shown())
    }
}

impl Nft {
    /// Reads what portmap translates.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::Question`], [`Error::Restless`].
    pub fn portmap(&mut self) -> Result<Portmap, Error> {
        let mut questions = Messages::default();
        for (chain, number) in CHAINS.iter().zip(0..) {
            let kind = Kind { subsystem: NFTABLES, message: uapi::NFT_MSG_GETCHAIN };
            questions.begin(kind, REQUEST, chain.number(), number);
            questions.put_text(uapi::NFTA_CHAIN_TABLE, chain.table);
            questions.put_text(uapi::NFTA_CHAIN_NAME, chain.name);
        }
        let mut there = Vec::new();
        self.socket.ask(&questions, |answer| {
            if let (Body::Object(_), Some(chain)) =
                (answer.body, CHAINS.get(answer.number as usize))
            {
                there.push(*chain);
            }
        })?;
        let mut rules = BTreeSet::new();
        for chain in there {
            let mut question = Messages::default();
            let kind = Kind { subsystem: NFTABLES, message: uapi::NFT_MSG_GETRULE };
            question.begin(kind, REQUEST | DUMP, chain.number(), 0);
            question.put_text(uapi::NFTA_RULE_TABLE, chain.table);
            question.put_text(uapi::NFTA_RULE_CHAIN, chain.name);
            rules.extend(self.list_until_whole(&question, |rule, found| {
                found.extend(read(chain, rule));
            })?);
        }
        Ok(Portmap { rules })
    }
}

/// What was read from the packet last.
#[derive(Clone, Copy)]
enum Loaded {
    Protocol,
    Address,
    Port,
    Other,
}

/// Reads a rule of one of the chains; nothing where it is none for ports.
fn read(chain: Chain, rule: Attributes<'_>) -> Option<Rule> {
    // Kernels before 4.17 list all chains of a table, whichever is asked for.
    if rule.text(uapi::NFTA_RULE_CHAIN) != Some(chain.name) {
        return None;
    }
    let (mut loaded, mut protocol, mut address, mut ports) =
        (Loaded::Other, None, None, Vec::new());
    for element in rule.nested(uapi::NFTA_RULE_EXPRESSIONS)?.iter() {
        let expression = Attributes(element.payload);
        let data = expression.nested(uapi::NFTA_EXPR_DATA).unwrap_or_default();
        match expression.text(uapi::NFTA_EXPR_NAME)? {
            "meta" if data.u32(uapi::NFTA_META_KEY) == Some(uapi::NFT_META_L4PROTO) => {
                loaded = Loaded::Protocol;
            }
            "payload" => loaded = payload(chain.family, data),
            "cmp" => {
                let value = data.nested(uapi::NFTA_CMP_DATA)?.get(uapi::NFTA_DATA_VALUE)?;
                match loaded {
                    Loaded::Protocol => protocol = value.first().and_then(|one| named(*one)),
                    Loaded::Address => address = read_address(value),
                    Loaded::Port => {
                        let port = u16::from_be_bytes(value.get(..2)?.try_into().ok()?);
                        ports.push((port, port));
                    }
                    Loaded::Other => {}
                }
            }
            "match" if data.text(uapi::NFTA_MATCH_NAME) == Some("multiport") => {
                ports = multiport(data.get(uapi::NFTA_MATCH_INFO)?)?;
            }
            _ => {}
        }
    }
    (!ports.is_empty()).then_some(())?;
    Some(Rule { chain, protocol: protocol?, ports, address })
}

fn payload(family: Family, data: Attributes<'_>) -> Loaded {
    const PROTOCOL: u32 = 9;
    let destination = match family {
        Family::V4 => 16,
        Family::V6 => 24,
    };
    match (data.u32(uapi::NFTA_PAYLOAD_BASE), data.u32(uapi::NFTA_PAYLOAD_OFFSET)) {
        (Some(uapi::TRANSPORT_HEADER), Some(2)) => Loaded::Port,
        (Some(uapi::NETWORK_HEADER), Some(offset)) if offset == destination => Loaded::Address,
        (Some(uapi::NETWORK_HEADER), Some(PROTOCOL)) if family == Family::V4 => Loaded::Protocol,
        _ => Loaded::Other,
    }
}

fn named(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|one| one.number() == number)
}

fn read_address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))).ok()
}

/// `struct xt_multiport_v1`: flags, count, the ports, and which of them begin a range.
fn multiport(info: &[u8]) -> Option<Vec<(u16, u16)>> {
    let count = usize::from(*info.get(1)?).min(uapi::XT_MULTI_PORTS);
    let ports = info.get(2..2 + 2 * uapi::XT_MULTI_PORTS)?;
    let port =
        |index: usize| Some(u16::from_ne_bytes(ports.get(2 * index..)?.get(..2)?.try_into().ok()?));
    let flags = info.get(2 + 2 * uapi::XT_MULTI_PORTS..)?;
    let (mut found, mut index) = (Vec::new(), 0);
    while index < count {
        let range = usize::from(flags.get(index) == Some(&1));
        found.push((port(index)?, port(index + range)?));
        index += 1 + range;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_of_multiport() {
        let mut info = [0_u8; 48];
        (info[0], info[1]) = (1, 3);
        for (index, port) in [80_u16, 8000, 8010].into_iter().enumerate() {
            info[2 + 2 * index..4 + 2 * index].copy_from_slice(&port.to_ne_bytes());
        }
        info[32 + 1] = 1;
        assert_eq!(multiport(&info), Some(vec![(80, 80), (8000, 8010)]));
        assert_eq!(multiport(&info[..20]), None);
    }
}
