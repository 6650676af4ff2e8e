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
    let shape: Shape = serde_json::from_str(field.raw().get())
        .map_err(|source| Error::Decode { what: field.path().to_owned(), source })?;
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
mod tests {
    use super::super::tests::test_code;
    use super::*;

    fn parse(prev: &str, asked: Version) -> Result<PrevResult, Error> {
        let text = format!("{{\"prevResult\":{prev}}}");
        read(&Object::decode("a test", "", text.as_bytes())?, asked, "eth0")
    }

    fn addresses(prev: &str) -> Vec<String> {
        let read = parse(prev, Version::NEWEST).expect(prev);
        read.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_version_is_echoed_byte_for_byte() {
        let prev =
            "{ \"ips\" : [ ],\n\"zzz\":1.50e+400, \"cniVersion\":\"1.0.0\",\"a\":{\"b\" :null} }";
        assert_eq!(parse(prev, Version::V1_0_0).expect(prev).echo.get(), prev);
    }

    #[test]
    fn a_missing_version_is_set_and_the_rest_left_alone() {
        for version in ["", r#""cniVersion":null,"#, r#""cniVersion":"","#] {
            let prev = format!("{{{version}\"z\":1.50e+400,\"a\":{{\"b\" :[]}}}}");
            let expected = r#"{"cniVersion":"0.3.1","z":1.50e+400,"a":{"b" :[]}}"#;
            assert_eq!(parse(&prev, Version::V0_3_1).expect(&prev).echo.get(), expected);
        }
    }

    #[test]
    fn another_version_is_converted() {
        let prev = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}"#;
        let echo = parse(prev, Version::V0_4_0).expect(prev).echo;
        assert!(echo.get().contains(r#""version":"4""#), "{echo}");
    }

    #[test]
    fn addresses_of_the_node_are_not_the_pods() {
        // portmap's "correctly parses an ADD config" (P1).
        let prev = r#"{"interfaces":[{"name":"host"},{"name":"eth0","sandbox":"netns"},{"name":"other","sandbox":"netns"}],
            "ips":[{"version":"4","address":"10.0.0.1/24","gateway":"10.0.0.1","interface":0},
                   {"version":"6","address":"2001:db8:1::2/64","interface":1},
                   {"version":"4","address":"10.0.0.7/24","interface":2},
                   {"version":"4","address":"10.0.0.2/24","interface":1},
                   {"version":"4","address":"10.0.0.3/24","interface":1}]}"#;
        assert_eq!(addresses(prev), ["10.0.0.2/24", "2001:db8:1::2/64"]);
    }

    #[test]
    fn addresses_without_a_listed_interface_are_the_pods() {
        // portmap's "does not fail on missing prevResult interface index" (P9), and its kin.
        for entry in ["", r#","interface":null"#, r#","interface":7"#, r#","interface":-1"#] {
            let prev = format!(
                r#"{{"interfaces":[{{"name":"veth1"}}],"ips":[{{"address":"10.0.0.2/24"{entry}}}]}}"#
            );
            assert_eq!(addresses(&prev), ["10.0.0.2/24"], "{prev}");
        }
    }

    #[test]
    fn old_shapes_and_empty_ones_are_read() {
        let old = r#"{"ip6":{"ip":"fd00::2/64"},"ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1"}}"#;
        assert_eq!(addresses(old), ["10.0.0.2/24", "fd00::2/64"]);
        for none in ["{}", r#"{"ips":null,"interfaces":null}"#, r#"{"ips":[]}"#] {
            assert_eq!(addresses(none), [""; 0], "{none}");
        }
    }

    #[test]
    fn host_interfaces_come_in_order() {
        let prev = r#"{"interfaces":[{"name":"cni0","mac":"x"},{"name":"veth1","sandbox":""},
                       {"name":"eth0","sandbox":"/n"},{"name":"bad/name"},{"sandbox":""}]}"#;
        let read = parse(prev, Version::NEWEST).expect(prev);
        assert_eq!(read.host_interfaces, ["cni0", "veth1"]);
    }

    #[test]
    fn bad_results_are_refused() {
        let cases = [
            ("null", 7, "chained plugin"),
            ("[]", 6, "prevResult: found []"),
            (r#"{"cniVersion":1}"#, 6, "prevResult.cniVersion"),
            (r#"{"cniVersion":"2.0.0"}"#, 7, "prevResult.cniVersion is \"2.0.0\""),
            (r#"{"ips":{}}"#, 6, "prevResult"),
            (r#"{"ips":[{"interface":"0"}]}"#, 6, "prevResult"),
            (r#"{"ips":[{}]}"#, 7, "prevResult.ips[0].address is missing"),
            (r#"{"ips":[{"address":"10.0.0.1/24\n"}]}"#, 7, r#"is "10.0.0.1/24\n""#),
            (r#"{"ip6":{"ip":"10.0.0.1/99"}}"#, 7, "prevResult.ip6.ip"),
        ];
        for (prev, code, part) in cases {
            let error = parse(prev, Version::NEWEST).expect_err(prev);
            assert_eq!(test_code(&error), code, "{prev}: {error}");
            assert!(error.to_string().contains(part), "{prev}: {error}");
        }
    }
}
