//! What a claim asks for: that of the plugin, and that of an agent.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Allocation, Dialect, Holder, Mapping, Pod, Policy, PortPolicy, Request};

/// What one holder asks for: a runtime by a CNI call, or a program for a pod on the node's network.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The future holder of the host ports.
    pub holder: Holder,
    /// The Pod it is for, where one is known.
    pub pod: Option<Pod>,
    /// The path of the network namespace, not looked at yet; `None` for a pod on the node's network
    /// that has no attachment.
    pub netns: Option<String>,
    /// The host ports asked for by number, sorted.
    pub fixed: Vec<Mapping>,
    /// The requests for which the node chooses a number, in the pod's order.
    pub requested: Vec<Request>,
    /// The annotation that asked for some of the requests, or for their range; for
    /// [`crate::plan::permit`].
    pub annotation: Option<&'static str>,
    /// The order in which numbers are chosen: that of the pod, or else that of the configuration.
    pub allocation: Allocation,
    /// Other systems whose variables are published too.
    pub dialects: BTreeSet<Dialect>,
    /// The pod's first address of each family, with its prefix, IPv4 first. Without any, the ports are
    /// held and not translated.
    pub pod_addresses: Vec<IpNetwork>,
    /// The interfaces on the node's side that lead to the pod, as far as they are known: a hint.
    pub host_interfaces: Vec<String>,
    /// The host ports that can be assigned.
    pub ports: PortPolicy,
    /// How packets are treated.
    pub policy: Policy,
    /// The addresses under which clients reach this node, at most one per family. If empty, the node's own.
    pub advertise_addresses: Vec<IpAddr>,
    /// Interfaces that the guard against loopback addresses leaves alone, sorted.
    pub guard_except: Vec<String>,
    /// The uplinks whose established connections are offloaded.
    pub offload: Vec<String>,
}

impl Ask {
    /// Whether no host port is asked for at all.
    pub fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.requested.is_empty()
    }
}
