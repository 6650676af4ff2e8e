//! What the operator forbids.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnetwork::IpNetwork;

use crate::model::{Ask, HostPort, Mapping, PortPolicy, PortRange};

/// Why a claim is refused by policy. Code 104.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The number is too low.
    #[error("host port {host} is below minPort, {min}; ask for another port")]
    BelowMinPort { host: HostPort, min: NonZeroU16 },
    /// The number is excluded.
    #[error("host port {host} is kept free by excludePorts ({range}); ask for another port")]
    Excluded {
        host: HostPort,
        /// The entry of the list that has it.
        range: PortRange,
    },
    /// The host IP is none of those on which ports are to answer.
    #[error(
        "host IP {address} is in none of hostAddresses of this node's configuration, {}; ask for one \
         that is, or for none",
        list(allowed)
    )]
    HostIp { address: IpAddr, allowed: Vec<IpNetwork> },
    /// The pod's namespace may not ask by annotation.
    #[error(
        "{} may not ask for host ports by annotation ({annotation}); allowedNamespaces of this \
         node's configuration would have to name it", pods_of(namespace.as_deref())
    )]
    Namespace {
        annotation: &'static str,
        /// The pod's namespace, if the runtime told it.
        namespace: Option<String>,
    },
    /// The range is kept for other namespaces.
    #[error(
        "{} may not choose from range {range}; namespaces of namedRanges.{range} of this node's \
         configuration would have to name it", pods_of(namespace.as_deref())
    )]
    Range {
        range: String,
        /// The pod's namespace, if the runtime told it.
        namespace: Option<String>,
    },
    /// The pod, or its namespace, has or wants too many numbers that the node chooses.
    #[error(
        "{asked} host ports are asked for, and {whose} has {held} already, which together is more than \
         {key} of this node's configuration permits, {limit}: it counts each number that the node \
         chose, once for all protocols; ask for fewer ports, or have the node's operator raise {key}"
    )]
    TooMany {
        key: &'static str,
        limit: NonZeroU16,
        /// How many the claim asks for.
        asked: usize,
        whose: String,
        /// How many these have without the claim.
        held: usize,
    },
}

fn list(networks: &[IpNetwork]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn pods_of(namespace: Option<&str>) -> String {
    namespace.map_or("pods of unknown namespace".to_owned(), |name| {
        format!("pods in namespace {name:?}")
    })
}

/// How many numbers that the node chose are held besides a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    pub pod: usize,
    /// By all pods of its namespace on this node.
    pub namespace: usize,
}

/// Judges a claim by what the operator has configured.
///
/// Numbers that are chosen come out of a pool that has no forbidden ones.
///
/// # Errors
/// [`Forbidden`], for the first thing that is.
pub fn permit(ask: &Ask, held: Chosen) -> Result<(), Forbidden> {
    let Ask { fixed, requested, annotation, pod, ports, policy, .. } = ask;
    let host_addresses = &policy.host_addresses;
    for Mapping { host, .. } in fixed {
        permit_number(*host, ports)?;
    }
    let named = fixed.iter().map(|one| one.host.address);
    for address in named.chain(requested.iter().filter_map(|request| request.address)) {
        let allowed = host_addresses.is_empty()
            || address.is_unspecified()
            || host_addresses.iter().any(|network| network.contains(address));
        if !allowed {
            return Err(Forbidden::HostIp { address, allowed: host_addresses.clone() });
        }
    }
    let namespace = pod.as_ref().map(|pod| &pod.namespace).filter(|name| !name.is_empty());
    let may = |allowed: &Option<BTreeSet<String>>| {
        allowed.as_ref().is_none_or(|allowed| namespace.is_some_and(|name| allowed.contains(name)))
    };
    if let Some(annotation) = annotation.filter(|_| !may(&ports.allowed_namespaces)) {
        return Err(Forbidden::Namespace { annotation, namespace: namespace.cloned() });
    }
    for range in requested.iter().filter_map(|request| request.range.as_ref()) {
        if ports.named_ranges.get(range).is_some_and(|named| !may(&named.namespaces)) {
            return Err(Forbidden::Range { range: range.clone(), namespace: namespace.cloned() });
        }
    }
    permit_count(ask, namespace, held)
}

fn permit_number(host: HostPort, ports: &PortPolicy) -> Result<(), Forbidden> {
    if host.port < ports.min_port {
        return Err(Forbidden::BelowMinPort { host, min: ports.min_port });
    }
    match ports.excluded_at(host.port) {
        Some(range) => Err(Forbidden::Excluded { host, range: *range }),
        None => Ok(()),
    }
}

/// A request for several protocols is for one number.
fn permit_count(ask: &Ask, namespace: Option<&String>, held: Chosen) -> Result<(), Forbidden> {
    let Ask { requested, pod, ports, .. } = ask;
    let asked: usize = requested.iter().map(|request| usize::from(request.count.get())).sum();
    let judge = |key, limit: NonZeroU16, whose: String, held: usize| {
        if asked == 0 || asked + held <= limit.get().into() {
            return Ok(());
        }
        Err(Forbidden::TooMany { key, limit, asked, whose, held })
    };
    let whose = pod.as_ref().map_or("the container".to_owned(), |pod| format!("pod {pod}"));
    judge("maxPortsPerPod", ports.max_per_pod, whose, held.pod)?;
    match (ports.max_per_namespace, namespace) {
        (Some(limit), Some(namespace)) => {
            let whose = format!("namespace {namespace} on this node");
            judge("maxPortsPerNamespace", limit, whose, held.namespace)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
