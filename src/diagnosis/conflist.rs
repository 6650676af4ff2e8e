//! The network configurations: whether runtimes hand their pods to autoport, and in which state.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Facts, Report, State, counted, node_file, some_of};
use crate::cni::{Config, Version};

/// The name of a network configuration file, and what is in it or why that is not understood.
pub(super) type Network = (String, Result<Conflist, String>);

pub(super) struct Conflist {
    file: String,
    /// Its `cniVersion`; empty if it says none.
    version: String,
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
struct Plugin {
    #[serde(rename = "type")]
    kind: String,
    capabilities: Option<BTreeMap<String, bool>>,
    ipam: Option<BTreeMap<String, serde_json::Value>>,
    /// All of it, as it is written.
    #[serde(skip)]
    object: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawList {
    #[serde(rename = "name")]
    _name: String,
    cni_version: Option<String>,
    plugins: Option<Vec<Box<RawValue>>>,
}

impl Plugin {
    fn read(object: &str) -> Result<Self, String> {
        let plugin = serde_json::from_str(object);
        let plugin: Self = plugin.map_err(|error| format!("one of its plugins: {error}"))?;
        Ok(Self { object: object.to_owned(), ..plugin })
    }

    /// Whether it makes the pod's interface.
    fn is_maker(&self) -> bool {
        self.ipam.as_ref().is_some_and(|ipam| !ipam.is_empty())
            || MAKERS.contains(&self.kind.as_str())
    }

    fn lacks(&self, capability: &str) -> bool {
        self.capabilities.as_ref().and_then(|all| all.get(capability)) != Some(&true)
    }
}

impl Conflist {
    fn read(file: &str, bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let list: RawList = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let plugins = match &list.plugins {
            Some(plugins) => plugins.iter().map(|plugin| Plugin::read(plugin.get())).collect(),
            None if file.ends_with(".conflist") => Ok(Vec::new()),
            None => Plugin::read(text).map(|plugin| vec![plugin]),
        }?;
        if plugins.is_empty() {
            return Err("it has no plugins".to_owned());
        }
        Ok(Self { file: file.to_owned(), version: list.cni_version.unwrap_or_default(), plugins })
    }

    /// The types of its plugins.
    fn kinds(&self) -> String {
        let kinds = self.plugins.iter().map(|plugin| plugin.kind.as_str());
        kinds.collect::<Vec<_>>().join(", ")
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
    let files = facts.configurations.iter().flat_map(|found| &found.files);
    let list = |(file, bytes): &(String, Result<Vec<u8>, String>)| {
        let bytes = bytes.as_deref().map_err(Clone::clone);
        (file.clone(), bytes.and_then(|bytes| Conflist::read(file, bytes)))
    };
    files.map(list).collect()
}

/// How each network that autoport is chained in is configured, as far as ADD would take it.
pub(super) fn configs(facts: &Facts, networks: &[Network]) -> Vec<Config> {
    let lists = networks.iter().filter_map(|(_, list)| list.as_ref().ok());
    let own = lists.flat_map(Conflist::own);
    let read = |(_, plugin): (_, &Plugin)| {
        let object = plugin.object.as_bytes();
        Some(Config::read(Some(object), node_file::valid(facts)).ok()?.0)
    };
    own.filter_map(read).collect()
}

const CHECK: &str = "network";

pub(super) fn judge(facts: &Facts, networks: &[Network], report: &mut Report) {
    report.check(CHECK);
    let dir = facts.conf_dir.display();
    let hidden = format!("{dir} may not be read");
    let remedy = "name the right directory with --conf-dir";
    let seen = report.see(&facts.configurations, &hidden, State::Failed, remedy);
    let Some(found) = seen else { return };
    let Some((first, list)) = networks.first() else {
        return report.failed(
            format!("{dir} has no network configuration"),
            "install the cluster's CNI plugin, or name the directory with --conf-dir",
        );
    };
    let lists = networks.iter().filter_map(|(_, list)| list.as_ref().ok());
    let (with, without): (Vec<_>, Vec<_>) = lists.partition(|list| list.has(OWN));
    used(facts, first, list, with.first().copied(), report);
    for (file, list) in networks.iter().skip(1) {
        if let Err(why) = list {
            let text = format!("{file} is not understood: {why}");
            report.warning(text, format!("correct or remove {dir}/{file}"));
        }
    }
    for list in &with {
        chain(list, report);
    }
    for list in without.iter().filter(|list| !with.is_empty() && list.has(PORTMAP)) {
        let file = &list.file;
        report.warning(
            format!(
                "{file} maps host ports with portmap, which can map the same ports as autoport"
            ),
            "use one of the two for all host ports of the node",
        );
    }
    if found.omitted > 0 {
        let more = counted(found.omitted, "file");
        let text = format!("{dir} has {more} more, which were not read");
        report.warning(text, "delete the files that no runtime uses");
    }
}

/// Whether the network that runtimes use, the first, has autoport in it.
fn used(
    facts: &Facts,
    first: &str,
    list: &Result<Conflist, String>,
    with: Option<&Conflist>,
    report: &mut Report,
) {
    let chain = match list {
        Ok(list) if list.has(OWN) => return,
        Ok(list) => list.kinds(),
        Err(why) => {
            let text = format!("{first}, which runtimes take first, is not understood: {why}");
            let remedy = format!("correct {}", facts.conf_dir.join(first).display());
            return report.failed(text, remedy);
        }
    };
    match with {
        None => report.failed(
            format!("{first}, which runtimes take first, does not chain autoport ({chain})"),
            "`autoport install` chains autoport into it",
        ),
        Some(Conflist { file, .. }) => report.warning(
            format!("containerd and CRI-O take {first} ({chain}), and autoport is in {file} only"),
            format!("chain it into {first}, or rename one of them"),
        ),
    }
}

/// Judges a network that autoport is chained in.
fn chain(list: &Conflist, report: &mut Report) {
    let mut own = list.own();
    let Some((position, plugin)) = own.next() else { return };
    report.check(CHECK);
    order(list, position, own.next().is_some(), report);
    declared(list, plugin, report);
    settings(list, plugin, report);
    report.or_ok(format!("{}: {}; cniVersion {}", list.file, list.kinds(), list.version));
}

/// Whether autoport, which is at `position`, gets the port mappings and a pod with an address.
fn order(list: &Conflist, position: usize, is_there_twice: bool, report: &mut Report) {
    let mut fail = |text: &str, remedy: &str| {
        report.failed(format!("{}: {text}", list.file), remedy);
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
    for maker in list.plugins.iter().skip(position + 1).filter(|one| one.is_maker()) {
        let maker = &maker.kind;
        fail(
            &format!("autoport comes before {maker}, which makes the interface"),
            &format!("put it after {maker}"),
        );
    }
    if list.has(PORTMAP) {
        fail(
            "portmap is in the same chain: each host port is mapped twice, and portmap's rules win",
            "remove portmap from it; autoport takes its place",
        );
    }
}

/// What the list promises to runtimes: its version, and what autoport is sent.
fn declared(list: &Conflist, plugin: &Plugin, report: &mut Report) {
    let Conflist { file, version, .. } = list;
    if plugin.lacks("portMappings") {
        report.failed(
            format!(
                "{file}: autoport does not declare the capability portMappings: runtimes pass it no \
                 hostPort"
            ),
            "set \"capabilities\": {\"portMappings\": true}",
        );
    }
    match Version::named(version) {
        None => report.failed(
            format!("{file}: cniVersion {version:?} is not supported"),
            format!("use one of {}", some_of(&Version::ALL.map(Version::as_str))),
        ),
        Some(named) if named < Version::V0_4_0 => report.warning(
            format!("{file}: cniVersion {version} has no CHECK"),
            "raise it to 1.0.0 or 1.1.0, if all plugins of the chain support it",
        ),
        Some(_) => {}
    }
    if plugin.lacks("io.kubernetes.cri.pod-annotations") {
        report.warning(
            format!("{file}: runtimes pass no pod annotations to autoport"),
            "add \"io.kubernetes.cri.pod-annotations\": true to its capabilities",
        );
    }
}

/// The keys of this network alone: those of the node's own file have lines of their own.
fn settings(list: &Conflist, plugin: &Plugin, report: &mut Report) {
    let file = &list.file;
    match Config::read(Some(plugin.object.as_bytes()), None) {
        Ok((_, warnings)) => {
            for warning in warnings {
                report.warning(format!("{file}: {warning}"), "remove the key, or correct it");
            }
        }
        Err(error) => {
            let text = format!("{file}: {}", error.in_one_line());
            report.failed(text, "correct it; every ADD is rejected");
        }
    }
}
