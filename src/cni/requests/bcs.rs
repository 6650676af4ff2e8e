//! The annotations of BCS's `randhostport`, read as its webhook reads them, as far as a plugin can.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use super::super::annotations::{Annotations, BCS, BCS_PORTS};
use super::super::error::Error;
use super::super::grammar::{self, Item, Source};
use super::super::mappings::PortMapping;
use super::super::number;
use super::super::text::quote;
use crate::model::{ContainerPort, PortRange, Protocol, Request};

/// Only `true` is a yes, as in BCS.
pub(super) fn is_on(value: &str) -> bool {
    value == "true"
}

/// What looks like another yes is worth a word.
pub(super) fn warning_of(value: &str) -> Option<String> {
    let is_odd = !matches!(value, "true" | "false" | "");
    is_odd.then(|| {
        format!("annotation {BCS} is {} and counts as off: only \"true\" is on", quote(value))
    })
}

/// What is left to choose: the listed ports that neither the port mappings nor our own annotation
/// serve.
pub(super) fn items<'a>(
    annotations: &'a Annotations,
    mapped: &[PortMapping],
    named: &[Item<'_>],
    declared: Option<&[Item<'a>]>,
    most: NonZeroU16,
) -> Result<Vec<Item<'a>>, Error> {
    let Some(list) = annotations.get(BCS_PORTS) else {
        let value = annotations.get(BCS).unwrap_or_default();
        let missing = "is missing: list the ports there, as in \"8080\"";
        return Err(Error::annotation(BCS, value, format!("but {BCS_PORTS} {missing}")));
    };
    let sources = Source::split(BCS_PORTS, list, most)?;
    if is_filled(annotations, mapped, sources.len()) {
        return Ok(Vec::new());
    }
    let (mut seen, mut items) = (BTreeSet::new(), Vec::new());
    for source in sources {
        if !seen.insert(source.item) {
            let wrong = "is listed twice: once is enough, as in \"8080\"";
            return Err(source.error(source.item, wrong));
        }
        let is_its_name = |item: &Item<'_>| item.request.name.as_deref() == Some(source.item);
        let mut item = match number::port(source.item) {
            Some(port) => item(source, port, mapped),
            None if named.iter().any(is_its_name) => continue,
            None => grammar::named(source, declared)?,
        };
        let Some(own) = item.ports else { continue };
        let fixed = |one: &PortMapping| one.host_port.is_some() && own.contains(one.container_port);
        let ours = |other: &Item<'_>| other.ports.is_some_and(|ports| ports.overlaps(&own));
        if mapped.iter().any(fixed) || named.iter().chain(&items).any(ours) {
            continue;
        }
        if annotations.bcs_container_port {
            // The container looks its number up under the port that the annotation lists.
            item.request.name = Some(own.to_string());
            item.request.container_port = ContainerPort::Same;
        }
        items.push(item);
    }
    Ok(items)
}

/// Whether a BCS webhook has been here: it says in annotations which host ports it has chosen, and
/// refuses Pods for which it cannot choose all.
fn is_filled(annotations: &Annotations, mapped: &[PortMapping], asked: usize) -> bool {
    let is_mapped = |port: &&NonZeroU16| mapped.iter().any(|one| one.host_port == Some(**port));
    annotations.bcs_chosen.iter().filter(is_mapped).count() >= asked
}

/// One number in every protocol in which the port arrived with `hostPort: 0`, else in TCP.
fn item<'a>(source: Source<'a>, port: NonZeroU16, mapped: &[PortMapping]) -> Item<'a> {
    let of_port = mapped.iter().filter(|one| one.container_port == port);
    let mut protocols: Vec<Protocol> = of_port.map(|one| one.protocol).collect();
    protocols.sort_unstable();
    protocols.dedup();
    if protocols.is_empty() {
        protocols.push(Protocol::Tcp);
    }
    let request = Request::new(protocols, ContainerPort::From(port));
    Item { request, ports: Some(PortRange { first: port, last: port }), source }
}
