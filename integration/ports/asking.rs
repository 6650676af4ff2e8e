//! How a pod asks for host ports by annotation, what is published for it, and what is rejected.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::choosing::{network, pod};
use crate::stage::agent;
use crate::stage::bare::{annotated, chosen, run, tcp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::echo::Echo;
use crate::stage::node::{FIRST, Node, address};
use crate::stage::plugin::{Outcome, Plugin};
use crate::stage::probe::Probe;
use crate::stage::view::{self, STATE, snapshot};

const PORTS: &str = "autoport.cni/ports";
const KUBEWHARF: &str = "pod.kubewharf.kubernetes.io/autoport";
const BCS: &str = "randhostport.webhook.bkbcs.tencent.com";
const BCS_PORTS: &str = "ports.randhostport.webhook.bkbcs.tencent.com";

/// What the pod with this UID reads, if anything.
fn published(uid: &str) -> Option<(Value, String)> {
    let folder = Path::new(STATE).join("pods").join(uid);
    let mode = |path: &Path| fs::metadata(path).ok().map(|it| it.permissions().mode() & 0o7777);
    let files = ["ports.json", "ports.env"].map(|name| folder.join(name));
    let modes = [&folder, &files[0], &files[1]].map(|path| mode(path));
    if modes == [None; 3] {
        return None;
    }
    assert_eq!(modes, [Some(0o755), Some(0o644), Some(0o644)]);
    let [json, env] = files.map(|file| fs::read_to_string(file).expect("a file of ours"));
    Some((serde_json::from_str(&json).expect("ports.json is JSON"), env))
}

fn ask(attachment: &Attachment, annotations: &[(&str, &str)]) -> Outcome {
    annotated(attachment, "ADD", annotations).run()
}

/// Insists that an ADD is refused with `code`, that the message has `parts`, and that nothing
/// changed.
fn refused(claim: &Attachment, annotations: &[(&str, &str)], code: u64, parts: &[&str]) {
    let before = snapshot();
    let outcome = ask(claim, annotations);
    outcome.failure(code);
    for part in parts {
        assert!(outcome.message().contains(part), "{part} for {annotations:?}: {outcome}");
    }
    assert_eq!(snapshot(), before, "{annotations:?}");
}

/// Insists on success, and takes everything back.
fn granted(claim: &Attachment, annotations: &[(&str, &str)]) -> (Vec<u16>, Option<String>) {
    ask(claim, annotations).success();
    annotated(claim, "CHECK", annotations).run().success();
    let uid = format!("uid-{}", claim.container_id);
    let known = (chosen(claim), published(&uid).map(|(_, env)| env));
    run(claim, "DEL").success();
    view::assert_nothing_held();
    assert!(published(&uid).is_none());
    known
}

#[test]
fn a_pod_reads_what_was_chosen_for_it() {
    let node = Node::new();
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let blue = blue.with("portRange", "20000-20019");
    let web = node.pod("web");
    let listen = [5002, 7777, 20006].map(|port| (address("::"), port).into());
    let _more = Echo::start("web", &web.netns, &listen);
    let mut attachment = web.in_network(&blue).of_pod("shop", "web", "uid-web");
    attachment.attach_main();
    let requests = "http=80, game=7777/tcp+udp, rtp=5000-5003/udp, media=auto/udp";
    let asked = [(PORTS, requests), ("shop.example/owner", "autoport")];
    let outcome = ask(&attachment, &asked);
    let (json, env) = published("uid-web").expect("it is there before ADD returns");
    node.note(outcome.to_string());
    outcome.success();
    assert_eq!(json["version"], json!(1));
    assert_eq!(json["pod"], json!({"namespace": "shop", "name": "web", "uid": "uid-web"}));
    let ports: Vec<_> = json["ports"].as_array().expect("a list").iter().collect();
    let said = |key: &str| ports.iter().map(|port| port[key].clone()).collect::<Vec<_>>();
    assert_eq!(said("name"), ["http", "game", "rtp", "media"]);
    assert_eq!(said("hostPort"), [20000, 20001, 20002, 20006]);
    assert_eq!(said("containerPort"), [80, 7777, 5000, 20006]);
    assert_eq!(said("count"), [1, 1, 4, 1]);
    assert_eq!(said("origin"), ["chosen", "chosen", "chosen", "passthrough"]);
    assert_eq!(ports[1]["protocols"], json!(["tcp", "udp"]));
    assert_eq!(chosen(&attachment), [20000, 20001, 20002, 20006]);
    for line in [
        "AUTOPORT_HOST_PORT_HTTP='20000'",
        "AUTOPORT_PORT_HTTP='80'",
        "AUTOPORT_HOST_PORT_GAME='20001'",
        "AUTOPORT_HOST_PORT_RTP='20002'",
        "AUTOPORT_COUNT_RTP='4'",
        "AUTOPORT_PORT_MEDIA='20006'",
        "AUTOPORT_PORTS='20000,20001,20002-20005,20006'",
        "PORT_MEDIA='20006'",
        "PORT='20006'",
    ] {
        assert!(env.lines().any(|one| one == line), "{line} in\n{env}");
    }
    // And the numbers are true.
    for to in FIRST {
        let probes = [(20001, 7777), (20004, 5002), (20006, 20006)];
        let udp = probes.map(|(port, _)| Probe::udp(to, port));
        for probe in udp.into_iter().chain([20000, 20001].map(|port| Probe::tcp(to, port))) {
            assert_eq!(node.client_asks(&probe).by(), Some("web"), "{probe:?}");
        }
    }
    annotated(&attachment, "CHECK", &asked).run().success();
    let before = snapshot();
    ask(&attachment, &asked).success();
    assert_eq!(snapshot(), before);
    // Runtimes that restart have forgotten the annotations by then.
    attachment.del().success();
    assert!(published("uid-web").is_none());
    view::assert_nothing_held();
}

#[test]
fn what_is_published_follows_the_sandbox() {
    let node = Node::new();
    let range = network("20000-20009");
    let web = |id: &str, number| {
        let one = crate::stage::bare::attachment(&node, &range, id, number);
        one.of_pod("shop", "web", "uid-web")
    };
    let (old, new) = (web("old", 5), web("new", 6));
    let second = web("old", 7).named("eth1");
    let asked = [(PORTS, "http=80, rtp=5000-5003/udp")];
    let names = || {
        let (json, _) = published("uid-web").expect("it is published");
        let ports = json["ports"].as_array().expect("a list").clone();
        let one = |port: &Value| {
            format!("{} {}", port["attachment"]["containerId"], port["attachment"]["ifname"])
        };
        ports.iter().map(one).collect::<Vec<_>>()
    };
    ask(&old, &asked).success();
    let first = chosen(&old);
    ask(&second, &[(PORTS, "admin=81")]).success();
    let [own, other] = [r#""old" "eth0""#, r#""old" "eth1""#];
    assert_eq!(names(), [own, own, other]);
    run(&second, "DEL").success();
    assert_eq!(names(), [own, own]);
    ask(&new, &asked).success();
    assert_eq!(chosen(&new), first, "its numbers are the pod's");
    assert_eq!(names(), [r#""new" "eth0""#; 2]);
    run(&old, "DEL").success();
    assert_eq!(names(), [r#""new" "eth0""#; 2], "a late DEL takes only its own");
    annotated(&new, "CHECK", &asked).run().success();
    // A port that is no longer asked for is no longer told.
    ask(&new, &[(PORTS, "http=80")]).success();
    assert_eq!(names(), [r#""new" "eth0""#]);
    run(&new.clone().mapping([tcp(30000)]), "ADD").success();
    assert!(published("uid-web").is_none(), "{:?}", published("uid-web"));
    run(&new, "DEL").success();
    assert!(published("uid-web").is_none());
    view::assert_nothing_held();
}

#[test]
fn what_the_operator_forbids_is_refused() {
    let node = Node::new();
    let range =
        network("1000-1030").with("minPort", 1024).with("excludePorts", json!(["1025-1028"]));
    let web = pod(&node, &range, "web", 5);
    assert_eq!(granted(&web.clone().mapping([tcp(1029)]), &[]).0, [0_u16; 0]);
    refused(&web.clone().mapping([tcp(1023)]), &[], 104, &["1023", "minPort", "1024"]);
    refused(&web.clone().mapping([tcp(1026)]), &[], 104, &["1026", "excludePorts", "1025-1028"]);
    let three = [(PORTS, "one=1, two=2, three=3")];
    assert_eq!(granted(&web, &three).0, [1024, 1029, 1030]);
    refused(&web, &[(PORTS, "block=1-3")], 104, &["no 3 tcp ports in a row"]);
    let closed = network("20000-20009").with("allowedNamespaces", json!(["games"]));
    let web = pod(&node, &closed, "web", 5);
    let asked = [(PORTS, "http=80")];
    refused(&web, &asked, 104, &["\"shop\"", "allowedNamespaces", PORTS]);
    let nameless = crate::stage::bare::attachment(&node, &closed, "web", 5);
    refused(&nameless, &asked, 104, &["unknown namespace", "allowedNamespaces"]);
    // Whoever may make a Pod with a hostPort is the API server's business.
    assert_eq!(granted(&web.clone().mapping([tcp(0)]), &[]).0.len(), 1);
    assert_eq!(granted(&web.of_pod("games", "web", "uid-web"), &asked).0.len(), 1);
}

#[test]
fn a_malformed_annotation_is_quoted() {
    let node = Node::new();
    let web = pod(&node, &network("20000-20009"), "web", 5);
    let cases: [(&str, &[&str]); 12] = [
        ("", &["\"\"", "\"http=8080\""]),
        ("http=80,,game=7", &["item 2", "character 9", "empty item"]),
        ("http=80, game=0/udp", &["\"0\"", "character 15", "item 2, \"game=0/udp\"", "auto"]),
        ("http=65536", &["\"65536\"", "character 6", "\"http=65536\""]),
        ("Http=80", &["\"Http\"", "character 1", "\"Http=80\"", "lower-case"]),
        ("http=80/icmp", &["\"icmp\"", "character 9", "\"http=80/icmp\"", "tcp, udp, sctp"]),
        ("game=7/tcp+tcp", &["\"tcp\"", "character 12", "\"game=7/tcp+tcp\"", "twice"]),
        ("rtp=9-5/udp", &["\"9-5\"", "\"rtp=9-5/udp\"", "backwards"]),
        ("a=80, a=81", &["item 2, \"a=81\"", "same name"]),
        ("a=80, b=80", &["item 2, \"b=80\"", "container port 80/tcp"]),
        ("a=1-9/udp, b=5/tcp+udp", &["item 2, \"b=5/tcp+udp\"", "container port 5/udp"]),
        ("http/udp", &["\"http\"", "character 1", "needs the container's port"]),
    ];
    for (value, parts) in cases {
        refused(&web, &[(PORTS, value)], 7, &[PORTS]);
        refused(&web, &[(PORTS, value)], 7, parts);
    }
    refused(&web, &[("autoport.cni/port", "http=80")], 2, &["did you mean autoport.cni/ports?"]);
    let elsewhere = [(PORTS, "http=80"), ("autoport.cni/range", "games")];
    refused(&web, &elsewhere, 7, &["\"games\"", "namedRanges"]);
    let fixed = web.clone().mapping([tcp(30000)]);
    refused(&fixed, &[(PORTS, "http=80")], 7, &["\"http=80\"", "80/tcp", "30000"]);
    // A DEL needs to understand none of it.
    annotated(&web, "DEL", &[(PORTS, "?")]).run().success();
}

#[test]
fn the_switch_of_kubewharf_means_what_it_meant() {
    let node = Node::new();
    let web = pod(&node, &network("20000-20009"), "web", 5);
    let set = |env: &Option<String>| env.as_deref().is_some_and(|env| env.contains("\nPORT0='"));
    for value in ["", "true", "1", "sequential", "random", " true "] {
        let (ports, env) = granted(&web, &[(KUBEWHARF, value), (PORTS, "http=80")]);
        assert!(ports.len() == 1 && (20000..=20009).contains(&ports[0]), "{value}: {ports:?}");
        assert!(set(&env), "{value}: {env:?}");
        refused(&web, &[(KUBEWHARF, value)], 11, &["need its spec", PORTS, "autoport-agent"]);
    }
    for value in ["false", "0"] {
        let (ports, env) = granted(&web, &[(KUBEWHARF, value), (PORTS, "http=80")]);
        assert!(ports.len() == 1 && !set(&env), "{value}: {ports:?} {env:?}");
        ask(&web, &[(KUBEWHARF, value)]).success();
        view::assert_nothing_held();
    }
    for value in ["maybe", "True", "no"] {
        let quoted = format!("{value:?}");
        let asked = [(KUBEWHARF, value), (PORTS, "http=80")];
        refused(&web, &asked, 7, &[KUBEWHARF, &quoted, "\"sequential\""]);
    }
    // A patched kubelet or a webhook has been here.
    let fixed = web.clone().mapping([tcp(30000)]);
    assert_eq!(granted(&fixed, &[(KUBEWHARF, "true")]).0, [0_u16; 0]);
    assert_eq!(granted(&fixed, &[(KUBEWHARF, "true"), (PORTS, "http=80")]).0, [0_u16; 0]);
    assert_eq!(granted(&web.clone().mapping([tcp(0)]), &[(KUBEWHARF, "true")]).0.len(), 1);
    let deaf = network("20000-20009").with("aliases", json!(["bcs"]));
    ask(&pod(&node, &deaf, "web", 5), &[(KUBEWHARF, "maybe")]).success();
}

#[test]
fn random_is_not_the_ring() {
    let node = Node::new();
    let range = network("20000-29999");
    let pick = |number: u16| {
        let one = pod(&node, &range, &format!("pod{number}"), 5 + number);
        granted(&one, &[(KUBEWHARF, "random"), (PORTS, "http=80")]).0[0]
    };
    let picks: Vec<u16> = (0..6).map(pick).collect();
    let in_a_row = picks.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    assert!(!in_a_row, "{picks:?}");
}

#[test]
fn the_switch_of_bcs_lists_ports() {
    let node = Node::new();
    let web = pod(&node, &network("20000-20009"), "web", 5);
    let (ports, env) = granted(&web, &[(BCS, "true"), (BCS_PORTS, "80,9090")]);
    assert_eq!(ports, [20000, 20001]);
    let env = env.expect("it is published");
    for line in [
        "BCS_RANDHOSTPORT_FOR_CONTAINER_PORT_80='20000'",
        "BCS_RANDHOSTPORT_FOR_CONTAINER_PORT_9090='20001'",
        "BCS_RANDHOSTPORT_POD_NAME='web'",
        "BCS_RANDHOSTPORT_POD_NAMESPACE='shop'",
    ] {
        assert!(env.lines().any(|one| one == line), "{line} in\n{env}");
    }
    refused(&web, &[(BCS, "true")], 7, &[BCS, BCS_PORTS, "missing"]);
    refused(&web, &[(BCS, "true"), (BCS_PORTS, "80,metric")], 11, &["need its spec", PORTS]);
    refused(&web, &[(BCS, "true"), (BCS_PORTS, "80,80")], 7, &["\"80\"", "item 2", "twice"]);
    ask(&web, &[(BCS, "false"), (BCS_PORTS, "80")]).success();
    let outcome = ask(&web, &[(BCS, "yes"), (BCS_PORTS, "80")]);
    assert!(outcome.stderr.contains("counts as off"), "{outcome}");
    outcome.success();
    view::assert_nothing_held();
    // The webhook has been here.
    let filled = format!("{BCS}.80");
    let fixed = web.clone().mapping([tcp(30000)]);
    let asked = [(BCS, "true"), (BCS_PORTS, "metric"), (&*filled, "30000")];
    assert_eq!(granted(&fixed, &asked).0, [0_u16; 0]);
    assert_eq!(granted(&fixed, &[(BCS, "true"), (BCS_PORTS, "80")]).0, [0_u16; 0]);
    let container = "randcontainerport.randhostport.webhook.bkbcs.tencent.com";
    let same = [(BCS, "true"), (BCS_PORTS, "80"), (container, "")];
    ask(&web, &same).success();
    let (json, _) = published("uid-web").expect("it is published");
    let port = &json["ports"][0];
    assert_eq!(port["hostPort"], port["containerPort"], "{json}");
    run(&web, "DEL").success();
}

#[test]
fn a_pod_may_choose_among_the_nodes_ranges() {
    let node = Node::new();
    let named = json!({"games": ["30000", "31000-31003"], "one": "32000"});
    let both = network("20000-20009").with("namedRanges", named);
    let web = pod(&node, &both, "web", 5);
    let range = |name| [(PORTS, "http=80, rtp=10-13/udp"), ("autoport.cni/range", name)];
    assert_eq!(granted(&web, &range("games")).0, [30000, 31000]);
    assert_eq!(granted(&web, &range("default")).0, [20000, 20001]);
    refused(&web, &range("one"), 104, &["range one (32000", "even when empty"]);
    refused(&web, &range("other"), 7, &["\"other\"", "\"games\"", "\"one\""]);
    // A block does not run from one part of a range into the next.
    let block = [(PORTS, "rtp=10-14/udp"), ("autoport.cni/range", "games")];
    refused(&web, &block, 104, &["no 5 udp ports in a row", "range games"]);
}

/// The earlier sandbox still holds them, and the order is another.
#[test]
fn a_new_sandbox_finds_its_blocks_again() {
    let node = Node::new();
    let range = network("20000-20008");
    let web = |id: &str, number| {
        let one = crate::stage::bare::attachment(&node, &range, id, number);
        one.of_pod("shop", "web", "uid-web")
    };
    ask(&web("web1", 5), &[(PORTS, "a=1-4/udp, b=5-7/tcp+udp, c=auto")]).success();
    assert_eq!(chosen(&web("web1", 5)), [20000, 20004, 20007]);
    let same = [(PORTS, "c=auto, b=5-7/tcp+udp, a=1-4/udp")];
    ask(&web("web2", 6), &same).success();
    assert_eq!(chosen(&web("web2", 6)), [20007, 20004, 20000]);
    run(&web("web1", 5), "DEL").success();
    annotated(&web("web2", 6), "CHECK", &same).run().success();
    run(&web("web2", 6), "DEL").success();
    ask(&web("web3", 7), &same).success();
    assert_eq!(chosen(&web("web3", 7)), [20007, 20004, 20000]);
}

#[test]
fn a_uid_that_is_no_file_name_is_told_nothing() {
    let node = Node::new();
    for uid in ["../evil", "..", "a/b"] {
        let web = pod(&node, &network("20000-20009"), "web", 5).of_pod("shop", "web", uid);
        let outcome = ask(&web, &[(PORTS, "http=80")]);
        assert!(outcome.stderr.contains("K8S_POD_UID in CNI_ARGS is ignored"), "{outcome}");
        outcome.success();
        assert_eq!(chosen(&web).len(), 1);
        assert_eq!(view::tree(&Path::new(STATE).join("pods")), "");
        assert!(!Path::new(STATE).join("evil").exists());
        run(&web, "DEL").success();
        view::assert_nothing_held();
    }
}

#[test]
fn a_pod_that_needs_the_agent_waits_for_it() {
    let node = Node::new();
    let [optional, required] =
        ["optional", "required"].map(|value| network("20000-20009").with("agent", value));
    let required_by_pod = ("autoport.cni/env", "required");
    let fixed = [tcp(8080)];
    let without = ["no node agent is connected", "start autoport-agent"];
    let pods = [
        (&required, &[(PORTS, "80")][..], &[][..], true),
        (&required, &[(KUBEWHARF, "true"), (PORTS, "80")], &[], true),
        (&required, &[], &fixed[..], false),
        (&optional, &[(PORTS, "80")], &[], false),
        (&optional, &[(PORTS, "80"), required_by_pod], &[], true),
        (&optional, &[required_by_pod], &fixed[..], true),
    ];
    let claim = |network: &Network, mappings: &[PortMapping]| {
        pod(&node, network, "web", 5).mapping(mappings.iter().cloned())
    };
    for (network, annotations, mappings, needs) in pods {
        let claim = claim(network, mappings);
        if needs {
            refused(&claim, annotations, 11, &without);
        } else {
            granted(&claim, annotations);
        }
    }
    ask(&claim(&required, &[]), &[required_by_pod]).success();
    let _lock = agent::lead();
    agent::beat(Duration::ZERO);
    for (network, annotations, mappings, _) in pods {
        granted(&claim(network, mappings), annotations);
    }
}
