//! What registers hold, and what values mean that they are compared with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{Conditions, Does};
use crate::kernel::netlink::message::Attributes;
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
