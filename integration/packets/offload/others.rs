//! Flowtables of other programs, several uplinks, and uplinks that are no plain interfaces.

use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{Line, bridged, forwarded, interfaces, observe, offloaded, web};
use crate::stage::netns::{ip, nft, run};
use crate::stage::node::{CLIENT, FIRST, Node, SECOND};
use crate::stage::probe::Transport;
use crate::stage::view;

/// One connection is in one flowtable: that of the program whose rule sees it first, as Calico's on the same
/// interfaces. Without that it is ours.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn another_flowtable_may_be_there_first() {
    let node = Node::new();
    observe();
    let (_pod, _attachment) = web(&node, &bridged());
    let devices = interfaces().join(", ");
    nft(&format!(
        "table ip calico {{
            flowtable cali-offload {{ hook ingress priority filter; devices = {{ {devices} }}; }}
            chain filter-FORWARD {{
                type filter hook forward priority filter - 10; policy accept;
                ct state established,related counter flow add @cali-offload
            }}
        }}"
    ));
    for transport in Transport::BOTH {
        let mut line = Line::established(&node, transport, FIRST[0]);
        line.bypasses(&format!("{transport:?} by the other flowtable"));
    }
    let mut line = Line::established(&node, Transport::Tcp, FIRST[0]);
    nft("flush chain ip calico filter-FORWARD\ndelete table ip calico");
    line.goes_on("without the other");
    line.bypasses("by ours");
}

/// Adds the uplink `second`.
fn add_uplink(node: &Node) {
    ip("link add second type veth peer name eth1 netns client
        addr add 203.0.113.1/24 dev second
        link set second up");
    node.client.run(|| ip("addr add 203.0.113.100/24 dev eth1\nlink set eth1 up"));
}

/// Each uplink that is named takes part; an answer leaves by the route that holds now.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn connections_by_two_uplinks() {
    let node = Node::new();
    observe();
    add_uplink(&node);
    let (_pod, _attachment) = web(&node, &bridged().with("offload", json!(["uplink", "second"])));
    let mut lines = [FIRST[0], "203.0.113.1"].map(|to| {
        let mut line = Line::established(&node, Transport::Tcp, to);
        line.bypasses(to);
        line
    });
    assert_eq!(offloaded().len(), 2, "{:?}", view::flows());
    // The client stays where it is, and is reached by the other uplink from now on.
    ip(&format!("route add {}/32 via 203.0.113.100 dev second", CLIENT[0]));
    for line in &mut lines {
        line.goes_on("after the route has changed");
        line.goes_on("and again");
    }
}

/// An uplink that is not named has no part in it: its connections work, and pass FORWARD.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn an_uplink_that_is_not_named_is_left_alone() {
    let node = Node::new();
    observe();
    add_uplink(&node);
    let (_pod, _attachment) = web(&node, &bridged());
    Line::established(&node, Transport::Tcp, SECOND[0]).bypasses("by the named one");
    let mut other = Line::established(&node, Transport::Tcp, "203.0.113.1");
    let before = forwarded();
    other.goes_on("by the other one");
    assert!(forwarded() > before, "its questions pass FORWARD");
}

/// The interface below a VLAN is named: Linux 7.2 does not take the VLAN itself.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn connections_by_a_vlan() {
    let node = Node::new();
    observe();
    ip("link add link uplink name uplink.5 type vlan id 5
            addr add 203.0.113.1/24 dev uplink.5
            addr add 2001:db8:5::1/64 dev uplink.5 nodad
            link set uplink.5 up");
    node.client.run(|| {
        ip("link add link eth0 name eth0.5 type vlan id 5
                addr add 203.0.113.100/24 dev eth0.5
                addr add 2001:db8:5::100/64 dev eth0.5 nodad
                link set eth0.5 up");
    });
    let (_pod, _attachment) = web(&node, &bridged().with("offload", json!(["uplink"])));
    for to in ["203.0.113.1", "2001:db8:5::1"] {
        for transport in Transport::BOTH {
            let mut line = Line::established(&node, transport, to);
            line.bypasses(&format!("{transport:?} to {to}"));
        }
    }
}

/// The bond is named. When its links take turns, connections continue.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn connections_by_a_bond() {
    let node = Node::new();
    observe();
    ip("link add trunk type bond mode active-backup miimon 50
        link add first type veth peer name eth1 netns client
        link add second type veth peer name eth2 netns client
        link set first master trunk
        link set second master trunk
        addr add 203.0.113.1/24 dev trunk
        addr add 2001:db8:5::1/64 dev trunk nodad
        link set trunk up");
    node.client.run(|| {
        ip("link add switch type bridge
            link set eth1 master switch up
            link set eth2 master switch up
            addr add 203.0.113.100/24 dev switch
            addr add 2001:db8:5::100/64 dev switch nodad
            link set switch up");
    });
    let (_pod, _attachment) = web(&node, &bridged().with("offload", json!(["trunk"])));
    let mut lines = Vec::new();
    for to in ["203.0.113.1", "2001:db8:5::1"] {
        for transport in Transport::BOTH {
            let mut line = Line::established(&node, transport, to);
            line.bypasses(&format!("{transport:?} to {to}"));
            lines.push(line);
        }
    }
    for (goes, stays) in [("first", "second"), ("second", "first")] {
        ip(&format!("link set {stays} up\nlink set {goes} down"));
        let active = || run(Command::new("ip").args(["-d", "link", "show", "trunk"]), "").1;
        let mut looked = 0;
        while !active().contains(&format!(" active_slave {stays} ")) {
            looked += 1;
            assert!(looked < 100, "the bond stays with {goes}");
            thread::sleep(Duration::from_millis(50));
        }
        for line in &mut lines {
            line.goes_on(&format!("by {stays}"));
            line.bypasses(&format!("by {stays}"));
        }
    }
}
