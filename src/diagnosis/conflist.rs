//! The network configurations: whether runtimes hand their pods to autoport, and in which state.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Facts, Finding, counted, node_file, some_of};
use crate::cni::{Config, Version};

/// The name of a network configuration file, and what is in it or why that is not understood.
pub(super) type Network = (String, Result<Conflist, String>);

pub(super) struct Conflist {
    file: String,
    /// Its `cniVersion`; empty if it says none.
    version: String,
    plugins: Vec<Plugin>,
}

struct Plugin {
    kind: String,
    capabilities: Vec<String>,
    has_ipam: bool,
    /// All of it, as it is written.
    object: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawList {
    name: Option<String>,
    cni_version: Option<String>,
    plugins: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct RawPlugin {
    #[serde(rename = "type")]
    kind: Option<String>,
    capabilities: Option<BTreeMap<String, bool>>,
    ipam: Option<BTreeMap<String, serde_json::Value>>,
}

impl Conflist {
    fn read(file: &str, bytes: &[u8]) -> Result<Self, String> {
        let list: RawList = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let single = || serde_json::from_slice(bytes).map_err(|error| error.to_string());
        let objects = match list.plugins {
            Some(plugins) => plugins,
            None if file.ends_with(".conflist") => return Err("it has no plugins".to_owned()),
            None => vec![single()?],
        };
        let plugin = |object: Box<RawValue>| {
            let raw: RawPlugin = serde_json::from_str(object.get())
                .map_err(|error| format!("one of its plugins: {error}"))?;
            let capabilities = raw.capabilities.unwrap_or_default().into_iter();
            Ok(Plugin {
                kind: raw.kind.ok_or("one of its plugins has no type")?,
                capabilities: capabilities.filter(|(_, on)| *on).map(|(name, _)| name).collect(),
                has_ipam: raw.ipam.is_some_and(|ipam| !ipam.is_empty()),
                object,
            })
        };
        let plugins = objects.into_iter().map(plugin).collect::<Result<Vec<_>, String>>()?;
        if plugins.is_empty() {
            return Err("it has no plugins".to_owned());
        }
        list.name.ok_or("it has no name")?;
        Ok(Self { file: file.to_owned(), version: list.cni_version.unwrap_or_default(), plugins })
    }

    fn kinds(&self) -> Vec<&str> {
        self.plugins.iter().map(|plugin| plugin.kind.as_str()).collect()
    }

    fn has(&self, kind: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.kind == kind)
    }

    fn own(&self) -> impl Iterator<Item = (usize, &Plugin)> {
        self.plugins.iter().enumerate().filter(|(_, plugin)| plugin.kind == OWN)
    }
}

const OWN: &str = "autoport";

/// Another plugin that maps host ports.
const PORTMAP: &str = "portmap";

/// Those that make an interface although they have no `ipam` of their own.
const MAKERS: [&str; 5] = ["flannel", "calico", "cilium-cni", "antrea", "kube-ovn"];

/// Every file, with the reason where it is not understood.
pub(super) fn networks(facts: &Facts) -> Vec<Network> {
    let files = facts.configurations.known().map_or(&[][..], |found| &found.files);
    let list = |(file, bytes): &(String, Result<Vec<u8>, String>)| {
        let bytes = bytes.as_deref().map_err(Clone::clone);
        (file.clone(), bytes.and_then(|bytes| Conflist::read(file, bytes)))
    };
    files.iter().map(list).collect()
}

/// How each network that autoport is chained in is configured, as far as ADD would take it.
pub(super) fn configs(facts: &Facts, networks: &[Network]) -> Vec<Config> {
    let lists = networks.iter().filter_map(|(_, list)| list.as_ref().ok());
    let own = lists.flat_map(Conflist::own);
    let read = |(_, plugin): (_, &Plugin)| {
        Config::read(Some(plugin.object.get().as_bytes()), node_file::valid(facts))
    };
    own.filter_map(|own| Some(read(own).ok()?.0)).collect()
}

const CHECK: &str = "network";

pub(super) fn findings(facts: &Facts, networks: &[Network]) -> Result<Vec<Finding>, Finding> {
    let dir = facts.places.conf_dir.display();
    let found = facts.configurations.or(
        || Finding::unseen(CHECK, format!("{dir} may not be read")),
        |why| {
            let remedy = "name the right directory with --conf-dir";
            Finding::failed(CHECK, format!("{dir}: {why}"), remedy)
        },
    )?;
    let (first, list) = networks.first().ok_or_else(|| {
        let text = format!("{dir} has no network configuration");
        let remedy = "install the cluster's CNI plugin, or name the directory with --conf-dir";
        Finding::failed(CHECK, text, remedy)
    })?;
    let lists: Vec<&Conflist> =
        networks.iter().filter_map(|(_, list)| list.as_ref().ok()).collect();
    let (with, without): (Vec<&Conflist>, Vec<&Conflist>) =
        lists.into_iter().partition(|list| list.has(OWN));
    let mut findings = Vec::from_iter(used(facts, first, list, with.first().copied()));
    for (file, list) in networks.iter().skip(1) {
        if let Err(why) = list {
            let text = format!("{file} is not understood: {why}");
            findings.push(Finding::warning(CHECK, text, format!("correct or remove {dir}/{file}")));
        }
    }
    findings.extend(with.iter().flat_map(|list| chain(list)));
    for list in without.iter().filter(|list| !with.is_empty() && list.has(PORTMAP)) {
        findings.push(Finding::warning(
            CHECK,
            format!(
                "{} maps host ports with portmap, which can map the same ports as autoport",
                list.file
            ),
            "use one of the two for all host ports of the node",
        ));
    }
    if found.omitted > 0 {
        let more = counted(found.omitted, "file");
        let text = format!("{dir} has {more} more, which were not read");
        findings.push(Finding::warning(CHECK, text, "delete the files that no runtime uses"));
    }
    Ok(findings)
}

/// Whether the network that runtimes use, the first, has autoport in it.
fn used(
    facts: &Facts,
    first: &str,
    list: &Result<Conflist, String>,
    with: Option<&Conflist>,
) -> Option<Finding> {
    let list = match list {
        Ok(list) if list.has(OWN) => return None,
        Ok(list) => list,
        Err(why) => {
            let text = format!("{first}, which runtimes take first, is not understood: {why}");
            let remedy = format!("correct {}", facts.places.conf_dir.join(first).display());
            return Some(Finding::failed(CHECK, text, remedy));
        }
    };
    let chain = list.kinds().join(", ");
    Some(match with {
        None => Finding::failed(
            CHECK,
            format!("{first}, which runtimes take first, does not chain autoport ({chain})"),
            "`autoport install` chains autoport into it",
        ),
        Some(other) => Finding::warning(
            CHECK,
            format!(
                "containerd and CRI-O take {first} ({chain}), and autoport is in {} only",
                other.file
            ),
            format!("chain it into {first}, or rename one of them"),
        ),
    })
}

/// The findings on a network that autoport is chained in.
fn chain(list: &Conflist) -> Vec<Finding> {
    let mut own = list.own();
    let Some((position, plugin)) = own.next() else { return Vec::new() };
    let mut findings = order(list, position, own.next().is_some());
    findings.extend(declared(list, plugin));
    findings.extend(settings(list, plugin));
    if findings.is_empty() {
        let chain = list.kinds().join(", ");
        let text = format!("{}: {chain}; cniVersion {}", list.file, list.version);
        findings.push(Finding::ok(CHECK, text));
    }
    findings
}

/// Whether autoport, which is at `position`, gets the port mappings and a pod with an address.
fn order(list: &Conflist, position: usize, is_there_twice: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fail = |text: &str, remedy: &str| {
        findings.push(Finding::failed(CHECK, format!("{}: {text}", list.file), remedy));
    };
    if is_there_twice {
        fail("autoport is in the chain twice", "remove one of them");
    }
    if position == 0 {
        fail(
            "autoport is the first plugin of the chain, so there is no pod address yet",
            "put it after the plugin that makes the interface",
        );
    }
    let later = list.plugins.iter().skip(position + 1);
    for maker in later.filter(|one| one.has_ipam || MAKERS.contains(&one.kind.as_str())) {
        fail(
            &format!("autoport comes before {}, which makes the interface", maker.kind),
            &format!("put it after {}", maker.kind),
        );
    }
    if list.has(PORTMAP) {
        fail(
            "portmap is in the same chain: each host port is mapped twice, and portmap's rules win",
            "remove portmap from it; autoport takes its place",
        );
    }
    findings
}

/// What the list promises to runtimes: its version, and what autoport is sent.
fn declared(list: &Conflist, plugin: &Plugin) -> Vec<Finding> {
    let file = &list.file;
    let lacks = |name: &str| !plugin.capabilities.iter().any(|own| own == name);
    let mut findings = Vec::new();
    if lacks("portMappings") {
        findings.push(Finding::failed(
            CHECK,
            format!(
                "{file}: autoport does not declare the capability portMappings: runtimes pass it no \
                 hostPort"
            ),
            "set \"capabilities\": {\"portMappings\": true}",
        ));
    }
    match Version::named(&list.version) {
        None => findings.push(Finding::failed(
            CHECK,
            format!("{file}: cniVersion {:?} is not supported", list.version),
            format!("use one of {}", some_of(&Version::ALL.map(Version::as_str))),
        )),
        Some(version) if version < Version::V0_4_0 => findings.push(Finding::warning(
            CHECK,
            format!("{file}: cniVersion {} has no CHECK", list.version),
            "raise it to 1.0.0 or 1.1.0, if all plugins of the chain support it",
        )),
        Some(_) => {}
    }
    if lacks("io.kubernetes.cri.pod-annotations") {
        findings.push(Finding::warning(
            CHECK,
            format!("{file}: runtimes pass no pod annotations to autoport"),
            "add \"io.kubernetes.cri.pod-annotations\": true to its capabilities",
        ));
    }
    findings
}

/// The keys of this network alone: those of the node's own file have lines of their own.
fn settings(list: &Conflist, plugin: &Plugin) -> Vec<Finding> {
    let mut findings = Vec::new();
    match Config::read(Some(plugin.object.get().as_bytes()), None) {
        Ok((_, warnings)) => {
            for warning in warnings {
                let text = format!("{}: {warning}", list.file);
                findings.push(Finding::warning(CHECK, text, "remove the key, or correct it"));
            }
        }
        Err(error) => {
            let text = format!("{}: {}", list.file, error.in_one_line());
            findings.push(Finding::failed(CHECK, text, "correct it; every ADD is rejected"));
        }
    }
    findings
}
