//! What the node is to choose: from `hostPort: 0` and from annotations to [`Request`]es.

use std::collections::BTreeSet;

use super::annotations::{ALLOCATION, Annotations, BCS, KUBEWHARF, PORTS, PodAnnotations, RANGE};
use super::error::Error;
use super::grammar::{self, Item};
use super::mappings::{PortMapping, key_of};
use super::text::{quote, word};
use crate::model::{Allocation, Ask, ContainerPort, Dialect, PortPolicy, Request};

mod bcs;

/// What the `KubeWharf` annotation says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KubeWharf {
    Off,
    On(Option<Allocation>),
}

/// The annotations by which a pod asks for host ports that the node chooses. On the pod network such a pod may
/// have fixed host ports only, if a patched kubelet has chosen them. A value that an ADD refuses asks too.
pub fn asking<'a>(
    annotations: &'a PodAnnotations,
    aliases: &'a BTreeSet<Dialect>,
) -> impl Iterator<Item = &'static str> + 'a {
    let is_on = move |key: &&str| {
        let Some(value) = annotations.get(*key) else { return false };
        match *key {
            KUBEWHARF if !aliases.contains(&Dialect::KubeWharf) => false,
            BCS if !aliases.contains(&Dialect::Bcs) => false,
            KUBEWHARF => !matches!(kubewharf(value), Ok(KubeWharf::Off)),
            BCS => bcs::is_on(value),
            _ => true,
        }
    };
    [PORTS, KUBEWHARF, BCS].into_iter().filter(is_on)
}

/// Adds to `ask` what the annotations of a pod ask for that is on the node's own network, where no plugin is
/// called for it.
///
/// # Errors
/// What an ADD refuses in them.
pub fn read_annotations(
    ask: &mut Ask,
    annotations: &PodAnnotations,
    aliases: &BTreeSet<Dialect>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let keys = annotations.keys().map(String::as_str);
    let annotations = Annotations::of(keys, |key| annotations.get(key).cloned().map(Ok))?;
    read(ask, &[], &annotations, aliases, warnings)
}

/// Adds to `ask` what the port mappings and the annotations ask for, in this order.
pub(super) fn read(
    ask: &mut Ask,
    mapped: &[PortMapping],
    annotations: &Annotations,
    aliases: &BTreeSet<Dialect>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let kubewharf = match annotations.get(KUBEWHARF) {
        Some(value) if aliases.contains(&Dialect::KubeWharf) => kubewharf(value)?,
        _ => KubeWharf::Off,
    };
    let text = annotations.get(PORTS);
    let most = ask.ports.max_per_pod;
    let named = text.map_or(Ok(Vec::new()), |text| grammar::parse(PORTS, text, most))?;
    let of_bcs = match annotations.get(BCS) {
        Some(value) if aliases.contains(&Dialect::Bcs) => {
            bcs::warn_of(value, warnings);
            bcs::is_on(value).then(|| bcs::items(annotations, mapped, &named, most)).transpose()?
        }
        _ => None,
    };
    let named = without_mapped(named, mapped, kubewharf)?;
    let mut annotation = (!named.is_empty()).then_some(PORTS);
    let items: Vec<Item<'_>> = named.into_iter().chain(of_bcs.iter().flatten().cloned()).collect();
    if !items.is_empty() {
        annotation = annotation.or(Some(BCS));
    }
    let mut list = of_mappings(mapped, &items)?;
    list.extend(items.into_iter().map(|item| item.request));
    if let Some(name) = annotations.get(RANGE) {
        let range = range(name, &ask.ports)?;
        for request in &mut list {
            request.range.clone_from(&range);
        }
        annotation = annotation.or((!list.is_empty()).then_some(RANGE));
    }
    if list.is_empty() && mapped.is_empty() && of_bcs.is_none() {
        refuse_lonely(annotations, kubewharf)?;
    }
    match (annotations.get(ALLOCATION), kubewharf) {
        (Some(value), _) => ask.allocation = allocation(value)?,
        (None, KubeWharf::On(Some(strategy))) => ask.allocation = strategy,
        (None, KubeWharf::On(None) | KubeWharf::Off) => {}
    }
    if kubewharf != KubeWharf::Off {
        ask.dialects.insert(Dialect::KubeWharf);
    }
    if of_bcs.is_some() {
        ask.dialects.insert(Dialect::Bcs);
    }
    (ask.requested, ask.annotation) = (list, annotation);
    Ok(())
}

fn allocation(value: &str) -> Result<Allocation, Error> {
    word(value.trim()).ok_or_else(|| {
        Error::annotation(ALLOCATION, value, "it must be \"sequential\", \"random\" or \"stable\"")
    })
}

/// The published patch took any value for a yes; its successors inside `ByteDance` read a strategy
/// from it. A no means no here.
fn kubewharf(value: &str) -> Result<KubeWharf, Error> {
    match value.trim() {
        "" | "true" | "1" => Ok(KubeWharf::On(None)),
        "sequential" => Ok(KubeWharf::On(Some(Allocation::Sequential))),
        "random" => Ok(KubeWharf::On(Some(Allocation::Random))),
        "false" | "0" => Ok(KubeWharf::Off),
        _ => Err(Error::annotation(
            KUBEWHARF,
            value,
            "it must be \"true\", \"sequential\", \"random\" or \"false\"",
        )),
    }
}

/// The name of the range as a request has it.
fn range(name: &str, ports: &PortPolicy) -> Result<Option<String>, Error> {
    let name = name.trim();
    if name == Request::DEFAULT_RANGE {
        return Ok(None);
    }
    if ports.named_ranges.contains_key(name) {
        return Ok(Some(name.to_owned()));
    }
    let names = ports.named_ranges.keys().map(|name| quote(name));
    let known: Vec<String> = [quote(Request::DEFAULT_RANGE)].into_iter().chain(names).collect();
    Err(Error::annotation(
        RANGE,
        name,
        format!(
            "which is not a range of this node: namedRanges of its configuration would have it; \
             known are {}",
            known.join(", ")
        ),
    ))
}

/// Drops or refuses the items whose ports have a static host port.
///
/// Where the `KubeWharf` annotation is, a patched kubelet may have filled the Pod, and the list
/// beside it is for the nodes that have none. Elsewhere somebody is mistaken.
fn without_mapped<'a>(
    items: Vec<Item<'a>>,
    mapped: &[PortMapping],
    kubewharf: KubeWharf,
) -> Result<Vec<Item<'a>>, Error> {
    let mut left = Vec::with_capacity(items.len());
    for item in items {
        let fixed = |one: &PortMapping| {
            one.host_port.filter(|_| item.covers(one.container_port, one.protocol))
        };
        let found = mapped.iter().enumerate().find_map(|(at, one)| Some((at, fixed(one)?)));
        let Some((at, host_port)) = found else {
            left.push(item);
            continue;
        };
        let asked = usize::from(item.request.count.get()) * item.request.protocols.len();
        if kubewharf != KubeWharf::Off && asked == 1 {
            continue;
        }
        let (port, protocol) = (mapped[at].container_port, mapped[at].protocol);
        let wrong = format!(
            "asks for container port {port}/{protocol}, which {} already maps to host port \
             {host_port}: remove it here, or the hostPort from the Pod",
            key_of(at)
        );
        return Err(item.source.error(item.source.item, &wrong));
    }
    Ok(left)
}

/// The requests of `hostPort: 0`, but for those that an item of an annotation describes better.
fn of_mappings(mapped: &[PortMapping], items: &[Item<'_>]) -> Result<Vec<Request>, Error> {
    let mut list = Vec::new();
    for (at, one) in mapped.iter().enumerate().filter(|(_, one)| one.host_port.is_none()) {
        if let Some(item) = items.iter().find(|item| item.covers(one.container_port, one.protocol))
        {
            if one.host_ip.is_some() {
                let wrong = format!(
                    "asks for a port that {} asks for on one host IP: remove it here",
                    key_of(at)
                );
                return Err(item.source.error(item.source.item, &wrong));
            }
            continue;
        }
        let port = ContainerPort::From(one.container_port);
        list.push(Request { address: one.host_ip, ..Request::new(vec![one.protocol], port) });
    }
    // The same mapping twice is the same mapping, as it is for static ones.
    let mut seen = BTreeSet::new();
    list.retain(|request| seen.insert(request.clone()));
    Ok(list)
}

/// Refuses annotations that ask for nothing: the pod would start without the ports it waits for.
fn refuse_lonely(annotations: &Annotations, kubewharf: KubeWharf) -> Result<(), Error> {
    let is_on = |key: &&str| *key != KUBEWHARF || kubewharf != KubeWharf::Off;
    let mut asking = [KUBEWHARF, RANGE, ALLOCATION].into_iter().filter(is_on);
    let lonely = asking.find_map(|key| Some((key, annotations.get(key)?)));
    let Some((key, value)) = lonely else { return Ok(()) };
    Err(Error::annotation(
        key,
        value,
        format!(
            "but no port is named: a CNI plugin cannot see the ports of a Pod, so name them in \
             the annotation {PORTS}, as in \"http=8080, game=7777/udp\""
        ),
    ))
}

#[cfg(test)]
mod tests;
