//! CHECK reports the loss or change of every single part of the table, and the next ADD restores
//! it.

use std::process::Command;

use serde_json::{Value, json};

use crate::stage::bare::{self, tcp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::echo::Echo;
use crate::stage::netns::{ip, nft, ruleset, run, sysctl};
use crate::stage::node::{FIRST, Node, POD_PORT, Pod, SECOND, address};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe};
use crate::stage::view::{self, table};

const TABLE: &str = "inet autoport";

/// A pod with every kind of mapping, and what the kernel has for it.
pub(crate) struct Scene {
    pub(crate) node: Node,
    _pod: Pod,
    pub(crate) attachment: Attachment,
    pub(crate) intact: String,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let node = Node::new();
        let network = Network::new("blue", Main::Bridge, 1, Plugin::Autoport)
            .with(
                "sourceRanges",
                json!(["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32", "fd00::/8"]),
            )
            .with("hostAddresses", json!(["192.0.2.0/24", "127.0.0.0/8", "2001:db8::/32"]));
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
pub(crate) fn parts(kind: &str) -> Vec<Value> {
    table().into_iter().filter_map(|part| part.get(kind).cloned()).collect()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("nft names parts with strings")
}

/// Feeds nft its own kind of JSON: elements, unlike rules, have no handle in a script.
pub(crate) fn nft_json(commands: &Value) {
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
        let has_rules = parts("rule").iter().any(|rule| rule["chain"] == chain["name"]);
        if has_rules {
            let flush = || nft(&format!("flush chain {TABLE} {name}"));
            scene.notices(&format!("flushing {name}"), flush);
        }
        if chain.get("hook").is_some() || !has_rules {
            scene.notices(&format!("deleting {name}"), || {
                nft(&format!("flush chain {TABLE} {name}\ndelete chain {TABLE} {name}"));
            });
        }
    }
}

/// An element's set, its key, and what it leads to, in nft's JSON.
pub(crate) fn elements() -> Vec<(Value, Value, Option<Value>)> {
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

pub(crate) fn command(verb: &str, set: &Value, element: &Value) -> Value {
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
        let elsewhere = json!({"concat": [data["concat"][0], 81]});
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
    // Chains and rules stand in the order in which they came until the table is built again.
    nft("flush ruleset");
    scene.attachment.plugin_call("ADD").run().success();
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
    nft(&format!("flush chain {TABLE} guard\nflush chain {TABLE} guard_input"));
    let own = own.to_string();
    assert_eq!(ask()[..2], [Answer::reached("private", &own), Answer::reached("private", &own)]);
}

/// A stranger's command knows nothing of this network: the chains say themselves how many rules
/// they have.
#[test]
fn anybodys_command_restores_every_chain_and_rule() {
    let scene = Scene::new();
    let stranger = bare::network("stranger");
    let stranger = bare::attachment(&scene.node, &stranger, "stranger", 200).mapping([tcp(9090)]);
    let chains: Vec<String> = parts("chain").iter().map(|c| text(&c["name"]).to_owned()).collect();
    let rules = parts("rule").len();
    let has_rules =
        |chain: &&String| parts("rule").iter().any(|rule| text(&rule["chain"]) == **chain);
    let flushes = chains.iter().filter(has_rules);
    let flushes = flushes.map(|chain| format!("flush chain {TABLE} {chain}"));
    let inserts = chains.iter().map(|chain| format!("insert rule {TABLE} {chain} accept"));
    let mut damages: Vec<_> = flushes.chain(inserts).map(Some).collect();
    damages.resize(damages.len() + rules, None);
    for (number, damage) in damages.iter().enumerate() {
        // A repaired table has new handles, so a rule is known by its number.
        let damage = damage.clone().unwrap_or_else(|| {
            let rule = parts("rule").swap_remove(number - (damages.len() - rules));
            format!("delete rule {TABLE} {} handle {}", text(&rule["chain"]), rule["handle"])
        });
        let command = if number % 2 == 0 { "ADD" } else { "DEL" };
        if command == "DEL" {
            bare::add(&scene.node, &stranger);
        }
        nft(&damage);
        let outcome = bare::run(&stranger, command);
        assert!(outcome.status.success(), "{command} after {damage}: {outcome}");
        assert!(outcome.stderr.contains("built table"), "{command} after {damage}: {outcome}");
        // The stranger's own chains are there besides, and what leads to them.
        let restored = ruleset();
        let parts = scene.intact.trim_end_matches("}\n").split("\n\n");
        let chains = parts.filter(|part| part.starts_with("\tchain "));
        let is_entered = |part: &&str| {
            ["prerouting", "output", "hostports6"]
                .iter()
                .any(|name| part.starts_with(&format!("\tchain {name} ")))
        };
        let (entered, mut others): (Vec<_>, Vec<_>) = chains.partition(is_entered);
        assert_eq!(entered.len(), 3, "{}", scene.intact);
        let mut lines = entered.iter().flat_map(|part| part.lines());
        assert!(lines.all(|line| restored.contains(line)), "{command} after {damage}: {restored}");
        others.retain(|part| !restored.contains(part));
        assert!(others.is_empty(), "{command} after {damage}: {others:?} of {restored}");
        scene.attachment.check().success();
        bare::run(&stranger, "DEL").success();
    }
}

/// An element without a record can take the packets of a claim only in certain sets; CHECK examines them.
#[test]
fn a_foreign_element_that_takes_its_packets_is_noticed() {
    let scene = Scene::new();
    let other = bare::network("other");
    let other = bare::attachment(&scene.node, &other, "other", 200).mapping([tcp(9090)]);
    bare::add(&scene.node, &other);
    let mut nets: Vec<String> =
        parts("chain").iter().map(|c| text(&c["name"]).to_owned()).collect();
    nets.retain(|name| name.starts_with("net_"));
    assert_eq!(nets.len(), 2, "one of each network");
    let held = |set: &str| nets.iter().map(|net| net.replace("net", set)).collect::<Vec<_>>();
    let own = &scene.intact;
    let of_other = held("held4").into_iter().find(|set| !own.contains(set)).expect("a set");
    let of_other6 = of_other.replace("held4", "held6");
    let [host4, host6] = [held("host_held4"), held("host_held6")];
    for (set, element) in [
        (&*of_other, "tcp . 8080"),
        (&of_other6, "udp . 8080"),
        (&host4[0], "192.0.2.2 . tcp . 8080"),
        (&host4[1], "192.0.2.2 . tcp . 8080"),
        (&host6[0], "2001:db8:0:1::1 . udp . 8080"),
        ("host_ports4", "192.0.2.77 . udp . 8080 timeout 1h : 10.1.0.9 . 80"),
        ("host_ports6", "2001:db8:0:1::1 . tcp . 8080 : fd00:1::9 . 80"),
    ] {
        nft(&format!("add element {TABLE} {set} {{ {element} }}"));
        let outcome = scene.attachment.check();
        assert!(outcome.failure(120).message().contains(set), "{set}: {outcome}");
        let key = element.split(" : ").next().unwrap_or_default().replace(" timeout 1h", "");
        let data = element.split_once(" : ").map_or(String::new(), |(_, data)| format!(": {data}"));
        nft(&format!("delete element {TABLE} {set} {{ {key} {data} }}"));
        scene.attachment.check().success();
    }
    // Somebody else's ports are none of its business.
    nft(&format!("add element {TABLE} {} {{ 192.0.2.1 . tcp . 9999 }}", host4[0]));
    scene.attachment.check().success();
}

/// After an upgrade of the plugin nothing is wrong with the table of the version before. The next
/// command that changes something replaces it.
#[test]
fn an_intact_older_layout_passes_check() {
    let scene = Scene::new();
    let older = scene.intact.replace("layout 4", "layout 3");
    let older = older.replace("chain guard {", "chain ancient {\n\t}\n\n\tchain guard {");
    nft(&format!("flush ruleset\n{older}"));
    scene.attachment.check().success();
    assert!(ruleset().contains("chain ancient"), "CHECK changes nothing");
    let target = "10.1.0.2 . 80";
    // It had no maps of networks with gates.
    let key = "tcp . 8080";
    nft(&format!("delete element {TABLE} gated_ports4 {{ {key} : {target} }}"));
    nft(&format!("add element {TABLE} ports4 {{ {key} : {target} }}"));
    scene.attachment.check().success();
    nft(&format!("delete element {TABLE} ports4 {{ {key} : {target} }}"));
    assert!(scene.attachment.check().failure(120).message().contains("ports4"));
    scene.attachment.plugin_call("ADD").run().success();
    assert_eq!(ruleset(), scene.intact);
}
