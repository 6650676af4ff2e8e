//! The guard against loopback addresses (CVE-2020-8558): it covers the interfaces towards pods on
//! which `route_localnet` is set, and no others.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::stage::bare;
use crate::stage::chain::{Main, Network, PortMapping};
use crate::stage::echo::Echo;
use crate::stage::netns::{Netns, ip, nft, run, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, address};
use crate::stage::operator::told;
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, PATIENCE, Probe, SILENCE};
use crate::stage::view::guarded;

const PORT: u16 = 8080;

fn bridged(name: &str, subnet: u8) -> Network {
    Network::new(name, Main::Bridge, subnet, Plugin::Autoport)
}

fn mappings() -> Vec<PortMapping> {
    PortMapping::both(PORT, POD_PORT, "")
}

fn route_localnet(interface: &str) -> String {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
    fs::read_to_string(path).expect("a sysctl").trim().to_owned()
}

/// A machine on the node's network that has an address of 127.0.0.0/8 and routes others to the node.
struct Neighbour<'a> {
    node: &'a Node,
    _private: Echo,
    open: UdpSocket,
}

impl<'a> Neighbour<'a> {
    fn new(node: &'a Node) -> Self {
        sysctl("net/ipv4/conf/all/rp_filter", "0");
        sysctl("net/ipv4/conf/uplink/rp_filter", "0");
        sysctl("net/ipv4/conf/uplink/accept_local", "1");
        let private = Echo::start("private", &node.here, &[(address("127.0.0.1"), 9999).into()]);
        let open = UdpSocket::bind(("0.0.0.0", 9998)).expect("a free port");
        open.set_read_timeout(Some(SILENCE)).expect("a timeout");
        node.client.run(|| {
            sysctl("net/ipv4/conf/all/route_localnet", "1");
            ip(&format!(
                "addr del 127.0.0.1/8 dev lo
                 route add 127.0.0.0/8 via {} dev eth0 src {}
                 addr add 127.0.0.77/32 dev eth0",
                FIRST[0], CLIENT[0]
            ));
        });
        Self { node, _private: private, open }
    }

    /// Whether it reaches what listens on the node's 127.0.0.1, and whether it passes for the node.
    fn gets_in(&self) -> (bool, bool) {
        let probe = Probe::udp("127.0.0.1", 9999).from(CLIENT[0], 0).in_vain();
        let reached = self.node.client_asks(&probe) != Answer::Silence;
        self.node.client.run(|| {
            let client = UdpSocket::bind("127.0.0.77:0").expect("an address of its own");
            client.send_to(b"?", (FIRST[0], 9998)).expect("it is routed");
        });
        (reached, self.open.recv_from(&mut [0; 8]).is_ok())
    }
}

/// On an interface without `route_localnet`, the kernel itself drops loopback addresses.
#[test]
fn a_neighbour_does_not_reach_the_nodes_loopback() {
    let node = Node::new();
    let neighbour = Neighbour::new(&node);
    let (_pod, _attachment) = node.attached("web", &bridged("blue", 1), mappings());
    assert_eq!(guarded(), ["cni1"]);
    assert_eq!(route_localnet("uplink"), "0");
    assert_eq!(neighbour.gets_in(), (false, false));
    // The test would see an open door.
    sysctl("net/ipv4/conf/uplink/route_localnet", "1");
    assert_eq!(neighbour.gets_in(), (true, true));
}

/// Where the node's network and the pods share a bridge, the interface towards the pods is the one
/// towards the neighbour.
#[test]
fn nor_does_one_on_the_bridge_of_the_pods() {
    let node = Node::new();
    let neighbour = Neighbour::new(&node);
    let (_pod, _attachment) = node.attached("web", &bridged("blue", 1), mappings());
    sysctl("net/ipv4/conf/cni1/rp_filter", "0");
    sysctl("net/ipv4/conf/cni1/accept_local", "1");
    ip(&format!(
        "addr flush dev uplink
         link set uplink master cni1
         addr add {}/24 dev cni1",
        FIRST[0]
    ));
    // Until the neighbour has learned the address of the bridge.
    let learned = (0..20).any(|_| {
        let silent = node.client_asks(&Probe::tcp(FIRST[0], 9997).in_vain()) == Answer::Silence;
        node.client.run(|| ip("neigh flush all"));
        !silent
    });
    assert!(learned, "the neighbour does not reach the node");
    assert_eq!(neighbour.gets_in(), (false, false));
    nft("flush set inet autoport guarded");
    assert_eq!(neighbour.gets_in(), (true, true), "nothing but the guard kept it out");
    told(&["repair"]);
    assert_eq!(neighbour.gets_in(), (false, false));
}

/// Only packets that are sent to 127.0.0.0/8 are dropped: the agents of some clouds serve their metadata from
/// there, and have an address translated to it.
#[test]
fn what_others_translate_to_loopback_arrives() {
    let node = Node::new();
    let (pod, _attachment) = node.attached("web", &bridged("blue", 1), mappings());
    let _private = Echo::start("private", &node.here, &[(address("127.0.0.1"), 9999).into()]);
    let asks = |to: &str| {
        let probes = [Probe::tcp(to, 9999), Probe::udp(to, 9999)];
        probes.map(|probe| pod.asks(&probe.in_vain()).by() == Some("private"))
    };
    let translation = |extra: &str| {
        nft(&format!(
            "table ip metadata {{
               chain first {{ type filter hook prerouting priority raw; {extra}
               }}
               chain translated {{
                 type nat hook prerouting priority dstnat; ip daddr 169.254.170.2 dnat to 127.0.0.1
               }}
             }}"
        ));
    };
    translation("");
    assert_eq!(asks("169.254.170.2"), [true; 2]);
    pod.netns.run(|| {
        sysctl("net/ipv4/conf/all/route_localnet", "1");
        ip(&format!(
            "addr del 127.0.0.1/8 dev lo
             route add 127.0.0.1/32 via 10.1.0.1 dev eth0 src {}",
            pod.address(false)
        ));
    });
    assert_eq!(asks("127.0.0.1"), [false; 2]);
    // Connection tracking knows nothing of it.
    nft("delete table ip metadata");
    translation("ip daddr 127.0.0.0/8 notrack");
    assert_eq!(asks("127.0.0.1"), [false; 2]);
    nft("flush chain inet autoport guard_input");
    assert_eq!(asks("127.0.0.1"), [true; 2], "nothing but the guard kept it out");
}

/// WSL 2 with mirrored networking delivers what the host sends to the node's localhost by an interface
/// of its own, from 127.0.0.1 to 127.0.0.1.
#[test]
fn an_interface_that_others_opened_stays_open() {
    let node = Node::new();
    let host = Netns::add("windows");
    ip("link add loopback0 address 02:00:00:00:00:01 type veth peer name eth0 netns windows
        addr add 10.9.9.1/24 dev loopback0
        link set loopback0 up");
    for (name, value) in [("route_localnet", "1"), ("accept_local", "1"), ("rp_filter", "0")] {
        sysctl(&format!("net/ipv4/conf/loopback0/{name}"), value);
    }
    sysctl("net/ipv4/conf/all/rp_filter", "0");
    host.run(|| {
        ip("addr add 10.9.9.2/24 dev eth0
            link set eth0 up
            route add default via 10.9.9.1
            neigh add 10.9.9.1 lladdr 02:00:00:00:00:01 dev eth0");
        nft("table ip mirror {
               chain out {
                 type filter hook postrouting priority 300;
                 udp dport 9090 ip saddr set 127.0.0.1 ip daddr set 127.0.0.1
               }
             }");
    });
    let service = UdpSocket::bind((Ipv4Addr::LOCALHOST, 9090)).expect("a free port");
    service.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let delivered = || {
        let mut count = 0;
        for _ in 0..5 {
            host.run(|| {
                let socket = UdpSocket::bind("10.9.9.2:0").expect("an address of its own");
                socket.send_to(b"?", "203.0.113.5:9090").expect("it is routed");
            });
            count += u32::from(service.recv_from(&mut [0; 8]).is_ok());
        }
        count
    };
    assert_eq!(delivered(), 5, "before");
    let (_pod, attachment) = node.attached("web", &bridged("blue", 1), mappings());
    assert_eq!(delivered(), 5, "with a host port");
    assert_eq!(guarded(), ["cni1"]);
    for command in [&["repair"], &["gc"]] {
        told(command);
        assert_eq!(delivered(), 5, "{command:?}");
    }
    attachment.del().success();
    assert_eq!(delivered(), 5, "after it");
}

/// What is open is guarded whatever happens to the table, and while the pods come and go.
#[test]
fn what_is_open_is_guarded_again_with_the_table() {
    let node = Node::new();
    let (_pod, web) = node.attached("web", &bridged("blue", 1), mappings());
    let alone = Network::new("red", Main::Ptp, 3, Plugin::Autoport);
    let tcp = vec![PortMapping::both(8081, POD_PORT, "")[0].clone()];
    let (_second, second) = node.attached("second", &alone, tcp);
    let both = guarded();
    assert!(both.len() == 2 && both.contains(&"cni1".to_owned()), "{both:?}");
    for name in &both {
        assert_eq!(route_localnet(name), "1");
    }
    for damage in ["flush ruleset", "flush set inet autoport guarded"] {
        nft(damage);
        told(&["repair"]);
        assert_eq!(guarded(), both, "{damage}");
    }
    // With the table built again by somebody's ADD or DEL.
    nft("flush ruleset");
    second.del().success();
    assert_eq!(guarded(), both);
    told(&["gc"]);
    assert_eq!(guarded(), ["cni1"], "the interface went with its pod");
    // The bridge stays, and is open, without any pod.
    web.del().success();
    assert_eq!(route_localnet("cni1"), "1");
    nft("flush ruleset");
    told(&["repair"]);
    assert_eq!(guarded(), ["cni1"]);
}

#[test]
fn an_exception_stays_one() {
    let node = Node::new();
    let blue = bridged("blue", 1).with("guardExcept", json!(["cni1", "eth7"]));
    let (pod, web) = node.attached("web", &blue, mappings());
    assert_eq!(route_localnet("cni1"), "1");
    assert_eq!(guarded(), [""; 0]);
    nft("flush ruleset");
    told(&["repair"]);
    assert_eq!(guarded(), [""; 0]);
    // Until the configuration says something else.
    let plain = bridged("blue", 1);
    let mut again = pod.in_network(&plain).mapping(mappings());
    again.result.clone_from(&web.result);
    crate::stage::bare::add(&node, &again);
    assert_eq!(guarded(), ["cni1"]);
    crate::stage::bare::add(&node, &web);
    assert_eq!(guarded(), [""; 0]);
}

/// A container that has `/proc/sys` read-only, on a node where loopback addresses are let in anyway.
#[test]
fn nothing_is_written_where_nothing_has_to_be() {
    let node = Node::new();
    let read_only = |on: bool| {
        let script = if on {
            "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
        } else {
            "umount /proc/sys"
        };
        let (ok, text) = run(Command::new("sh").args(["-c", script]), "");
        assert!(ok, "{script}: {text}");
    };
    let pod = node.pod("web");
    let mut web = pod.in_network(&bridged("blue", 1)).mapping(mappings());
    let local = || pod.asks(&Probe::tcp(FIRST[0], PORT)).by() == Some("web");
    // The main plugin writes there as well.
    node.add(&mut web);
    crate::stage::bare::run(&web, "DEL").success();
    sysctl("net/ipv4/conf/cni1/route_localnet", "0");

    read_only(true);
    crate::stage::bare::run(&web, "ADD").failure(110);
    read_only(false);
    sysctl("net/ipv4/conf/all/route_localnet", "1");
    read_only(true);
    crate::stage::bare::add(&node, &web);
    assert_eq!(guarded(), ["cni1"]);
    assert!(local());
    // The bridge's own sysctl will do, too.
    crate::stage::bare::run(&web, "DEL").success();
    read_only(false);
    sysctl("net/ipv4/conf/all/route_localnet", "0");
    sysctl("net/ipv4/conf/cni1/route_localnet", "1");
    read_only(true);
    crate::stage::bare::add(&node, &web);
    assert!(local());
    read_only(false);
}

/// The route to an address of the node itself is `lo`: guarded, it would cut the node off from its own services.
#[test]
fn a_pod_with_an_address_of_the_node_leaves_its_loopback_open() {
    let node = Node::new();
    let mut web =
        bare::attachment(&node, &bare::network("blue"), "web", 5).mapping([bare::tcp(PORT)]);
    web.result = Some(bare::result("1.1.0", &[format!("{}/24", FIRST[0])]));
    let service = std::net::TcpListener::bind("127.0.0.1:9999").expect("a free port");
    let address = service.local_addr().expect("a listener has an address");
    let reached = || std::net::TcpStream::connect_timeout(&address, PATIENCE).is_ok();
    bare::add(&node, &web);
    assert!(reached(), "after ADD");
    nft("delete table inet autoport");
    told(&["repair"]);
    assert!(reached(), "after a repair");
    assert_eq!(guarded(), [""; 0]);
    bare::run(&web, "DEL").success();
}
