//! Grants: what they stand for in the kernel, and how old ones meet new wishes.

use std::num::NonZeroU16;

use ipnetwork::IpNetwork;

use crate::model::{ContainerPort, Grant, HostPort, Mapping, Wish};

/// A number that a wish had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// The attachment holds it, and keeps it wherever the ranges are now.
    Own(NonZeroU16),
    /// The pod had it: in the sandbox before this one, or until a short while ago.
    Former(NonZeroU16),
}

/// Matches `wishes` with the grants of an earlier time, each of which serves one of them: the same
/// wish first, then one of the same name that is as long and in the same protocols.
///
/// `kind` is [`Earlier::Own`] or [`Earlier::Former`].
#[must_use]
pub fn earlier(
    wishes: &[Wish],
    grants: &[Grant],
    kind: fn(NonZeroU16) -> Earlier,
) -> Vec<Option<Earlier>> {
    let mut left: Vec<Option<&Grant>> = grants.iter().map(Some).collect();
    let mut found = vec![None; wishes.len()];
    let same = |wish: &Wish, old: &Wish| wish == old;
    let similar = |wish: &Wish, old: &Wish| {
        let fits = wish.count == old.count && wish.protocols == old.protocols;
        fits && wish.range == old.range && wish.address == old.address && wish.name == old.name
    };
    for matches in [same, similar] {
        for (wish, found) in wishes.iter().zip(&mut found) {
            if found.is_some() {
                continue;
            }
            let old = left.iter_mut().find(|old| old.is_some_and(|old| matches(wish, &old.wish)));
            *found = old.and_then(Option::take).map(|grant| kind(grant.port));
        }
    }
    found
}

/// The host ports that `grants` stand for, sorted, each with its target on the pod.
#[must_use]
pub fn expand(grants: &[Grant], pod: &[IpNetwork]) -> Vec<Mapping> {
    let mut mappings = Vec::new();
    for Grant { wish, port } in grants {
        for offset in 0..wish.count.get() {
            // Neither runs over: a block is granted inside a range, and read from a range.
            let port = port.saturating_add(offset);
            let container_port = match wish.container_port {
                ContainerPort::From(first) => first.saturating_add(offset),
                ContainerPort::Same => port,
            };
            for protocol in &wish.protocols {
                let hosts = HostPort::each(*protocol, wish.address, port);
                mappings.extend(hosts.map(|host| Mapping::towards(host, container_port, pod)));
            }
        }
    }
    mappings.sort_unstable();
    mappings.dedup();
    mappings
}
