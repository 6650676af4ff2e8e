//! What portmap's own tests assert, replayed: with packets where those look at rules.
//!
//! The names in parentheses are those of facts that any port mapping plugin should have; each is a
//! function of the plugin, so that `reference.rs` can hold the expectation against portmap itself.

use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{ip, nft, run};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe, Transport};
use crate::stage::view;

/// Every version of the specification that plugins still speak.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

const PORT: u16 = 8080;

fn blue(main: Main, plugin: Plugin) -> Network {
    Network::new("blue", main, 1, plugin)
}

/// "forwards a TCP port on ipv4": the pod itself, the node's address, 127.0.0.1, and the pod from
/// inside, at every version; for IPv6 too, which has no 127.0.0.1.
pub(crate) fn forwards_tcp(plugin: Plugin) {
    let node = Node::new();
    for (subnet, version) in (1..).zip(VERSIONS) {
        // portmap 1.1.1 and Debian 12's other plugins do not know it.
        if version == "1.1.0" && plugin == Plugin::PortmapIptables {
            continue;
        }
        let network = Network::new("blue", Main::Ptp, subnet, plugin).speaking(version);
        let mapping = PortMapping::new(Transport::Tcp, PORT, POD_PORT);
        let name = format!("pod{subnet}");
        let (pod, attachment) = node.attached(&name, &network, [mapping]);
        let [gateway4, gateway6] = network.gateway();
        for (first, client, gateway) in
            [(FIRST[0], CLIENT[0], gateway4), (FIRST[1], CLIENT[1], gateway6)]
        {
            let by = |source: &str| Answer::reached(&name, source);
            let probe = Probe::tcp(first, PORT);
            let direct = pod.address(first.contains(':')).to_string();
            assert_eq!(Probe::tcp(&direct, POD_PORT).ask(), by(&gateway), "{version}: direct");
            assert_eq!(node.client_asks(&probe), by(client), "{version}: from the client");
            assert_eq!(probe.ask(), by(first), "{version}: from the node");
            assert_eq!(pod.asks(&probe), by(&gateway), "{version}: from the pod itself");
        }
        let loopback = Probe::tcp("127.0.0.1", PORT).ask();
        assert_eq!(loopback.by(), Some(&*name), "{version}: from 127.0.0.1");
        attachment.del().success();
        assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)), Answer::Refused, "{version}");
    }
}

/// "forwards a UDP port on ipv4 and keep working after creating a second container with the same
/// HostPort": the same client socket, so that connection tracking knows it.
pub(crate) fn forwards_udp_to_a_successor(plugin: Plugin) {
    let node = Node::new();
    let network = blue(Main::Ptp, plugin);
    let mapping = PortMapping::new(Transport::Udp, PORT, POD_PORT);
    let (_old, attachment) = node.attached("old", &network, [mapping.clone()]);
    let probes = [
        (Probe::udp(FIRST[0], PORT).from(CLIENT[0], 40000), CLIENT[0]),
        (Probe::udp(FIRST[1], PORT).from(CLIENT[1], 40000), CLIENT[1]),
    ];
    for (probe, client) in &probes {
        assert_eq!(node.client_asks(probe), Answer::reached("old", client));
    }
    attachment.del().success();
    for (probe, _) in &probes {
        let between = node.client_asks(&probe.in_vain());
        // portmap may leave the connection in place, so that the client goes on asking a dead pod.
        if plugin == Plugin::Autoport {
            assert_eq!(between, Answer::Refused);
        }
    }
    let (_new, _) = node.attached("new", &network, [mapping]);
    for (probe, client) in &probes {
        assert_eq!(node.client_asks(probe), Answer::reached("new", client));
    }
}

/// "has working CHECK": not before ADD, then as long as the configuration is the one that was
/// added, not after DEL.
pub(crate) fn check_follows_add_and_del(plugin: Plugin) {
    let node = Node::new();
    let network = blue(Main::Bridge, plugin).with("snat", false);
    let pod = node.pod("web");
    let mut quiet = pod.in_network(&network).mapping(PortMapping::both(PORT, POD_PORT, ""));
    quiet.attach_main();
    assert_check(&quiet, plugin, false);
    quiet.plugin_call("ADD").run().success();
    assert_check(&quiet, plugin, true);
    let mut masquerading = quiet.clone();
    masquerading.network = network.with("snat", true);
    assert_check(&masquerading, plugin, false);
    masquerading.plugin_call("ADD").run().success();
    assert_check(&masquerading, plugin, true);
    masquerading.del().success();
    assert_check(&masquerading, plugin, false);
}

fn assert_check(attachment: &Attachment, plugin: Plugin, passes: bool) {
    let outcome = attachment.check();
    assert_eq!(outcome.status.success(), passes, "CHECK: {outcome}");
    if !passes && plugin == Plugin::Autoport {
        outcome.failure(120);
    }
}

/// "correctly parses an ADD config": of several addresses the first that belongs to the container.
/// "does not fail on missing prevResult interface index": one without an interface is taken.
pub(crate) fn picks_the_containers_address(plugin: Plugin) {
    let node = Node::new();
    let network = blue(Main::Bridge, plugin);
    let pod = node.pod("web");
    let mut attachment =
        pod.in_network(&network).mapping([PortMapping::new(Transport::Tcp, PORT, POD_PORT)]);
    attachment.attach_main();
    let given = attachment.result.clone().expect("the bridge plugin gave a result");
    let of_the_host = json!({"address": "10.9.9.9/24", "interface": 0});
    let ips = given["ips"].as_array().expect("a result has addresses");
    let without_index = ips.iter().cloned().map(|mut address| {
        address.as_object_mut().expect("an address is an object").remove("interface");
        address
    });
    for addresses in [[&[of_the_host], &ips[..]].concat(), without_index.collect::<Vec<Value>>()] {
        let mut result = given.clone();
        result["ips"] = json!(addresses);
        attachment.result = Some(result.clone());
        let reply = attachment.plugin_call("ADD").run().success();
        assert_eq!(reply["ips"], result["ips"], "the result is passed on untouched");
        for (first, client) in FIRST.into_iter().zip(CLIENT) {
            let answer = node.client_asks(&Probe::tcp(first, PORT));
            assert_eq!(answer, Answer::reached("web", client), "{addresses:?}");
        }
        attachment.plugin_call("DEL").run().success();
    }
}

/// "correctly parses a DEL config": neither runtimeConfig nor prevResult. What was added must go
/// all the same, which portmap does not do.
pub(crate) fn del_needs_no_details(plugin: Plugin) {
    let node = Node::new();
    let (_pod, mut attachment) =
        node.attached("web", &blue(Main::Bridge, plugin), PortMapping::both(PORT, POD_PORT, ""));
    attachment.mappings.clear();
    attachment.result = None;
    attachment.plugin_call("DEL").run().success();
    if plugin == Plugin::Autoport {
        view::assert_nothing_held();
        assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)), Answer::Refused);
    }
}

/// The canary of "creates and destroys a chain": what others have in the kernel survives.
pub(crate) fn leaves_others_alone(plugin: Plugin) {
    const RULE: &str = "PREROUTING -p tcp -m tcp --dport 8097 -j ACCEPT";
    let node = Node::new();
    nft("table inet canary {
             chain prerouting {
                 type nat hook prerouting priority -100;
                 tcp dport 8099 dnat ip to 192.0.2.100;
             }
             map ports { type inet_service : verdict; elements = { 8098 : drop }; }
         }");
    let printed = |line: &str| {
        let mut words = line.split(' ');
        let (ok, text) = run(Command::new(words.next().unwrap_or_default()).args(words), "");
        assert!(ok, "{line}: {text}");
        text
    };
    printed(&format!("iptables -t nat -A {RULE}"));
    let table = || printed("nft list table inet canary");
    let rule = || printed("iptables -t nat -S PREROUTING").contains(RULE);
    let before = table();
    let (_pod, attachment) =
        node.attached("web", &blue(Main::Bridge, plugin), PortMapping::both(PORT, POD_PORT, ""));
    assert_eq!((table(), rule()), (before.clone(), true), "after ADD");
    attachment.del().success();
    assert_eq!((table(), rule()), (before, true), "after DEL");
}

/// "creates chains idempotently" and "deletes chains idempotently".
pub(crate) fn repeats_are_harmless(plugin: Plugin) {
    let node = Node::new();
    let (_pod, attachment) =
        node.attached("web", &blue(Main::Bridge, plugin), PortMapping::both(PORT, POD_PORT, ""));
    let after_one = view::snapshot();
    let again = attachment.plugin_call("ADD").run().success();
    assert_eq!(Some(again), attachment.result);
    assert_eq!(view::snapshot(), after_one);
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)).by(), Some("web"));
    for _ in 0..3 {
        attachment.plugin_call("DEL").run().success();
    }
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)), Answer::Refused);
}

/// "deletes chains idempotently in parallel".
pub(crate) fn deletes_in_parallel(plugin: Plugin) {
    let node = Node::new();
    let (_pod, attachment) =
        node.attached("web", &blue(Main::Bridge, plugin), PortMapping::both(PORT, POD_PORT, ""));
    let del = attachment.plugin_call("DEL");
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| del.run().success());
        }
    });
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)), Answer::Refused);
    if plugin == Plugin::Autoport {
        view::assert_nothing_held();
    }
}

/// "generates a correct standard container chain": eight mappings, with host addresses of either
/// family and both kinds of wildcard, for a container ID of 128 characters.
pub(crate) fn maps_eight_at_once(plugin: Plugin) {
    let (own4, own6) = ("192.168.0.2", "2001:db8:a::1");
    let node = Node::new();
    ip(&format!("addr add {own4}/32 dev uplink\naddr add {own6}/128 dev uplink nodad"));
    let on = |transport, port, host: &str| PortMapping::new(transport, port, POD_PORT).on(host);
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    let mappings = [
        on(tcp, 8080, ""),
        on(tcp, 8081, ""),
        on(udp, 8080, ""),
        on(udp, 8082, ""),
        on(tcp, 8083, own4),
        on(tcp, 8084, "0.0.0.0"),
        on(tcp, 8085, own6),
        on(tcp, 8086, "::"),
    ];
    let pod = node.pod("web");
    let mut attachment = pod.in_network(&blue(Main::Bridge, plugin)).mapping(mappings);
    attachment.container_id = "c".repeat(128);
    node.add(&mut attachment);
    let reached = |address: &str| eight_reached(&node, &pod, address);
    let everywhere = ["tcp/8080", "tcp/8081", "udp/8080", "udp/8082"];
    assert_eq!(reached(own4), [&everywhere[..], &["tcp/8083", "tcp/8084"]].concat());
    assert_eq!(reached(FIRST[0]), [&everywhere[..], &["tcp/8084"]].concat());
    assert_eq!(reached(own6), [&everywhere[..], &["tcp/8085", "tcp/8086"]].concat());
    assert_eq!(reached(FIRST[1]), [&everywhere[..], &["tcp/8086"]].concat());
    attachment.del().success();
    assert_eq!(reached(own4), [""; 0]);
}

/// Which of the ports of [`maps_eight_at_once`] answer at `address`.
fn eight_reached(node: &Node, pod: &Pod, address: &str) -> Vec<&'static str> {
    let ports = [
        ("tcp/8080", Probe::tcp(address, 8080)),
        ("tcp/8081", Probe::tcp(address, 8081)),
        ("udp/8080", Probe::udp(address, 8080)),
        ("udp/8082", Probe::udp(address, 8082)),
        ("tcp/8083", Probe::tcp(address, 8083)),
        ("tcp/8084", Probe::tcp(address, 8084)),
        ("tcp/8085", Probe::tcp(address, 8085)),
        ("tcp/8086", Probe::tcp(address, 8086)),
    ];
    let reaches = |probe: &Probe| {
        let answer = node.client_asks(probe);
        let reached = answer.by() == Some(&pod.name);
        assert!(reached || answer == Answer::Refused, "{probe:?}: {answer}");
        reached
    };
    ports.into_iter().filter(|(_, probe)| reaches(probe)).map(|(name, _)| name).collect()
}

#[test]
fn tcp_is_forwarded_at_every_version() {
    forwards_tcp(Plugin::Autoport);
}

#[test]
fn udp_is_forwarded_to_a_successor() {
    forwards_udp_to_a_successor(Plugin::Autoport);
}

#[test]
fn check_passes_between_add_and_del() {
    check_follows_add_and_del(Plugin::Autoport);
}

#[test]
fn the_address_of_the_container_is_picked() {
    picks_the_containers_address(Plugin::Autoport);
}

#[test]
fn del_works_without_details() {
    del_needs_no_details(Plugin::Autoport);
}

#[test]
fn other_tables_survive() {
    leaves_others_alone(Plugin::Autoport);
}

#[test]
fn repeated_add_and_del_are_harmless() {
    repeats_are_harmless(Plugin::Autoport);
}

#[test]
fn ten_deletes_at_once_succeed() {
    deletes_in_parallel(Plugin::Autoport);
}

#[test]
fn eight_mappings_in_one_add() {
    maps_eight_at_once(Plugin::Autoport);
}
