//! Order and repetition of calls: a runtime can repeat calls, change the request, lose parts of its
//! state, and call late.

use serde_json::{Value, json};

use crate::stage::bare::{self, add, attachment, by_interface, network, run, tcp, udp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::node::{FIRST, Node, POD_PORT};
use crate::stage::plugin::{Call, Plugin};
use crate::stage::probe::{Answer, Probe};
use crate::stage::view::{self, snapshot};

fn bridge(name: &str, subnet: u8) -> Network {
    Network::new(name, Main::Bridge, subnet, Plugin::Autoport)
}

#[test]
fn add_again_gives_the_same_answer_and_changes_nothing() {
    let node = Node::new();
    let mut web = attachment(&node, &network("blue"), "web", 5).of_pod("default", "web", "uid-1");
    web.mappings = vec![tcp(8080), udp(8080), tcp(8081).on(FIRST[0]), tcp(8081).on("::1")];
    let first = add(&node, &web);
    assert_eq!(Some(&first), web.result.as_ref());
    let before = snapshot();
    for _ in 0..3 {
        assert_eq!(add(&node, &web), first);
        assert_eq!(snapshot(), before);
    }
    web.check().success();
}

#[test]
fn add_with_other_mappings_leaves_just_those() {
    let node = Node::new();
    let mut web = attachment(&node, &network("blue"), "web", 5);
    let other = |port, container_port| PortMapping { container_port, ..tcp(port) };
    let requests = [
        vec![tcp(8080)],
        vec![tcp(8080), tcp(8081), udp(8080)],
        vec![other(8080, 81), tcp(8081)],
        vec![tcp(8080).on(FIRST[0]), tcp(8080).on("127.0.0.1")],
        vec![tcp(9090)],
    ];
    for request in requests {
        web.mappings.clone_from(&request);
        add(&node, &web);
        web.check().success();
        // What is there now is what a node has that never saw another request.
        let (index, elements) = (view::index(), view::elements());
        run(&web, "DEL").success();
        view::assert_nothing_held();
        add(&node, &web);
        assert_eq!((view::index(), view::elements()), (index, elements), "{request:?}");
    }
    web.mappings.clear();
    let before = snapshot();
    add(&node, &web);
    assert_eq!(snapshot(), before, "an ADD without mappings is not a DEL");
}

#[test]
fn del_comes_often_early_and_late() {
    let node = Node::new();
    let mut web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    run(&web, "DEL").success();
    assert!(!std::path::Path::new(view::STATE).exists(), "a DEL before any ADD makes nothing");
    add(&node, &web);
    let keeper = attachment(&node, &network("blue"), "keeper", 6).mapping([tcp(8081)]);
    add(&node, &keeper);
    for _ in 0..3 {
        run(&web, "DEL").success();
        keeper.check().success();
        assert_eq!(view::records().len(), 1);
    }
    web.result = None;
    run(&web, "DEL").success();
    add(&node, &attachment(&node, &network("blue"), "third", 7).mapping([tcp(8080)]));
}

/// Everything that a DEL may lack or have wrong, each against an attachment that holds a port.
#[test]
fn del_needs_only_the_name_of_the_attachment() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    let config = web.config();
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config.to_string()
    };
    let without = |key: &str| {
        let mut config = config.clone();
        config.as_object_mut().expect("an object").remove(key);
        config.to_string()
    };
    let call = web.plugin_call("DEL");
    let calls: Vec<(&str, Call)> = vec![
        ("an empty netns", call.clone().env("CNI_NETNS", "")),
        ("no netns", call.clone().without("CNI_NETNS")),
        ("a netns that is gone", call.clone().env("CNI_NETNS", "/run/netns/gone")),
        ("no prevResult", call.clone().stdin(without("prevResult"))),
        ("a senseless prevResult", call.clone().stdin(with("prevResult", json!([1])))),
        ("no runtimeConfig", call.clone().stdin(without("runtimeConfig"))),
        ("a senseless runtimeConfig", call.clone().stdin(with("runtimeConfig", json!("all")))),
        ("no CNI_ARGS", call.clone().without("CNI_ARGS")),
        ("odd CNI_ARGS", call.clone().env("CNI_ARGS", ";;=;K8S_POD_NAME")),
        ("a misspelt key", call.clone().stdin(with("sourceRange", json!([])))),
        ("a key of portmap", call.clone().stdin(with("conditionsV4", json!(["-s", "1.2.3.4"])))),
        ("bad values", call.clone().stdin(with("markMasqBit", json!("many")))),
        ("a bad stateDir", call.clone().stdin(with("stateDir", json!("../run")))),
        ("a bad lockTimeout", call.clone().stdin(with("lockTimeout", json!(-1)))),
        ("the other backend", call.clone().stdin(with("backend", json!("iptables")))),
    ];
    for (what, call) in calls {
        add(&node, &web);
        let outcome = call.run();
        assert!(outcome.status.success() && outcome.stdout.is_empty(), "{what}: {outcome}");
        view::assert_nothing_held();
    }
    // The network was renamed meanwhile. What the container holds by another interface stays.
    let renamed = attachment(&node, &network("renamed"), "web", 5);
    let beside = attachment(&node, &network("green"), "web", 6).mapping([tcp(8090)]);
    let beside = by_interface(beside, "net1");
    add(&node, &web);
    add(&node, &beside);
    run(&renamed, "DEL").success();
    assert_eq!(view::records(), ["green:web:net1.json"]);
    beside.check().success();
    run(&beside, "DEL").success();
    view::assert_nothing_held();
}

/// One pod, two networks: same pod UID, same container ID.
#[test]
fn two_networks_of_a_pod_do_not_take_each_others_ports() {
    let node = Node::new();
    let pod = node.pod("web");
    let networks = [(bridge("blue", 1), "eth0", 8081), (bridge("green", 2), "eth1", 8082)];
    let attachments = networks.map(|(network, ifname, port)| {
        let one = pod.in_network(&network).named(ifname).of_pod("default", "web", "uid-1");
        let mut one = one.mapping([tcp(port)]);
        node.add(&mut one);
        one
    });
    for port in [8081, 8082] {
        assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], port)).by(), Some("web"));
    }
    // Who asks for the other's as well leaves it to the other, unless it should lead elsewhere.
    let mut greedy = attachments[1].clone().mapping([tcp(8081)]);
    run(&greedy, "ADD").success();
    greedy.mappings[1].container_port = 81;
    run(&greedy, "ADD").failure(100);
    run(&attachments[0], "DEL").success();
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 8081)), Answer::Refused);
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 8082)).by(), Some("web"));
    attachments[1].check().success();
}

#[test]
fn two_interfaces_of_a_network_hold_their_own_ports() {
    let node = Node::new();
    let pod = node.pod("web");
    let attachments = [("eth0", 8081), ("eth1", 8082)].map(|(ifname, port)| {
        let mut one = pod.in_network(&bridge("blue", 1)).named(ifname).mapping([tcp(port)]);
        node.add(&mut one);
        one
    });
    assert_eq!(view::records(), ["blue:web:eth0.json", "blue:web:eth1.json"]);
    run(&attachments[1], "DEL").success();
    attachments[0].check().success();
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 8081)).by(), Some("web"));
}

/// The DEL of a sandbox comes up to 90 s after its successor's ADD, and more than once.
#[test]
fn a_late_del_of_a_superseded_sandbox_leaves_the_new_one_alone() {
    let node = Node::new();
    let network = bridge("blue", 1);
    let attach = |name: &str| {
        let pod = node.pod(name);
        let own = pod.in_network(&network).of_pod("default", "web", "uid-1");
        let mut own = own.mapping(PortMapping::both(8080, POD_PORT, ""));
        node.add(&mut own);
        (pod, own)
    };
    let (_old_pod, old) = attach("old");
    let (_new_pod, new) = attach("new");
    for _ in 0..2 {
        for address in FIRST {
            assert_eq!(node.client_asks(&Probe::tcp(address, 8080)).by(), Some("new"));
            assert_eq!(node.client_asks(&Probe::udp(address, 8080)).by(), Some("new"));
        }
        old.del().success();
        new.check().success();
    }
    new.del().success();
    view::assert_nothing_held();
}

/// The container's namespace is the node's own, or the main plugin gave the pod no address.
#[test]
fn ports_of_host_network_pods_are_held_and_not_translated() {
    let node = Node::new();
    let mut on_node = Attachment::new(&network("blue"), "node", &node.here);
    on_node.result = Some(bare::result("1.1.0", &["10.1.0.5/24".to_owned()]));
    let mut nowhere = attachment(&node, &network("blue"), "nowhere", 6);
    nowhere.result = Some(bare::result("1.1.0", &[]));
    let mut mid = Attachment::new(&network("blue"), "self", &node.here).mapping([tcp(8080)]);
    mid.netns = "/proc/self/ns/net".to_owned();
    mid.result.clone_from(&on_node.result);
    for host in [on_node.mapping([tcp(8080)]), nowhere.mapping([tcp(8080)]), mid] {
        let host = host.of_pod("kube-system", "proxy", "uid-1");
        let reply = add(&node, &host);
        assert_eq!(Some(&reply), host.result.as_ref());
        assert_eq!(view::elements(), [""; 0], "nothing is translated");
        assert_eq!(view::index().len(), 2, "both families are held");
        host.check().success();
        add(&node, &host);
        let before = snapshot();
        let second = attachment(&node, &network("blue"), "second", 7).mapping([tcp(8080)]);
        let refused = run(&second, "ADD");
        assert!(refused.failure(100).message().contains("kube-system/proxy"), "{refused}");
        assert_eq!(snapshot(), before);
        run(&host, "DEL").success();
        view::assert_nothing_held();
        add(&node, &second);
        run(&second, "DEL").success();
    }
}

#[test]
fn a_changed_configuration_shows_in_check_until_the_next_add() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    for (key, value) in [
        ("snat", json!(false)),
        ("masqAll", json!(true)),
        ("markMasqBit", json!(14)),
        ("sourceRanges", json!(["10.0.0.0/8"])),
        ("hostAddresses", json!([FIRST[0]])),
    ] {
        let mut changed = web.clone();
        changed.network = changed.network.with(key, value);
        let refused = changed.check();
        assert!(refused.failure(120).message().contains("configuration"), "{key}: {refused}");
        add(&node, &changed);
        changed.check().success();
        web.check().failure(120);
        add(&node, &web);
        web.check().success();
    }
}
