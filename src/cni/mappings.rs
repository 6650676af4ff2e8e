//! Port mappings: from `runtimeConfig.portMappings` to host ports with their targets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use ipnetwork::IpNetwork;
use serde_json::value::RawValue;

use super::address;
use super::error::Error;
use super::json::{Field, Object};
use crate::model::{Family, HostPort, Mapping, Protocol};

/// How many entries are read: as many as there are port numbers. It bounds how long one command
/// keeps the others waiting for the lock.
pub(super) const MAX_MAPPINGS: usize = 65_535;

/// An entry of `portMappings` (CONVENTIONS.md, "Dynamic Plugin specific fields").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortMapping {
    /// None for 0: the node is to choose.
    pub(super) host_port: Option<NonZeroU16>,
    pub(super) container_port: NonZeroU16,
    pub(super) protocol: Protocol,
    pub(super) host_ip: Option<IpAddr>,
}

/// Reads the list, wherever a runtime leaves one out: no `runtimeConfig`, no list, null.
pub(super) fn read(conf: &Object<'_>) -> Result<Vec<PortMapping>, Error> {
    let Some(runtime) = conf.get("runtimeConfig") else { return Ok(Vec::new()) };
    let Some(list) = runtime.object()?.get_any_case("portMappings") else { return Ok(Vec::new()) };
    // Before each item is given a name: of millions, the names fill the memory.
    let count = list.decode::<Vec<&RawValue>>('[', "a list")?.len();
    if count > MAX_MAPPINGS {
        return Err(Error::Invalid {
            key: list.path().to_owned(),
            value: format!("a list of {count} items"),
            allowed: format!("it must have at most {MAX_MAPPINGS}"),
        });
    }
    list.list()?.iter().map(read_one).collect()
}

fn read_one(entry: &Field<'_>) -> Result<PortMapping, Error> {
    let object = entry.object()?;
    // Go reads an absent number as 0. Here the request has to be written down.
    let number = |key: &str, least, allowed: &str| match object.get_any_case(key) {
        Some(field) => field.number(least..=u16::MAX, allowed).map(NonZeroU16::new),
        None => Err(Error::missing(format!("{}.{key}", entry.path()), allowed)),
    };
    let choosable = "it must be an integer from 1 to 65535, or 0 for a port that the node chooses";
    Ok(PortMapping {
        host_port: number("hostPort", 0, choosable)?,
        container_port: number("containerPort", 1, "it must be an integer from 1 to 65535")?
            .unwrap_or(NonZeroU16::MIN),
        protocol: object.get_any_case("protocol").as_ref().map_or(Ok(Protocol::Tcp), protocol)?,
        host_ip: object.get_any_case("hostIP").as_ref().map_or(Ok(None), host_ip)?,
    })
}

/// What errors call the entry.
pub(super) fn key_of(index: usize) -> String {
    format!("runtimeConfig.portMappings[{index}]")
}

fn protocol(field: &Field<'_>) -> Result<Protocol, Error> {
    match &*field.string()? {
        "" => Ok(Protocol::Tcp),
        text => text.parse().map_err(|_| field.unsupported("it must be one of tcp, udp, sctp")),
    }
}

fn host_ip(field: &Field<'_>) -> Result<Option<IpAddr>, Error> {
    let text = field.string()?;
    if text.is_empty() {
        return Ok(None);
    }
    let local =
        |address: &IpAddr| !address.is_multicast() && *address != IpAddr::V4(Ipv4Addr::BROADCAST);
    let allowed = "it must be one address of this node, 0.0.0.0 or ::, without prefix and zone";
    let address = address::address(&text).filter(local);
    address.map(Some).ok_or_else(|| field.invalid(allowed))
}

/// The host ports that those of `wanted` stand for that name one, sorted, each with its target on the pod.
///
/// Without host IP it is the wildcard of both families. A host port whose family the pod has no
/// address in is held all the same, without target: on this node the number is taken. Two that
/// overlap must agree on the container port, or the kernel would choose between them.
pub(super) fn expand(wanted: &[PortMapping], pod: &[IpNetwork]) -> Result<Vec<Mapping>, Error> {
    let mut all: BTreeMap<HostPort, (Mapping, usize)> = BTreeMap::new();
    for (index, one) in wanted.iter().enumerate() {
        let Some(port) = one.host_port else { continue };
        for host in HostPort::each(one.protocol, one.host_ip, port) {
            let new = (Mapping::towards(host, one.container_port, pod), index);
            refuse_contradiction(all.entry(host).or_insert(new), &new)?;
        }
    }
    for (host, one) in &all {
        let address = Family::of(&host.address).wildcard();
        if let Some(wildcard) = all.get(&HostPort { address, ..*host }) {
            refuse_contradiction(wildcard, one)?;
        }
    }
    Ok(all.into_values().map(|(mapping, _)| mapping).collect())
}

fn refuse_contradiction(one: &(Mapping, usize), other: &(Mapping, usize)) -> Result<(), Error> {
    if one.0.container_port == other.0.container_port {
        return Ok(());
    }
    let (one, other) = if one.1 < other.1 { (one, other) } else { (other, one) };
    let value = |mapping: &Mapping| {
        format!("{} to container port {}", mapping.host, mapping.container_port)
    };
    Err(Error::Invalid {
        key: key_of(other.1),
        value: value(&other.0),
        allowed: format!(
            "but {} is {}: a packet can go to only one of them, so remove one or give it another \
             hostPort",
            key_of(one.1),
            value(&one.0)
        ),
    })
}

#[cfg(test)]
mod tests;
