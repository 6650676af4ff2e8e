//! What CHECK notices: every single part of the table that somebody takes away or changes; and that
//! the next ADD puts it back.

use std::process::Command;

use serde_json::{Value, json};

use crate::chain::{Attachment, Main, Network, PortMapping};
use crate::echo::Echo;
use crate::netns::{ip, nft, ruleset, run, sysctl};
use crate::node::{FIRST, Node, POD_PORT, Pod, SECOND, address};
use crate::plugin::Plugin;
use crate::probe::{Answer, Probe};
use crate::view::{self, table};

const TABLE: &str = "inet autoport";

/// A pod with every kind of mapping, and what the kernel has for it.
struct Scene {
    node: Node,
    _pod: Pod,
    attachment: Attachment,
    intact: String,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new();
        let network = Network::new("blue", Main::Bridge, 1, Plugin::Autoport)
            .with(
                "sourceRanges",
                json!(["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32", "fd00::/8"]),
            )
            .with("hostAddresses", json!(["192.0.2.0/24", "2001:db8::/32"]));
        let mut mappings = PortMapping::both(8080, POD_PORT, "");
        for host in [FIRST[0], SECOND[1], "127.0.0.1"] {
            mappings.extend(PortMapping::both(8081, POD_PORT, host));
        }
        let (pod, attachment) = node.attached("web", &network, mappings);
        attachment.check().success();
        Self { node, _pod: pod, attachment, intact: ruleset() }
    }

    /// Does the damage, insists that CHECK names a difference, and that ADD repairs it.
    fn notices(&self, what: &str, damage: impl FnOnce()) {
        damage();
        assert_ne!(ruleset(), self.intact, "{what}: nothing was damaged");
        let outcome = self.attachment.check();
        self.node.note(format!("CHECK after {what}: {outcome}"));
        assert_eq!(outcome.code(), Some(120), "{what}: {outcome}");
        let outcome = self.attachment.plugin_call("ADD").run();
        assert!(outcome.status.success(), "ADD after {what}: {outcome}");
        assert_eq!(ruleset(), self.intact, "{what}: ADD did not repair it");
        self.attachment.check().success();
    }
}

/// The parts of one kind, as nft names them.
fn parts(kind: &str) -> Vec<Value> {
    table().into_iter().filter_map(|part| part.get(kind).cloned()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("nft names parts with strings")
}

/// Feeds nft its own kind of JSON: elements, unlike rules, have no handle in a script.
fn nft_json(commands: &Value) {
    let script = json!({ "nftables": commands }).to_string();
    let (ok, text) = run(Command::new("nft").args(["-j", "-f", "-"]), &script);
    assert!(ok, "{script}: {text}");
}

#[test]
fn every_rule_is_missed() {
    let scene = Scene::new();
    // A repaired table has new handles, so a rule is known by its number.
    for number in 0..parts("rule").len() {
        let rule = parts("rule").swap_remove(number);
        let (chain, handle) = (text(&rule["chain"]), &rule["handle"]);
        scene.notices(&format!("deleting rule {number}, in {chain}"), || {
            nft(&format!("delete rule {TABLE} {chain} handle {handle}"));
        });
    }
}

#[test]
fn every_chain_is_missed() {
    let scene = Scene::new();
    for chain in parts("chain") {
        let name = text(&chain["name"]);
        scene.notices(&format!("flushing {name}"), || nft(&format!("flush chain {TABLE} {name}")));
        if chain.get("hook").is_some() {
            scene.notices(&format!("deleting {name}"), || {
                nft(&format!("flush chain {TABLE} {name}\ndelete chain {TABLE} {name}"));
            });
        }
    }
}

/// An element's set, its key, and what it leads to, in nft's JSON.
fn elements() -> Vec<(Value, Value, Option<Value>)> {
    let mut found = Vec::new();
    for set in [parts("map"), parts("set")].concat() {
        for element in set["elem"].as_array().into_iter().flatten() {
            let (key, data) = match element.as_array().map(Vec::as_slice) {
                Some([key, data]) => (key, Some(data.clone())),
                _ => (element, None),
            };
            let key = key.pointer("/elem/val").unwrap_or(key);
            found.push((set["name"].clone(), key.clone(), data));
        }
    }
    found
}

fn command(verb: &str, set: &Value, element: &Value) -> Value {
    json!({ verb: {"element": {
        "family": "inet", "table": "autoport", "name": set, "elem": [element],
    }}})
}

#[test]
fn every_element_is_missed() {
    let scene = Scene::new();
    for (set, key, data) in elements() {
        // nft wants a map's element whole, even to delete it.
        let whole = data.map_or_else(|| key.clone(), |data| json!([key, data]));
        scene.notices(&format!("deleting {set} {key}"), || {
            nft_json(&json!([command("delete", &set, &whole)]));
        });
    }
}

#[test]
fn an_element_that_leads_elsewhere_is_noticed() {
    let scene = Scene::new();
    for (set, key, data) in elements() {
        let Some(data) = data else { continue };
        let elsewhere = match data["concat"].as_array() {
            Some(target) => json!({"concat": [target[0], 81]}),
            None => json!({"accept": null}),
        };
        scene.notices(&format!("redirecting {set} {key}"), || {
            nft_json(&json!([
                command("delete", &set, &json!([key, data])),
                command("add", &set, &json!([key, elsewhere])),
            ]));
        });
    }
}

#[test]
fn a_lost_table_is_missed_and_comes_back_with_everybody_in_it() {
    let scene = Scene::new();
    let other = Network::new("green", Main::Bridge, 2, Plugin::Autoport);
    let (_pod, _) = scene.node.attached("other", &other, PortMapping::both(8090, POD_PORT, ""));
    let scene = Scene { intact: ruleset(), ..scene };
    scene.notices("flush ruleset", || nft("flush ruleset"));
    for (port, pod) in [(8080, "web"), (8090, "other")] {
        assert_eq!(scene.node.client_asks(&Probe::tcp(FIRST[0], port)).by(), Some(pod));
    }
    scene.notices("delete table", || nft(&format!("delete table {TABLE}")));
    scene.attachment.plugin_call("DEL").run().success();
    assert_eq!(view::records().len(), 1);
}

/// Not for the first pod of a network alone: a stranger's ADD repairs what it finds broken.
#[test]
fn anybodys_add_brings_a_lost_table_back() {
    let scene = Scene::new();
    nft("flush ruleset");
    let other = Network::new("green", Main::Bridge, 2, Plugin::Autoport);
    let (_pod, _) = scene.node.attached("other", &other, PortMapping::both(8090, POD_PORT, ""));
    scene.attachment.check().success();
    assert_eq!(scene.node.client_asks(&Probe::tcp(FIRST[0], 8080)).by(), Some("web"));
}

/// With `route_localnet` the kernel would let every pod talk to 127.0.0.1 of the node.
#[test]
fn loopback_is_guarded_against_the_pods() {
    let scene = Scene::new();
    let here = address("127.0.0.1");
    let _private = Echo::start("private", &scene.node.here, &[(here, 9999).into()]);
    let neighbour = scene.node.pod("neighbour");
    let mut attachment = neighbour.in_network(&scene.attachment.network);
    scene.node.add(&mut attachment);
    let [gateway, _] = attachment.network.gateway();
    let own = neighbour.address(false);
    neighbour.netns.run(|| {
        sysctl("net/ipv4/conf/all/route_localnet", "1");
        ip(&format!(
            "addr del 127.0.0.1/8 dev lo
             route add 127.0.0.1/32 via {gateway} dev eth0 src {own}"
        ));
    });
    let ask = || {
        let at = |port| [Probe::tcp("127.0.0.1", port), Probe::udp("127.0.0.1", port)];
        let probes = [at(9999), at(8081)].concat();
        probes.iter().map(|probe| neighbour.asks(&probe.in_vain())).collect::<Vec<_>>()
    };
    assert_eq!(ask(), vec![Answer::Silence; 4]);
    // The test would see an open door: without the guard the private server answers.
    nft(&format!("flush chain {TABLE} guard"));
    let own = own.to_string();
    assert_eq!(ask()[..2], [Answer::reached("private", &own), Answer::reached("private", &own)]);
}
