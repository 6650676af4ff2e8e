//! What the author of a pod, or a machine on the node's network, can try: reach the node's
//! loopback, take the ports of the node's daemons, connect despite `sourceRanges`, inject syntax
//! through names.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::echo::Echo;
use crate::stage::netns::{self, ip, nft, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod, address};
use crate::stage::plugin::{Call, Plugin};
use crate::stage::probe::{Answer, Probe, SILENCE};
use crate::stage::view::{STATE, assert_nothing_held};

const PORT: u16 = 8080;

fn bridged(name: &str) -> Network {
    Network::new(name, Main::Bridge, 1, Plugin::Autoport)
}

fn repair() {
    let call = Call::new(Plugin::Autoport.path(), "").without("CNI_COMMAND").without("CNI_PATH");
    let outcome = call.under(&["sh", "-c", "exec \"$0\" repair"]).run();
    assert!(outcome.status.success(), "{outcome}");
}

/// A UDP socket of the node, on which a packet either arrives or does not.
struct Ear(UdpSocket);

impl Ear {
    fn on(place: (&str, u16)) -> Self {
        let socket = UdpSocket::bind(place).expect("a free port");
        socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
        Self(socket)
    }

    /// Whether it hears what `pod` sends from `source`.
    fn hears(&self, pod: &Pod, source: &str, to: (&str, u16)) -> bool {
        pod.netns.run(|| {
            let socket = UdpSocket::bind((source, 0)).expect("an address of the pod");
            socket.send_to(b"?", to).expect("it is routed");
        });
        self.0.recv_from(&mut [0; 8]).is_ok()
    }
}

/// `route_localnet` is set on the bridge, by ourselves: a pod that routes 127.0.0.0/8 to the node
/// would reach what listens there, or be taken for the node, were it not for the chain `guard`.
#[test]
fn a_pod_does_not_reach_the_nodes_loopback() {
    let node = Node::new();
    let blue = bridged("blue");
    let (pod, _attachment) = node.attached("web", &blue, PortMapping::both(PORT, POD_PORT, ""));
    let setting = fs::read_to_string("/proc/sys/net/ipv4/conf/cni1/route_localnet");
    assert_eq!(setting.expect("a sysctl").trim(), "1", "the door is there");
    // Nothing but the guard is to stand in the way.
    for interface in ["all", "cni1"] {
        sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
        sysctl(&format!("net/ipv4/conf/{interface}/accept_local"), "1");
    }
    let places = [(address("127.0.0.1"), 9999).into(), (address("::1"), 9999).into()];
    let _private = Echo::start("private", &node.here, &places);
    pod.netns.run(|| {
        sysctl("net/ipv4/conf/all/route_localnet", "1");
        let gateway = blue.gateway();
        ip(&format!(
            "addr del 127.0.0.1/8 dev lo
             route add 127.0.0.0/8 via {} dev eth0
             addr add 127.0.0.77/32 dev eth0
             addr del ::1/128 dev lo
             route add ::1/128 via {} dev eth0",
            gateway[0], gateway[1]
        ));
    });
    let own = pod.address(false).to_string();
    let loopback = || {
        let probes = [Probe::tcp("127.0.0.1", 9999), Probe::udp("127.0.0.1", 9999)];
        probes.map(|probe| pod.asks(&probe.from(&own, 0).in_vain()))
    };
    let ear = Ear::on((FIRST[0], 9998));
    let spoofed = || ear.hears(&pod, "127.0.0.77", (FIRST[0], 9998));
    assert_eq!(loopback(), [Answer::Silence, Answer::Silence]);
    assert!(!spoofed(), "the pod passed for the node");

    nft("flush chain inet autoport guard\nflush chain inet autoport guard_input");
    let reached = loopback().map(|answer| answer.by().map(str::to_owned));
    assert_eq!(reached, ["private", "private"].map(|name| Some(name.to_owned())));
    assert!(spoofed(), "nothing but the guard kept it out");
    // The kernel itself drops ::1 that comes by wire, with the guard or without.
    let six = Probe::udp("::1", 9999).from(&pod.address(true).to_string(), 0).in_vain();
    assert_eq!(pod.asks(&six), Answer::Silence);

    repair();
    // What was let in before is a connection by now; these are new ones.
    assert_eq!(loopback(), [Answer::Silence, Answer::Silence]);
    assert!(!spoofed(), "the guard is back");
}

/// An annotation, a `hostPort` and a choice by the node, for the ports of sshd and kubelet.
#[test]
fn the_ports_of_the_nodes_daemons_are_not_given_away() {
    let node = Node::new();
    let _sshd = TcpListener::bind("0.0.0.0:22").expect("a free port");
    let _kubelet = TcpListener::bind("[::]:10250").expect("a free port");
    let asked = |network: Network, what: serde_json::Value| {
        let web = attachment(&node, &network, "web", 5);
        let mut config = web.config();
        config["runtimeConfig"] = what;
        let outcome = web.plugin_call("ADD").stdin(config.to_string()).run();
        node.note(outcome.to_string());
        outcome
    };
    let mapped = |port: u16| json!({"portMappings": [tcp(port)]});
    let annotated = json!({"io.kubernetes.cri.pod-annotations": {"autoport.cni/ports": "a=80"}});
    let zero = mapped(0);
    let plain = || network("blue");
    for port in [22, 10250] {
        let words = asked(plain(), mapped(port));
        assert!(words.failure(103).message().contains(&port.to_string()), "{words}");
        let range = plain().with("portRange", format!("{port}"));
        for choice in [&annotated, &zero] {
            asked(range.clone(), choice.clone()).failure(101);
        }
        // Where nobody listens yet, or it does not matter, the operator's word counts.
        let free = plain().with("hostListeners", "ignore");
        let excluded = free.clone().with("excludePorts", json!(["22", "10250"]));
        asked(excluded.clone(), mapped(port)).failure(104);
        let low = free.with("minPort", 10251);
        asked(low.clone(), mapped(port)).failure(104);
        for closed in [excluded, low] {
            let range = closed.with("portRange", format!("{port}"));
            for choice in [&annotated, &zero] {
                asked(range.clone(), choice.clone()).failure(104);
            }
        }
    }
    assert_nothing_held();
}

/// Ranges of one family permit nothing in the other. They are only as trustworthy as source addresses.
#[test]
fn source_ranges_shut_the_other_family_and_every_neighbour() {
    let node = Node::new();
    let blue = bridged("blue").with("sourceRanges", json!([format!("{}/32", CLIENT[0])]));
    let mut mappings = PortMapping::both(PORT, POD_PORT, "");
    mappings.extend(PortMapping::both(PORT + 1, 8888, ""));
    let (web, _attachment) = node.attached("web", &blue, mappings);
    let (neighbour, _attachment) = node.attached("neighbour", &blue, []);
    let answer = |answer: Answer| answer.by().map(str::to_owned);
    assert_eq!(answer(node.client_asks(&Probe::tcp(FIRST[0], PORT))).as_deref(), Some("web"));
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[1], PORT)), Answer::Refused);
    for family in [0, 1] {
        for probe in [Probe::tcp(FIRST[family], PORT), Probe::udp(FIRST[family], PORT)] {
            assert_eq!(neighbour.asks(&probe), Answer::Refused, "a neighbour");
            assert_eq!(web.asks(&probe), Answer::Refused, "itself");
            assert_eq!(probe.ask(), Answer::Refused, "the node");
        }
    }
    // A pod that sends in the client's name: the node's reverse path filter is what knows better.
    let ear = Ear(web.netns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:8888").expect("a free port");
        socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
        socket
    }));
    neighbour.netns.run(|| ip(&format!("addr add {}/32 dev eth0", CLIENT[0])));
    for (filter, heard) in [("1", false), ("0", true)] {
        for interface in ["all", "cni1"] {
            sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), filter);
        }
        let spoofed = ear.hears(&neighbour, CLIENT[0], (FIRST[0], PORT + 1));
        assert_eq!(spoofed, heard, "rp_filter={filter}");
    }
}

const HOSTILE: [&str; 14] = [
    "\"",
    "a\" : 10.0.0.1 . 22 } ; add rule inet autoport guard accept #",
    "a\nb",
    "a\r\u{1b}[2J\u{7}",
    "../../../../etc/passwd",
    "/etc/passwd",
    "$(touch /run/canary)",
    "`touch /run/canary`",
    "';touch /run/canary;'",
    "a;K8S_POD_UID=../../x",
    "\u{202e}txt.exe",
    "\u{ff0e}\u{ff0e}\u{ff0f}",
    "-rf",
    "%n%s",
];

/// What is listed can be loaded again and is the same; what is sourced runs nothing.
fn assert_harmless(node: &Node) {
    let listed = netns::ruleset();
    node.note(listed.clone());
    nft(&format!("flush ruleset\n{listed}"));
    assert_eq!(netns::ruleset(), listed, "a saved ruleset is another one");
    for pod in fs::read_dir(Path::new(STATE).join("pods")).into_iter().flatten().flatten() {
        let file = pod.path().join("ports.env");
        let script = format!("set -eu; . '{}'; set", file.display());
        let mut shell = Command::new("/bin/sh");
        let (ok, text) = netns::run(shell.args(["-c", &script]), "");
        assert!(ok, "{}: {text}", file.display());
        for line in fs::read_to_string(&file).expect("the file").lines() {
            let (name, value) = line.split_once('=').expect("an assignment");
            let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            assert!(name.chars().all(plain), "{line}");
            let value = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            assert!(value.is_some_and(|value| !value.contains('\'')), "{line}");
        }
    }
    assert!(!Path::new("/run/canary").exists(), "something was run");
    let list = Call::new(Plugin::Autoport.path(), "").without("CNI_COMMAND").without("CNI_PATH");
    let list = list.under(&["sh", "-c", "exec \"$0\" list"]).run().stdout;
    let visible = |c: char| c == '\n' || !c.is_control();
    assert!(list.chars().all(visible), "{list:?}");
}

fn annotated(web: &Attachment) -> Call {
    let mut config = web.config();
    config["runtimeConfig"] = json!({
        "portMappings": web.mappings,
        "io.kubernetes.cri.pod-annotations": {"autoport.cni/ports": "http=81, auto/udp"},
    });
    web.plugin_call("ADD").stdin(config.to_string())
}

/// Kubernetes checks names before a runtime passes them on; other runtimes need not.
#[test]
fn names_of_pods_are_only_names() {
    let node = Node::new();
    let blue = network("blue").with("aliases", json!(["kubewharf", "bcs"]));
    let longest = "a".repeat(253);
    for hostile in HOSTILE.iter().copied().chain([&*longest]) {
        for (namespace, name, uid) in
            [(hostile, "web", "uid"), ("shop", hostile, "uid"), ("shop", "web", hostile)]
        {
            let web = attachment(&node, &blue, "web", 5).mapping([tcp(PORT)]);
            let web = web.of_pod(namespace, name, uid);
            let outcome = annotated(&web).run();
            node.note(outcome.to_string());
            outcome.clone().success();
            let plain = |line: &str| line.chars().all(|c| !c.is_control());
            assert!(outcome.stderr.lines().all(plain), "{outcome}");
            assert_harmless(&node);
            run(&web, "DEL").success();
            assert_nothing_held();
        }
    }
    for outside in ["/run/etc", "/run/x", "/run/passwd", "/etc/ports.env"] {
        assert!(!Path::new(outside).exists(), "{outside}");
    }
    let left = fs::read_dir(Path::new(STATE).join("pods")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "published for somebody who is gone");
}

/// A container that writes into its own directory of published files is read again at the next ADD.
#[test]
fn what_a_container_publishes_is_not_believed() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(PORT)]);
    let web = web.of_pod("shop", "web", "uid");
    annotated(&web).run().success();
    let file = Path::new(STATE).join("pods/uid/ports.json");
    let honest = fs::read_to_string(&file).expect("it is published");
    for hostile in HOSTILE {
        let mut lie: serde_json::Value = serde_json::from_str(&honest).expect("JSON");
        let mut entry = lie["ports"][0].clone();
        entry["name"] = json!(hostile);
        entry["attachment"]["network"] = json!(hostile);
        entry["attachment"]["ifname"] = json!(hostile);
        entry["hostIPs"] = json!(["127.0.0.1"]);
        lie["pod"] = json!({"namespace": hostile, "name": hostile, "uid": hostile});
        lie["ports"].as_array_mut().expect("a list").push(entry);
        fs::write(&file, lie.to_string()).expect("/run is ours");
        annotated(&web).run().success();
        assert_harmless(&node);
    }
    run(&web, "DEL").success();
    assert_nothing_held();
    let config = json!({"cniVersion": "1.1.0", "name": "blue", "type": "autoport",
        "cni.dev/valid-attachments": []});
    web.plugin_call("GC").stdin(config.to_string()).run().success();
    assert!(!file.exists(), "GC withdraws what no record stands for");
}

/// A user who listens on a port blocks it, and the error names the process. Any user can choose the name
/// of a process.
#[test]
fn the_name_of_a_listening_process_is_only_a_name() {
    let node = Node::new();
    let script = "import socket,ctypes,time\n\
                  ctypes.CDLL(None).prctl(15, b'\\x1b[2J\\n\\\"evil', 0, 0, 0)\n\
                  s=socket.socket(); s.bind(('0.0.0.0', 7777)); s.listen()\n\
                  print('ready', flush=True); time.sleep(60)";
    let mut child = Command::new("python3")
        .args(["-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3");
    let mut ready = [0; 5];
    let mut stdout = child.stdout.take().expect("a pipe");
    std::io::Read::read_exact(&mut stdout, &mut ready).expect("it listens");
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(7777)]);
    let outcome = run(&web, "ADD");
    child.kill().expect("it is our own");
    child.wait().expect("it is our own");
    outcome.failure(103);
    let message = outcome.message();
    assert!(message.contains("evil") && !message.contains(char::is_control), "{message:?}");
    std::thread::sleep(Duration::from_millis(1));
    add(&node, &web);
}
