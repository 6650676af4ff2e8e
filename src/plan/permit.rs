//! What the operator forbids.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnetwork::IpNetwork;

use crate::model::{Ask, HostPort, Mapping, PortPolicy};

/// Why a claim is refused by policy, in one sentence. Code 104.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Forbidden(String);

fn pods_of(namespace: Option<&String>) -> String {
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
    for Mapping { host, .. } in fixed {
        permit_number(*host, ports)?;
    }
    let named = fixed.iter().map(|one| one.host.address);
    for address in named.chain(requested.iter().filter_map(|request| request.address)) {
        permit_address(address, &policy.host_addresses)?;
    }
    let namespace = pod.as_ref().map(|pod| &pod.namespace).filter(|name| !name.is_empty());
    let may = |allowed: &Option<BTreeSet<String>>| {
        allowed.as_ref().is_none_or(|allowed| namespace.is_some_and(|name| allowed.contains(name)))
    };
    if let Some(annotation) = annotation.filter(|_| !may(&ports.allowed_namespaces)) {
        return Err(Forbidden(format!(
            "{} may not ask for host ports by annotation ({annotation}); allowedNamespaces of this \
             node's configuration would have to name it",
            pods_of(namespace)
        )));
    }
    for range in requested.iter().filter_map(|request| request.range.as_ref()) {
        if ports.named_ranges.get(range).is_some_and(|named| !may(&named.namespaces)) {
            return Err(Forbidden(format!(
                "{} may not choose from range {range}; namespaces of namedRanges.{range} of this \
                 node's configuration would have to name it",
                pods_of(namespace)
            )));
        }
    }
    permit_count(ask, namespace, held)
}

fn permit_number(host: HostPort, ports: &PortPolicy) -> Result<(), Forbidden> {
    let why = if host.port < ports.min_port {
        format!("is below minPort, {}", ports.min_port)
    } else if let Some(range) = ports.excluded_at(host.port) {
        format!("is kept free by excludePorts ({range})")
    } else {
        return Ok(());
    };
    Err(Forbidden(format!("host port {host} {why}; ask for another port")))
}

fn permit_address(address: IpAddr, allowed: &[IpNetwork]) -> Result<(), Forbidden> {
    let is_allowed = |network: &IpNetwork| network.contains(address);
    if allowed.is_empty() || address.is_unspecified() || allowed.iter().any(is_allowed) {
        return Ok(());
    }
    let allowed = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(Forbidden(format!(
        "host IP {address} is in none of hostAddresses of this node's configuration, {allowed}; ask \
         for one that is, or for none"
    )))
}

/// A request for several protocols is for one number.
fn permit_count(ask: &Ask, namespace: Option<&String>, held: Chosen) -> Result<(), Forbidden> {
    let Ask { requested, pod, ports, .. } = ask;
    let asked: usize = requested.iter().map(|request| usize::from(request.count.get())).sum();
    let judge = |key, limit: NonZeroU16, whose: String, held: usize| {
        if asked == 0 || asked + held <= limit.get().into() {
            return Ok(());
        }
        Err(Forbidden(format!(
            "{asked} host ports are asked for, and {whose} has {held} already, which together is \
             more than {key} of this node's configuration permits, {limit}: it counts each number \
             that the node chose, once for all protocols; ask for fewer ports, or have the node's \
             operator raise {key}"
        )))
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
