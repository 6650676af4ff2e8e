//! Which addresses are published for a pod: only those on which a client gets an answer.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::stage::chain::{Main, Network, PortMapping};
use crate::stage::netns::{ip, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, SECOND};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Probe, Transport};
use crate::stage::view::STATE;

/// What `ports.env` of a pod says whose port the node chose, in a network with these keys.
fn told(node: &Node, name: &str, keys: &[(&str, Value)]) -> BTreeMap<String, String> {
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let blue = keys.iter().fold(blue, |blue, (key, value)| blue.with(key, value.clone()));
    let pod = node.pod(name);
    let uid = format!("uid-{name}");
    let mut attachment = pod
        .in_network(&blue)
        .of_pod("shop", name, &uid)
        .mapping([PortMapping::new(Transport::Tcp, 0, POD_PORT)]);
    node.add(&mut attachment);
    let text = fs::read_to_string(format!("{STATE}/pods/{uid}/ports.env")).expect("the file");
    let line = |line: &str| {
        let (name, value) = line.split_once('=').expect("NAME='value'");
        (name.to_owned(), value.trim_matches('\'').to_owned())
    };
    let told: BTreeMap<_, _> = text.lines().map(line).collect();
    // What is told answers, unless it is an address of others.
    let address: SocketAddr = told["AUTOPORT_ADDR_80_TCP"].parse().expect("an address");
    if !keys.iter().any(|(key, _)| *key == "advertiseAddresses") {
        let answer = node.client_asks(&Probe::new(Transport::Tcp, address));
        assert_eq!(answer.by(), Some(name), "{told:#?}");
    }
    attachment.del().success();
    told
}

fn addresses(told: &BTreeMap<String, String>) -> [Option<&str>; 2] {
    ["AUTOPORT_HOST_IP_V4", "AUTOPORT_HOST_IP_V6"].map(|name| told.get(name).map(String::as_str))
}

/// Whether these are addresses of the node's uplink. Of two IPv6 addresses the kernel takes either.
fn are_the_uplinks(told: &BTreeMap<String, String>) -> bool {
    let [v4, v6] = addresses(told);
    v4 == Some(FIRST[0]) && [FIRST[1], SECOND[1]].map(Some).contains(&v6)
}

/// A client behind the node's uplink that is the way to the world.
fn default_route() {
    ip(&format!("route add default via {}\nroute add default via {}", CLIENT[0], CLIENT[1]));
}

#[test]
fn only_addresses_that_answer_are_told() {
    let node = Node::new();
    default_route();
    assert!(are_the_uplinks(&told(&node, "any", &[])));
    let narrow = |of: &[&str]| [("hostAddresses", json!(of))];
    let second = told(&node, "second", &narrow(&[SECOND[0], SECOND[1]]));
    assert_eq!(addresses(&second), SECOND.map(Some));
    let network = told(&node, "network", &narrow(&["192.0.2.2/31", "198.51.100.0/24"]));
    assert_eq!(addresses(&network), [Some(SECOND[0]), None]);
    assert_eq!(network["AUTOPORT_HOST_IP"], SECOND[0]);
}

#[test]
fn without_a_default_route_an_address_that_answers_is_told() {
    let node = Node::new();
    assert!(are_the_uplinks(&told(&node, "web", &[])));
}

/// As on a node without any network, which has a default route only to have one.
#[test]
fn a_default_route_that_leads_nowhere_does_not_count() {
    let node = Node::new();
    ip("link add nowhere type veth peer name beside
        link set nowhere arp off up
        link set beside up
        addr add 203.0.113.254/31 dev nowhere
        addr add 2001:db8:ff::1/64 dev nowhere nodad
        route add default via 203.0.113.255 dev nowhere onlink
        route add ::/0 dev nowhere");
    assert!(are_the_uplinks(&told(&node, "web", &[])));
    // Who asks for just that gets it.
    sysctl("net/ipv4/conf/all/rp_filter", "0");
    let own = "203.0.113.254/32";
    let told = told(&node, "own", &[("hostAddresses", json!([own]))]);
    assert_eq!(addresses(&told), [Some("203.0.113.254"), None]);
}

/// A node that clients know by addresses that it does not have.
#[test]
fn advertised_addresses_replace_the_nodes_own() {
    let node = Node::new();
    let outside = ["203.0.113.7", "2001:db8:77::7"];
    let both = told(&node, "both", &[("advertiseAddresses", json!(outside))]);
    assert_eq!(addresses(&both), outside.map(Some));
    assert_eq!(both["AUTOPORT_HOST_IP"], outside[0]);
    assert!(both["AUTOPORT_ADDR_80_TCP"].starts_with("203.0.113.7:"), "{both:#?}");
    let one = told(&node, "one", &[("advertiseAddresses", json!(outside[0]))]);
    assert_eq!(addresses(&one), [Some(outside[0]), None]);
}
