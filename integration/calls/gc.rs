//! GC, STATUS and VERSION: the commands that do not concern a single container.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::stage::bare::{self, add, attachment, network, run, tcp};
use crate::stage::chain::{Attachment, Network};
use crate::stage::netns::{full_ruleset, ip, nft};
use crate::stage::node::Node;
use crate::stage::operator::{autoport, told};
use crate::stage::plugin::{Call, Outcome, Plugin};
use crate::stage::view::{self, STATE, snapshot};

fn call(command: &str, config: &Value) -> Call {
    Call::new(Plugin::Autoport.path(), command).stdin(config.to_string())
}

fn config(network: &Network) -> Value {
    let mut config = network.entry();
    config["name"] = json!(network.name);
    config["cniVersion"] = json!(network.version);
    config
}

/// Runs GC for network blue with these keys.
fn gc(keys: &Value) -> Outcome {
    let mut config = config(&network("blue"));
    for (key, value) in keys.as_object().expect("an object") {
        config[key] = value.clone();
    }
    call("GC", &config).run()
}

fn entry(id: &str) -> Value {
    json!({"containerID": id, "ifname": "eth0"})
}

/// Three pods of network blue, one of them without its namespace, and one pod of network green.
struct Scene {
    node: Node,
    pods: Vec<Attachment>,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new();
        ip("netns add gone");
        let names = [("blue", "a"), ("blue", "b"), ("blue", "c"), ("green", "d")];
        let pods: Vec<_> = (0..4_u16)
            .zip(names)
            .map(|(number, (name, id))| {
                let mut pod = attachment(&node, &network(name), id, 5 + number);
                if id == "c" || id == "d" {
                    "/run/netns/gone".clone_into(&mut pod.netns);
                }
                let pod = pod.mapping([tcp(8080 + number)]);
                add(&node, &pod);
                pod
            })
            .collect();
        ip("netns del gone");
        Self { node, pods }
    }

    /// Insists that just these are left, on disk and in the kernel.
    fn assert_left(&self, what: &str, ids: &str) {
        for pod in &self.pods {
            let outcome = pod.check();
            let left = ids.contains(&pod.container_id);
            assert_eq!(outcome.status.success(), left, "{what}, {}: {outcome}", pod.container_id);
        }
        assert_eq!(view::records().len(), ids.len(), "{what}");
        assert_eq!(view::index().len(), 2 * ids.len(), "{what}");
        assert_eq!(view::elements().len(), 4 * ids.len(), "{what}");
    }
}

#[test]
fn gc_keeps_what_is_valid_in_its_own_network() {
    const VALID: &str = "cni.dev/valid-attachments";
    const OLD: &str = "cni.dev/attachments";
    let scene = Scene::new();
    let cases = [
        (json!({VALID: [entry("a"), entry("c")]}), "acd"),
        (json!({OLD: [entry("b")]}), "bd"),
        (json!({VALID: [entry("a")], OLD: [entry("b")]}), "abd"),
        (json!({VALID: [], OLD: null}), "d"),
        (json!({VALID: null}), "d"),
        (json!({VALID: [{"containerID": "a", "ifname": "eth1"}]}), "d"),
        // Nothing was said, so only evidence counts.
        (json!({}), "abd"),
        // A list that nobody understands is no list.
        (json!({VALID: "none"}), "abd"),
        (json!({VALID: [5]}), "abd"),
    ];
    for (keys, left) in cases {
        view::an_hour_passes();
        let outcome = gc(&keys);
        assert!(outcome.status.success() && outcome.stdout.is_empty(), "{keys}: {outcome}");
        scene.assert_left(&keys.to_string(), left);
        for pod in &scene.pods {
            ip("netns add gone");
            add(&scene.node, pod);
            ip("netns del gone");
        }
    }
}

#[test]
fn gc_clears_away_what_nobody_recorded() {
    let scene = Scene::new();
    nft("add element inet autoport ports4 { tcp . 9999 : 10.1.0.9 . 80 }");
    fs::create_dir_all(format!("{STATE}/ports/tcp/9999")).expect("the directory is ours");
    let nobody = "../../../attachments/blue:nobody:eth0.json";
    symlink(nobody, format!("{STATE}/ports/tcp/9999/0.0.0.0")).expect("the directory is ours");
    let unreadable = Path::new(STATE).join("attachments/blue:a:eth0.json");
    fs::write(unreadable, "{").expect("the record is ours");
    gc(&json!({"cni.dev/valid-attachments": [entry("b")]})).success();
    scene.assert_left("GC", "bd");
}

#[test]
fn a_stray_file_in_the_store_keeps_nothing() {
    let scene = Scene::new();
    for directory in ["containers", "namespaces", "ports/tcp"] {
        let directory = Path::new(STATE).join(directory);
        fs::create_dir_all(&directory).expect("making a directory");
        fs::write(directory.join("stray"), "{").expect("writing");
    }
    view::an_hour_passes();
    let outcome = gc(&json!({"cni.dev/valid-attachments": [entry("a")]}));
    assert!(outcome.status.success() && !outcome.stderr.contains("stray"), "{outcome}");
    scene.assert_left("GC", "ad");
    let collected = told(&["gc"]);
    assert!(collected.contains("1 removed, 1 kept"), "{collected}");
    let repaired = told(&["repair"]);
    assert!(repaired.contains("equals the records of 1 attachments"), "{repaired}");
}

/// `nerdctl compose` creates a network and a subnet for each project. The chains and sets of deleted
/// networks are removed, those in use stay.
#[test]
fn gc_clears_away_the_chains_and_sets_of_networks_that_are_gone() {
    let node = Node::new();
    let plain = network("blue");
    let gated = network("gated")
        .with("sourceRanges", json!(["192.0.2.0/24", "2001:db8::/32"]))
        .with("hostAddresses", json!(["192.0.2.0/24"]))
        .with("markMasqBit", 9);
    let lasting = attachment(&node, &plain, "web", 5).mapping([tcp(8080)]);
    add(&node, &lasting);
    let (before, works) = (view::table().len(), || run(&lasting, "CHECK").success());
    let come_and_go = || {
        for number in 0..5_u16 {
            let network = if number == 4 { &gated } else { &plain };
            let id = format!("c{number}");
            let mut one = attachment(&node, network, &id, 50).mapping([tcp(9000 + number)]);
            let own = [format!("10.77.{number}.2/24"), format!("fd00:77:{number}::2/64")];
            one.result = Some(bare::result("1.1.0", &own));
            add(&node, &one);
            run(&one, "DEL").success();
        }
        assert!(view::table().len() > before + 5 * 9, "what it is about");
    };
    for (clear, is_reloaded) in [(&["gc"][..], false), (&["repair"], false), (&["gc"], true)] {
        come_and_go();
        // nft keeps no user data.
        if is_reloaded {
            nft(&format!("flush ruleset\n{}", full_ruleset()));
        }
        let (_, stdout, notes) = autoport(clear);
        let said = format!("{stdout}{notes}");
        assert!(is_reloaded || said.contains("without a host port"), "{said}");
        assert_eq!(view::table().len(), before, "{clear:?}");
        works();
        let again = told(&["repair"]);
        assert!(again.contains("equals the records"), "{again}");
    }
    // The runtime's own, and then a pod of a network whose chains are gone.
    come_and_go();
    gc(&json!({"cni.dev/valid-attachments": [entry("web")]})).success();
    assert_eq!(view::table().len(), before);
    let one = attachment(&node, &gated, "late", 60).mapping([tcp(9100)]);
    add(&node, &one);
    run(&one, "CHECK").success();
    works();
}

#[test]
fn gc_without_a_store_makes_none() {
    let _node = Node::new();
    gc(&json!({"cni.dev/valid-attachments": []})).success();
    assert!(!Path::new(STATE).exists());
}

#[test]
fn status_fails_only_when_add_would() {
    let node = Node::new();
    let status = |network: &Network| call("STATUS", &config(network)).run();
    let plain = network("blue");
    assert_eq!(status(&plain).success(), Value::Null);
    assert!(!Path::new(STATE).exists(), "STATUS makes nothing");
    let web = attachment(&node, &plain, "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let before = snapshot();
    assert_eq!(status(&plain).success(), Value::Null);
    assert_eq!(snapshot(), before, "STATUS changes nothing");
    fs::write("/run/file", "").expect("/run is ours");
    symlink(STATE, "/run/link").expect("/run is ours");
    for unusable in ["/run/file", "/run/link", "/run/file/below"] {
        let outcome = status(&plain.clone().with("stateDir", unusable));
        outcome.failure(50);
        let details = outcome.reply.as_ref().and_then(|reply| reply["details"].as_str());
        assert!(details.is_some_and(|details| details.contains(&unusable[..9])), "{outcome}");
    }
    // Another node's store, of a namespace of its own.
    let outcome = node.client.run(|| status(&plain));
    outcome.failure(50);
}

#[test]
fn version_is_told_whatever_is_asked() {
    let node = Node::new();
    let all = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    let asks = [
        (
            Call::new(Plugin::Autoport.path(), "VERSION").stdin("{\"cniVersion\":\"1.0.0\"}"),
            "1.0.0",
        ),
        (
            Call::new(Plugin::Autoport.path(), "VERSION").stdin("{\"cniVersion\":\"9.9.9\"}"),
            "9.9.9",
        ),
        (Call::new(Plugin::Autoport.path(), "VERSION").stdin(""), "1.1.0"),
        (Call::new(Plugin::Autoport.path(), "VERSION").stdin("nonsense"), "1.1.0"),
        (Call::new(Plugin::Autoport.path(), "VERSION").without("CNI_PATH"), "1.1.0"),
    ];
    for (ask, version) in asks {
        let reply = ask.run().success();
        assert_eq!(reply, json!({"cniVersion": version, "supportedVersions": all}));
    }
    for (command, since) in [("GC", "1.1.0"), ("STATUS", "1.1.0"), ("CHECK", "0.4.0")] {
        for version in all.into_iter().filter(|version| *version < since) {
            let mut config = config(&network("blue"));
            config["cniVersion"] = json!(version);
            let mut call = call(command, &config);
            for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
                call = call.env(name, "x");
            }
            let outcome = call.run();
            outcome.failure(1);
            assert_eq!(outcome.reply.expect("JSON")["cniVersion"], version);
        }
    }
    assert!(!Path::new(STATE).exists(), "nothing was made");
    let web = Attachment::new(&network("blue"), "web", &node.client);
    let outcome = run(&web, "UPDATE");
    outcome.failure(4);
}
