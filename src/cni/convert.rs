//! A result in the shape of another version of the specification.
//!
//! There are three shapes: until 0.2.0 one object per family, until 0.4.0 a list of addresses that
//! say their version, and since 1.0.0 a list of addresses that do not. The lists convert into each
//! other without loss; the old shape holds one address per family and no interfaces.

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::address;
use super::version::Version;
use crate::model::Family;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    PerFamily,
    Labelled,
    Plain,
}

fn shape(version: Version) -> Shape {
    if version < Version::V0_3_0 {
        Shape::PerFamily
    } else if version < Version::V1_0_0 {
        Shape::Labelled
    } else {
        Shape::Plain
    }
}

/// Rewrites the result `text` of version `from` as one of version `to`.
pub(super) fn convert(
    text: &RawValue,
    from: Version,
    to: Version,
) -> serde_json::Result<Box<RawValue>> {
    let mut result: Map<String, Value> = serde_json::from_str(text.get())?;
    if shape(from) != shape(to) {
        if shape(from) == Shape::PerFamily {
            into_list(&mut result);
        }
        let ips = result.get_mut("ips").and_then(Value::as_array_mut);
        for entry in ips.into_iter().flatten().filter_map(Value::as_object_mut) {
            entry.remove("version");
            let family = family_of(entry, "address").filter(|_| shape(to) == Shape::Labelled);
            if let Some(family) = family {
                entry.insert("version".into(), family.number().to_string().into());
            }
        }
        if shape(to) == Shape::PerFamily {
            into_families(&mut result);
        }
    }
    result.insert("cniVersion".into(), to.as_str().into());
    to_raw_value(&result)
}

/// Turns `ip4` and `ip6` into `ips`, and the routes inside them into `routes`.
fn into_list(result: &mut Map<String, Value>) {
    let (mut ips, mut routes) = (Vec::new(), Vec::new());
    for family in Family::ALL {
        let Some(Value::Object(mut old)) = result.remove(&name(family)) else { continue };
        if let Some(Value::Array(own)) = old.remove("routes") {
            routes.extend(own);
        }
        let Some(ip) = old.remove("ip") else { continue };
        let mut entry = Map::from_iter([("address".to_owned(), ip)]);
        if let Some(gateway) = old.remove("gateway") {
            entry.insert("gateway".into(), gateway);
        }
        ips.push(Value::Object(entry));
    }
    result.insert("ips".into(), ips.into());
    if !routes.is_empty() {
        result.insert("routes".into(), routes.into());
    }
}

/// Turns the first address of each family in `ips` into `ip4` and `ip6`, each with the routes of
/// its family. Go's conversion does the same, and drops what the old shape has no place for.
fn into_families(result: &mut Map<String, Value>) {
    let ips = objects(result.remove("ips"));
    let routes = objects(result.remove("routes"));
    result.remove("interfaces");
    for family in Family::ALL {
        let of_family = |entry: &&Map<String, Value>| family_of(entry, "address") == Some(family);
        let Some(first) = ips.iter().find(of_family) else { continue };
        let mut old = Map::new();
        for (new, name) in [("address", "ip"), ("gateway", "gateway")] {
            if let Some(value) = first.get(new) {
                old.insert(name.into(), value.clone());
            }
        }
        let routes = routes.iter().filter(|route| family_of(route, "dst") == Some(family));
        let routes: Vec<Value> = routes.cloned().map(Value::Object).collect();
        if !routes.is_empty() {
            old.insert("routes".into(), routes.into());
        }
        result.insert(name(family), old.into());
    }
}

fn objects(list: Option<Value>) -> Vec<Map<String, Value>> {
    let Some(Value::Array(items)) = list else { return Vec::new() };
    let object = |item| if let Value::Object(object) = item { Some(object) } else { None };
    items.into_iter().filter_map(object).collect()
}

fn family_of(entry: &Map<String, Value>, field: &str) -> Option<Family> {
    let network = address::network(entry.get(field)?.as_str()?)?;
    Some(Family::of(&network.ip()))
}

/// How the old shape calls the object of a family.
fn name(family: Family) -> String {
    format!("ip{}", family.number())
}

#[cfg(test)]
mod tests;
