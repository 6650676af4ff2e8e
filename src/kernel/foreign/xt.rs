//! What iptables-nft cannot say in expressions of nftables: matches and targets of `x_tables`, as structs
//! in the byte order of the machine but for addresses and the ports of a translation.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::kernel::netlink::message::address;

/// A number of 16 bits in the byte order of the machine.
fn number_at(info: &[u8], at: usize) -> Option<u16> {
    info.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// `struct xt_tcp` and its kin: two source ports, then two destination ports.
pub(super) fn single_match(info: &[u8]) -> Option<Vec<RangeInclusive<u16>>> {
    Some(vec![number_at(info, 4)?..=number_at(info, 6)?])
}

/// `struct xt_multiport_v1`: flags, count, fifteen ports, fifteen marks of ranges, inverted.
pub(super) fn multiport(info: &[u8]) -> Option<Vec<RangeInclusive<u16>>> {
    const SOURCE: u8 = 0;
    let (flags, count) = (*info.first()?, usize::from(*info.get(1)?));
    let inverted = info.get(47).is_some_and(|inverted| *inverted != 0);
    if flags == SOURCE || inverted {
        return None;
    }
    let port = |index: usize| number_at(info, 2 + 2 * index);
    let mut ports = Vec::new();
    let mut index = 0;
    while index < count.min(15) {
        let first = port(index)?;
        let opens = info.get(32 + index).is_some_and(|mark| *mark != 0);
        let last = if opens { port(index + 1)? } else { first };
        ports.push(first..=last);
        index += if opens { 2 } else { 1 };
    }
    Some(ports)
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
/// count, which of them inverted, then the states. Whether it is just `--ctstate DNAT`.
pub(super) fn is_translated(info: &[u8]) -> bool {
    const MATCH_STATE: u16 = 1;
    const STATE_DNAT: u16 = 1 << 7;
    let number = |at| number_at(info, at);
    // XT_CONNTRACK_STATE_ALIAS, which says how it was spelled.
    let kinds = number(146).map(|kinds| kinds & !(1 << 13));
    kinds == Some(MATCH_STATE) && number(148) == Some(0) && number(150) == Some(STATE_DNAT)
}

#[cfg(test)]
mod tests;
