//! What a pod is told about its host ports: `ports.json` and `ports.env`. Values in, text out.
//!
//! `docs/published-files.md` is the contract with those who read the files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use serde::Serialize;

use crate::model::{
    Attachment, ContainerPort, Dialect, Family, Grant, HostPort, Mapping, Pod, PortRange, Protocol,
    Record, Request,
};

/// The version of `ports.json`, raised when an older reader would misunderstand it.
const VERSION: u32 = 1;

/// How a host port came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The pod named the number.
    Static,
    /// The node chose the number.
    Chosen,
    /// The node chose the number, and the container listens on the same.
    Passthrough,
}

/// One host port, or a run of them, of one attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The attachment that holds it; a pod on the node's own network has no attachment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// The name that the pod gave the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The protocols; at least one.
    pub protocols: Vec<Protocol>,
    /// The number on the node, or the first of the run.
    pub host_port: NonZeroU16,
    /// The number in the container, or the first of the run.
    pub container_port: NonZeroU16,
    /// How many consecutive numbers, from `host_port` on.
    pub count: NonZeroU16,
    /// The node's addresses on which it answers, the best known first.
    #[serde(rename = "hostIPs")]
    pub host_ips: Vec<IpAddr>,
    /// Whether the pod named the number or the node chose it.
    pub origin: Origin,
    /// Other systems whose variables are published too.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub dialects: BTreeSet<Dialect>,
}

/// What `record` has to tell: what the node chose for it, in the order asked for, then what it named
/// itself.
fn entries_of(record: &Record) -> Vec<Entry> {
    let entry = |request: &Request, host_port, mappings: &[&Mapping], origin| Entry {
        attachment: record.owner.attachment().cloned(),
        name: request.name.clone(),
        protocols: request.protocols.clone(),
        host_port,
        container_port: match request.container_port {
            ContainerPort::From(port) => port,
            ContainerPort::Same => host_port,
        },
        count: request.count,
        host_ips: answering(mappings, &record.advertised),
        origin,
        dialects: record.dialects.clone(),
    };
    let mut entries = Vec::new();
    for grant in &record.grants {
        let mappings = record.mappings.iter().filter(|mapping| covers(grant, &mapping.host));
        let is_same = grant.request.container_port == ContainerPort::Same;
        let origin = if is_same { Origin::Passthrough } else { Origin::Chosen };
        entries.push(entry(&grant.request, grant.port, &mappings.collect::<Vec<_>>(), origin));
    }
    let is_named = |host| !record.grants.iter().any(|grant| covers(grant, host));
    let mut by_port: BTreeMap<_, Vec<&Mapping>> = BTreeMap::new();
    for mapping in record.mappings.iter().filter(|mapping| is_named(&mapping.host)) {
        let (host, container_port) = (&mapping.host, mapping.container_port);
        by_port.entry((host.port, host.protocol, container_port)).or_default().push(mapping);
    }
    for ((host_port, protocol, container_port), mappings) in by_port {
        let named = Request::new(vec![protocol], ContainerPort::From(container_port));
        entries.push(entry(&named, host_port, &mappings, Origin::Static));
    }
    entries
}

fn covers(grant: &Grant, host: &HostPort) -> bool {
    grant.numbers().contains(&host.port.get())
        && grant.request.protocols.contains(&host.protocol)
        && grant.request.address.map_or(host.is_wildcard(), |address| address == host.address)
}

/// The addresses by which a client gets through one of `mappings`, which are those of `advertised` for every
/// local address. Without any translation the pod is on the node's own network, and every address will do.
fn answering(mappings: &[&Mapping], advertised: &[IpAddr]) -> Vec<IpAddr> {
    let translated = mappings.iter().any(|mapping| mapping.target.is_some());
    let answers = |mapping: &&&Mapping| mapping.target.is_some() || !translated;
    let mut addresses = Vec::new();
    for mapping in mappings.iter().filter(answers) {
        let own = Some(mapping.host.address).filter(|_| !mapping.host.is_wildcard());
        let family = Family::of(&mapping.host.address);
        let every = advertised.iter().copied().filter(|address| Family::of(address) == family);
        for address in own.map_or_else(|| every.collect(), |own| vec![own]) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    // The best known is the first of them.
    addresses.sort_by_key(|address| advertised.iter().position(|known| known == address));
    addresses
}

/// All that one pod is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Publication {
    version: u32,
    /// The pod.
    pub pod: Pod,
    /// Its ports, those of the attachment that was recorded first in front.
    #[serde(rename = "ports")]
    pub entries: Vec<Entry>,
}

impl Publication {
    /// What is published for the pod whose records these are, all of them; `None` if there is nothing. A
    /// record without a port that the node chose adds nothing new.
    ///
    /// A pod has one sandbox: where records of an earlier one are left, those of the latest count.
    pub fn of(records: &[Record]) -> Option<Self> {
        Self::told(records, |record| !record.grants.is_empty())
    }

    /// The same for a pod that waits for its variables in any case: also with records whose ports it named
    /// itself.
    pub fn of_all(records: &[Record]) -> Option<Self> {
        Self::told(records, |record| !record.mappings.is_empty())
    }

    fn told(records: &[Record], is_news: impl Fn(&Record) -> bool) -> Option<Self> {
        let latest = records.iter().max_by_key(|record| record.created)?;
        let sandbox = latest.owner.container_id();
        let is_told = |record: &&Record| record.owner.container_id() == sandbox && is_news(record);
        let mut told: Vec<&Record> = records.iter().filter(is_told).collect();
        told.sort_by_key(|record| record.created);
        let pod = told.first()?.owner.pod.clone()?;
        let entries = told.into_iter().flat_map(entries_of).collect();
        Some(Self { version: VERSION, pod, entries })
    }

    /// The text of `ports.json`.
    ///
    /// # Errors
    /// Never, as far as one can see: it has no map with keys that JSON cannot have.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }

    /// The variables, in the order of `ports.env`: names are unique, and no value has anything in it
    /// that a shell or kubelet would interpret.
    pub fn variables(&self) -> Vec<(String, String)> {
        self.variables_for(&|_| true)
    }

    /// The same for one container, whose `PORT`, `PORT0` and so on are about the entries that are `its`.
    pub fn variables_for(&self, its: &dyn Fn(&Entry) -> bool) -> Vec<(String, String)> {
        let mut variables = Variables::default();
        self.own_variables(&mut variables);
        self.kubewharf_variables(&mut variables, its);
        self.bcs_variables(&mut variables);
        variables.pairs
    }

    /// The text of `ports.env`: lines `NAME='value'`, which a shell can source and which is the only
    /// form that kubelet's `fileKeyRef` takes.
    pub fn to_env(&self) -> String {
        let line = |(name, value): &(String, String)| format!("{name}='{value}'\n");
        self.variables().iter().map(line).collect()
    }

    fn own_variables(&self, variables: &mut Variables) {
        let ips = || self.entries.iter().flat_map(|entry| &entry.host_ips);
        variables.put("AUTOPORT_HOST_IP", ips().next());
        variables.put("AUTOPORT_HOST_IP_V4", ips().find(|ip| ip.is_ipv4()));
        variables.put("AUTOPORT_HOST_IP_V6", ips().find(|ip| ip.is_ipv6()));
        variables.put("AUTOPORT_PORTS", listed(self.entries.iter()));
        // A name is the pod's own word, so nothing unnamed takes a variable from it.
        let (named, unnamed): (Vec<&Entry>, Vec<&Entry>) =
            self.entries.iter().partition(|entry| entry.name.is_some());
        for entry in named.into_iter().chain(unnamed) {
            for name in names(entry) {
                let host_port = format!("AUTOPORT_HOST_PORT_{name}");
                if !variables.put(&host_port, Some(entry.host_port)) {
                    continue;
                }
                let address = entry.host_ips.first();
                let address = address.map(|ip| SocketAddr::new(*ip, entry.host_port.get()));
                let run = Some(entry.count).filter(|count| *count > NonZeroU16::MIN);
                variables.put(&format!("AUTOPORT_PORT_{name}"), Some(entry.container_port));
                variables.put(&format!("AUTOPORT_ADDR_{name}"), address);
                variables.put(&format!("AUTOPORT_COUNT_{name}"), run);
            }
        }
    }

    fn kubewharf_variables(&self, variables: &mut Variables, its: &dyn Fn(&Entry) -> bool) {
        let counted = || {
            self.entries.iter().filter(|entry| its(entry)).filter(|entry| match entry.origin {
                Origin::Static => false,
                Origin::Chosen => entry.dialects.contains(&Dialect::KubeWharf),
                Origin::Passthrough => true,
            })
        };
        variables.put("PORT", counted().next().map(|entry| entry.host_port));
        for (index, entry) in counted().enumerate() {
            variables.put(&format!("PORT{index}"), Some(entry.host_port));
        }
        for entry in counted() {
            if let Some(name) = &entry.name {
                variables.put(&format!("PORT_{}", upper_case(name)), Some(entry.host_port));
            }
        }
        variables.put("PORTS", listed(counted()));
    }

    fn bcs_variables(&self, variables: &mut Variables) {
        let counted = || self.entries.iter().filter(|e| e.dialects.contains(&Dialect::Bcs));
        for entry in counted() {
            let name = format!("BCS_RANDHOSTPORT_FOR_CONTAINER_PORT_{}", entry.container_port);
            variables.put(&name, Some(entry.host_port));
        }
        if counted().next().is_some() {
            let ip = counted().find_map(|entry| entry.host_ips.first());
            variables.put("BCS_RANDHOSTPORT_HOSTIP", ip);
            variables.put("BCS_RANDHOSTPORT_POD_NAME", Some(&self.pod.name));
            variables.put("BCS_RANDHOSTPORT_POD_NAMESPACE", Some(&self.pod.namespace));
        }
    }
}

/// Host ports with commas between, `20500-20599` for a run; `None` for none.
fn listed<'a>(entries: impl Iterator<Item = &'a Entry>) -> Option<String> {
    let numbers = entries.map(|entry| {
        let last = entry.host_port.get().saturating_add(entry.count.get() - 1);
        let last = NonZeroU16::new(last).unwrap_or(entry.host_port);
        PortRange { first: entry.host_port, last }.to_string()
    });
    let list = numbers.collect::<Vec<_>>().join(",");
    (!list.is_empty()).then_some(list)
}

/// How variables call an entry: by its name, or by the container's port and each protocol.
fn names(entry: &Entry) -> Vec<String> {
    let number = entry.container_port;
    let unnamed = |protocol: &Protocol| upper_case(&format!("{number}_{protocol}"));
    match &entry.name {
        Some(name) => vec![upper_case(name)],
        None => entry.protocols.iter().map(unnamed).collect(),
    }
}

/// The name as a part of a variable's.
fn upper_case(name: &str) -> String {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(upper).collect()
}

/// Of two variables with one name the first stays.
#[derive(Debug, Default)]
struct Variables {
    pairs: Vec<(String, String)>,
    seen: BTreeSet<String>,
}

impl Variables {
    /// Adds a variable if there is a value, and if nobody could take that for more than a value; says
    /// whether it is new.
    fn put(&mut self, name: &str, value: Option<impl ToString>) -> bool {
        let harmless = |c: char| c.is_ascii_alphanumeric() || "-.,:[]".contains(c);
        let value = value.map(|value| value.to_string()).unwrap_or_default();
        let is_new =
            !value.is_empty() && value.chars().all(harmless) && self.seen.insert(name.to_owned());
        if is_new {
            self.pairs.push((name.to_owned(), value));
        }
        is_new
    }
}

#[cfg(test)]
mod tests;
