//! The keys that say which host ports are given, and how one is chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use serde::Deserialize;

use super::super::number;
use super::super::text::{quote, word};
use super::{Error, Field, Judge, Object, escape};
use crate::model::{
    Allocation, Dialect, HostListeners, InvalidName, NamedRange, PortPolicy, PortRange, Request,
    check_identifier,
};

/// Below the ports of `NodePort` services (30000) and the kernel's ephemeral ones (32768).
const DEFAULT_RANGE: &str = "20000-29999";

/// Pod Security does not look at annotations, so without a limit any Pod could take a whole range.
const DEFAULT_PER_POD: NonZeroU16 = NonZeroU16::new(128).expect("it is not 0");

pub(super) fn read(layers: &[&Object<'_>], judge: &mut Judge) -> Result<PortPolicy, Error> {
    let allocation = one_of("it must be \"sequential\", \"random\" or \"stable\"");
    let default = || number::range(DEFAULT_RANGE).into_iter().collect();
    Ok(PortPolicy {
        ranges: judge.value(layers, "portRange", ranges)?.unwrap_or_else(default),
        named_ranges: judge.value(layers, "namedRanges", named_ranges)?.unwrap_or_default(),
        excluded: judge.value(layers, "excludePorts", excluded)?.unwrap_or_default(),
        min_port: judge.value(layers, "minPort", number)?.unwrap_or(NonZeroU16::MIN),
        allocation: judge
            .value(layers, "allocation", allocation)?
            .unwrap_or(Allocation::Sequential),
        host_listeners: judge
            .value(layers, "hostListeners", one_of("it must be \"reject\" or \"ignore\""))?
            .unwrap_or(HostListeners::Reject),
        allowed_namespaces: judge.value(layers, "allowedNamespaces", namespaces)?,
        max_per_pod: judge.value(layers, "maxPortsPerPod", number)?.unwrap_or(DEFAULT_PER_POD),
        max_per_namespace: judge.value(layers, "maxPortsPerNamespace", number)?,
    })
}

/// One range, or a list of them whose order is kept.
///
/// Two of a list that overlap are refused: merged, the order would be a guess.
fn ranges(field: &Field<'_>) -> Result<Vec<PortRange>, Error> {
    let mut ranges: Vec<PortRange> = Vec::new();
    for item in field.one_or_more()? {
        let new = range(&item)?;
        if let Some(other) = ranges.iter().find(|other| other.overlaps(&new)) {
            return Err(item.invalid(&format!("but {other} before it has numbers of it as well")));
        }
        ranges.push(new);
    }
    if ranges.is_empty() {
        return Err(field.invalid("it must have at least one range, such as \"20000-29999\""));
    }
    Ok(ranges)
}

fn named_ranges(field: &Field<'_>) -> Result<BTreeMap<String, NamedRange>, Error> {
    let object = field.object()?;
    let mut named = BTreeMap::new();
    for (name, _) in object.entries() {
        // Of equal names the last counts, and null is none.
        let Some(field) = object.get(name) else { continue };
        let key = || format!("the name of {}", escape(field.path()));
        let invalid = |allowed: &str| {
            Err(Error::Invalid { key: key(), value: quote(name), allowed: allowed.into() })
        };
        if let Err(InvalidName { rule, .. }) = check_identifier("range name", name) {
            return invalid(rule);
        }
        if name == Request::DEFAULT_RANGE {
            return invalid("but that is what portRange is called; give it another name");
        }
        named.insert(name.clone(), named_range(&field)?);
    }
    Ok(named)
}

/// What `portRange` takes, or an object with it and with the namespaces that may choose from it.
fn named_range(field: &Field<'_>) -> Result<NamedRange, Error> {
    if !field.raw().get().starts_with('{') {
        return Ok(NamedRange { ports: ranges(field)?, namespaces: None });
    }
    let object = field.object()?;
    if let Some((name, _)) = object.entries().iter().find(|(name, _)| !PARTS.contains(&&**name)) {
        let remedy = format!("a range has {} and nothing else", PARTS.join(" and "));
        return Err(Error::Unsupported {
            key: format!("{}.{}", field.path(), escape(name)),
            value: object.get(name).map_or("null".to_owned(), |field| field.shown()),
            remedy,
        });
    }
    let Some(ports) = object.get(PARTS[0]) else {
        return Err(field.invalid("it must have its numbers in ports, as in \"7000-7999\""));
    };
    let allowed = object.get(PARTS[1]).map(|list| namespaces(&list)).transpose()?;
    Ok(NamedRange { ports: ranges(&ports)?, namespaces: allowed })
}

/// The members of a range with conditions.
const PARTS: [&str; 2] = ["ports", "namespaces"];

/// Sorted, and without overlaps: it is a set.
fn excluded(field: &Field<'_>) -> Result<Vec<PortRange>, Error> {
    let mut all: Vec<PortRange> =
        field.one_or_more()?.iter().map(range).collect::<Result<_, _>>()?;
    all.sort_unstable();
    all.dedup_by(|next, before| {
        let joined = before.overlaps(next);
        if joined {
            before.last = before.last.max(next.last);
        }
        joined
    });
    Ok(all)
}

fn range(field: &Field<'_>) -> Result<PortRange, Error> {
    let raw = field.raw().get();
    let text = match raw.chars().next() {
        Some('"') => field.string()?,
        Some('-' | '0'..='9') => raw.to_owned(),
        _ => return Err(field.wrong_type("a port or a range such as \"20000-29999\"")),
    };
    let allowed = "it must be a port, 1 to 65535, or two with the lower one first, such as \
                   \"20000-29999\"";
    number::range(&text).ok_or_else(|| field.invalid(allowed))
}

/// A port, or a count of ports.
fn number(field: &Field<'_>) -> Result<NonZeroU16, Error> {
    field.number(NonZeroU16::MIN..=NonZeroU16::MAX, "it must be an integer from 1 to 65535")
}

/// Reads one of the words that `T` is written with.
fn one_of<T: Deserialize<'static>>(
    allowed: &'static str,
) -> impl Fn(&Field<'_>) -> Result<T, Error> {
    move |field| word(&field.string()?).ok_or_else(|| field.invalid(allowed))
}

/// An empty list permits no namespace.
fn namespaces(field: &Field<'_>) -> Result<BTreeSet<String>, Error> {
    const LONGEST: usize = 63;
    let allowed = "it must be the name of a namespace: up to 63 lower-case letters, digits and \
                   '-'; to allow all of them, remove the key";
    let name = |item: Field<'_>| {
        let name = item.string()?;
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let valid = (1..=LONGEST).contains(&name.len()) && name.bytes().all(letter);
        if valid { Ok(name) } else { Err(item.invalid(allowed)) }
    };
    field.list()?.into_iter().map(name).collect()
}

pub(super) fn aliases(field: &Field<'_>) -> Result<BTreeSet<Dialect>, Error> {
    let aliases = field.list()?;
    aliases.iter().map(one_of("it must be \"kubewharf\" or \"bcs\"")).collect()
}

#[cfg(test)]
mod tests;
