//! The network configurations: whether runtimes hand their pods to autoport, and in which state.

use super::{Facts, Report, State, counted, node_files, some_of};
use crate::cni::{self, Config, NodeFiles, Version};
use crate::install::Value;

/// What is in a network configuration file; or its name, and why it is not understood.
pub(super) type Network<'a> = Result<Conflist<'a>, (&'a str, String)>;

pub(super) struct Conflist<'a> {
    file: &'a str,
    /// Its `cniVersion`; empty if it says none.
    version: String,
    plugins: Vec<Plugin<'a>>,
}

struct Plugin<'a> {
    kind: String,
    object: Value<'a>,
}

impl Plugin<'_> {
    /// Whether it makes the pod's interface.
    fn is_maker(&self) -> bool {
        let ipam = self.object.get("ipam").and_then(Value::members);
        ipam.is_some_and(|ipam| !ipam.is_empty()) || MAKERS.contains(&self.kind.as_str())
    }

    fn lacks(&self, capability: &str) -> bool {
        let all = self.object.get("capabilities");
        all.and_then(|all| all.get(capability)).map(Value::raw) != Some("true")
    }

    /// How it is configured, by its own keys and those of the node's files, with warnings.
    fn config(&self, node_files: &NodeFiles) -> Result<(Config, Vec<String>), cni::Error> {
        Config::read(Some(self.object.raw().as_bytes()), node_files)
    }
}

impl<'a> Conflist<'a> {
    fn read(file: &'a str, bytes: &'a [u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let whole = Value::of(text).map_err(|error| error.to_string())?;
        let objects: Vec<Value<'a>> = match whole.get("plugins") {
            Some(_) if !file.ends_with(".conflist") && whole.get("type").is_none() => {
                return Err("runtimes load a list of plugins from *.conflist only".to_owned());
            }
            Some(plugins) if file.ends_with(".conflist") => {
                let items = plugins.items().ok_or("its plugins are not a list")?;
                items.iter().map(|item| item.value).collect()
            }
            None if file.ends_with(".conflist") => Vec::new(),
            // A file of another name is a plugin by itself.
            _ => vec![whole],
        };
        let mut plugins = Vec::new();
        for object in objects {
            let kind = object.get("type").and_then(Value::string);
            plugins.push(Plugin { kind: kind.ok_or("one of its plugins has no type")?, object });
        }
        if plugins.is_empty() {
            return Err("it has no plugins".to_owned());
        }
        whole.get("name").and_then(Value::string).ok_or("it has no name")?;
        let version = whole.get("cniVersion").and_then(Value::string).unwrap_or_default();
        Ok(Self { file, version, plugins })
    }

    /// The types of its plugins.
    fn kinds(&self) -> String {
        let kinds = self.plugins.iter().map(|plugin| plugin.kind.as_str());
        kinds.collect::<Vec<_>>().join(", ")
    }

    fn has(&self, kind: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.kind == kind)
    }

    /// Whether it is a network of podman, Nomad or nerdctl, which have no pod annotations: these have a plugin
    /// for the firewall.
    fn is_of_podman(&self) -> bool {
        self.has("firewall")
    }

    fn own(&self) -> impl Iterator<Item = (usize, &Plugin<'a>)> {
        self.plugins.iter().enumerate().filter(|(_, plugin)| plugin.kind == OWN)
    }
}

const OWN: &str = "autoport";

/// Another plugin that maps host ports.
const PORTMAP: &str = "portmap";

/// Those that make an interface although they have no `ipam` of their own.
const MAKERS: [&str; 5] = ["flannel", "calico", "cilium-cni", "antrea", "kube-ovn"];

/// Every file, with the reason where it is not understood.
pub(super) fn networks(facts: &Facts) -> Vec<Network<'_>> {
    let files = facts.configurations.iter().flat_map(|found| &found.files);
    let networks = files.map(|(file, bytes)| {
        let list = bytes.as_deref().map_err(Clone::clone);
        list.and_then(|bytes| Conflist::read(file, bytes)).map_err(|why| (file.as_str(), why))
    });
    networks.collect()
}

/// How each network that autoport is chained in is configured, as far as ADD would take it.
pub(super) fn configs(facts: &Facts, networks: &[Network<'_>]) -> Vec<Config> {
    let own = networks.iter().flatten().flat_map(Conflist::own);
    let node_files = node_files::valid(facts);
    own.filter_map(|(_, own)| Some(own.config(&node_files).ok()?.0)).collect()
}

const CHECK: &str = "network";

pub(super) fn judge(facts: &Facts, networks: &[Network<'_>], report: &mut Report) {
    report.check(CHECK);
    let dir = facts.conf_dir.display();
    let hidden = format!("{dir} may not be read");
    let remedy = "name the right directory with --conf-dir";
    let seen = report.see(&facts.configurations, &hidden, State::Failed, remedy);
    let Some(found) = seen else { return };
    let Some(first) = networks.first() else {
        return report.failed(
            format!("{dir} has no network configuration"),
            "install the cluster's CNI plugin, or name the directory with --conf-dir",
        );
    };
    let (with, without): (Vec<_>, Vec<_>) =
        networks.iter().flatten().partition(|list| list.has(OWN));
    used(facts, first, with.first().copied(), report);
    for (file, why) in networks.iter().skip(1).filter_map(|list| list.as_ref().err()) {
        let text = format!("{file} is not understood: {why}");
        report.warning(text, format!("correct or remove {dir}/{file}"));
    }
    for list in &with {
        chain(list, report);
        installed(facts, list, report);
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
fn used(facts: &Facts, first: &Network<'_>, with: Option<&Conflist<'_>>, report: &mut Report) {
    let (first, chain) = match first {
        Ok(list) => (list.file, Ok(list.kinds())),
        Err((file, why)) => (*file, Err(why)),
    };
    let delegates = is_delegating(chain.as_deref().unwrap_or_default());
    match (chain, with) {
        (Err(why), _) => report.failed(
            format!("{first}, which runtimes take first, is not understood: {why}"),
            format!("correct {}", facts.conf_dir.join(first).display()),
        ),
        // Multus gives Pods the network that it delegates to: the next of the folder, unless it names one.
        (Ok(_), Some(_)) if delegates => {}
        (Ok(chain), None) if delegates => report.failed(
            format!(
                "{first} delegates to another network ({chain}), and none of them chains autoport"
            ),
            "chain autoport into the cluster's default network: `autoport install --conflist FILE`",
        ),
        (Ok(chain), None) => report.failed(
            format!("{first}, which runtimes take first, does not chain autoport ({chain})"),
            "`autoport install` chains autoport into it",
        ),
        (Ok(chain), Some(Conflist { file, .. })) if *file != first => report.warning(
            format!("containerd and CRI-O take {first} ({chain}), and autoport is in {file} only"),
            format!("chain it into {first}, or rename one of them"),
        ),
        (Ok(_), Some(_)) => {}
    }
}

/// Whether it is a plugin that hands its work on to networks of other files.
fn is_delegating(kinds: &str) -> bool {
    ["multus", "multus-shim"].contains(&kinds)
}

/// Judges a network that autoport is chained in.
fn chain(list: &Conflist<'_>, report: &mut Report) {
    let mut own = list.own();
    let Some((position, plugin)) = own.next() else { return };
    report.check(CHECK);
    order(list, position, own.next().is_some(), report);
    declared(list, plugin, report);
    settings(list, plugin, report);
    let is_old = Version::named(&list.version).is_some_and(|version| version < Version::V0_4_0);
    let check = if is_old { ", which has no CHECK" } else { "" };
    let (file, kinds, version) = (list.file, list.kinds(), &list.version);
    report.or_ok(format!("{file}: {kinds}; cniVersion {version}{check}"));
}

/// Whether the other plugins of the chain are where the runtime looks for them.
fn installed(facts: &Facts, list: &Conflist<'_>, report: &mut Report) {
    let Some(there) = &facts.plugins else { return };
    let is_there = |kind: &String| {
        there.contains(kind) || list.is_of_podman() && facts.more_plugins.contains(kind)
    };
    let is_missing = |plugin: &&Plugin<'_>| plugin.kind != OWN && !is_there(&plugin.kind);
    let missing: Vec<&str> =
        list.plugins.iter().filter(is_missing).map(|plugin| plugin.kind.as_str()).collect();
    if missing.is_empty() {
        return;
    }
    report.check("plugin");
    let dir = facts.plugin.parent().unwrap_or(&facts.plugin).display();
    report.warning(
        format!("{}: plugin {} is not in {dir}: every ADD fails", list.file, some_of(&missing)),
        "install it there, unless the runtime has another plugin directory as well",
    );
}

/// Whether autoport, which is at `position`, gets the port mappings and a pod with an address.
fn order(list: &Conflist<'_>, position: usize, is_there_twice: bool, report: &mut Report) {
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
    // Where a plugin before autoport makes the interface, one behind works on it, as cilium-cni does when it
    // is chained.
    let (before, behind) = list.plugins.split_at(position);
    for maker in behind.iter().filter(|one| one.is_maker() && !before.iter().any(Plugin::is_maker))
    {
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
fn declared(list: &Conflist<'_>, plugin: &Plugin<'_>, report: &mut Report) {
    let Conflist { file, version, .. } = list;
    // CRI-O maps a hostPort itself; its network is called so.
    if plugin.lacks("portMappings") && !file.contains("crio") {
        report.failed(
            format!(
                "{file}: autoport does not declare the capability portMappings: runtimes pass it no \
                 hostPort"
            ),
            "set \"capabilities\": {\"portMappings\": true}",
        );
    }
    if Version::named(version).is_none() {
        report.failed(
            format!("{file}: cniVersion {version:?} is not supported"),
            format!("use one of {}", some_of(&Version::ALL.map(Version::as_str))),
        );
    }
    if plugin.lacks("io.kubernetes.cri.pod-annotations") && !list.is_of_podman() {
        report.warning(
            format!("{file}: runtimes pass no pod annotations to autoport"),
            "add \"io.kubernetes.cri.pod-annotations\": true to its capabilities",
        );
    }
}

/// The keys of this network alone: those of the node's own file have lines of their own.
fn settings(list: &Conflist<'_>, plugin: &Plugin<'_>, report: &mut Report) {
    let file = &list.file;
    match plugin.config(&NodeFiles::default()) {
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
