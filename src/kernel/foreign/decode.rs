//! Rules of other programs, from a listing: each expression is a step, and one that is not understood says so.

use std::sync::Arc;

use super::does::{Does, verdict};
use super::rule::{OtherRule, Source, Step};
use super::set::Set;
use super::{Space, xt};
use crate::kernel::netlink::message::Attributes;
use crate::kernel::uapi;
use crate::model::Family;

/// Where a register begins, in bytes; what is loaded nowhere goes behind all.
const fn byte(register: u32) -> usize {
    let word = match register {
        uapi::NFT_REG32_00.. => register - uapi::NFT_REG32_00,
        0 => 1 << 8,
        _ => 4 * (register - 1),
    };
    4 * word as usize
}

/// Reads one rule of a listing of `space`; `sets` has the sets of its table.
pub(super) fn rule(
    space: Space,
    rule: Attributes<'_>,
    sets: &dyn Fn(&str) -> Option<Arc<Set>>,
) -> OtherRule {
    let mut steps = Vec::new();
    for element in rule.nested(uapi::NFTA_RULE_EXPRESSIONS).unwrap_or_default().iter() {
        let expression = Attributes(element.payload);
        let data = expression.nested(uapi::NFTA_EXPR_DATA).unwrap_or_default();
        let name = expression.text(uapi::NFTA_EXPR_NAME).unwrap_or_default();
        let unknown =
            || vec![Step::Perhaps(name.to_owned()), Step::Does(Does::Unknown(name.to_owned()))];
        steps.extend(step(space, name, data, sets).unwrap_or_else(unknown));
    }
    let handle = rule.get(uapi::NFTA_RULE_HANDLE).and_then(|bytes| bytes.try_into().ok());
    let handle = handle.map_or(0, u64::from_be_bytes);
    OtherRule { steps, name: format!("handle {handle}") }
}

/// The names of the sets that a rule looks into.
pub(super) fn sets_of(rule: Attributes<'_>) -> impl Iterator<Item = String> {
    let expressions = rule.nested(uapi::NFTA_RULE_EXPRESSIONS).unwrap_or_default();
    expressions.iter().filter_map(|element| {
        let expression = Attributes(element.payload);
        let data = expression.nested(uapi::NFTA_EXPR_DATA)?;
        let is_lookup = expression.text(uapi::NFTA_EXPR_NAME) == Some("lookup");
        Some(data.text(uapi::NFTA_LOOKUP_SET).filter(|_| is_lookup)?.to_owned())
    })
}

/// The steps of one expression; `None` where it is not understood.
fn step(
    space: Space,
    name: &str,
    data: Attributes<'_>,
    sets: &dyn Fn(&str) -> Option<Arc<Set>>,
) -> Option<Vec<Step>> {
    let at = |kind| Some(byte(data.u32(kind)?));
    let unknown = |what: &str| Step::Does(Does::Unknown(what.to_owned()));
    Some(vec![match name {
        "counter" | "log" | "last" | "flow_offload" | "dup" => return Some(Vec::new()),
        "meta" | "ct" if data.get(if name == "ct" { CT_SREG } else { META_SREG }).is_some() => {
            return setting(name == "ct", data);
        }
        "payload" if data.get(uapi::NFTA_PAYLOAD_SREG).is_some() => unknown("a changed header"),
        "exthdr" if data.get(uapi::NFTA_EXTHDR_SREG).is_some() => return Some(Vec::new()),
        "bitwise" | "byteorder" | "cmp" | "range" | "lookup" => registers(name, data, sets)?,
        "immediate" => {
            let loaded = data.nested(uapi::NFTA_IMMEDIATE_DATA)?;
            match verdict(loaded) {
                Some(Does::Nothing) => return Some(Vec::new()),
                Some(does) => Step::Does(does),
                None => Step::Constant {
                    value: loaded.get(uapi::NFTA_DATA_VALUE)?.to_vec(),
                    to: at(uapi::NFTA_IMMEDIATE_DREG)?,
                },
            }
        }
        "nat" if data.u32(uapi::NFTA_NAT_TYPE) == Some(uapi::NFT_NAT_DNAT) => Step::Translate {
            address: at(uapi::NFTA_NAT_REG_ADDR_MIN),
            port: at(uapi::NFTA_NAT_REG_PROTO_MIN),
        },
        "redir" => Step::Does(Does::Translate("a port of this node".to_owned())),
        "masq" | "nat" => Step::Does(Does::Masquerade),
        "reject" => Step::Does(Does::Drop),
        "notrack" => Step::Untracked,
        "queue" | "tproxy" | "synproxy" | "fwd" => unknown(name),
        "limit" | "quota" | "connlimit" => Step::Perhaps(name.to_owned()),
        "dynset" => {
            let counts = [uapi::NFTA_DYNSET_EXPR, uapi::NFTA_DYNSET_EXPRESSIONS];
            if !counts.iter().any(|kind| data.get(*kind).is_some()) {
                return Some(Vec::new());
            }
            Step::Perhaps("a condition of a set".to_owned())
        }
        "objref" => return Some(object(data)),
        "match" | "target" => return extension(space, name == "match", data),
        _ => load(name, data)?,
    }])
}

/// What is done with registers.
fn registers(
    name: &str,
    data: Attributes<'_>,
    sets: &dyn Fn(&str) -> Option<Arc<Set>>,
) -> Option<Step> {
    let at = |kind| Some(byte(data.u32(kind)?));
    Some(match name {
        "bitwise" => mask(data)?,
        "byteorder" => {
            let (from, to) = (at(uapi::NFTA_BYTEORDER_SREG)?, at(uapi::NFTA_BYTEORDER_DREG)?);
            let [len, size] = [uapi::NFTA_BYTEORDER_LEN, uapi::NFTA_BYTEORDER_SIZE];
            let [len, size] = [data.u32(len)? as usize, data.u32(size)? as usize];
            let size = if cfg!(target_endian = "big") { 1 } else { size.max(1) };
            Step::Swap { from, to, len, size }
        }
        "cmp" => {
            let with = value(data, uapi::NFTA_CMP_DATA)?.to_vec();
            Step::Compare { at: at(uapi::NFTA_CMP_SREG)?, how: data.u32(uapi::NFTA_CMP_OP)?, with }
        }
        "range" => Step::Range {
            at: at(uapi::NFTA_RANGE_SREG)?,
            first: value(data, uapi::NFTA_RANGE_FROM)?.to_vec(),
            last: value(data, uapi::NFTA_RANGE_TO)?.to_vec(),
            inverted: data.u32(uapi::NFTA_RANGE_OP)? != 0,
        },
        "lookup" => {
            let name = data.text(uapi::NFTA_LOOKUP_SET)?.to_owned();
            let inverted = data.u32(uapi::NFTA_LOOKUP_FLAGS).unwrap_or(0) != 0;
            let (set, to) = (sets(&name)?, at(uapi::NFTA_LOOKUP_DREG));
            Step::Lookup { set, name, at: at(uapi::NFTA_LOOKUP_SREG)?, inverted, to }
        }
        _ => return None,
    })
}

const META_SREG: u16 = 3;
const CT_SREG: u16 = 4;

/// Writing to `meta` or `ct`.
fn setting(of_connection: bool, data: Attributes<'_>) -> Option<Vec<Step>> {
    let key = data.u32(uapi::NFTA_META_KEY)?;
    let at = byte(data.u32(if of_connection { CT_SREG } else { META_SREG })?);
    let mark = if of_connection { uapi::NFT_CT_MARK } else { uapi::NFT_META_MARK };
    let is_harmless = of_connection
        || matches!(key, uapi::NFT_META_PRIORITY | uapi::NFT_META_NFTRACE | uapi::NFT_META_SECMARK);
    match key {
        key if key == mark => Some(vec![Step::SetMark { at, of_connection }]),
        _ if is_harmless => Some(Vec::new()),
        _ => Some(vec![Step::Does(Does::Unknown("a changed packet".to_owned()))]),
    }
}

fn mask(data: Attributes<'_>) -> Option<Step> {
    let at = |kind| Some(byte(data.u32(kind)?));
    let (from, to) = (at(uapi::NFTA_BITWISE_SREG)?, at(uapi::NFTA_BITWISE_DREG)?);
    if data.u32(uapi::NFTA_BITWISE_OP).unwrap_or(0) == 0
        && let Some((mask, flip)) =
            value(data, uapi::NFTA_BITWISE_MASK).zip(value(data, uapi::NFTA_BITWISE_XOR))
    {
        return Some(Step::Mask { from, to, mask: mask.to_vec(), flip: flip.to_vec() });
    }
    // A shift, or what two registers have in common.
    Some(Step::Load { from: Source::Unknown, len: 16, to })
}

/// What is read of the packet, or about it, into a register.
fn load(name: &str, data: Attributes<'_>) -> Option<Step> {
    let number = |kind| data.u32(kind);
    let first = uapi::NFTA_LOAD_DREG;
    let mut len = 4;
    let (from, to) = match name {
        "meta" => (Source::Meta(number(uapi::NFTA_META_KEY)?), first),
        "ct" => {
            let direction = data.get(uapi::NFTA_CT_DIRECTION).and_then(|it| it.first()).copied();
            (Source::Connection(number(uapi::NFTA_CT_KEY)?, direction), first)
        }
        "fib" => {
            let (flags, result) = (number(uapi::NFTA_FIB_FLAGS)?, number(uapi::NFTA_FIB_RESULT)?);
            (Source::Route(flags, result), first)
        }
        "payload" => {
            let [base, offset, length] =
                [uapi::NFTA_PAYLOAD_BASE, uapi::NFTA_PAYLOAD_OFFSET, uapi::NFTA_PAYLOAD_LEN];
            let offset = number(offset)? as usize;
            len = number(length)? as usize;
            let from = match number(base)? {
                0 => Source::Link(offset),
                uapi::NFT_PAYLOAD_NETWORK_HEADER => Source::Network(offset),
                uapi::NFT_PAYLOAD_TRANSPORT_HEADER => Source::Transport(offset),
                _ => Source::Unknown,
            };
            (from, first)
        }
        "numgen" => (random(data, uapi::NFTA_NG_MODULUS, uapi::NFTA_NG_OFFSET)?, first),
        "hash" => (random(data, uapi::NFTA_HASH_MODULUS, uapi::NFTA_HASH_OFFSET)?, 2),
        "exthdr" | "osf" | "rt" | "xfrm" => (Source::Unknown, first),
        "socket" | "tunnel" => (Source::Unknown, 2),
        _ => return None,
    };
    Some(Step::Load { from, len, to: byte(number(to)?) })
}

fn random(data: Attributes<'_>, modulus: u16, offset: u16) -> Option<Source> {
    let is_from_0 = data.u32(offset).unwrap_or(0) == 0;
    Some(if is_from_0 { Source::Random(data.u32(modulus)?) } else { Source::Unknown })
}

/// A reference to an object with a state of its own.
fn object(data: Attributes<'_>) -> Vec<Step> {
    const QUOTA: u32 = 2;
    const LIMIT: u32 = 4;
    const CONNLIMIT: u32 = 5;
    const SYNPROXY: u32 = 10;
    match data.u32(uapi::NFTA_OBJREF_IMM_TYPE) {
        Some(QUOTA | LIMIT | CONNLIMIT) => vec![Step::Perhaps("a limit".to_owned())],
        Some(SYNPROXY) => vec![Step::Does(Does::Unknown("synproxy".to_owned()))],
        Some(_) => Vec::new(),
        None => vec![Step::Perhaps("a map of objects".to_owned())],
    }
}

/// A match or a target of `x_tables`.
fn extension(space: Space, is_match: bool, data: Attributes<'_>) -> Option<Vec<Step>> {
    let (name, revision) = (data.text(uapi::NFTA_XT_NAME)?, data.u32(uapi::NFTA_XT_REV)?);
    let info = data.get(uapi::NFTA_XT_INFO)?;
    let family = if space == Space::Ip6 { Family::V6 } else { Family::V4 };
    if !is_match {
        return Some(xt::acting(name, revision, info));
    }
    let steps = xt::matching(name, revision, info, family);
    Some(steps.unwrap_or_else(|| vec![Step::Perhaps(format!("match {name}"))]))
}

fn value(data: Attributes<'_>, kind: u16) -> Option<&[u8]> {
    data.nested(kind)?.get(uapi::NFTA_DATA_VALUE)
}
