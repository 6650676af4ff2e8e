//! containerd 1.6, 1.7 and 2.1 from Debian 12, 13 and sid, driven by the CRI as a kubelet does.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::{Containerd, Release};
use crate::machine::{install, published, wait_until};
use crate::recording::{assert_recorded, calls, commands};
use crate::stage::chain::Network;
use crate::stage::node::FIRST;
use crate::stage::probe::Transport;
use crate::stage::view::assert_nothing_held;

/// The host port that the pod web was told for its port called game.
fn chosen() -> u16 {
    let told = published("uid-web");
    let ports = told["ports"].as_array().expect("a list");
    let game = ports.iter().find(|port| port["name"] == "game").expect("there is a game port");
    game["hostPort"].as_u64().and_then(|port| port.try_into().ok()).expect("a port")
}

/// What is left of pods in the namespace folder and in host-local's.
fn left(folder: &str, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn same(network: Network) -> Network {
    network
}

fn port_mappings_and_annotation(release: Release) {
    let containerd = Containerd::new(release, same);
    let web = containerd.runs(&containerd.web(0));
    containerd.machine.assert_reached("web", Transport::Tcp, 8080);
    for transport in Transport::BOTH {
        containerd.machine.assert_reached("web", transport, chosen());
    }
    let game = chosen();
    let held = [format!("{game}/tcp"), format!("{game}/udp"), "8080/tcp".to_owned()];
    assert_eq!(containerd.machine.held(), held);
    containerd.ends(&[&web]);
    containerd.machine.assert_refused(8080);
    containerd.machine.assert_refused(game);
    assert!(!Path::new("/run/autoport/pods/uid-web").exists());
}

fn a_new_sandbox_of_the_same_pod_keeps_its_ports(release: Release) {
    let containerd = Containerd::new(release, same);
    let first = containerd.runs(&containerd.web(0));
    let game = chosen();
    containerd.does("stop", &first);
    // Another pod comes in between, and would take what is free.
    let mut other = containerd.pod("other", 0);
    other["annotations"] = json!({"autoport.cni/ports": "80"});
    let other = containerd.runs(&other);
    let second = containerd.runs(&containerd.web(1));
    assert_eq!(chosen(), game);
    containerd.machine.assert_reached("web", Transport::Udp, game);
    // The kubelet did not come to stop this one.
    let third = containerd.runs(&containerd.web(2));
    assert_eq!(chosen(), game);
    // The late DEL of an older sandbox does not touch what is the newer one's.
    containerd.does("stop", &second);
    containerd.does("remove", &first);
    containerd.machine.assert_reached("web", Transport::Tcp, 8080);
    containerd.ends(&[&second, &other, &third].map(String::as_str));
}

fn stopping_twice_and_removing(release: Release) {
    let containerd = Containerd::new(release, same);
    let web = containerd.runs(&containerd.web(0));
    containerd.does("stop", &web);
    assert_nothing_held();
    containerd.machine.assert_refused(8080);
    containerd.does("stop", &web);
    containerd.does("remove", &web);
    containerd.does("remove", &web);
    let dels = ["DEL"; 3].map(str::to_owned);
    let calls = calls();
    let commands: Vec<_> = calls.iter().map(|call| call.command().to_owned()).collect();
    assert_eq!(commands, [&["ADD".to_owned()][..], &dels].concat());
    // The namespace is gone by then, and so is the result.
    assert_eq!(calls[3].environment["CNI_NETNS"], "");
    assert_nothing_held();
}

fn a_restart_with_pods_running(release: Release) {
    let mut containerd = Containerd::new(release, same);
    let web = containerd.runs(&containerd.web(0));
    let (held, game) = (containerd.machine.held(), chosen());
    commands();
    containerd.machine.assert_reached("web", Transport::Tcp, 8080);
    containerd.stops("-TERM");
    let meanwhile = containerd.machine.answers(Transport::Tcp, 8080);
    assert!(meanwhile.iter().all(|answer| answer.by() == Some("web")), "{meanwhile:?}");
    containerd.starts();
    let made = commands();
    assert!(made.iter().all(|command| command == "STATUS"), "of the pods nobody is told: {made:?}");
    containerd.machine.assert_reached("web", Transport::Udp, game);
    assert_eq!(containerd.machine.held(), held);
    containerd.ends(&[&web]);
    containerd.machine.assert_refused(8080);
}

fn network_ready(release: Release) {
    let containerd = Containerd::new(release, |network| network.with("portRange", "20000-20000"));
    assert_eq!(containerd.condition("NetworkReady"), (true, String::new()));
    let web = containerd.runs(&containerd.web(0));
    assert_eq!(chosen(), 20_000);
    // The range is full: that is the next pod's trouble, not the node's.
    assert_eq!(containerd.condition("NetworkReady"), (true, String::new()));
    let mut other = containerd.pod("other", 0);
    other["annotations"] = json!({"autoport.cni/ports": "80"});
    let (ok, text) = containerd.cri("run", &other.to_string());
    assert!(!ok && text.contains("OutOfHostPort"), "{text}");
    // Without CAP_NET_ADMIN the plugin cannot reach nf_tables.
    install("/usr/bin/setpriv --bounding-set -net_admin --inh-caps -net_admin");
    commands();
    let (ready, message) = containerd.condition("NetworkReady");
    if release == Release::Sid {
        assert!(!ready, "nf_tables is out of reach: {message}");
        let ours = ["host ports cannot be mapped on this node", "Operation not permitted"];
        assert!(ours.iter().all(|part| message.contains(part)), "{message}");
        assert_eq!(commands(), ["STATUS"]);
    } else {
        assert_eq!((ready, commands()), (true, Vec::new()), "its libcni does not know STATUS");
    }
    install("");
    wait_until("the network is ready again", || containerd.condition("NetworkReady").0);
    containerd.ends(&[&web]);
}

fn a_host_network_sandbox_makes_no_call(release: Release) {
    let containerd = Containerd::new(release, same);
    let mut config = containerd.pod("host", 0);
    config["hostname"] = json!("");
    config["port_mappings"] = json!([{"host_port": 80, "container_port": 80}]);
    config["annotations"] = json!({"autoport.cni/ports": "80"});
    config["linux"]["security_context"] = json!({"namespace_options": {"network": "NODE"}});
    let host = containerd.runs(&config);
    let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("it has a name");
    containerd.machine.assert_reached(name.trim(), Transport::Tcp, 80);
    containerd.does("stop", &host);
    containerd.does("remove", &host);
    assert_eq!(commands(), [""; 0]);
    assert_nothing_held();
}

fn a_failed_add_leaves_nothing(release: Release) {
    let containerd = Containerd::new(release, same);
    let web = containerd.runs(&containerd.web(0));
    let held = containerd.machine.held();
    let (addresses, namespaces) = ("/var/lib/cni/networks/blue", "/run/netns");
    let before = (left(addresses, "10."), left(namespaces, "cni-"));
    assert_eq!((before.0.len(), before.1.len()), (1, 1));
    commands();
    let mut other = containerd.pod("other", 0);
    other["port_mappings"] = json!([
        {"host_port": 8079, "container_port": 80},
        {"host_port": 8080, "container_port": 80, "host_ip": FIRST[0]},
    ]);
    other["annotations"] = json!({"autoport.cni/ports": "81"});
    let (ok, text) = containerd.cri("run", &other.to_string());
    assert!(!ok && text.contains("8080") && text.contains("shop/web"), "{text}");
    assert_eq!(commands(), ["ADD", "DEL"]);
    assert_eq!(containerd.machine.held(), held);
    containerd.machine.assert_refused(8079);
    assert_eq!((left(addresses, "10."), left(namespaces, "cni-")), before);
    let list: Value = serde_json::from_str(&containerd.does("list", "")).expect("JSON");
    let running = list["items"].as_array().expect("a list");
    assert_eq!(running.len(), 1, "{list}");
    // Once there is room, the same pod gets what it asked for.
    containerd.ends(&[&web]);
    let other = containerd.runs(&other);
    containerd.machine.assert_reached("other", Transport::Tcp, 8079);
    containerd.ends(&[&other]);
}

/// Their libcni knows the specification up to 1.0.0, and says so only when the main plugin has run.
#[test]
fn before_2_a_network_of_version_1_1_fails_each_pod() {
    for release in [Release::Bookworm, Release::Trixie] {
        let containerd = Containerd::new(release, |network| network.speaking("1.1.0"));
        let (ok, text) = containerd.cri("run", &containerd.web(0).to_string());
        assert!(!ok && text.contains(r#"unsupported CNI result version "1.1.0""#), "{text}");
        assert_eq!(commands(), ["DEL"]);
        assert_nothing_held();
        assert_eq!(containerd.machine.held(), [""; 0]);
    }
}

fn what_containerd_sends(release: Release) {
    let containerd = Containerd::new(release, same);
    let mut web = containerd.web(0);
    let mappings = web["port_mappings"].as_array_mut().expect("a list");
    mappings.push(
        json!({"host_port": 8053, "container_port": 80, "protocol": "UDP", "host_ip": FIRST[0]}),
    );
    mappings.push(json!({"host_port": 5000, "container_port": 80, "protocol": "SCTP"}));
    let web = containerd.runs(&web);
    let plain = containerd.runs(&containerd.pod("plain", 0));
    if release == Release::Sid {
        containerd.condition("NetworkReady");
    }
    containerd.ends(&[&web, &plain]);
    let version = containerd.machine.run("containerd", &["--version"]);
    let version = version.split_whitespace().nth(2).unwrap_or_default();
    assert_recorded("containerd", version, calls());
}

on_releases!(bookworm Bookworm, trixie Trixie, sid Sid: (
    port_mappings_and_annotation,
    a_new_sandbox_of_the_same_pod_keeps_its_ports,
    stopping_twice_and_removing,
    a_restart_with_pods_running,
    network_ready,
    a_host_network_sandbox_makes_no_call,
    a_failed_add_leaves_nothing,
    what_containerd_sends,
));
