//! `autoport doctor`: each fault that keeps host ports from working is created; doctor must name
//! it, and its remedy must correct it.

mod configuration;
mod network;
mod others;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::snapshots::assert_snapshots;
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{ip, nft, ruleset, run, sysctl};
use crate::stage::node::{Node, POD_PORT, Pod};
use crate::stage::operator::{autoport, told, under};
use crate::stage::plugin::{DEBIAN, Plugin};

const CONF: &str = "/run/conf";
const BIN: &str = "/run/bin";
const NODE_FILE: &str = "/etc/cni/autoport.json";
const ARGUMENTS: [&str; 7] = ["doctor", "--conf-dir", CONF, "--bin-dir", BIN, "--output", "json"];

/// A node on which nothing is wrong: one pod with port 8080, over TCP and UDP, of either family.
struct Scene {
    node: Node,
    _pod: Pod,
    attachment: Attachment,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new();
        let network = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
        let mappings = PortMapping::both(8080, POD_PORT, "");
        let (pod, attachment) = node.attached("web", &network, mappings);
        fs::create_dir(CONF).expect("a new folder");
        fs::create_dir(BIN).expect("a new folder");
        let scene = Self { node, _pod: pod, attachment };
        scene.restore();
        scene
    }

    /// The files as they should be.
    fn restore(&self) {
        for folder in [CONF, BIN] {
            for entry in fs::read_dir(folder).expect("our folder").flatten() {
                fs::remove_file(entry.path()).expect("our file");
            }
        }
        write("10-blue.conflist", &self.conflist());
        symlink(Plugin::Autoport.path(), format!("{BIN}/autoport")).expect("a link");
        for plugin in ["bridge", "ptp"] {
            symlink(Path::new(DEBIAN).join(plugin), format!("{BIN}/{plugin}")).expect("a link");
        }
    }

    fn conflist(&self) -> Value {
        let mut conflist = self.attachment.network.conflist();
        conflist["plugins"][1]["capabilities"] =
            json!({"portMappings": true, "io.kubernetes.cri.pod-annotations": true});
        conflist
    }

    /// Writes it with something changed in it.
    fn with(&self, change: impl Fn(&mut Value)) {
        let mut conflist = self.conflist();
        change(&mut conflist);
        write("10-blue.conflist", &conflist);
    }

    fn well(&self, when: &str) {
        let report = report();
        self.node.note(format!("{when}: {report:#}"));
        assert_eq!(worst(&report), [0, 0, 0], "{when}: {report:#}");
    }

    /// Does harm, insists that doctor names it, and nothing else as failed; cures it as doctor says.
    fn names(&self, case: &Case<'_>) {
        let Case { harm, check, state, words, cure } = case;
        let name = words[0];
        harm();
        let (status, stdout, stderr) = autoport(&ARGUMENTS);
        let report: Value = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("{name}: {error}: {stdout}{stderr}"));
        self.node.note(format!("{name}: {report:#}"));
        let found = report["findings"].as_array().expect("findings").iter().find(|finding| {
            let text = finding["text"].as_str().unwrap_or_default();
            finding["check"] == **check
                && finding["state"] == **state
                && words.iter().all(|word| text.contains(word))
        });
        let found = found.unwrap_or_else(|| panic!("{name} is not named: {report:#}"));
        assert_eq!(status.code(), Some(if *state == "failed" { 3 } else { 0 }), "{report:#}");
        cure(found["remedy"].as_str().expect("a remedy"));
        self.well(&format!("cured of {name}"));
    }
}

/// What is done to a node, what doctor has to say of it, and what is done about it.
struct Case<'a> {
    harm: &'a dyn Fn(),
    check: &'static str,
    state: &'static str,
    words: &'a [&'a str],
    cure: &'a dyn Fn(&str),
}

fn report() -> Value {
    let (_, stdout, stderr) = autoport(&ARGUMENTS);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
}

fn worst(report: &Value) -> [u64; 3] {
    ["failed", "warnings", "unseen"].map(|number| report[number].as_u64().expect("a number"))
}

fn write(file: &str, content: &Value) {
    fs::write(Path::new(CONF).join(file), content.to_string()).expect("our file");
}

/// Runs what a remedy says, up to the first word of the sentence that is no part of it.
fn obey(remedy: &str) {
    let command = remedy.split(['`', ';', '(']).find(|part| !part.trim().is_empty());
    let command = command.unwrap_or_default().split(", ").next().unwrap_or_default();
    let mut words = command.split_whitespace();
    let name = words.next().unwrap_or_default();
    if name == "autoport" {
        told(&words.collect::<Vec<_>>());
        return;
    }
    if name == "sysctl" {
        let (name, value) = words.nth(1).and_then(|it| it.split_once('=')).expect("name=value");
        sysctl(&name.replace('.', "/"), value);
        return;
    }
    let (ok, text) = run(Command::new(name).args(words), "");
    assert!(ok, "{remedy}: {text}");
}

#[test]
fn a_healthy_node_is_well_and_the_report_fits_a_screen() {
    let scene = Scene::new();
    scene.well("at first");
    let before = ruleset();
    // As the machine that this runs on may have it either way.
    sysctl("net/ipv4/conf/all/rp_filter", "2");
    scene.node.bridges_call_iptables(false);
    assert_snapshots("doctor", 0, &ARGUMENTS[..5]);
    let report = told(&ARGUMENTS[..5]);
    assert_eq!(ruleset(), before, "doctor changes nothing");
    assert!(report.lines().count() <= 24, "{report}");
    assert!(!report.contains('\u{1b}'), "no colours but on a terminal");
}

/// A firewall, a second port mapper, a lost pod, a flushed chain and a misspelt key: all at once.
#[test]
fn everything_that_is_wrong_is_in_one_report() {
    let scene = Scene::new();
    sysctl("net/ipv4/conf/all/rp_filter", "2");
    scene.node.bridges_call_iptables(false);
    let lost = PortMapping::both(8090, POD_PORT, "");
    drop(scene.node.attached("lost", &scene.attachment.network, lost));
    ip("netns del lost");
    // The kernel takes its links away later.
    let bridged =
        || run(Command::new("ip").args(["-o", "link", "show", "type", "bridge_slave"]), "").1;
    let until = Instant::now() + Duration::from_secs(10);
    while bridged().lines().count() > 1 && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    nft("flush chain inet autoport prerouting
         table inet firewall { chain forward { type filter hook forward priority 0; policy drop; }; }");
    sysctl("net/ipv4/ip_forward", "0");
    scene.with(|conf| {
        let plugins = conf["plugins"].as_array_mut().expect("plugins");
        plugins.insert(1, json!({"type": "portmap", "capabilities": {"portMappings": true}}));
        plugins[2]["capabilities"] = json!({"portMappings": true});
    });
    fs::write(NODE_FILE, r#"{"portRang": "20000-24999"}"#).expect("ours");
    assert_snapshots("doctor-faults", 3, &ARGUMENTS[..5]);
}

/// As in the agent's container, which may change tables and may not enter a pod.
#[test]
fn where_no_pod_can_be_entered_packets_are_not_called_lost() {
    let _scene = Scene::new();
    let few = ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all"];
    let (_, stdout, stderr) = under(&few, &ARGUMENTS[..5]);
    assert!(stdout.contains("not seen  packets"), "{stdout}{stderr}");
    assert!(stdout.contains("-> run it as root on the node"), "{stdout}");
    assert!(!stdout.contains("may not reach"), "{stdout}");
}

/// Without any capability, doctor says what it could and what it could not see.
#[test]
fn without_privilege_it_says_what_it_could_not_see() {
    let scene = Scene::new();
    sysctl("net/ipv4/ip_forward", "0");
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let (status, stdout, stderr) = under(&bare, &ARGUMENTS[..5]);
    scene.node.note(format!("without privilege: {stdout}{stderr}"));
    assert_eq!(status.code(), Some(3), "{stdout}{stderr}");
    for words in [
        "not seen  kernel",
        "not seen  table",
        "not seen  FORWARD",
        "not seen  other tables",
        "ok        network",
        "ok        plugin",
        "failed    forwarding",
        "run it as root",
    ] {
        assert!(stdout.contains(words), "{words}: {stdout}");
    }
}
