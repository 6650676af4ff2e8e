//! Maps, sets and their elements: everything in the table that varies per pod.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use ipnetwork::IpNetwork;

use super::chain::protocol_name;
use super::treatment::Treatment;
use crate::model::{Attachment, Family, HostPort, Mapping, Owner, Protocol, Record};

/// What a set or map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Claims on one address to the pod.
    HostPorts,
    /// The same for networks with `counters`.
    CountedHostPorts,
    /// Claims on every address to the pod.
    Ports,
    /// The same for networks with `counters`.
    CountedPorts,
    /// Claims on one address to the chain of the network.
    HostPolicies,
    /// Claims on every address to the chain of the network.
    Policies,
    /// Pods that share their subnet with nobody, each with the ports by which it may meet itself.
    Hairpins,
}

impl SetKind {
    const ALL: [Self; 7] = [
        Self::HostPorts,
        Self::CountedHostPorts,
        Self::Ports,
        Self::CountedPorts,
        Self::HostPolicies,
        Self::Policies,
        Self::Hairpins,
    ];
}

/// One of the table's sets and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set {
    /// What it is for.
    pub kind: SetKind,
    /// The family of its addresses.
    pub family: Family,
}

/// What a map leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// Nothing: it is a set.
    None,
    /// An address and a port.
    Target,
    /// A verdict.
    Verdict,
}

impl Set {
    /// Every set and map of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        SetKind::ALL.into_iter().flat_map(|kind| Family::ALL.map(|family| Self { kind, family }))
    }

    /// The name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.kind, self.family) {
            (SetKind::HostPorts, Family::V4) => "host_ports4",
            (SetKind::HostPorts, Family::V6) => "host_ports6",
            (SetKind::CountedHostPorts, Family::V4) => "counted_host_ports4",
            (SetKind::CountedHostPorts, Family::V6) => "counted_host_ports6",
            (SetKind::Ports, Family::V4) => "ports4",
            (SetKind::Ports, Family::V6) => "ports6",
            (SetKind::CountedPorts, Family::V4) => "counted_ports4",
            (SetKind::CountedPorts, Family::V6) => "counted_ports6",
            (SetKind::HostPolicies, Family::V4) => "host_policies4",
            (SetKind::HostPolicies, Family::V6) => "host_policies6",
            (SetKind::Policies, Family::V4) => "policies4",
            (SetKind::Policies, Family::V6) => "policies6",
            (SetKind::Hairpins, Family::V4) => "hairpins4",
            (SetKind::Hairpins, Family::V6) => "hairpins6",
        }
    }

    /// Which of a packet's addresses its keys begin with, if they begin with one.
    #[must_use]
    pub const fn key_address(self) -> Option<super::Side> {
        match self.kind {
            SetKind::HostPorts | SetKind::CountedHostPorts | SetKind::HostPolicies => {
                Some(super::Side::Destination)
            }
            SetKind::Hairpins => Some(super::Side::Source),
            SetKind::Ports | SetKind::CountedPorts | SetKind::Policies => None,
        }
    }

    /// What it leads to.
    #[must_use]
    pub const fn data(self) -> DataKind {
        match self.kind {
            SetKind::HostPorts
            | SetKind::CountedHostPorts
            | SetKind::Ports
            | SetKind::CountedPorts => DataKind::Target,
            SetKind::HostPolicies | SetKind::Policies => DataKind::Verdict,
            SetKind::Hairpins => DataKind::None,
        }
    }

    /// Whether each element counts the packets that find it: in a nat chain, the connections.
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self.kind, SetKind::CountedHostPorts | SetKind::CountedPorts)
    }

    /// How a rule reads the key from a packet.
    pub(super) fn key_expression(self) -> String {
        let address = match self.key_address() {
            Some(super::Side::Source) => format!("{} saddr . ", protocol_name(self.family)),
            Some(super::Side::Destination) => format!("{} daddr . ", protocol_name(self.family)),
            None => String::new(),
        };
        format!("{address}meta l4proto . th dport")
    }

    /// The condition that a rule must print where no address in the key implies the family.
    pub(super) const fn family_condition(self) -> &'static str {
        match (self.key_address(), self.family) {
            (Some(_), _) => "",
            (None, Family::V4) => "meta nfproto ipv4 ",
            (None, Family::V6) => "meta nfproto ipv6 ",
        }
    }

    /// How nft declares it.
    pub(super) fn declaration(self) -> String {
        let address = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let key_address =
            if self.key_address().is_some() { format!("{address} . ") } else { String::new() };
        let (word, data) = match self.data() {
            DataKind::None => ("set", String::new()),
            DataKind::Target => ("map", format!(" : {address} . inet_service")),
            DataKind::Verdict => ("map", " : verdict".to_owned()),
        };
        // So that an element can be given a millisecond to live instead of being deleted.
        let flags = "\t\tflags timeout\n";
        let counter = if self.counts() { "\t\tcounter\n" } else { "" };
        format!(
            "\n\t{word} {self} {{\n\t\ttype {key_address}inet_proto . inet_service{data}\n{flags}{counter}\t}}\n"
        )
    }
}

impl fmt::Display for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// The key of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The address, where the set's keys begin with one.
    pub address: Option<IpAddr>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The host port.
    pub port: NonZeroU16,
}

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Membership alone.
    None,
    /// The pod.
    Target(SocketAddr),
    /// `goto` this chain.
    Goto(String),
}

/// One element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Where it belongs.
    pub set: Set,
    /// Its key.
    pub key: Key,
    /// What it leads to.
    pub data: Data,
    /// Whose it is, for the reader of a listing; at most [`COMMENT_MAX`] bytes.
    pub comment: String,
    /// The attachment whose it is, as [`holder_name`] writes it, from which a lost record can be made
    /// again. Only elements that lead to a pod have it; empty where there is none.
    pub holder: String,
    /// The host port it serves.
    pub host: HostPort,
}

impl Element {
    /// Its place in the table. There is at most one element in each.
    #[must_use]
    pub const fn place(&self) -> (Set, Key) {
        (self.set, self.key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(out, "{address} . ")?;
        }
        write!(out, "{} . {}", self.protocol, self.port)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} comment \"{}\"", self.key, self.comment)?;
        if self.data != Data::None {
            write!(out, " : {}", self.data)?;
        }
        Ok(())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("nothing"),
            Self::Target(target) => write!(out, "{} . {}", target.ip(), target.port()),
            Self::Goto(chain) => write!(out, "goto {chain}"),
        }
    }
}

/// nft 1.0.6 refuses to load a longer comment than 128 bytes with its terminator.
pub const COMMENT_MAX: usize = 127;

/// With the longest comment, a holder and two headers of two bytes, the 256 bytes that the kernel
/// keeps with an element (`NFT_USERDATA_MAXLEN`) are full.
const HOLDER_MAX: usize = 124;

/// The name of an attachment in the elements that lead to it: network, container ID and interface
/// name, none of which can have a colon. Empty where that is too long.
#[must_use]
pub fn holder_name(attachment: &Attachment) -> String {
    let parts = [attachment.network(), attachment.container_id(), attachment.ifname()];
    let name = parts.join(":");
    if name.len() <= HOLDER_MAX { name } else { String::new() }
}

/// Reads [`holder_name`] back.
#[must_use]
pub fn read_holder(name: &str) -> Option<Attachment> {
    let mut parts = name.splitn(3, ':');
    let (network, container_id) = (parts.next()?, parts.next()?);
    Attachment::new(network, container_id, parts.next()?).ok()
}

/// The comment for what `owner` holds: its pod, or its container.
///
/// nft prints comments between quotes without escaping, so whatever could end one or hide in a
/// terminal becomes `_`.
#[must_use]
pub fn comment(owner: &Owner) -> String {
    let name = match &owner.pod {
        Some(pod) => pod.to_string(),
        None => owner.attachment.container_id().to_owned(),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_./:@".contains(c) { c } else { '_' };
    name.chars().map(plain).take(COMMENT_MAX).collect()
}

/// What the elements of one record have in common.
pub(super) struct Placing<'a> {
    treatment: Treatment,
    pod_addresses: &'a [IpNetwork],
    comment: String,
    holder: String,
    specific_entry: String,
    wildcard_entry: String,
}

impl<'a> Placing<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        let treatment = Treatment::of(record);
        Self {
            pod_addresses: &record.pod_addresses,
            comment: comment(&record.owner),
            holder: holder_name(&record.owner.attachment),
            specific_entry: treatment.entry(false),
            wildcard_entry: treatment.entry(true),
            treatment,
        }
    }

    /// The elements of one mapping: none where nothing is translated.
    pub(super) fn elements(&self, mapping: &Mapping) -> Vec<Element> {
        let Some(target) = mapping.target else { return Vec::new() };
        let host = mapping.host;
        let family = Family::of(&host.address);
        let (policies, entry, address) = if host.is_wildcard() {
            (SetKind::Policies, &self.wildcard_entry, None)
        } else {
            (SetKind::HostPolicies, &self.specific_entry, Some(host.address))
        };
        let element = |set: Set, address: Option<IpAddr>, data: Data| Element {
            set,
            key: Key { address, protocol: host.protocol, port: host.port },
            data,
            comment: self.comment.clone(),
            holder: match set.data() {
                DataKind::Target => self.holder.clone(),
                DataKind::None | DataKind::Verdict => String::new(),
            },
            host,
        };
        let targets = self.treatment.target_map(family, host.is_wildcard());
        let policies = Set { kind: policies, family };
        let mut elements = vec![
            element(targets, address, Data::Target(target)),
            element(policies, address, Data::Goto(entry.clone())),
        ];
        if self.is_alone(target.ip()) {
            let hairpins = Set { kind: SetKind::Hairpins, family };
            elements.push(element(hairpins, Some(target.ip()), Data::None));
        }
        elements
    }

    fn is_alone(&self, pod: IpAddr) -> bool {
        self.pod_addresses.iter().any(|own| own.ip() == pod && self.treatment.needs_hairpin(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_attachment_reads_back_where_it_fits() {
        let attachment = |id: &str, ifname: &str| {
            Attachment::new("cbr0", id, ifname).expect("a valid attachment")
        };
        let room = HOLDER_MAX - "cbr0::eth0".len();
        for one in [
            attachment("4f2a", "eth0"),
            attachment("a-b_c.d", "exactly15bytes!"),
            attachment(&"c".repeat(room), "eth0"),
        ] {
            assert_eq!(read_holder(&holder_name(&one)), Some(one));
        }
        assert_eq!(holder_name(&attachment(&"c".repeat(room + 1), "eth0")), "");
        for nobody in ["", "shop/web", "a:b", "a:b:", "a:b:c:d", "../x:b:c", "a:b:c/d"] {
            assert_eq!(read_holder(nobody), None, "{nobody}");
        }
    }
}
