//! libcni 1.3 as its own tools drive it: what it sends. What comes of it is in
//! `integration/calls/libcni.rs`.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::machine::{CONFIGURATIONS, Machine, PLUGINS, configure};
use crate::recording::{assert_recorded, calls};
use crate::stage::chain::{Main, Network, PortMapping};
use crate::stage::plugin::{Plugin, tool};
use crate::stage::view::assert_nothing_held;

/// The version that `integration/setup.sh` noted when it built the tools.
fn version() -> String {
    let stamp = fs::read_to_string(tool("stamps/libcni")).expect("the stamp of libcni");
    stamp.lines().nth(1).expect("a version").to_owned()
}

#[test]
fn what_libcni_sends() {
    let mut machine = Machine::new("bookworm");
    let ports = [PortMapping::both(8080, 80, ""), PortMapping::both(9090, 81, "192.0.2.2")];
    machine.environment = vec![
        ("NETCONFPATH", CONFIGURATIONS.to_owned()),
        ("CNI_PATH", PLUGINS.to_owned()),
        ("CAP_ARGS", json!({"portMappings": ports.concat()}).to_string()),
    ];
    let [cnitool, libcni]: [PathBuf; 2] = ["bin/cnitool", "bin/libcni"].map(tool);
    let cnitool = |verb| {
        machine.run(&cnitool.to_string_lossy(), &[verb, "blue", "/run/netns/web"]);
    };
    let libcni = |words: &[&str]| machine.run(&libcni.to_string_lossy(), words);
    machine.run("ip", &["netns", "add", "web"]);
    let at = |version| {
        configure(&Network::new("blue", Main::Bridge, 1, Plugin::Autoport).speaking(version));
    };
    at("0.3.1");
    cnitool("add");
    cnitool("del");
    at("0.4.0");
    cnitool("add");
    cnitool("check");
    cnitool("del");
    at("1.1.0");
    for verb in ["status", "add", "check", "gc"] {
        cnitool(verb);
    }
    for id in ["one", "two"] {
        let ports = json!({"portMappings": PortMapping::both(if id == "one" { 8081 } else { 8082 }, 80, "")});
        let attachment = ["add", "-net", "blue", "-id", id, "-netns", "/run/netns/web"];
        let more = [
            "-ifname",
            id,
            "-args",
            "K8S_POD_NAME=web;IgnoreUnknown=1",
            "-cap",
            &ports.to_string(),
        ];
        libcni(&[&attachment[..], &more].concat());
    }
    libcni(&["gc", "-net", "blue", "-valid", "two:two"]);
    assert_eq!(machine.held(), ["8082/tcp", "8082/udp"]);
    // The results are lost, and so is what the network was asked for.
    fs::remove_dir_all("/var/lib/cni/results").expect("libcni has made it");
    machine.environment.retain(|(name, _)| *name != "CAP_ARGS");
    let del = ["del", "-net", "blue", "-id", "two", "-ifname", "two"];
    machine.run(&tool("bin/libcni").to_string_lossy(), &del);
    assert_nothing_held();
    assert_recorded("libcni", &version(), calls());
}
