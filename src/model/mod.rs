//! The nouns every other module speaks in: who asks, for which host port, towards which pod.
//!
//! Nothing in here does I/O. A value of these types is valid by construction, so no string standing
//! for a port, an address or an identifier travels past the `cni` module.

mod ask;
mod owner;
mod request;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

pub use ask::Ask;
pub use owner::{
    Attachment, Holder, HostPod, InvalidName, NamespaceId, Netns, Owner, Pod, check_identifier,
    check_ifname, check_short, short_id,
};
pub use request::{
    Allocation, ContainerPort, Grant, HostListeners, NamedRange, PortPolicy, PortRange, Request,
};
#[cfg(test)]
pub(crate) use tests::{test_ask, test_ports, test_record};

/// A transport protocol that has ports, with its number in the IP header as IANA assigns it. Its name is read
/// in any case: the CNI conventions write `tcp`, the Kubernetes API `TCP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(derive_more::Display, derive_more::FromStr)]
#[display(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    /// Every protocol that can be mapped.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// An IP version; its text is what nft(8) writes before an address.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    derive_more::Display,
)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    #[display("ip")]
    V4 = 4,
    /// IPv6.
    #[display("ip6")]
    V6 = 6,
}

impl Family {
    /// Both versions, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The version `address` belongs to.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The number of the version.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The address that stands for every local address of this version: `0.0.0.0` or `::`.
    pub const fn wildcard(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// A port on this node, the thing that is allocated.
///
/// A port mapping without host IP stands for two of these, one per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(derive_more::Display)]
#[display("{}/{protocol}", SocketAddr::new(*address, port.get()))]
pub struct HostPort {
    /// The transport protocol.
    pub protocol: Protocol,
    /// One address of the node, or [`Family::wildcard`] for every local address of the family.
    pub address: IpAddr,
    /// The port number.
    pub port: NonZeroU16,
}

impl HostPort {
    /// The host ports that one number stands for: on `address`, or on every local address of
    /// both families.
    pub fn each(
        protocol: Protocol,
        address: Option<IpAddr>,
        port: NonZeroU16,
    ) -> impl Iterator<Item = Self> {
        let [v4, v6] = Family::ALL.map(Family::wildcard);
        let addresses = address.map_or([Some(v4), Some(v6)], |address| [Some(address), None]);
        addresses.into_iter().flatten().map(move |address| Self { protocol, address, port })
    }

    /// Whether this stands for every local address of its family.
    pub const fn is_wildcard(&self) -> bool {
        self.address.is_unspecified()
    }

    /// How many host ports these are to an operator: one on every local address of both families counts once.
    pub fn count<'a>(hosts: impl IntoIterator<Item = &'a Self>) -> usize {
        let place = |host: &Self| {
            (host.protocol, host.port, Some(host.address).filter(|_| !host.is_wildcard()))
        };
        hosts.into_iter().map(place).collect::<BTreeSet<_>>().len()
    }

    /// Whether one packet could be meant for both: same protocol, port and family, and the same
    /// address or a wildcard on either side.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.port == other.port
            && Family::of(&self.address) == Family::of(&other.address)
            && (self.address == other.address || self.is_wildcard() || other.is_wildcard())
    }
}

/// A host port together with where its packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// The port on the node.
    #[serde(flatten)]
    pub host: HostPort,
    /// The port on the pod that was asked for.
    pub container_port: NonZeroU16,
    /// The pod's address and port. `None` holds the host port without translating anything: the
    /// pod is on the node's own network, or it has no address of this family.
    pub target: Option<SocketAddr>,
}

impl Mapping {
    /// Leads `host` to `container_port` on the pod's address of the same family, or nowhere if it
    /// has none: on this node the number is taken all the same.
    pub fn towards(host: HostPort, container_port: NonZeroU16, pod: &[IpNetwork]) -> Self {
        let family = Family::of(&host.address);
        let address = pod.iter().map(IpNetwork::ip).find(|ip| Family::of(ip) == family);
        let target = address.map(|address| SocketAddr::new(address, container_port.get()));
        Self { host, container_port, target }
    }
}

/// Whose source address is replaced by the node's when a packet is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Masquerade {
    /// Nobody's (`snat: false`). Loopback and neighbours of the pod cannot connect.
    Nobody,
    /// Those who could not get an answer otherwise: 127.0.0.0/8, the pod itself and its own
    /// subnet (`snat: true`).
    Local,
    /// Everybody's (`masqAll: true`), for networks whose pods answer past this node.
    Everybody,
}

/// How the packets of one network's mappings are treated; the same for all its pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Whose source address is replaced.
    pub masquerade: Masquerade,
    /// The bit, 0 to 31, of the packet mark that carries a packet's masquerading from the
    /// prerouting hook to the postrouting hook.
    pub mark_bit: u8,
    /// Who may connect; empty means everybody. Loopback always may.
    pub source_ranges: Vec<IpNetwork>,
    /// The node addresses that wildcard mappings answer on; empty means every local address.
    pub host_addresses: Vec<IpNetwork>,
}

/// Another system whose variables are written besides our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// `PORT`, `PORT0`, … of `KubeWharf`, which has them from Marathon.
    KubeWharf,
    /// `BCS_RANDHOSTPORT_…` of Tencent's BCS.
    Bcs,
}

/// By which interfaces established connections to a pod bypass the node's forwarding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offload {
    /// Those that the operator named.
    pub uplinks: Vec<String>,
    /// Those on the node's side that lead to the pod and to no other.
    pub interfaces: Vec<String>,
}

/// Everything that one attachment or host-network pod holds: the unit of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The owner of the ports.
    #[serde(flatten)]
    pub owner: Owner,
    /// The pod's addresses with their prefix, at most one per family.
    pub pod_addresses: Vec<IpNetwork>,
    /// How its packets are treated.
    pub policy: Policy,
    /// What it holds, sorted, each host port once. A wildcard may stand beside one address.
    pub mappings: Vec<Mapping>,
    /// Which of them were chosen by the node, and what for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Which systems' variables the pod waits for besides our own.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub dialects: BTreeSet<Dialect>,
    /// The addresses that the pod is told for the ports without a host IP, at most one per family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advertised: Vec<IpAddr>,
    /// How its established connections are offloaded; `None` where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<Offload>,
    /// Seconds since the epoch at which the first of them was recorded.
    pub created: u64,
    /// `/proc/sys/kernel/random/boot_id` of the boot in which this was recorded.
    pub boot_id: String,
}

impl Record {
    /// The mapping of exactly this host port.
    pub fn mapping_at(&self, host: &HostPort) -> Option<&Mapping> {
        let place = self.mappings.binary_search_by(|mapping| mapping.host.cmp(host)).ok()?;
        self.mappings.get(place)
    }

    /// The numbers that the node chose, each once, in however many protocols.
    pub fn chosen_numbers(&self) -> BTreeSet<u16> {
        self.grants.iter().flat_map(Grant::numbers).collect()
    }
}

#[cfg(test)]
mod tests;
