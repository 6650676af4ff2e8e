//! How many numbers of each range there are for Pods that ask for the resource.

use std::collections::{BTreeMap, BTreeSet};

use autoport::app::Listing;
use autoport::model::{HostPort, PortPolicy, PortRange, Request};

use super::{RESOURCE, Wanted};

/// The resource of a range; `None` where its name cannot be one of Kubernetes.
fn resource(range: &str) -> Option<String> {
    const LONGEST: usize = 63;
    if range == Request::DEFAULT_RANGE {
        return Some(RESOURCE.to_owned());
    }
    let resource = format!("{RESOURCE}-{range}");
    let (_, name) = resource.split_once('/')?;
    let ends = name.ends_with(|last: char| last.is_ascii_alphanumeric());
    (ends && name.len() <= LONGEST).then_some(resource)
}

/// How many numbers of each resource a Pod that asks for it may count on: those of its range, without what is
/// excluded, and without what others hold. What a Pod holds and has asked for is still part of it, because
/// the scheduler subtracts that itself. Also gives how many numbers Pods hold without having asked.
pub fn count(
    ports: &PortPolicy,
    listing: &Listing,
    wanted: &Wanted,
) -> BTreeMap<String, (usize, usize)> {
    let named = ports.named_ranges.iter().map(|(name, range)| (name.as_str(), &*range.ports));
    let all = std::iter::once((Request::DEFAULT_RANGE, &*ports.ranges)).chain(named);
    let counted = all.filter_map(|(name, ranges)| {
        let resource = resource(name)?;
        let counts = of_range(&resource, ranges, &ports.excluded, listing, wanted);
        Some((resource, counts))
    });
    counted.collect()
}

fn of_range(
    resource: &str,
    ranges: &[PortRange],
    excluded: &[PortRange],
    listing: &Listing,
    wanted: &Wanted,
) -> (usize, usize) {
    let within = |all: &[PortRange], number| all.iter().any(|range| range.contains(number));
    let is_counted = |host: &HostPort| within(ranges, host.port) && !within(excluded, host.port);
    let numbers = |hosts: &mut dyn Iterator<Item = HostPort>| -> BTreeSet<u16> {
        hosts.filter(is_counted).map(|host| host.port.get()).collect()
    };
    let mut taken = BTreeSet::new();
    for record in &listing.attachments {
        let held = numbers(&mut record.mappings.iter().map(|mapping| mapping.host));
        // Of a Pod that is not known yet the scheduler knows more.
        let asked = record.owner.uid().map_or(Some(0), |uid| wanted.of(uid, resource));
        taken.extend(held.into_iter().skip(asked.unwrap_or(usize::MAX)));
    }
    let without_asking = taken.len();
    let reserved = listing.reservations.iter().flat_map(|one| &one.hosts);
    let unreadable = listing.unreadable.iter().flat_map(|one| &one.hosts);
    taken.extend(numbers(&mut reserved.chain(unreadable).copied()));
    let size = ranges.iter().flat_map(|range| range.first.get()..=range.last.get());
    let size = size.filter_map(|number| number.try_into().ok()).filter(|it| !within(excluded, *it));
    (size.count() - taken.len(), without_asking)
}
