//! Rules of other programs: which ports they are for and what they do. What is not understood is passed
//! over, so that a rule is rather taken to be for too many packets than for too few.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;

use super::lookup::{Lookup, intersect};
use super::{Conditions, Does, OtherRule, xt};
use crate::kernel::netlink::message::Attributes;
use crate::model::Family;

/// `linux/netfilter/nf_tables.h`, `linux/netfilter/nf_tables_compat.h`, `linux/netfilter.h`.
mod uapi {
    pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
    pub(super) const NFTA_EXPR_NAME: u16 = 1;
    pub(super) const NFTA_EXPR_DATA: u16 = 2;
    pub(super) const NFTA_DATA_VALUE: u16 = 1;
    pub(super) const NFTA_DATA_VERDICT: u16 = 2;
    pub(super) const NFTA_VERDICT_CODE: u16 = 1;
    pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;
    pub(super) const NFTA_META_DREG: u16 = 1;
    pub(super) const NFTA_META_KEY: u16 = 2;
    pub(super) const NFTA_PAYLOAD_DREG: u16 = 1;
    pub(super) const NFTA_PAYLOAD_BASE: u16 = 2;
    pub(super) const NFTA_PAYLOAD_OFFSET: u16 = 3;
    pub(super) const NFTA_PAYLOAD_LEN: u16 = 4;
    pub(super) const NFTA_BITWISE_DREG: u16 = 2;
    pub(super) const NFTA_BITWISE_MASK: u16 = 4;
    pub(super) const NFTA_CMP_SREG: u16 = 1;
    pub(super) const NFTA_CMP_OP: u16 = 2;
    pub(super) const NFTA_CMP_DATA: u16 = 3;
    pub(super) const NFTA_RANGE_SREG: u16 = 1;
    pub(super) const NFTA_RANGE_OP: u16 = 2;
    pub(super) const NFTA_RANGE_FROM: u16 = 3;
    pub(super) const NFTA_RANGE_TO: u16 = 4;
    pub(super) const NFTA_LOOKUP_SET: u16 = 1;
    pub(super) const NFTA_LOOKUP_SREG: u16 = 2;
    pub(super) const NFTA_LOOKUP_DREG: u16 = 3;
    pub(super) const NFTA_LOOKUP_FLAGS: u16 = 5;
    pub(super) const NFTA_IMMEDIATE_DREG: u16 = 1;
    pub(super) const NFTA_IMMEDIATE_DATA: u16 = 2;
    pub(super) const NFTA_FIB_DREG: u16 = 1;
    pub(super) const NFTA_FIB_FLAGS: u16 = 3;
    pub(super) const NFTA_FIB_F_DADDR: u32 = 1 << 1;
    pub(super) const NFTA_CT_DREG: u16 = 1;
    pub(super) const NFTA_CT_KEY: u16 = 2;
    pub(super) const NFT_CT_STATUS: u32 = 2;
    /// `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`.
    pub(super) const IPS_DST_NAT: [u8; 4] = 0x20_u32.to_ne_bytes();
    pub(super) const NFTA_NAT_TYPE: u16 = 1;
    pub(super) const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
    pub(super) const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
    /// Of `match` and `target` alike.
    pub(super) const NFTA_XT_NAME: u16 = 1;
    pub(super) const NFTA_XT_INFO: u16 = 3;
    pub(super) const NFT_META_NFPROTO: u32 = 15;
    pub(super) const NFT_META_L4PROTO: u32 = 16;
    pub(super) const NFT_PAYLOAD_NETWORK: u32 = 1;
    pub(super) const NFT_PAYLOAD_TRANSPORT: u32 = 2;
    pub(super) const NFT_CMP_EQ: u32 = 0;
    pub(super) const NFT_CMP_NEQ: u32 = 1;
    pub(super) const NFT_CMP_LTE: u32 = 3;
    pub(super) const NFT_CMP_GTE: u32 = 5;
    pub(super) const NFT_REG32_00: u32 = 8;
    pub(super) const NFT_NAT_DNAT: u32 = 1;
    pub(super) const NF_DROP: i32 = 0;
    pub(super) const NF_ACCEPT: i32 = 1;
    pub(super) const NFT_JUMP: i32 = -3;
    pub(super) const NFT_GOTO: i32 = -4;
    pub(super) const NFT_RETURN: i32 = -5;
    pub(super) const NFPROTO_IPV4: u8 = 2;
    pub(super) const NFPROTO_IPV6: u8 = 10;
}

/// What a rule was found to be.
pub(super) enum Found {
    Rule(OtherRule),
    /// One whose set has to be read first.
    Lookup(Lookup),
}

/// What a register holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    Family,
    Protocol,
    Port,
    Destination(Family, Option<Vec<u8>>),
    /// Whether the destination is this node's, which it is where a host port is asked for.
    Local,
    /// The status of the connection, masked or not.
    Status(bool),
    Value(Vec<u8>),
    Other,
}

/// The word of 32 bits at which a register begins.
const fn word(register: u32) -> u32 {
    match register {
        uapi::NFT_REG32_00.. => register - uapi::NFT_REG32_00,
        // 0 is the verdict, which nothing is loaded into.
        0 => u32::MAX,
        _ => 4 * (register - 1),
    }
}

#[derive(Default)]
struct Reading {
    registers: BTreeMap<u32, Loaded>,
    rule: OtherRule,
    lookup: Option<(String, Vec<Loaded>, bool)>,
}

/// Reads one rule of a listing.
pub(super) fn rule(rule: Attributes<'_>) -> Found {
    let mut reading = Reading::default();
    for element in rule.nested(uapi::NFTA_RULE_EXPRESSIONS).unwrap_or_default().iter() {
        let expression = Attributes(element.payload);
        let data = expression.nested(uapi::NFTA_EXPR_DATA).unwrap_or_default();
        let name = expression.text(uapi::NFTA_EXPR_NAME).unwrap_or_default();
        if reading.expression(name, data).is_none() {
            reading.rule.conditions.unknown = true;
        }
    }
    let Reading { rule, lookup, .. } = reading;
    match lookup {
        Some((set, parts, is_map)) => Found::Lookup(Lookup { set, parts, is_map, rule }),
        None => Found::Rule(rule),
    }
}

impl Reading {
    fn expression(&mut self, name: &str, data: Attributes<'_>) -> Option<()> {
        match name {
            "meta" => {
                let register = data.u32(uapi::NFTA_META_DREG)?;
                let loaded = match data.u32(uapi::NFTA_META_KEY)? {
                    uapi::NFT_META_NFPROTO => Loaded::Family,
                    uapi::NFT_META_L4PROTO => Loaded::Protocol,
                    _ => Loaded::Other,
                };
                self.registers.insert(word(register), loaded);
            }
            "ct" => {
                let is_status = data.u32(uapi::NFTA_CT_KEY) == Some(uapi::NFT_CT_STATUS);
                let loaded = if is_status { Loaded::Status(false) } else { Loaded::Other };
                self.registers.insert(word(data.u32(uapi::NFTA_CT_DREG)?), loaded);
            }
            "fib" => {
                let register = word(data.u32(uapi::NFTA_FIB_DREG)?);
                let by_destination = data.u32(uapi::NFTA_FIB_FLAGS)? & uapi::NFTA_FIB_F_DADDR != 0;
                let loaded = if by_destination { Loaded::Local } else { Loaded::Other };
                self.registers.insert(register, loaded);
            }
            "payload" => {
                self.registers.insert(word(data.u32(uapi::NFTA_PAYLOAD_DREG)?), payload(data)?);
            }
            "bitwise" => self.mask(data)?,
            "cmp" => {
                let loaded = self.registers.get(&word(data.u32(uapi::NFTA_CMP_SREG)?))?.clone();
                let operation = data.u32(uapi::NFTA_CMP_OP)?;
                self.compare(&loaded, operation, value(data, uapi::NFTA_CMP_DATA)?)?;
            }
            "range" if data.u32(uapi::NFTA_RANGE_OP) == Some(0) => {
                let loaded = self.registers.get(&word(data.u32(uapi::NFTA_RANGE_SREG)?))?;
                let from = number(value(data, uapi::NFTA_RANGE_FROM)?)?;
                let to = number(value(data, uapi::NFTA_RANGE_TO)?)?;
                (*loaded == Loaded::Port).then(|| self.ports(vec![from..=to]))?;
            }
            "lookup" => self.look_up(data)?,
            "immediate" => {
                let loaded = data.nested(uapi::NFTA_IMMEDIATE_DATA)?;
                if let Some(does) = verdict(loaded) {
                    self.rule.does = does;
                } else {
                    let value = loaded.get(uapi::NFTA_DATA_VALUE)?.to_vec();
                    let register = word(data.u32(uapi::NFTA_IMMEDIATE_DREG)?);
                    self.registers.insert(register, Loaded::Value(value));
                }
            }
            "nat" if data.u32(uapi::NFTA_NAT_TYPE) == Some(uapi::NFT_NAT_DNAT) => {
                let held = |kind| {
                    let register = data.u32(kind).map(word)?;
                    if let Some(Loaded::Value(value)) = self.registers.get(&register) {
                        return Some(value.as_slice());
                    }
                    None
                };
                let address = held(uapi::NFTA_NAT_REG_ADDR_MIN).and_then(address);
                let port = held(uapi::NFTA_NAT_REG_PROTO_MIN).and_then(number);
                self.rule.does = Does::Translate(target(address, port));
            }
            "redir" => self.rule.does = Does::Translate("a port of this node".to_owned()),
            "reject" => self.rule.does = Does::Drop,
            "match" => {
                let info = data.get(uapi::NFTA_XT_INFO)?;
                let ports = match data.text(uapi::NFTA_XT_NAME)? {
                    "tcp" | "udp" | "sctp" => xt::single_match(info),
                    "multiport" => xt::multiport(info),
                    "conntrack" if xt::is_translated(info) => {
                        self.rule.conditions.translated = true;
                        return Some(());
                    }
                    "addrtype" | "comment" => return Some(()),
                    _ => None,
                };
                self.ports(ports?);
            }
            "target" => match data.text(uapi::NFTA_XT_NAME)? {
                "DNAT" => {
                    let to = data.get(uapi::NFTA_XT_INFO).and_then(xt::nat_range);
                    self.rule.does = Does::Translate(to.unwrap_or_default());
                }
                "REDIRECT" => self.rule.does = Does::Translate("a port of this node".to_owned()),
                "REJECT" => self.rule.does = Does::Drop,
                _ => {}
            },
            "counter" | "log" | "masq" | "nat" | "notrack" | "objref" => {}
            _ => return None,
        }
        Some(())
    }

    fn ports(&mut self, ports: Vec<RangeInclusive<u16>>) {
        let both = match self.rule.conditions.ports.take() {
            Some(before) => intersect(&before, &ports),
            None => ports,
        };
        self.rule.conditions.ports = Some(both);
    }

    fn mask(&mut self, data: Attributes<'_>) -> Option<()> {
        let register = word(data.u32(uapi::NFTA_BITWISE_DREG)?);
        let loaded = self.registers.get_mut(&register)?;
        let mask = value(data, uapi::NFTA_BITWISE_MASK).map(<[u8]>::to_vec);
        *loaded = match (&loaded, mask) {
            (Loaded::Destination(family, None), Some(mask)) => {
                Loaded::Destination(*family, Some(mask))
            }
            (Loaded::Status(_), Some(mask)) if mask == uapi::IPS_DST_NAT => Loaded::Status(true),
            _ => Loaded::Other,
        };
        Some(())
    }

    fn compare(&mut self, loaded: &Loaded, operation: u32, value: &[u8]) -> Option<()> {
        match (loaded, operation) {
            (Loaded::Port, uapi::NFT_CMP_EQ) => {
                let port = number(value)?;
                self.ports(vec![port..=port]);
            }
            (Loaded::Port, uapi::NFT_CMP_LTE) => self.ports(vec![0..=number(value)?]),
            (Loaded::Port, uapi::NFT_CMP_GTE) => self.ports(vec![number(value)?..=u16::MAX]),
            (Loaded::Local, uapi::NFT_CMP_EQ) => {}
            (Loaded::Status(true), uapi::NFT_CMP_NEQ) => self.rule.conditions.translated = true,
            (Loaded::Family | Loaded::Protocol | Loaded::Destination(..), uapi::NFT_CMP_EQ) => {
                meet(&mut self.rule.conditions, loaded, value);
            }
            _ => return None,
        }
        Some(())
    }

    fn look_up(&mut self, data: Attributes<'_>) -> Option<()> {
        if data.u32(uapi::NFTA_LOOKUP_FLAGS).unwrap_or(0) != 0 {
            return None;
        }
        let mut at = word(data.u32(uapi::NFTA_LOOKUP_SREG)?);
        let mut parts = Vec::new();
        while let Some(loaded) = self.registers.get(&at) {
            parts.push(loaded.clone());
            let Some(words) = words(loaded) else { break };
            at += words;
        }
        let result = data.u32(uapi::NFTA_LOOKUP_DREG);
        self.lookup = Some((data.text(uapi::NFTA_LOOKUP_SET)?.to_owned(), parts, result.is_some()));
        Some(())
    }
}

/// How many words of 32 bits it takes; `None` where nobody knows.
pub(super) const fn words(loaded: &Loaded) -> Option<u32> {
    match loaded {
        Loaded::Family | Loaded::Protocol | Loaded::Port | Loaded::Destination(Family::V4, _) => {
            Some(1)
        }
        Loaded::Destination(Family::V6, _) => Some(4),
        Loaded::Local | Loaded::Status(_) | Loaded::Value(_) | Loaded::Other => None,
    }
}

/// Adds a condition.
pub(super) fn meet(conditions: &mut Conditions, loaded: &Loaded, value: &[u8]) {
    match loaded {
        Loaded::Family => {
            conditions.family = match value.first() {
                Some(&uapi::NFPROTO_IPV4) => Some(Family::V4),
                Some(&uapi::NFPROTO_IPV6) => Some(Family::V6),
                _ => conditions.family,
            };
        }
        Loaded::Protocol => conditions.protocol = value.first().copied(),
        Loaded::Destination(family, mask) => {
            conditions.destination = destination(*family, mask.as_deref(), value);
        }
        Loaded::Port | Loaded::Local | Loaded::Status(_) | Loaded::Value(_) | Loaded::Other => {}
    }
}

fn destination(family: Family, mask: Option<&[u8]>, value: &[u8]) -> Option<IpNetwork> {
    let mut octets = [0; 16];
    let len = if family == Family::V4 { 4 } else { 16 };
    let value = value.get(..value.len().min(len))?;
    octets[..value.len()].copy_from_slice(value);
    let ones = |mask: &[u8]| mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let prefix = mask.map_or(8 * value.len() as u32, ones);
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(*octets.first_chunk::<4>()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(octets)),
    };
    IpNetwork::new(address, prefix.try_into().ok()?).ok()
}

fn payload(data: Attributes<'_>) -> Option<Loaded> {
    let [base, offset, len] =
        [uapi::NFTA_PAYLOAD_BASE, uapi::NFTA_PAYLOAD_OFFSET, uapi::NFTA_PAYLOAD_LEN]
            .map(|kind| data.u32(kind));
    Some(match (base?, offset?, len?) {
        (uapi::NFT_PAYLOAD_TRANSPORT, 2, 2) => Loaded::Port,
        // Of IPv4, as iptables asks for it.
        (uapi::NFT_PAYLOAD_NETWORK, 9, 1) => Loaded::Protocol,
        (uapi::NFT_PAYLOAD_NETWORK, 16, 1..=4) => Loaded::Destination(Family::V4, None),
        (uapi::NFT_PAYLOAD_NETWORK, 24, 1..=16) => Loaded::Destination(Family::V6, None),
        _ => Loaded::Other,
    })
}

fn value(data: Attributes<'_>, kind: u16) -> Option<&[u8]> {
    data.nested(kind)?.get(uapi::NFTA_DATA_VALUE)
}

pub(super) fn verdict(data: Attributes<'_>) -> Option<Does> {
    let verdict = data.nested(uapi::NFTA_DATA_VERDICT)?;
    let chain = || verdict.text(uapi::NFTA_VERDICT_CHAIN).unwrap_or_default().to_owned();
    Some(match verdict.u32(uapi::NFTA_VERDICT_CODE)?.cast_signed() {
        uapi::NFT_JUMP => Does::Jump(chain()),
        uapi::NFT_GOTO => Does::Goto(chain()),
        uapi::NF_ACCEPT => Does::Accept,
        uapi::NF_DROP => Does::Drop,
        uapi::NFT_RETURN => Does::Return,
        _ => Does::Nothing,
    })
}

/// A port: a big-endian number in the first two bytes.
pub(super) fn number(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

pub(super) fn target(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, Some(port)) => format!("port {port}"),
        (None, None) => "another address".to_owned(),
    }
}
