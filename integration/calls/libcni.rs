//! Calls through the CNI project's own library, as a runtime makes them: with `cnitool`, and with a
//! small program on the same library for what cnitool cannot do.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::stage::chain::{Main, Network, PortMapping};
use crate::stage::netns::{run, settle};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod};
use crate::stage::plugin::{Plugin, tool};
use crate::stage::probe::{Answer, Probe, Transport};
use crate::stage::view;

/// Where the network configurations of a test are: below /run, which is the test's own.
const CONFIGURATIONS: &str = "/run/net.d";

/// The versions at which a plugin can be chained.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Writes the configuration where the tools look for it.
fn configure(network: &Network) {
    let path = Path::new(CONFIGURATIONS).join(format!("10-{}.conflist", network.name));
    fs::create_dir_all(CONFIGURATIONS).expect("/run is ours");
    fs::write(path, network.conflist().to_string()).expect("/run is ours");
}

/// Runs `tool words...` with everything libcni needs to know in its environment.
fn libcni(tool_name: &str, network: &Network, ports: &[PortMapping], words: &[&str]) -> Libcni {
    let plugin = network.plugin.path();
    let own_folder = plugin.parent().expect("an executable is in a folder");
    let path = format!("{}:{}", own_folder.display(), network.folder().display());
    let mut command = Command::new(tool(tool_name));
    command
        .args(words)
        .env("NETCONFPATH", CONFIGURATIONS)
        .env("CNI_PATH", path)
        .env("CAP_ARGS", json!({"portMappings": ports}).to_string());
    let (ok, text) = run(&mut command, "");
    Libcni { ok, text: format!("{tool_name} {}: {text}", words.join(" ")) }
}

struct Libcni {
    ok: bool,
    text: String,
}

impl Libcni {
    fn success(self) -> String {
        assert!(self.ok, "{}", self.text);
        self.text
    }

    fn failure(self) -> String {
        assert!(!self.ok, "succeeded: {}", self.text);
        self.text
    }
}

/// A network with one pod, and what is asked of cnitool about it.
struct Scene {
    node: Node,
    network: Network,
    pod: Pod,
    ports: Vec<PortMapping>,
}

impl Scene {
    fn new(version: &'static str, plugin: Plugin) -> Self {
        let node = Node::new();
        let network = Network::new("blue", Main::Bridge, 1, plugin).speaking(version);
        configure(&network);
        let pod = node.pod("web");
        let ports = PortMapping::both(8080, POD_PORT, "");
        Self { node, network, pod, ports }
    }

    fn cnitool(&self, verb: &str) -> Libcni {
        let words = [verb, "blue", self.pod.netns.path()];
        libcni("bin/cnitool", &self.network, &self.ports, &words)
    }

    fn answers(&self) -> Vec<Answer> {
        let ask = |transport| {
            FIRST.map(|host| self.node.client_asks(&Probe { transport, ..Probe::tcp(host, 8080) }))
        };
        Transport::BOTH.into_iter().flat_map(ask).collect()
    }
}

/// `cnitool add`, `check` and `del`.
pub(crate) fn add_check_del(version: &'static str, plugin: Plugin) {
    let scene = Scene::new(version, plugin);
    let result = scene.cnitool("add").success();
    assert!(result.contains("\"cniVersion\""), "a result is printed: {result}");
    let reached = CLIENT.map(|client| Answer::reached("web", client));
    assert_eq!(scene.answers(), [&reached[..], &reached[..]].concat());
    if version < "0.4.0" {
        assert!(scene.cnitool("check").failure().contains("does not support"), "no CHECK yet");
    } else {
        scene.cnitool("check").success();
    }
    scene.cnitool("del").success();
    assert_eq!(scene.answers(), vec![Answer::Refused; 4]);
    scene.cnitool("del").success();
}

#[test]
fn cnitool_adds_checks_and_deletes_at_every_version() {
    for version in VERSIONS {
        add_check_del(version, Plugin::Autoport);
        view::assert_nothing_held();
    }
}

#[test]
fn cnitool_sees_what_check_sees() {
    let scene = Scene::new("1.1.0", Plugin::Autoport);
    scene.cnitool("add").success();
    crate::stage::netns::nft("delete table inet autoport");
    let text = scene.cnitool("check").failure();
    assert!(text.contains("autoport"), "the difference is named: {text}");
    scene.cnitool("del").success();
    view::assert_nothing_held();
}

#[test]
fn cnitool_reports_a_conflict_with_the_holders_name() {
    let scene = Scene::new("1.1.0", Plugin::Autoport);
    let (_holder, _) = scene.node.attached("holder", &scene.network, scene.ports.clone());
    let text = scene.cnitool("add").failure();
    assert!(text.contains("holder"), "{text}");
    scene.cnitool("del").success();
    assert_eq!(scene.answers()[0], Answer::reached("holder", CLIENT[0]));
}

#[test]
fn cnitool_status_and_gc() {
    let scene = Scene::new("1.1.0", Plugin::Autoport);
    scene.cnitool("status").success();
    scene.cnitool("add").success();
    scene.cnitool("status").success();
    // cnitool names no valid attachments: libcni deletes all it remembers before it asks for GC.
    scene.cnitool("gc").success();
    view::assert_nothing_held();
}

/// What libcni remembers of an attachment can be lost, with a disk that was cleaned up.
#[test]
fn del_needs_nothing_that_libcni_remembers() {
    let scene = Scene::new("1.1.0", Plugin::Autoport);
    scene.cnitool("add").success();
    let forget = || fs::remove_dir_all("/var/lib/cni/results").expect("the folder is covered");
    forget();
    // Without its memory it has no result to hand to CHECK, and says that first.
    let text = scene.cnitool("check").failure();
    assert!(text.contains("prevResult"), "{text}");
    assert_eq!(scene.answers()[0], Answer::reached("web", CLIENT[0]), "CHECK changes nothing");
    scene.cnitool("del").success();
    view::assert_nothing_held();
    assert_eq!(scene.answers(), vec![Answer::Refused; 4]);
    // A garbage collection that remembers nothing asks only for the plugins' own.
    scene.cnitool("add").success();
    forget();
    scene.cnitool("gc").success();
    assert_eq!(scene.answers()[0], Answer::reached("web", CLIENT[0]), "it is alive");
}

#[test]
fn gc_deletes_what_libcni_remembers_and_nobody_needs() {
    let scene = Scene::new("1.1.0", Plugin::Autoport);
    let names = ["one", "two"];
    let _pods = names.map(|name| {
        let pod = scene.node.pod(name);
        let port =
            PortMapping::new(Transport::Tcp, if name == "one" { 8081 } else { 8082 }, POD_PORT);
        let words = ["add", "-net", "blue", "-id", name, "-netns", pod.netns.path()];
        libcni("bin/libcni", &scene.network, &[port], &words).success();
        pod
    });
    let gc = ["gc", "-net", "blue", "-valid", "two:eth0"];
    libcni("bin/libcni", &scene.network, &[], &gc).success();
    settle();
    let by = |port| scene.node.client_asks(&Probe::tcp(FIRST[0], port)).by().map(str::to_owned);
    assert_eq!([8081, 8082].map(by), [None, Some("two".to_owned())]);
    assert_eq!((view::records().len(), view::index().len()), (1, 2));
}

/// Two pods of one network and one of another, then GC of the first network by a libcni that has
/// no memory of them, so that only the plugin can remove anything.
fn gc(words: &[&str]) -> Vec<String> {
    let node = Node::new();
    let at = |port| [PortMapping::new(Transport::Tcp, port, POD_PORT)];
    let network = |name, subnet| {
        let network = Network::new(name, Main::Bridge, subnet, Plugin::Autoport).speaking("1.1.0");
        configure(&network);
        network
    };
    let (blue, green) = (network("blue", 1), network("green", 2));
    let _pods = [
        node.attached("one", &blue, at(8081)),
        node.attached("two", &blue, at(8082)),
        node.attached("three", &green, at(8083)),
    ];
    view::an_hour_passes();
    let command = [&["gc", "-net", "blue", "-cache-dir", "/run/empty"], words].concat();
    libcni("bin/libcni", &blue, &[], &command).success();
    settle();
    let by = |port| node.client_asks(&Probe::tcp(FIRST[0], port)).by().map(str::to_owned);
    let left: Vec<_> = [8081, 8082, 8083].into_iter().filter_map(by).collect();
    assert_eq!(view::records().len(), left.len(), "records and rules agree");
    assert_eq!(view::index().len(), 2 * left.len(), "index and rules agree: one entry per family");
    left
}

#[test]
fn gc_keeps_what_is_valid_and_other_networks() {
    assert_eq!(gc(&["-valid", "two:eth0"]), ["two", "three"]);
}

#[test]
fn gc_takes_an_empty_list_at_its_word() {
    assert_eq!(gc(&["-valid-as", "list"]), ["three"]);
}

#[test]
fn gc_takes_null_for_an_empty_list() {
    assert_eq!(gc(&["-valid-as", "null"]), ["three"]);
}

#[test]
fn gc_without_a_list_keeps_what_lives() {
    assert_eq!(gc(&["-valid-as", "absent"]), ["one", "two", "three"]);
}

#[test]
fn gc_tells_interfaces_of_one_container_apart() {
    assert_eq!(gc(&["-valid", "two:eth1", "-valid", "one:eth0"]), ["one", "three"]);
}
