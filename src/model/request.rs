//! What the node is asked to choose, and what it may choose from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::Protocol;

/// A run of port numbers, both ends included.
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
#[display("{first}{}", if first == last { String::new() } else { format!("-{last}") })]
pub struct PortRange {
    /// The lowest.
    pub first: NonZeroU16,
    /// The highest; not below `first`.
    pub last: NonZeroU16,
}

impl PortRange {
    /// Whether `port` is in it.
    pub const fn contains(&self, port: NonZeroU16) -> bool {
        self.first.get() <= port.get() && port.get() <= self.last.get()
    }

    /// Whether some port is in both.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first.get() <= other.last.get() && other.first.get() <= self.last.get()
    }

    /// How many numbers it holds: 1 to 65535.
    pub const fn size(&self) -> usize {
        self.last.get() as usize - self.first.get() as usize + 1
    }
}

/// Host ports that the node is to choose: one number, or a run of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The name that the pod gave the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The protocols in which each number must be free, sorted; at least one.
    pub protocols: Vec<Protocol>,
    /// The port on the pod.
    pub container_port: ContainerPort,
    /// How many numbers in a row; those on the pod follow at the same distances.
    pub count: NonZeroU16,
    /// The host IP asked for; none means every local address of both families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The named range to choose from; none means the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
}

impl Request {
    /// What a range without name is called: no named range can be called so.
    pub const DEFAULT_RANGE: &'static str = "default";

    /// A request for one number of the default range, without name and on every local address.
    pub const fn new(protocols: Vec<Protocol>, container_port: ContainerPort) -> Self {
        let count = NonZeroU16::MIN;
        Self { name: None, protocols, container_port, count, address: None, range: None }
    }

    /// Its protocols as they are written: `tcp+udp`.
    pub fn protocol_list(&self) -> String {
        let names: Vec<_> = self.protocols.iter().map(ToString::to_string).collect();
        names.join("+")
    }

    /// What the range to choose from is called.
    pub fn range_name(&self) -> &str {
        self.range.as_deref().unwrap_or(Self::DEFAULT_RANGE)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(out, "{name}=")?;
        }
        match (self.container_port, self.count.get()) {
            (ContainerPort::Same, _) => write!(out, "auto")?,
            (ContainerPort::From(port), 1) => write!(out, "{port}")?,
            (ContainerPort::From(port), count) => {
                write!(out, "{port}-{}", port.saturating_add(count - 1))?;
            }
        }
        write!(out, "/{}", self.protocol_list())
    }
}

/// Where a chosen host port leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerPort {
    /// To this port, or to the run that begins with it.
    From(NonZeroU16),
    /// To the number that was chosen: the container listens on it (passthrough).
    Same,
}

/// A request that was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The request.
    #[serde(flatten)]
    pub request: Request,
    /// The first of the chosen host ports.
    pub port: NonZeroU16,
}

impl Grant {
    /// Every chosen host port.
    pub fn numbers(&self) -> RangeInclusive<u16> {
        let first = self.port.get();
        first..=first.saturating_add(self.request.count.get() - 1)
    }
}

/// How the numbers are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// The next free one after the last that was chosen, around the range.
    Sequential,
    /// Any free one, each as likely as the others.
    Random,
    /// The first free one from a place in the range that follows from the pod's name and its port.
    Stable,
}

/// A range that a pod may choose by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRange {
    /// Its parts, in the order written.
    pub ports: Vec<PortRange>,
    /// The namespaces whose Pods may choose from it; `None` means all.
    pub namespaces: Option<BTreeSet<String>>,
}

/// Which numbers may be chosen, and how; and which may be claimed at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPolicy {
    /// Where numbers are chosen from; at least one range, in the order written.
    pub ranges: Vec<PortRange>,
    /// Ranges that a pod may choose by name.
    pub named_ranges: BTreeMap<String, NamedRange>,
    /// Numbers that are neither chosen nor granted, sorted, without overlaps.
    pub excluded: Vec<PortRange>,
    /// The lowest number that is granted.
    pub min_port: NonZeroU16,
    /// How numbers are chosen where the pod does not say.
    pub allocation: Allocation,
    /// Whether a process of the host that listens on a port keeps it from being granted.
    pub host_listeners: HostListeners,
    /// The namespaces whose Pods may ask by annotation; `None` means all.
    pub allowed_namespaces: Option<BTreeSet<String>>,
    /// How many numbers one Pod may have that the node chose.
    pub max_per_pod: NonZeroU16,
    /// How many numbers all Pods of a namespace together may have on this node.
    pub max_per_namespace: Option<NonZeroU16>,
}

impl PortPolicy {
    /// The range called `name`, in its parts; [`Request::DEFAULT_RANGE`] is the one without name.
    pub fn range(&self, name: &str) -> Option<&[PortRange]> {
        if name == Request::DEFAULT_RANGE {
            return Some(&self.ranges);
        }
        self.named_ranges.get(name).map(|range| &*range.ports)
    }

    /// The excluded range that has `port`.
    pub fn excluded_at(&self, port: NonZeroU16) -> Option<&PortRange> {
        let next = self.excluded.partition_point(|range| range.last < port);
        self.excluded.get(next).filter(|range| range.contains(port))
    }

    /// Whether `port` may be chosen or granted.
    pub fn permits(&self, port: NonZeroU16) -> bool {
        port >= self.min_port && self.excluded_at(port).is_none()
    }
}

/// What a process of the host that listens on a wanted port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostListeners {
    /// The port is not granted.
    Reject,
    /// Nothing: its traffic will go to the pod.
    Ignore,
}
