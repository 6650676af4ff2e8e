//! Port mappings: from `runtimeConfig.portMappings` to host ports with their targets.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use ipnetwork::IpNetwork;

use super::address;
use super::error::Error;
use super::json::{Field, Object};
use crate::model::{Family, HostPort, Mapping, Protocol, UnknownProtocol};

/// An entry of `portMappings` (CONVENTIONS.md, "Dynamic Plugin specific fields").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortMapping {
    pub(super) host_port: NonZeroU16,
    pub(super) container_port: NonZeroU16,
    pub(super) protocol: Protocol,
    pub(super) host_ip: Option<IpAddr>,
}

/// Reads the list, wherever a runtime leaves one out: no `runtimeConfig`, no list, null.
pub(super) fn read(conf: &Object<'_>) -> Result<Vec<PortMapping>, Error> {
    let Some(runtime) = conf.get("runtimeConfig") else { return Ok(Vec::new()) };
    let Some(list) = runtime.object()?.get_any_case("portMappings") else { return Ok(Vec::new()) };
    list.list()?.iter().map(read_one).collect()
}

fn read_one(entry: &Field<'_>) -> Result<PortMapping, Error> {
    let object = entry.object()?;
    // Go reads an absent number as 0, and a 0 here is a wish that cannot be granted yet.
    if let Some(field) = object.get_any_case("hostPort").filter(|field| field.raw().get() == "0") {
        return Err(
            field.invalid("and choosing a port is not available yet: give the port, 1 to 65535")
        );
    }
    Ok(PortMapping {
        host_port: port(entry, &object, "hostPort")?,
        container_port: port(entry, &object, "containerPort")?,
        protocol: object.get_any_case("protocol").as_ref().map_or(Ok(Protocol::Tcp), protocol)?,
        host_ip: object.get_any_case("hostIP").as_ref().map_or(Ok(None), host_ip)?,
    })
}

fn port(entry: &Field<'_>, object: &Object<'_>, key: &str) -> Result<NonZeroU16, Error> {
    let allowed = "it must be an integer from 1 to 65535";
    let Some(field) = object.get_any_case(key) else {
        let key = format!("{}.{key}", entry.path());
        return Err(Error::Invalid { key, value: "missing".into(), allowed: allowed.into() });
    };
    field.number()?.parse().map_err(|_| field.invalid(allowed))
}

fn protocol(field: &Field<'_>) -> Result<Protocol, Error> {
    match &*field.string()? {
        "" => Ok(Protocol::Tcp),
        text => text
            .parse()
            .map_err(|UnknownProtocol(_)| field.unsupported("it must be one of tcp, udp, sctp")),
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

/// The host ports that `wanted` stands for, sorted, each with its target on the pod.
///
/// Without host IP it is the wildcard of both families. A host port whose family the pod has no
/// address in is held all the same, without target: on this node the number is taken. Two that
/// overlap must agree on the container port, or the kernel would choose between them.
pub(super) fn expand(wanted: &[PortMapping], pod: &[IpNetwork]) -> Result<Vec<Mapping>, Error> {
    let mut all: Vec<(Mapping, usize)> = Vec::with_capacity(2 * wanted.len());
    for (index, one) in wanted.iter().enumerate() {
        let hosts = HostPort::each(one.protocol, one.host_ip, one.host_port);
        all.extend(hosts.map(|host| (Mapping::towards(host, one.container_port, pod), index)));
    }
    refuse_contradictions(&mut all)?;
    let mut mappings: Vec<Mapping> = all.into_iter().map(|(mapping, _)| mapping).collect();
    mappings.sort_unstable();
    mappings.dedup();
    Ok(mappings)
}

fn refuse_contradictions(all: &mut [(Mapping, usize)]) -> Result<(), Error> {
    let group = |host: &HostPort| (host.protocol, Family::of(&host.address), host.port);
    // The wildcard is the lowest address of its family, so it comes first in its group, and
    // whatever overlaps is either a neighbour or the first.
    all.sort_unstable_by_key(|(mapping, index)| {
        (group(&mapping.host), mapping.host.address, *index)
    });
    let mut first = 0;
    for current in 1..all.len() {
        if group(&all[current].0.host) != group(&all[first].0.host) {
            first = current;
            continue;
        }
        for earlier in [first, current - 1] {
            let (one, other) = (&all[earlier], &all[current]);
            let agree = one.0.container_port == other.0.container_port;
            if one.0.host.overlaps(&other.0.host) && !agree {
                return Err(contradiction(one, other));
            }
        }
    }
    Ok(())
}

fn contradiction(one: &(Mapping, usize), other: &(Mapping, usize)) -> Error {
    let (one, other) = if one.1 < other.1 { (one, other) } else { (other, one) };
    let key = |index: usize| format!("runtimeConfig.portMappings[{index}]");
    let value = |mapping: &Mapping| {
        format!("{} to container port {}", mapping.host, mapping.container_port)
    };
    Error::Invalid {
        key: key(other.1),
        value: value(&other.0),
        allowed: format!(
            "but {} is {}: a packet can go to only one of them, so remove one or give it another \
             hostPort",
            key(one.1),
            value(&one.0)
        ),
    }
}

#[cfg(test)]
mod tests;
