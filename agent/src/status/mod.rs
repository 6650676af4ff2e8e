//! What the API server is told of a Pod's host ports: from the records and the Pod as the API server has it to the
//! change that is missing. No I/O.

mod facts;
mod gate;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::num::NonZeroU16;

use autoport::model::Protocol;
use autoport::publication::{Entry, Publication};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use self::facts::{Facts, NoName};
pub use self::gate::{Gate, Verdict};

/// The annotation that has the host ports of the Pod. It is written only; as a request it is ignored.
pub const STATUS: &str = "autoport.cni/status";

/// Begins the annotations that have one number each, for programs that read no JSON; the name of the port follows.
pub const HOST_PORT: &str = "autoport.cni/host-port.";

/// The annotation of a Pod that names the Service by which its ports are to be found.
pub const SERVICE: &str = "autoport.cni/service";

/// The condition of a Pod whose spec has it as a readiness gate.
pub const LISTENING: &str = "autoport.cni/Listening";

/// The version of the annotation, raised when an older reader would misunderstand it.
const VERSION: u32 = 1;

/// The name of an annotation has 63 characters at most.
const LONGEST_NAME: usize = 63 - "host-port.".len();

/// What [`STATUS`] has.
#[derive(Serialize)]
struct Status<'a> {
    version: u32,
    node: &'a str,
    addresses: Vec<IpAddr>,
    ports: Vec<Assigned<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Assigned<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    protocols: &'a [Protocol],
    host_port: NonZeroU16,
    container_port: NonZeroU16,
    count: NonZeroU16,
    /// Only where they are not those of the Pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<&'a [IpAddr]>,
}

/// The addresses on which the ports answer, the best known first. Where no record has one, those that the API server
/// has of the node.
pub fn addresses(held: &Publication, host_ips: &[IpAddr]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in held.entries.iter().flat_map(|entry| &entry.host_ips) {
        if !addresses.contains(address) {
            addresses.push(*address);
        }
    }
    if addresses.is_empty() { host_ips.to_vec() } else { addresses }
}

/// The text of [`STATUS`].
fn text(held: &Publication, node: &str, host_ips: &[IpAddr]) -> String {
    let addresses = addresses(held, host_ips);
    let is_told = |entry: &Entry| !entry.host_ips.is_empty() && entry.host_ips != addresses;
    let ports = held.entries.iter().map(|entry| Assigned::of(entry, is_told(entry))).collect();
    let status = Status { version: VERSION, node, addresses: addresses.clone(), ports };
    serde_json::to_string(&status).unwrap_or_default()
}

impl<'a> Assigned<'a> {
    fn of(entry: &'a Entry, has_addresses: bool) -> Self {
        Self {
            name: entry.name.as_deref(),
            protocols: &entry.protocols,
            host_port: entry.host_port,
            container_port: entry.container_port,
            count: entry.count,
            addresses: has_addresses.then_some(&entry.host_ips),
        }
    }
}

/// The annotations that the Pod should carry.
fn annotations(held: &Publication, facts: &Facts, node: &str) -> BTreeMap<String, String> {
    let named = held.entries.iter().filter_map(|entry| Some((entry.name.as_ref()?, entry)));
    let short = named.filter(|(name, _)| name.len() <= LONGEST_NAME);
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, entry) in short {
        all.entry(format!("{HOST_PORT}{name}")).or_insert_with(|| entry.host_port.to_string());
    }
    all.insert(STATUS.to_owned(), text(held, node, &facts.host_ips));
    all
}

/// What the Pod carries in place of `wanted`, and what it lacks of it: as a patch has it.
fn differing(facts: &Facts, wanted: BTreeMap<String, String>) -> Map<String, Value> {
    let stale = facts.carried.keys().filter(|key| !wanted.contains_key(*key));
    let stale: Vec<_> = stale.map(|key| (key.clone(), Value::Null)).collect();
    let lacks = |(key, text): &(String, String)| facts.carried.get(key) != Some(&hash(text));
    let lacking = wanted.into_iter().filter(lacks);
    stale.into_iter().chain(lacking.map(|(key, text)| (key, text.into()))).collect()
}

/// The change that the Pod needs; `None` where it carries what it should. A Pod with the gate waits for the first
/// `verdict`, so that its first change has both.
pub fn patch(
    facts: &Facts,
    held: Option<&Publication>,
    verdict: Option<&Verdict>,
    node: &str,
    now: &Time,
) -> Option<Value> {
    let wanted = held.map(|held| annotations(held, facts, node)).unwrap_or_default();
    // What a Pod that has ended held can be another's.
    if held.is_none() && !(facts.has_ended && facts.asks) {
        return None;
    }
    if facts.has_gate && verdict.is_none() && !facts.has_ended {
        return None;
    }
    let annotations = differing(facts, wanted);
    let mut patch = json!({"metadata": {"uid": facts.uid}});
    let mut is_needed = !annotations.is_empty();
    if is_needed {
        patch["metadata"]["annotations"] = annotations.into();
    }
    let changed = verdict.filter(|verdict| facts.listening != Some(verdict.listens));
    if let Some(verdict) = changed.filter(|_| facts.has_gate && held.is_some()) {
        let (status, reason) =
            if verdict.listens { ("True", "Listening") } else { ("False", "NotListening") };
        patch["status"]["conditions"] = json!([{
            "type": LISTENING, "status": status, "reason": reason, "message": verdict.message,
            "lastTransitionTime": now,
        }]);
        is_needed = true;
    }
    is_needed.then_some(patch)
}

/// An author can write a long text into the annotation: it is kept as a number.
fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A port on which the Pod's program is to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub protocol: Protocol,
    pub port: NonZeroU16,
}

/// Where the program of a Pod with the gate is to listen: on the node's network on each host port, otherwise on its
/// own ports of TCP, which can be connected to. Of a run it may use as many as it likes.
pub fn targets(held: &Publication, is_on_host: bool) -> Vec<Target> {
    let single = held.entries.iter().filter(|entry| entry.count == NonZeroU16::MIN);
    let all = single.flat_map(|entry| {
        let port = if is_on_host { entry.host_port } else { entry.container_port };
        entry.protocols.iter().map(move |protocol| Target { protocol: *protocol, port })
    });
    all.filter(|target| is_on_host || target.protocol == Protocol::Tcp).collect()
}

#[cfg(test)]
pub(crate) mod tests;
