//! What iptables-nft cannot say in expressions of nftables: matches and targets of `x_tables`, as structs
//! in the byte order of the machine but for addresses and the ports of a translation.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::does::Does;
use super::rule::{Marks, Source, Step, target};
use crate::kernel::netlink::message::address;
use crate::kernel::uapi;
use crate::model::Family;

/// A number of 16 bits in the byte order of the machine.
fn number_at(info: &[u8], at: usize) -> Option<u16> {
    info.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn word_at(info: &[u8], at: usize) -> Option<u32> {
    info.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The steps of a match; `None` where it is not understood.
pub(super) fn matching(
    name: &str,
    revision: u32,
    info: &[u8],
    family: Family,
) -> Option<Vec<Step>> {
    match (name, revision) {
        // The last counts packets, and lets all pass.
        ("comment" | "nfacct", _) => Some(Vec::new()),
        ("tcp" | "udp", _) => transport(name == "tcp", info),
        ("multiport", _) => multiport(info),
        ("conntrack", 3) => conntrack(info, family),
        ("addrtype", 1) => addrtype(info),
        ("mark", 1) => mark(Source::Meta(uapi::NFT_META_MARK), info),
        ("connmark", 1) => mark(Source::Connection(uapi::NFT_CT_MARK, None), info),
        ("iprange", _) => iprange(info, family),
        ("rpfilter", _) => rpfilter(info),
        ("pkttype", _) => {
            let kind = word_at(info, 0)?.to_le_bytes()[0];
            let equal = word_at(info, 4)? == 0;
            Some(compared(Source::Meta(uapi::NFT_META_PKTTYPE), 1, equal, &[kind]))
        }
        _ => None,
    }
}

const fn how(equal: bool) -> u32 {
    if equal { uapi::NFT_CMP_EQ } else { uapi::NFT_CMP_NEQ }
}

fn compared(from: Source, len: usize, equal: bool, with: &[u8]) -> Vec<Step> {
    vec![
        Step::Load { from, len, to: 0 },
        Step::Compare { at: 0, how: how(equal), with: with.to_vec() },
    ]
}

/// That the masked value equals, or differs.
pub fn masked(from: Source, equal: bool, mask: &[u8], with: &[u8]) -> Vec<Step> {
    vec![
        Step::Load { from, len: mask.len(), to: 0 },
        Step::Mask { from: 0, to: 0, mask: mask.to_vec(), flip: vec![0; mask.len()] },
        Step::Compare { at: 0, how: how(equal), with: with.to_vec() },
    ]
}

/// That some of these bits are set, or none.
pub fn some_bit(from: Source, is_set: bool, bits: u32) -> Vec<Step> {
    masked(from, !is_set, &bits.to_ne_bytes(), &[0; 4])
}

/// `struct xt_tcp`, `struct xt_udp`: two source ports, two destination ports, and for TCP an option and two
/// masks of flags; then what is inverted.
fn transport(is_tcp: bool, info: &[u8]) -> Option<Vec<Step>> {
    let inverted = *info.get(if is_tcp { 11 } else { 8 })?;
    let mut steps = Vec::new();
    for (at, source, bit) in [(0, true, 1), (4, false, 2)] {
        let run = number_at(info, at)?..=number_at(info, at + 2)?;
        let inverted = inverted & bit != 0;
        if run != (0..=u16::MAX) || inverted {
            steps.push(Step::Ports { source, destination: !source, runs: vec![run], inverted });
        }
    }
    if is_tcp {
        if info[8] != 0 {
            steps.push(Step::Perhaps("tcp option".to_owned()));
        }
        if info[9] != 0 {
            let equal = inverted & 4 == 0;
            steps.extend(masked(Source::Transport(13), equal, &info[9..10], &info[10..11]));
        }
    }
    Some(steps)
}

/// `struct xt_multiport_v1`: flags, count, fifteen ports, fifteen marks of ranges, inverted.
fn multiport(info: &[u8]) -> Option<Vec<Step>> {
    let (flags, count) = (*info.first()?, usize::from(*info.get(1)?));
    let inverted = *info.get(47)? != 0;
    let port = |index: usize| number_at(info, 2 + 2 * index);
    let mut runs: Vec<RangeInclusive<u16>> = Vec::new();
    let mut index = 0;
    while index < count.min(15) {
        let first = port(index)?;
        let opens = info.get(32 + index).is_some_and(|mark| *mark != 0);
        let last = if opens { port(index + 1)? } else { first };
        runs.push(first..=last);
        index += if opens { 2 } else { 1 };
    }
    let (source, destination) = match flags {
        0 => (true, false),
        1 => (false, true),
        2 => (true, true),
        _ => return None,
    };
    Some(vec![Step::Ports { source, destination, runs, inverted }])
}

/// `struct nf_nat_range2`: flags, two addresses, two ports.
pub(super) fn nat_range(info: &[u8]) -> Option<(IpAddr, Option<u16>)> {
    let octets = info.get(4..20)?;
    let is_v4 = octets[4..].iter().all(|byte| *byte == 0);
    let to = address(if is_v4 { &octets[..4] } else { octets })?;
    let port = info.get(36..).and_then(<[u8]>::first_chunk).map(|port| u16::from_be_bytes(*port));
    Some((to, port.filter(|port| *port != 0)))
}

/// `struct xt_conntrack_mtinfo3`: eight addresses, two times, a protocol, four ports, which of these
/// count, which of them inverted, the states and the status, then where the ranges of the ports end.
fn conntrack(info: &[u8], family: Family) -> Option<Vec<Step>> {
    let (kinds, inverted) = (number_at(info, 146)?, number_at(info, 148)?);
    let has = |bit: u32| kinds >> bit & 1 != 0;
    let equal = |bit: u32| inverted >> bit & 1 == 0;
    let mut steps = Vec::new();
    if has(0) {
        steps.extend(some_bit(Source::State, equal(0), number_at(info, 150)?.into()));
    }
    if has(1) {
        let protocol = number_at(info, 136)?.to_le_bytes()[0];
        let from = Source::Connection(uapi::NFT_CT_PROTOCOL, None);
        steps.extend(compared(from, 1, equal(1), &[protocol]));
    }
    let len = if family == Family::V4 { 4 } else { 16 };
    let directions = [
        (uapi::NFT_CT_SRC, uapi::NFT_CT_PROTO_SRC, 0),
        (uapi::NFT_CT_DST, uapi::NFT_CT_PROTO_DST, 0),
        (uapi::NFT_CT_SRC, uapi::NFT_CT_PROTO_SRC, 1),
        (uapi::NFT_CT_DST, uapi::NFT_CT_PROTO_DST, 1),
    ];
    for (index, (address, port, direction)) in directions.into_iter().enumerate() {
        let bit = index as u32 + 2;
        if has(bit) {
            let at = 32 * index;
            let (with, mask) = (info.get(at..at + len)?, info.get(at + 16..at + 16 + len)?);
            steps.extend(masked(
                Source::Connection(address, Some(direction)),
                equal(bit),
                mask,
                with,
            ));
        }
        let bit = index as u32 + 8;
        if has(bit) {
            let [first, last] = [138, 154].map(|at| number_at(info, at + 2 * index));
            let bytes = |port: Option<u16>| Some(port?.to_be_bytes().to_vec());
            let from = Source::Connection(port, Some(direction));
            steps.push(Step::Load { from, len: 2, to: 0 });
            let (first, last) = (bytes(first)?, bytes(last)?);
            steps.push(Step::Range { at: 0, first, last, inverted: !equal(bit) });
        }
    }
    if has(6) {
        let from = Source::Connection(uapi::NFT_CT_STATUS, None);
        steps.extend(some_bit(from, equal(6), number_at(info, 152)?.into()));
    }
    if has(7) {
        steps.push(Step::Perhaps("ctexpire".to_owned()));
    }
    if has(12) {
        let from = Source::Connection(uapi::NFT_CT_DIRECTION, None);
        steps.extend(compared(from, 1, equal(12), &[0]));
    }
    Some(steps)
}

/// `struct xt_addrtype_info_v1`: two masks, and flags.
fn addrtype(info: &[u8]) -> Option<Vec<Step>> {
    let flags = word_at(info, 4)?;
    let mut steps = Vec::new();
    for (at, of_source, bit) in [(0, true, 1), (2, false, 2)] {
        let bits = number_at(info, at)?;
        if bits != 0 {
            steps.extend(some_bit(Source::Type(of_source), flags & bit == 0, bits.into()));
        }
    }
    Some(steps)
}

/// `struct xt_mark_mtinfo1`: mark, mask, inverted.
fn mark(from: Source, info: &[u8]) -> Option<Vec<Step>> {
    let equal = *info.get(8)? == 0;
    Some(masked(from, equal, info.get(4..8)?, info.get(..4)?))
}

/// `struct xt_iprange_mtinfo`: four addresses, flags.
fn iprange(info: &[u8], family: Family) -> Option<Vec<Step>> {
    let flags = *info.get(64)?;
    let (len, source, destination) = if family == Family::V4 { (4, 12, 16) } else { (16, 8, 24) };
    let mut steps = Vec::new();
    for (at, bit, inverts, header) in [(0, 1, 16, source), (32, 2, 32, destination)] {
        if flags & bit != 0 {
            steps.push(Step::Load { from: Source::Network(header), len, to: 0 });
            let part = |at: usize| Some(info.get(at..at + len)?.to_vec());
            let (first, last) = (part(at)?, part(at + 16)?);
            steps.push(Step::Range { at: 0, first, last, inverted: flags & inverts != 0 });
        }
    }
    Some(steps)
}

/// `struct xt_rpfilter_info`: flags. What comes in by the interface that it would be answered by passes
/// also where that is checked loosely.
fn rpfilter(info: &[u8]) -> Option<Vec<Step>> {
    const LOOSE: u8 = 1;
    const INVERT: u8 = 1 << 3;
    let flags = *info.first()?;
    if flags & LOOSE != 0 {
        return None;
    }
    Some(back(flags & INVERT == 0))
}

/// That the source would, or would not, be answered by the interface that the packet came in by.
pub fn back(is_so: bool) -> Vec<Step> {
    let flags = uapi::NFTA_FIB_F_SADDR | uapi::NFTA_FIB_F_IIF | uapi::NFTA_FIB_F_PRESENT;
    compared(Source::Route(flags, uapi::NFT_FIB_RESULT_OIF), 1, is_so, &[1])
}

/// The steps of a target.
pub(super) fn acting(name: &str, revision: u32, info: &[u8]) -> Vec<Step> {
    let does = match name {
        "DNAT" => {
            // Before revision 2, the struct is another one for each family.
            let (to, port) = nat_range(info).filter(|_| revision > 0).unzip();
            Does::Translate(target(to, port.flatten()))
        }
        "REDIRECT" => Does::Translate("a port of this node".to_owned()),
        "SNAT" | "MASQUERADE" => Does::Masquerade,
        "REJECT" => Does::Drop,
        "LOG" | "NFLOG" | "TRACE" | "TCPMSS" | "TCPOPTSTRIP" | "CLASSIFY" | "DSCP" | "TOS"
        | "SECMARK" | "CONNSECMARK" | "CHECKSUM" | "AUDIT" | "IDLETIMER" | "LED" | "RATEEST"
        | "SET" | "TEE" => Does::Nothing,
        _ => {
            return marking(name, revision, info)
                .unwrap_or_else(|| vec![Step::Does(Does::Unknown(format!("target {name}")))]);
        }
    };
    if does == Does::Nothing { Vec::new() } else { vec![Step::Does(does)] }
}

/// Targets that set marks, or keep the packet from being tracked.
fn marking(name: &str, revision: u32, info: &[u8]) -> Option<Vec<Step>> {
    let word = |at| word_at(info, at);
    Some(vec![match (name, revision) {
        ("NOTRACK", _) => Step::Untracked,
        ("CT", _) if number_at(info, 0)? & 3 != 0 => Step::Untracked,
        ("CT", _) => return Some(Vec::new()),
        ("MARK", 2) => Step::Marks(Marks::Packet { keep: !word(4)?, flip: word(0)? }),
        ("CONNMARK", 1 | 2) => {
            let (mark, lose, get) = (word(0)?, word(4)?, word(8)?);
            let shifts = revision == 2 && *info.get(13)? != 0;
            let mode = *info.get(if revision == 2 { 14 } else { 12 })?;
            Step::Marks(match mode {
                _ if shifts => return None,
                0 => Marks::Connection { keep: !lose, flip: mark },
                1 => Marks::Save { lose, get },
                2 => Marks::Restore { lose: get, get: lose },
                _ => return None,
            })
        }
        _ => return None,
    }])
}

#[cfg(test)]
mod tests;
