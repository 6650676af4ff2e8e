//! Maps, sets and their elements: everything in the table that varies per pod.

use std::fmt;
use std::net::SocketAddr;

use super::chain::Side;
use super::key::{Key, Place};
use super::network_policy::Digest;
use super::{OFFLOAD_TABLE, TABLE};
use crate::model::{Attachment, Family, HostPort, Owner};

/// What a set or map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Claims on one address, or those on every address in a network without gates, to the pod.
    Targets { wildcard: bool },
    /// Claims on every address in a network with gates, to the pod: apart from those that every packet is
    /// looked up among, so that none passes a gate by while a command changes the table.
    Gated,
    /// Pods that share their subnet with nobody, each with the ports by which it may meet itself.
    Hairpins,
    /// Claims on one address, or those on every address, whose packets are treated so.
    Held { wildcard: bool, digest: Digest },
    /// The interfaces towards pods by which 127.0.0.0/8 is let in, and where nothing else may use it.
    Guarded,
    /// The pods' own addresses and ports to which established connections are offloaded.
    Offload,
}

/// One of the table's sets and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set {
    /// What it is for.
    pub kind: SetKind,
    /// The family of its addresses.
    pub family: Family,
}

impl SetKind {
    pub(super) const SPECIFIC: Self = Self::Targets { wildcard: false };
    pub(super) const WILDCARD: Self = Self::Targets { wildcard: true };
}

impl Set {
    /// The sets and maps that every table has.
    pub fn common() -> impl Iterator<Item = Self> {
        let kinds = [SetKind::SPECIFIC, SetKind::WILDCARD, SetKind::Gated, SetKind::Hairpins];
        // There is no 127.0.0.0/8 of IPv6.
        Self::of_kinds(kinds).chain([Self::GUARDED])
    }

    /// The set of the guarded interfaces.
    pub const GUARDED: Self = Self { kind: SetKind::Guarded, family: Family::V4 };

    /// The sets of a network policy.
    pub fn of_network_policy(digest: Digest) -> impl Iterator<Item = Self> {
        [false, true].into_iter().flat_map(move |wildcard| Self::held(digest, wildcard))
    }

    /// The sets of its claims on every address, or on one.
    pub(super) fn held(digest: Digest, wildcard: bool) -> impl Iterator<Item = Self> {
        Self::of_kinds([SetKind::Held { wildcard, digest }])
    }

    fn of_kinds(kinds: impl IntoIterator<Item = SetKind>) -> impl Iterator<Item = Self> {
        kinds.into_iter().flat_map(|kind| Family::ALL.map(|family| Self { kind, family }))
    }

    /// The network policy that it is for, unless every table has it.
    pub const fn network_policy(self) -> Option<Digest> {
        match self.kind {
            SetKind::Held { digest, .. } => Some(digest),
            SetKind::Targets { .. }
            | SetKind::Gated
            | SetKind::Hairpins
            | SetKind::Guarded
            | SetKind::Offload => None,
        }
    }

    /// Which of a packet's addresses its keys begin with, if they begin with one.
    pub const fn key_address(self) -> Option<Side> {
        match self.kind {
            SetKind::Hairpins => Some(Side::Source),
            SetKind::Targets { wildcard } | SetKind::Held { wildcard, .. } if !wildcard => {
                Some(Side::Destination)
            }
            SetKind::Offload => Some(Side::Destination),
            SetKind::Targets { .. } | SetKind::Held { .. } | SetKind::Gated | SetKind::Guarded => {
                None
            }
        }
    }

    /// The table that it is in.
    pub(crate) const fn table(self) -> &'static str {
        if matches!(self.kind, SetKind::Offload) { OFFLOAD_TABLE } else { TABLE }
    }

    /// Whether it is a map, which leads to an address and a port. Each element of one counts the packets
    /// that find it: in a nat chain, the connections.
    pub(crate) const fn is_map(self) -> bool {
        matches!(self.kind, SetKind::Targets { .. } | SetKind::Gated)
    }

    /// How a rule reads the key from a packet.
    pub(super) fn key_expression(self) -> String {
        if self == Self::GUARDED {
            return "iifname".to_owned();
        }
        let address = self.key_address();
        let address = address.map(|side| format!("{} {side} . ", self.family));
        format!("{}meta l4proto . th dport", address.unwrap_or_default())
    }

    /// The condition that a rule must print where no address in the key implies the family.
    pub(super) fn family_condition(self) -> &'static str {
        match self.family {
            _ if self.key_address().is_some() || self == Self::GUARDED => "",
            Family::V4 => "meta nfproto ipv4 ",
            Family::V6 => "meta nfproto ipv6 ",
        }
    }

    /// How nft declares it.
    pub(super) fn declaration(self) -> String {
        let address = format!("ipv{}_addr", self.family.number());
        let key = match (self.kind, self.key_address()) {
            (SetKind::Guarded, _) => "ifname".to_owned(),
            (_, Some(_)) => format!("{address} . inet_proto . inet_service"),
            (_, None) => "inet_proto . inet_service".to_owned(),
        };
        let (word, data) = if self.is_map() {
            ("map", format!(" : {address} . inet_service"))
        } else {
            ("set", String::new())
        };
        // So that an element can be given a millisecond to live instead of being deleted.
        let flags = "\t\tflags timeout\n";
        let counter = if self.is_map() { "\t\tcounter\n" } else { "" };
        format!("\n\t{word} {self} {{\n\t\ttype {key}{data}\n{flags}{counter}\t}}\n")
    }
}

impl fmt::Display for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = self.family.number();
        let host = |wildcard| if wildcard { "" } else { "host_" };
        match self.kind {
            SetKind::Targets { wildcard } => write!(out, "{}ports{digit}", host(wildcard)),
            SetKind::Gated => write!(out, "gated_ports{digit}"),
            SetKind::Hairpins => write!(out, "hairpins{digit}"),
            SetKind::Held { wildcard, digest } => {
                write!(out, "{}held{digit}_{digest}", host(wildcard))
            }
            SetKind::Guarded => out.write_str("guarded"),
            SetKind::Offload => write!(out, "offload{digit}"),
        }
    }
}

/// What an element leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
pub enum Data {
    /// Membership alone.
    #[display("nothing")]
    None,
    /// The pod.
    #[display("{} . {}", _0.ip(), _0.port())]
    Target(SocketAddr),
}

/// One element.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
#[display("{key}{}{}",
    if comment.is_empty() { String::new() } else { format!(" comment \"{comment}\"") },
    if *data == Data::None { String::new() } else { format!(" : {data}") })]
pub struct Element {
    /// Where it belongs.
    pub set: Set,
    /// Its key.
    pub key: Key,
    /// What it leads to.
    pub data: Data,
    /// Whose it is, for the reader of a listing; at most `COMMENT_MAX` bytes.
    pub comment: String,
    /// The attachment whose it is, as `holder_name` writes it, from which a lost record can be made
    /// again. Only elements that lead to a pod have it; empty where there is none.
    pub holder: String,
    /// The host port it serves, if it serves one.
    pub host: Option<HostPort>,
}

impl Element {
    /// Its place in the table. There is at most one element in each.
    pub const fn place(&self) -> Place {
        (self.set, self.key)
    }
}

/// nft 1.0.6 refuses to load a longer comment than 128 bytes with its terminator.
pub(crate) const COMMENT_MAX: usize = 127;

/// With the longest comment, a holder and two headers of two bytes, the 256 bytes that the kernel
/// keeps with an element (`NFT_USERDATA_MAXLEN`) are full.
const HOLDER_MAX: usize = 124;

/// The name of an attachment in the elements that lead to it: network, container ID and interface
/// name, none of which can have a colon. Where that is too long it goes without the network, and is
/// empty where it is too long even so.
pub(crate) fn holder_name(attachment: &Attachment) -> String {
    let (container_id, ifname) = (attachment.container_id(), attachment.ifname());
    let names = [attachment.network(), ""].map(|network| [network, container_id, ifname].join(":"));
    names.into_iter().find(|name| name.len() <= HOLDER_MAX).unwrap_or_default()
}

/// The container ID and interface name in `holder_name`.
pub(crate) fn container_of(name: &str) -> Option<(&str, &str)> {
    name.split_once(':')?.1.split_once(':')
}

/// Reads `holder_name` back.
pub(crate) fn read_holder(name: &str) -> Option<Attachment> {
    let mut parts = name.splitn(3, ':');
    let (network, container_id) = (parts.next()?, parts.next()?);
    Attachment::new(network, container_id, parts.next()?).ok()
}

/// The comment for what `owner` holds: its pod, or its container.
///
/// nft prints comments between quotes without escaping, so whatever could end one or hide in a
/// terminal becomes `_`.
pub(crate) fn comment(owner: &Owner) -> String {
    let name = match &owner.pod {
        Some(pod) => pod.to_string(),
        None => owner.container_id().unwrap_or_default().to_owned(),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_./:@".contains(c) { c } else { '_' };
    name.chars().map(plain).take(COMMENT_MAX).collect()
}

#[cfg(test)]
mod tests;
