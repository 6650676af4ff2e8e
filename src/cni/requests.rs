//! What the node is to choose: from `hostPort: 0` and from annotations to [`Request`]es.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

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
        let of = |dialect| aliases.contains(&dialect);
        annotations.get(*key).is_some_and(|value| match *key {
            KUBEWHARF => of(Dialect::KubeWharf) && !matches!(kubewharf(value), Ok(KubeWharf::Off)),
            BCS => of(Dialect::Bcs) && bcs::is_on(value),
            _ => true,
        })
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
    read(ask, &[], &annotations, aliases, None, warnings)
}

/// Adds to `ask` what the port mappings and the annotations ask for, in this order. `declared` lists the
/// ports that the Pod declares; nothing is added if that matters and is not known.
pub(super) fn read(
    ask: &mut Ask,
    mapped: &[PortMapping],
    annotations: &Annotations,
    aliases: &BTreeSet<Dialect>,
    declared: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let of_spec = |list| grammar::parse("of the spec", list, NonZeroU16::MAX, None);
    let declared = declared.map(|list| of_spec(list).unwrap_or_default());
    let of = |key, dialect| annotations.get(key).filter(|_| aliases.contains(&dialect));
    let kubewharf = of(KUBEWHARF, Dialect::KubeWharf).map_or(Ok(KubeWharf::Off), kubewharf)?;
    let text = annotations.get(PORTS);
    let most = ask.ports.max_per_pod;
    let parse = |text| grammar::parse(PORTS, text, most, declared.as_deref());
    let named = text.map_or(Ok(Vec::new()), parse)?;
    let bcs = of(BCS, Dialect::Bcs);
    let of_bcs = bcs.filter(|value| bcs::is_on(value));
    let of_bcs = of_bcs.map(|_| bcs::items(annotations, mapped, &named, declared.as_deref(), most));
    let of_bcs = of_bcs.transpose()?;
    let named = without_mapped(named, mapped, kubewharf)?;
    let mut annotation = (!named.is_empty()).then_some(PORTS);
    let mut items: Vec<_> = named.into_iter().chain(of_bcs.iter().flatten().cloned()).collect();
    annotation = annotation.or((!items.is_empty()).then_some(BCS));
    // Without a list, and unless `hostPort: 0` says which ports, it is every port that the Pod declares.
    let names_all = text.is_none() && mapped.iter().all(|one| one.host_port.is_some());
    if kubewharf != KubeWharf::Off && names_all {
        let needed = mapped.is_empty() && of_bcs.is_none();
        let mut all = declared.ok_or(Error::NeedsSpec { needed })?;
        all.retain(|item| !mapped.iter().any(|one| item.covers(one.container_port, one.protocol)));
        let ports = |one: &Item<'_>| one.ports.map(|own| (own.first, one.request.protocols[0]));
        let is_asked = |(port, protocol)| items.iter().any(|item| item.covers(port, protocol));
        all.retain(|item| !ports(item).is_some_and(is_asked));
        annotation = annotation.or((!all.is_empty()).then_some(KUBEWHARF));
        items.append(&mut all);
    }
    let mut list = of_mappings(mapped, &items)?;
    list.extend(items.into_iter().map(|item| item.request));
    if let Some(name) = annotations.get(RANGE) {
        let range = range(name, &ask.ports)?;
        list = list.into_iter().map(|one| Request { range: range.clone(), ..one }).collect();
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
    ask.dialects.extend((kubewharf != KubeWharf::Off).then_some(Dialect::KubeWharf));
    ask.dialects.extend(of_bcs.map(|_| Dialect::Bcs));
    (ask.requested, ask.annotation) = (list, annotation);
    // Last, since all of this is done twice where the spec is needed.
    warnings.extend(bcs.and_then(bcs::warning_of));
    Ok(())
}

fn allocation(value: &str) -> Result<Allocation, Error> {
    let allowed = "it must be \"sequential\", \"random\" or \"stable\"";
    word(value.trim()).ok_or_else(|| Error::annotation(ALLOCATION, value, allowed))
}

/// The published patch took any value for a yes; its successors inside `ByteDance` read a strategy
/// from it. A no means no here.
fn kubewharf(value: &str) -> Result<KubeWharf, Error> {
    let allowed = "it must be \"true\", \"sequential\", \"random\" or \"false\"";
    match value.trim() {
        "" | "true" | "1" => Ok(KubeWharf::On(None)),
        "sequential" => Ok(KubeWharf::On(Some(Allocation::Sequential))),
        "random" => Ok(KubeWharf::On(Some(Allocation::Random))),
        "false" | "0" => Ok(KubeWharf::Off),
        _ => Err(Error::annotation(KUBEWHARF, value, allowed)),
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
    let known = [quote(Request::DEFAULT_RANGE)].into_iter().chain(names).collect::<Vec<_>>();
    let known = known.join(", ");
    let wrong = format!(
        "which is not a range of this node: namedRanges of its configuration would have it; known \
         are {known}"
    );
    Err(Error::annotation(RANGE, name, wrong))
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
        let found = mapped.iter().enumerate().find_map(|(at, one)| {
            let host_port = one.host_port?;
            item.covers(one.container_port, one.protocol).then_some((at, one, host_port))
        });
        let asked = usize::from(item.request.count.get()) * item.request.protocols.len();
        match found {
            None => left.push(item),
            Some(_) if kubewharf != KubeWharf::Off && asked == 1 => {}
            Some((at, PortMapping { container_port: port, protocol, .. }, host_port)) => {
                let wrong = format!(
                    "asks for container port {port}/{protocol}, which {} already maps to host \
                     port {host_port}: remove it here, or the hostPort from the Pod",
                    key_of(at)
                );
                return Err(item.source.error(item.source.item, &wrong));
            }
        }
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
                let key = key_of(at);
                let wrong = format!("asks for what {key} asks for on one host IP: remove it here");
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
    let keys = if kubewharf == KubeWharf::Off { &[][..] } else { &[KUBEWHARF] };
    let mut keys = keys.iter().chain(&[RANGE, ALLOCATION]);
    let lonely = keys.find_map(|key| Some((key, annotations.get(key)?)));
    let Some((key, value)) = lonely else { return Ok(()) };
    let declared = ", and the Pod declares none without a hostPort";
    let wrong = format!(
        "but no port is named{}: name the ports in the annotation {PORTS}, as in \"http=8080, \
         game=7777/udp\"",
        if *key == KUBEWHARF { declared } else { "" }
    );
    Err(Error::annotation(key, value, wrong))
}

#[cfg(test)]
mod tests;
