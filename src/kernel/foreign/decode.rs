//! Rules of other programs: which ports they are for and what they do. What is not understood is passed
//! over, so that a rule is rather taken to be for too many packets than for too few.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;

use super::{Conditions, Does, OtherRule, xt};
use crate::kernel::netlink::message::{Attributes, address};
use crate::kernel::uapi;
use crate::model::Family;

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

impl Loaded {
    /// How many words of 32 bits it takes; `None` where nobody knows.
    pub(super) const fn words(&self) -> Option<u32> {
        match self {
            Self::Family | Self::Protocol | Self::Port | Self::Destination(Family::V4, _) => {
                Some(1)
            }
            Self::Destination(Family::V6, _) => Some(4),
            Self::Local | Self::Status(_) | Self::Value(_) | Self::Other => None,
        }
    }
}

/// How a rule looks into a set or map.
pub(super) struct Lookup {
    pub(super) set: String,
    /// What each part of the key is.
    pub(super) parts: Vec<Loaded>,
    pub(super) is_map: bool,
}

impl Conditions {
    /// Adds that what is `loaded` equals `value`; `None` where that is not understood.
    pub(super) fn meet(&mut self, loaded: &Loaded, value: &[u8]) -> Option<()> {
        match loaded {
            Loaded::Family => match value.first() {
                Some(&uapi::NFPROTO_IPV4) => self.family = Some(Family::V4),
                Some(&uapi::NFPROTO_IPV6) => self.family = Some(Family::V6),
                _ => {}
            },
            Loaded::Protocol => self.protocol = value.first().copied(),
            Loaded::Destination(family, mask) => {
                self.destination = destination(*family, mask.as_deref(), value);
            }
            Loaded::Port => {
                let port = number(value)?;
                self.narrow(vec![port..=port]);
            }
            Loaded::Local => {}
            Loaded::Status(_) | Loaded::Value(_) | Loaded::Other => return None,
        }
        Some(())
    }

    /// Adds that the port is among these.
    pub(crate) fn narrow(&mut self, ports: Vec<RangeInclusive<u16>>) {
        self.ports = Some(match &self.ports {
            Some(before) => {
                let pairs = before.iter().flat_map(|one| ports.iter().map(move |it| (one, it)));
                let common =
                    pairs.map(|(one, it)| *one.start().max(it.start())..=*one.end().min(it.end()));
                common.filter(|run| !run.is_empty()).collect()
            }
            None => ports,
        });
    }
}

fn destination(family: Family, mask: Option<&[u8]>, value: &[u8]) -> Option<IpNetwork> {
    let len = if family == Family::V4 { 4 } else { 16 };
    let value = value.get(..value.len().min(len))?;
    let ones = |mask: &[u8]| mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let prefix = mask.map_or(8 * value.len() as u32, ones);
    let mut octets = value.to_vec();
    octets.resize(len, 0);
    IpNetwork::new(address(&octets)?, prefix.try_into().ok()?).ok()
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

pub(super) fn target(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, Some(port)) => format!("port {port}"),
        (None, None) => "another address".to_owned(),
    }
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
    lookup: Option<Lookup>,
}

/// Reads one rule of a listing, and how it looks into a set, which has to be read before it is understood.
pub(super) fn rule(rule: Attributes<'_>) -> (OtherRule, Option<Lookup>) {
    let mut reading = Reading::default();
    for element in rule.nested(uapi::NFTA_RULE_EXPRESSIONS).unwrap_or_default().iter() {
        let expression = Attributes(element.payload);
        let data = expression.nested(uapi::NFTA_EXPR_DATA).unwrap_or_default();
        let name = expression.text(uapi::NFTA_EXPR_NAME).unwrap_or_default();
        if reading.expression(name, data).is_none() {
            reading.rule.conditions.unknown = true;
        }
    }
    (reading.rule, reading.lookup)
}

impl Reading {
    fn expression(&mut self, name: &str, data: Attributes<'_>) -> Option<()> {
        match name {
            "meta" | "ct" | "fib" | "payload" => self.load(name, data)?,
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
                (*loaded == Loaded::Port).then(|| self.rule.conditions.narrow(vec![from..=to]))?;
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
                let held = |kind| match self.registers.get(&word(data.u32(kind)?)) {
                    Some(Loaded::Value(value)) => Some(value.as_slice()),
                    _ => None,
                };
                let address = held(uapi::NFTA_NAT_REG_ADDR_MIN).and_then(address);
                let port = held(uapi::NFTA_NAT_REG_PROTO_MIN).and_then(number);
                self.rule.does = Does::Translate(target(address, port));
            }
            "redir" => self.rule.does = Does::Translate("a port of this node".to_owned()),
            "reject" => self.rule.does = Does::Drop,
            "match" | "target" => self.extension(name == "match", data)?,
            "counter" | "log" | "masq" | "nat" | "notrack" | "objref" => {}
            _ => return None,
        }
        Some(())
    }

    /// What is read from the packet, or of it, into a register.
    fn load(&mut self, name: &str, data: Attributes<'_>) -> Option<()> {
        let is_of_destination = |flags: u32| flags & uapi::NFTA_FIB_F_DADDR != 0;
        let loaded = match name {
            "meta" => match data.u32(uapi::NFTA_META_KEY)? {
                uapi::NFT_META_NFPROTO => Loaded::Family,
                uapi::NFT_META_L4PROTO => Loaded::Protocol,
                _ => Loaded::Other,
            },
            "ct" if data.u32(uapi::NFTA_CT_KEY) == Some(uapi::NFT_CT_STATUS) => {
                Loaded::Status(false)
            }
            "fib" if data.u32(uapi::NFTA_FIB_FLAGS).is_some_and(is_of_destination) => Loaded::Local,
            "payload" => payload(data)?,
            _ => Loaded::Other,
        };
        self.registers.insert(word(data.u32(uapi::NFTA_LOAD_DREG)?), loaded);
        Some(())
    }

    /// A match or a target of `x_tables`.
    fn extension(&mut self, is_match: bool, data: Attributes<'_>) -> Option<()> {
        let (name, info) = (data.text(uapi::NFTA_XT_NAME)?, data.get(uapi::NFTA_XT_INFO));
        match (is_match, name) {
            (true, "tcp" | "udp" | "sctp") => self.rule.conditions.narrow(xt::single_match(info?)?),
            (true, "multiport") => self.rule.conditions.narrow(xt::multiport(info?)?),
            (true, "conntrack") if xt::is_translated(info?) => {
                self.rule.conditions.translated = true;
            }
            (true, "addrtype" | "comment") => {}
            (true, _) => return None,
            (false, "DNAT") => {
                let to = info.and_then(xt::nat_range);
                let to = to.map(|(address, port)| target(Some(address), port));
                self.rule.does = Does::Translate(to.unwrap_or_default());
            }
            (false, "REDIRECT") => {
                self.rule.does = Does::Translate("a port of this node".to_owned());
            }
            (false, "REJECT") => self.rule.does = Does::Drop,
            (false, _) => {}
        }
        Some(())
    }

    fn mask(&mut self, data: Attributes<'_>) -> Option<()> {
        let register = word(data.u32(uapi::NFTA_BITWISE_DREG)?);
        let loaded = self.registers.get_mut(&register)?;
        let mask = value(data, uapi::NFTA_BITWISE_MASK).map(<[u8]>::to_vec);
        *loaded = match (&loaded, mask) {
            (Loaded::Destination(family, None), Some(mask)) => {
                Loaded::Destination(*family, Some(mask))
            }
            (Loaded::Status(_), Some(mask)) if mask == uapi::IPS_DST_NAT.to_ne_bytes() => {
                Loaded::Status(true)
            }
            _ => Loaded::Other,
        };
        Some(())
    }

    fn compare(&mut self, loaded: &Loaded, operation: u32, value: &[u8]) -> Option<()> {
        match (loaded, operation) {
            (Loaded::Port, uapi::NFT_CMP_LTE) => {
                self.rule.conditions.narrow(vec![0..=number(value)?]);
            }
            (Loaded::Port, uapi::NFT_CMP_GTE) => {
                self.rule.conditions.narrow(vec![number(value)?..=u16::MAX]);
            }
            (Loaded::Status(true), uapi::NFT_CMP_NEQ) => self.rule.conditions.translated = true,
            (_, uapi::NFT_CMP_EQ) => self.rule.conditions.meet(loaded, value)?,
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
            let Some(words) = loaded.words() else { break };
            at += words;
        }
        let set = data.text(uapi::NFTA_LOOKUP_SET)?.to_owned();
        let is_map = data.u32(uapi::NFTA_LOOKUP_DREG).is_some();
        self.lookup = Some(Lookup { set, parts, is_map });
        Some(())
    }
}

fn payload(data: Attributes<'_>) -> Option<Loaded> {
    let [base, offset, len] =
        [uapi::NFTA_PAYLOAD_BASE, uapi::NFTA_PAYLOAD_OFFSET, uapi::NFTA_PAYLOAD_LEN]
            .map(|kind| data.u32(kind));
    Some(match (base?, offset?, len?) {
        (uapi::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2) => Loaded::Port,
        // Of IPv4, as iptables asks for it.
        (uapi::NFT_PAYLOAD_NETWORK_HEADER, 9, 1) => Loaded::Protocol,
        (uapi::NFT_PAYLOAD_NETWORK_HEADER, 16, 1..=4) => Loaded::Destination(Family::V4, None),
        (uapi::NFT_PAYLOAD_NETWORK_HEADER, 24, 1..=16) => Loaded::Destination(Family::V6, None),
        _ => Loaded::Other,
    })
}

fn value(data: Attributes<'_>, kind: u16) -> Option<&[u8]> {
    data.nested(kind)?.get(uapi::NFTA_DATA_VALUE)
}
