//! Grants: what they stand for in the kernel, and how old ones meet new requests.

use std::num::NonZeroU16;

use ipnetwork::IpNetwork;

use crate::model::{ContainerPort, Grant, HostPort, Mapping, Request};

/// A number that a request had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// The attachment holds it, and keeps it wherever the ranges are now.
    Own(NonZeroU16),
    /// The pod had it: in the sandbox before this one, or until a short while ago.
    Former(NonZeroU16),
}

/// Matches `requests` with the grants of an earlier time, each of which serves one of them: the same
/// request first, then one of the same name that is as long and in the same protocols.
pub fn earlier(requests: &[Request], grants: &[Grant]) -> Vec<Option<NonZeroU16>> {
    let mut left: Vec<Option<&Grant>> = grants.iter().map(Some).collect();
    let mut found = vec![None; requests.len()];
    let same = |request: &Request, old: &Request| request == old;
    let similar = |request: &Request, old: &Request| {
        let fits = request.count == old.count && request.protocols == old.protocols;
        fits && request.range == old.range
            && request.address == old.address
            && request.name == old.name
    };
    for matches in [same, similar] {
        for (request, found) in requests.iter().zip(&mut found) {
            if found.is_some() {
                continue;
            }
            let old =
                left.iter_mut().find(|old| old.is_some_and(|old| matches(request, &old.request)));
            *found = old.and_then(Option::take).map(|grant| grant.port);
        }
    }
    found
}

/// The host ports that `grants` stand for, sorted, each with its target on the pod.
pub fn expand(grants: &[Grant], pod: &[IpNetwork]) -> Vec<Mapping> {
    let mut mappings = Vec::new();
    for Grant { request, port } in grants {
        for offset in 0..request.count.get() {
            // Neither runs over: a block is granted inside a range, and read from a range.
            let port = port.saturating_add(offset);
            let container_port = match request.container_port {
                ContainerPort::From(first) => first.saturating_add(offset),
                ContainerPort::Same => port,
            };
            for protocol in &request.protocols {
                let hosts = HostPort::each(*protocol, request.address, port);
                mappings.extend(hosts.map(|host| Mapping::towards(host, container_port, pod)));
            }
        }
    }
    mappings.sort_unstable();
    mappings.dedup();
    mappings
}
