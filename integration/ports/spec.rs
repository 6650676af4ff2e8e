//! Ports that a Pod declares in its spec: what the node agent wrote, and an ADD that needs it.

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use serde_json::{Value, json};

use super::choosing::{network, pod};
use crate::stage::agent;
use crate::stage::bare::{annotated, chosen, run, tcp};
use crate::stage::chain::{Attachment, Main, Network};
use crate::stage::node::{FIRST, Node};
use crate::stage::plugin::{Outcome, Plugin};
use crate::stage::probe::Probe;
use crate::stage::view::{STATE, snapshot};

const PORTS: &str = "autoport.cni/ports";
const KUBEWHARF: &str = "pod.kubewharf.kubernetes.io/autoport";
const ALONE: &[(&str, &str)] = &[(KUBEWHARF, "true")];
const BCS: &str = "randhostport.webhook.bkbcs.tencent.com";
const BCS_PORTS: &str = "ports.randhostport.webhook.bkbcs.tencent.com";
const SPEC: &str = "http=80/tcp, game=7777/udp, 9090/tcp";

fn ask(attachment: &Attachment, annotations: &[(&str, &str)]) -> Outcome {
    annotated(attachment, "ADD", annotations).run()
}

/// The ports of the pod `shop/web`, as an agent writes them.
fn declared(ports: &str) -> Value {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    json!({
        "version": 1, "bootId": boot_id.trim_end(),
        "namespace": "shop", "name": "web", "uid": "uid-web", "ports": ports,
    })
}

fn write(text: &str) {
    let folder = Path::new(STATE).join("requests");
    fs::create_dir_all(&folder).expect("/run is ours");
    fs::write(folder.join("new"), text).expect("it is ours");
    fs::rename(folder.join("new"), folder.join("uid-web.json")).expect("it is ours");
}

/// An agent that is connected and follows the Pods of the node, while the result lives.
fn connect() -> Flock<File> {
    fs::create_dir_all(Path::new(STATE).join("requests")).expect("/run is ours");
    agent::beat(Duration::ZERO);
    agent::lead()
}

/// Insists that an ADD is rejected, and quickly if it need not wait.
fn rejected(claim: &Attachment, annotations: &[(&str, &str)], waits: bool, shown: &str) {
    let (before, begun) = (snapshot(), Instant::now());
    let outcome = ask(claim, annotations);
    outcome.failure(11);
    let told = outcome.to_string();
    assert!(told.contains("requests/uid-web.json") && told.contains(shown), "{told}");
    assert!(told.contains("list the ports by number in autoport.cni/ports"), "{told}");
    let took = begun.elapsed();
    assert_eq!(took >= Duration::from_secs(2), waits, "{took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(snapshot(), before, "{annotations:?}");
}

#[test]
fn a_pod_with_kubewharfs_annotation_alone_is_reached_at_its_declared_port() {
    let node = Node::new();
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let blue = blue.with("portRange", "20000-20009");
    write(&declared(SPEC).to_string());
    let web = node.pod("web");
    let mut attachment = web.in_network(&blue).of_pod("shop", "web", "uid-web");
    attachment.attach_main();
    ask(&attachment, ALONE).success();
    assert_eq!(chosen(&attachment), [20000, 20001, 20002], "in the order of the spec");
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 20000)).by(), Some("web"));
    annotated(&attachment, "CHECK", ALONE).run().success();
    let env = fs::read_to_string(Path::new(STATE).join("pods/uid-web/ports.env"));
    let env = env.expect("it is published");
    for line in ["PORT0='20000'", "PORT1='20001'", "AUTOPORT_HOST_PORT_GAME='20001'"] {
        assert!(env.lines().any(|one| one == line), "{line} in\n{env}");
    }
}

#[test]
fn names_are_found_in_the_spec() {
    let node = Node::new();
    let web = pod(&node, &network("20000-20009").with("maxPortsPerPod", 2), "web", 5);
    write(&declared(SPEC).to_string());
    for annotations in [&[(PORTS, "game, http")][..], &[(BCS, "true"), (BCS_PORTS, "game,80")]] {
        ask(&web, annotations).success();
        assert_eq!(chosen(&web).len(), 2, "{annotations:?}");
        run(&web, "DEL").success();
    }
    let unknown = ask(&web, &[(PORTS, "htp")]);
    unknown.failure(7);
    assert!(unknown.message().contains("\"http=80/tcp, game=7777/udp, 9090/tcp\""), "{unknown}");
    // Limits are the same as for a list.
    ask(&web, ALONE).failure(104);
    let elsewhere = network("20000-20009").with("allowedNamespaces", json!(["games"]));
    let web = pod(&node, &elsewhere, "web", 5);
    let outcome = ask(&web, ALONE);
    outcome.failure(104);
    assert!(outcome.message().contains(KUBEWHARF), "{outcome}");
}

#[test]
fn an_add_waits_for_what_an_agent_is_about_to_write() {
    let node = Node::new();
    let web = pod(&node, &network("20000-20009"), "web", 5);
    let _agent = connect();
    let running = annotated(&web, "ADD", ALONE).start();
    thread::sleep(Duration::from_millis(500));
    let late = Instant::now();
    write(&declared(SPEC).to_string());
    running.finish().success();
    assert!(late.elapsed() < Duration::from_secs(1), "{:?}", late.elapsed());
    assert_eq!(chosen(&web), [20000, 20001, 20002]);
}

#[test]
fn an_add_that_waits_in_vain_says_for_what() {
    let node = Node::new();
    let web = pod(&node, &network("20000-20009"), "web", 5);
    rejected(&web, ALONE, false, "no agent that reaches Kubernetes is connected");
    rejected(&web, &[(PORTS, "http")], false, "no agent that reaches Kubernetes is connected");
    let agent = connect();
    rejected(&web, ALONE, true, "it did not come within 2 s");
    // A patched kubelet may have filled the Pod, which the agent would say.
    let fixed = web.clone().mapping([tcp(30000)]);
    rejected(&fixed, ALONE, true, "it did not come within 2 s");
    drop(agent);
    ask(&fixed, ALONE).success();
}

#[test]
fn a_file_that_is_not_this_pods_is_never_used() {
    let node = Node::new();
    let web = pod(&node, &network("20000-20009"), "web", 5);
    let _agent = connect();
    let with = |key: &str, value: Value| {
        let mut file = declared(SPEC);
        file[key] = value;
        file.to_string()
    };
    for (text, shown) in [
        (with("uid", json!("uid-other")), "it is of Pod shop/web (uid-other)"),
        (with("namespace", json!("bank")), "it is of Pod bank/web (uid-web)"),
        (with("version", json!(9)), "layout version 9"),
        (with("ports", json!(["80/tcp"])), "does not hold a record"),
        (with("ports", json!("80/tcp")).replace('}', ""), "does not hold a record"),
        (String::new(), "does not hold a record"),
    ] {
        write(&text);
        rejected(&web, ALONE, false, shown);
    }
    write(&with("bootId", json!("earlier")));
    rejected(&web, ALONE, true, "it did not come within 2 s");
}

#[test]
fn a_sandbox_that_is_made_again_gets_the_same_numbers() {
    let node = Node::new();
    let blue = network("20000-20009");
    write(&declared(SPEC).to_string());
    let first = pod(&node, &blue, "web", 5);
    ask(&first, ALONE).success();
    let ports = chosen(&first);
    // The agent has meanwhile written on the Pod what it got.
    let status = ("autoport.cni/status", "{\"version\":1}");
    let again = Attachment { container_id: "web-2".to_owned(), ..first.clone() };
    ask(&again, &[ALONE[0], status]).success();
    assert_eq!(chosen(&again), ports);
}

#[test]
fn a_pod_that_does_not_need_its_spec_does_not_look_for_it() {
    const OUTPUT: &str = "/run/strace";
    let node = Node::new();
    let web = pod(&node, &network("20000-20009"), "web", 5);
    let _agent = connect();
    write(&declared(SPEC).to_string());
    for (annotations, looks) in [
        (&[(PORTS, "http=80"), (KUBEWHARF, "true")][..], false),
        (&[(BCS, "true"), (BCS_PORTS, "80")], false),
        (ALONE, true),
    ] {
        let call = annotated(&web, "ADD", annotations);
        call.under(&["strace", "-f", "-s", "4096", "-o", OUTPUT]).run().success();
        let text = fs::read_to_string(OUTPUT).expect("strace wrote it");
        for word in ["/requests", "agent.lock", "agent.json"] {
            assert!(!text.contains(word) || looks, "{word} for {annotations:?}:\n{text}");
        }
        assert_eq!(text.contains("/requests/uid-web.json"), looks, "{annotations:?}");
        run(&web, "DEL").success();
    }
}
