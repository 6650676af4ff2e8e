//! The `EndpointSlices` of a Pod, by which DNS and gateways find its host ports. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use autoport::publication::{Entry, Publication};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::status::{Facts, addresses};

/// The annotation of a Service that permits it.
const ENDPOINTS: &str = "autoport.cni/endpoints";

/// Who writes the slices, as the contract of `EndpointSlices` demands a label of it.
const MANAGER: &str = "autoport.cni";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// A slice has no more ports.
const MOST_PORTS: usize = 100;

/// Why a Service gets no slices, in words.
///
/// # Errors
/// The reason.
pub fn permits(service: Option<&Service>, name: &str) -> Result<(), String> {
    let service = service.ok_or_else(|| format!("Service {name} does not exist"))?;
    let annotations = service.metadata.annotations.as_ref();
    let value = annotations.and_then(|all| all.get(ENDPOINTS)).map(|value| value.trim());
    if value != Some("true") {
        return Err(format!("Service {name} has no annotation {ENDPOINTS}: \"true\""));
    }
    let spec = service.spec.clone().unwrap_or_default();
    if spec.selector.is_some_and(|selector| !selector.is_empty()) {
        return Err(format!(
            "Service {name} has a selector, so that Kubernetes makes its endpoints; remove it"
        ));
    }
    if spec.cluster_ip.as_deref() != Some("None") {
        return Err(format!("Service {name} is not headless; it needs clusterIP: None"));
    }
    Ok(())
}

/// What a Pod is to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub slices: Vec<EndpointSlice>,
    /// What could not be put into them, in words.
    pub problem: Option<String>,
}

/// The names of the slices that the Pod can have in this Service.
pub fn names(facts: &Facts, service: &str) -> [String; 2] {
    ["v4", "v6"].map(|family| format!("{service}-{}-{family}", facts.uid))
}

/// The slices of a Pod that holds this, in this Service: one for each family in which its node has an address.
pub fn slices(facts: &Facts, held: &Publication, service: &str, node: &str) -> Wanted {
    let all = addresses(held, &facts.host_ips);
    let mut wanted = Wanted::default();
    for (name, is_v6) in names(facts, service).into_iter().zip([false, true]) {
        let Some(address) = all.iter().find(|address| address.is_ipv6() == is_v6) else { continue };
        let (ports, problem) = ports(held, *address);
        if !ports.is_empty() {
            wanted.slices.push(slice(facts, service, node, (name, *address), ports));
        }
        wanted.problem = wanted.problem.or(problem);
    }
    wanted
}

fn slice(
    facts: &Facts,
    service: &str,
    node: &str,
    (name, address): (String, IpAddr),
    ports: Vec<EndpointPort>,
) -> EndpointSlice {
    let labels = [
        ("kubernetes.io/service-name", service),
        (MANAGED_BY, MANAGER),
        ("service.kubernetes.io/headless", ""),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let pod = &facts.pod;
    let endpoint = Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(facts.is_ready && !facts.is_ending),
            serving: Some(facts.is_ready),
            terminating: Some(facts.is_ending),
        }),
        // The name of a host has no dots and 63 characters at most; without it DNS makes one of the address.
        hostname: Some(pod.name.clone()).filter(|name| name.len() <= 63 && !name.contains('.')),
        node_name: Some(node.to_owned()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(facts.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    };
    EndpointSlice {
        address_type: if address.is_ipv6() { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: vec![endpoint],
        ports: Some(ports),
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(pod.namespace.clone()),
            labels: Some(BTreeMap::from(labels)),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod.name.clone(),
                uid: facts.uid.clone(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
    }
}

/// The ports that answer on this address, and what is left out.
fn ports(held: &Publication, address: IpAddr) -> (Vec<EndpointPort>, Option<String>) {
    let answers = |entry: &&Entry| entry.host_ips.is_empty() || entry.host_ips.contains(&address);
    let (mut ports, mut taken, mut problem) = (Vec::new(), BTreeSet::new(), None);
    for (name, protocol, port) in held.entries.iter().filter(answers).flat_map(named) {
        if !taken.insert(name.clone()) {
            problem =
                problem.or(Some(format!("two ports have the name {name}; rename one of them")));
            continue;
        }
        if ports.len() == MOST_PORTS {
            let text = format!("an EndpointSlice has {MOST_PORTS} ports at most");
            return (ports, problem.or(Some(text)));
        }
        let protocol = Some(protocol.to_uppercase());
        ports.push(EndpointPort {
            name: Some(name),
            port: Some(port),
            protocol,
            ..EndpointPort::default()
        });
    }
    (ports, problem)
}

/// The names of a port, one for each protocol: those in a slice are unique, whatever their protocol.
fn named(entry: &Entry) -> Vec<(String, String, i32)> {
    let name = |(at, protocol): (usize, String)| {
        let name = match &entry.name {
            Some(name) if at == 0 => name.clone(),
            Some(name) => format!("{name}-{protocol}"),
            None => format!("{}-{protocol}", entry.container_port),
        };
        (name, protocol, i32::from(entry.host_port.get()))
    };
    entry.protocols.iter().map(ToString::to_string).enumerate().map(name).collect()
}

/// Whether a slice is that of the Pod, so that it may be changed.
pub fn is_its(slice: &EndpointSlice, facts: &Facts) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let manager = labels.and_then(|all| all.get(MANAGED_BY));
    let mut owners = slice.metadata.owner_references.iter().flatten();
    manager.is_some_and(|manager| manager == MANAGER) && owners.any(|one| one.uid == facts.uid)
}

/// Whether a slice has what is wanted, as far as it is ours to say.
pub fn is_like(slice: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    (&slice.endpoints, &slice.ports) == (&wanted.endpoints, &wanted.ports)
        && slice.metadata.labels == wanted.metadata.labels
}

#[cfg(test)]
mod tests;
