//! The result of the plugins before us: handed on as it is, and asked for the pod's addresses.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serializer as _};
use serde_json::value::{RawValue, to_raw_value};

use super::address;
use super::convert::convert;
use super::error::Error;
use super::json::{Field, Object};
use super::text::quote;
use super::version::Version;
use crate::model::{Family, check_ifname};

/// What ADD and CHECK are told about the interface that is there already.
#[derive(Debug)]
pub(super) struct PrevResult {
    /// The result to print, in the version that was asked for.
    pub(super) echo: Box<RawValue>,
    /// The pod's first address of each family, with its prefix, IPv4 first.
    pub(super) addresses: Vec<IpNetwork>,
    /// The interfaces on the node's side, in order.
    pub(super) host_interfaces: Vec<String>,
}

/// Reads `prevResult`, which ADD and CHECK cannot do without.
pub(super) fn read(conf: &Object<'_>, asked: Version, ifname: &str) -> Result<PrevResult, Error> {
    let chained = "autoport must be called as a chained plugin: in the list of plugins, put it after \
                   the one that makes the interface";
    let field = conf.get("prevResult").ok_or_else(|| Error::missing("prevResult", chained))?;
    let object = field.object()?;
    let shape: Shape = field.decode('{', "an object")?;
    Ok(PrevResult {
        addresses: shape.addresses(ifname)?,
        host_interfaces: shape.host_interfaces(),
        echo: echo(&field, &object, asked)?,
    })
}

fn echo(field: &Field<'_>, object: &Object<'_>, asked: Version) -> Result<Box<RawValue>, Error> {
    let undecodable = |source| Error::Decode { what: field.path().to_owned(), source };
    let given = object.get("cniVersion").map(|given| Ok((given.string()?, given))).transpose()?;
    let Some((name, given)) = given.filter(|(name, _)| !name.is_empty()) else {
        // libcni takes a result without version for one of the configuration's.
        return with_version(object, asked).map_err(undecodable);
    };
    if name == asked.as_str() {
        return Ok(field.raw().to_owned());
    }
    let from = Version::named(&name).ok_or_else(|| {
        let all: Vec<&str> = Version::ALL.into_iter().map(Version::as_str).collect();
        given.invalid(&format!("it must be one of {}", all.join(", ")))
    })?;
    convert(field.raw(), from, asked).map_err(undecodable)
}

/// Puts `cniVersion` first and leaves the text of everything else alone.
fn with_version(object: &Object<'_>, version: Version) -> serde_json::Result<Box<RawValue>> {
    let version = to_raw_value(version.as_str())?;
    let rest = object.entries().iter().filter(|(key, _)| key != "cniVersion");
    let rest = rest.map(|(key, value)| (&**key, *value));
    let mut text = Vec::new();
    serde_json::Serializer::new(&mut text)
        .collect_map(std::iter::once(("cniVersion", &*version)).chain(rest))?;
    serde_json::from_slice(&text)
}

/// The parts of a result that are read, whatever its version.
#[derive(Default, Deserialize)]
struct Shape {
    ip4: Option<OldAddress>,
    ip6: Option<OldAddress>,
    ips: Option<Vec<Address>>,
    interfaces: Option<Vec<Interface>>,
}

#[derive(Deserialize)]
struct OldAddress {
    ip: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    address: Option<String>,
    interface: Option<i64>,
}

#[derive(Deserialize)]
struct Interface {
    name: Option<String>,
    sandbox: Option<String>,
}

impl Interface {
    fn is_in_sandbox(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty())
    }
}

impl Shape {
    fn addresses(&self, ifname: &str) -> Result<Vec<IpNetwork>, Error> {
        let mut found = Vec::new();
        for (index, entry) in self.ips.iter().flatten().enumerate() {
            let key = || format!("prevResult.ips[{index}].address");
            if self.is_of_pod(entry, ifname) {
                found.push(address_of(key, entry.address.as_deref())?);
            }
        }
        for (key, old) in [("prevResult.ip4.ip", &self.ip4), ("prevResult.ip6.ip", &self.ip6)] {
            if let Some(old) = old {
                found.push(address_of(|| key.to_owned(), old.ip.as_deref())?);
            }
        }
        let first = |family| found.iter().find(move |one| Family::of(&one.ip()) == family);
        Ok(Family::ALL.into_iter().filter_map(first).copied().collect())
    }

    /// As portmap decides it: an address of another interface, or of one on the node's side, is
    /// not the pod's; an address that belongs to no interface, or to one that is not listed, is.
    fn is_of_pod(&self, entry: &Address, ifname: &str) -> bool {
        let index = entry.interface.and_then(|index| usize::try_from(index).ok());
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        index.and_then(|index| interfaces.get(index)).is_none_or(|interface| {
            interface.name.as_deref() == Some(ifname) && interface.is_in_sandbox()
        })
    }

    fn host_interfaces(&self) -> Vec<String> {
        let interfaces = self.interfaces.iter().flatten();
        let names = interfaces.filter(|interface| !interface.is_in_sandbox());
        let names = names.filter_map(|interface| interface.name.clone());
        names.filter(|name| check_ifname(name).is_ok()).collect()
    }
}

fn address_of(key: impl Fn() -> String, text: Option<&str>) -> Result<IpNetwork, Error> {
    text.and_then(address::network).ok_or_else(|| Error::Invalid {
        key: key(),
        value: text.map_or_else(|| "missing".to_owned(), quote),
        allowed: "it must be an address with its prefix length, such as \"10.1.2.3/24\"".into(),
    })
}

#[cfg(test)]
mod tests;
