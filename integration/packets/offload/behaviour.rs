//! What becomes of offloaded connections when the node changes.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{ECHO, Line, PATIENCE, PORT, bridged, forwarded, observe, offloaded, web};
use crate::stage::chain::PortMapping;
use crate::stage::netns::{Netns, ip, nft, run, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, Pod};
use crate::stage::probe::{Answer, Probe, Transport};
use crate::stage::view;

/// After a while without packets the kernel lets go of a flow, and takes it up again with the next packet.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn an_idle_connection_falls_back_and_goes_on() {
    let node = Node::new();
    observe();
    sysctl("net/netfilter/nf_flowtable_tcp_timeout", "2");
    sysctl("net/netfilter/nf_flowtable_udp_timeout", "2");
    let (_pod, _attachment) = web(&node, &bridged());
    for to in FIRST {
        for transport in Transport::BOTH {
            let what = format!("{transport:?} to {to}");
            let mut line = Line::established(&node, transport, to);
            line.bypasses(&what);
            thread::sleep(Duration::from_secs(6));
            assert!(offloaded().is_empty(), "{what}: {:?}", offloaded());
            let before = forwarded();
            line.goes_on(&what);
            assert!(forwarded() > before, "{what} did not fall back");
            line.goes_on(&what);
            line.bypasses(&what);
            drop(line);
            // So that the next one begins without it.
            thread::sleep(Duration::from_secs(6));
        }
    }
}

/// A filter that begins to drop does not see what is offloaded. New connections meet it, as always.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn a_filter_that_begins_to_drop_decides_on_new_connections() {
    let node = Node::new();
    observe();
    let (_pod, _attachment) = web(&node, &bridged());
    let mut line = Line::established(&node, Transport::Tcp, FIRST[0]);
    line.bypasses("before");
    // Until the interfaces are all up, a flow may begin again, and meets the filter then.
    thread::sleep(Duration::from_secs(3));
    line.bypasses("before");
    nft("table inet firewall {
        chain forward { type filter hook forward priority filter; policy drop; }
    }");
    line.bypasses("with a filter that drops all");
    let refused = node.client_asks(&Probe::tcp(FIRST[0], PORT).in_vain());
    assert_eq!(refused, Answer::Silence);
    // Who wants an established connection to meet it as well has the flowtable forget it.
    nft("delete table inet autoport_offload");
    let Line::Tcp(stream) = &line else { panic!("it is TCP") };
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    line.exchange().expect_err("nothing passes the filter");
}

/// Policies of the form that network policies take: established connections pass, new ones are looked at.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn a_policy_decides_when_a_client_connects() {
    let node = Node::new();
    observe();
    let (pod, _attachment) = web(&node, &bridged());
    let pod = [pod.address(false), pod.address(true)];
    nft(&format!(
        "table inet policies {{
            set clients {{ type ipv4_addr; elements = {{ {} }}; }}
            chain forward {{
                type filter hook forward priority filter; policy accept;
                ct state established,related accept
                ip daddr {} ip saddr != @clients drop
                ip6 daddr {} drop
            }}
        }}",
        CLIENT[0], pod[0], pod[1]
    ));
    Line::established(&node, Transport::Tcp, FIRST[0]).bypasses("a client that may connect");
    let refused = node.client_asks(&Probe::tcp(FIRST[1], PORT).in_vain());
    assert_eq!(refused, Answer::Silence, "a client that may not");
    assert_eq!(offloaded().iter().filter(|flow| flow.contains("ipv6")).count(), 0);
}

/// Clients outside `sourceRanges` are refused before anything is offloaded.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn source_ranges_are_asked_at_connect() {
    let node = Node::new();
    observe();
    let (_pod, _attachment) = web(&node, &bridged().with("sourceRanges", json!([CLIENT[0]])));
    Line::established(&node, Transport::Tcp, FIRST[0]).bypasses("a client of sourceRanges");
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[1], PORT)), Answer::Refused);
}

/// Each element counts the connections through its port, which the first packet of each makes.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn connections_are_counted_as_before() {
    let node = Node::new();
    observe();
    let (_pod, _attachment) = web(&node, &bridged());
    for _ in 0..3 {
        Line::established(&node, Transport::Tcp, FIRST[0]).bypasses("one of three");
    }
    let list = ["list", "map", "inet", "autoport", "ports4"];
    let (_, listing) = run(Command::new("nft").args(list), "");
    assert!(listing.contains("tcp . 8080 counter packets 3 "), "{listing}");
}

/// Behind the client, one hop further away.
const FAR: [&str; 2] = ["198.51.100.2", "2001:db8:0:2::2"];

/// A link on the way to the client gets a smaller MTU: the router before it tells the pod, and large answers
/// arrive. This router is not the node.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn a_smaller_mtu_on_the_way_is_found_out() {
    for (to, far) in FIRST.into_iter().zip(FAR) {
        let node = Node::new();
        observe();
        let (pod, _attachment) = web(&node, &bridged());
        let behind = beyond(&node);
        let mut line = behind.run(|| Line::open(Transport::Tcp, to, PORT));
        line.goes_on("before it is offloaded");
        line.bypasses(to);
        node.client.run(|| ip("link set beyond mtu 1300"));
        behind.run(|| ip("link set eth0 mtu 1300"));
        line.carries(1400, PATIENCE);
        line.carries(300_000, PATIENCE);
        assert_eq!(path_mtu(&pod, far), Some(1300), "to {far}");
        assert!(!offloaded().is_empty(), "{to}: {:?}", view::flows());
    }
}

/// The link of the node itself gets a smaller MTU. The kernel lets go of flows of IPv4 then. Those of IPv6 keep the
/// MTU of their start: large packets are lost until one comes 30 s after the one before it, or the flowtable is deleted.
///
/// Both ends of the link change. A veth with a smaller MTU drops what the other end sends in packets of its own
/// size, which ends any connection.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn the_uplink_gets_a_smaller_mtu() {
    let [v4, v6] = [0, 1].map(|family| (FIRST[family], CLIENT[family]));
    let minutes = Duration::from_mins(3);
    for ((to, client), deleted, patience) in
        [(v4, false, PATIENCE), (v6, false, minutes), (v6, true, PATIENCE)]
    {
        let node = Node::new();
        observe();
        let (pod, _attachment) = web(&node, &bridged());
        let mut line = Line::established(&node, Transport::Tcp, to);
        line.bypasses(to);
        ip("link set uplink mtu 1300");
        node.client.run(|| ip("link set eth0 mtu 1300"));
        if deleted {
            nft("delete table inet autoport_offload");
        }
        line.carries(1400, patience);
        line.carries(300_000, patience);
        assert_eq!(path_mtu(&pod, client), Some(1300), "to {client}");
        assert_eq!(offloaded().is_empty(), deleted, "{to}: {:?}", view::flows());
    }
}

/// A network behind the client, which forwards to it.
fn beyond(node: &Node) -> Netns {
    let far = Netns::add("far");
    node.client.run(|| {
        ip("link add beyond type veth peer name eth0 netns far
            addr add 198.51.100.1/24 dev beyond
            addr add 2001:db8:0:2::1/64 dev beyond nodad
            link set beyond up");
        sysctl("net/ipv4/ip_forward", "1");
        sysctl("net/ipv6/conf/all/forwarding", "1");
    });
    far.run(|| {
        ip(&format!(
            "addr add {}/24 dev eth0
             addr add {}/64 dev eth0 nodad
             link set eth0 up
             route add default via 198.51.100.1
             route add default via 2001:db8:0:2::1",
            FAR[0], FAR[1]
        ));
    });
    ip(&format!(
        "route add 198.51.100.0/24 via {}
         route add 2001:db8:0:2::/64 via {}",
        CLIENT[0], CLIENT[1]
    ));
    far
}

/// What the pod has been told of the way to an address, if anything.
fn path_mtu(pod: &Pod, to: &str) -> Option<u32> {
    let (_, way) = pod.netns.run(|| run(Command::new("ip").args(["route", "get", to]), ""));
    let mut words = way.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).map(|mtu| mtu.parse().expect("a number"))
}

/// ICMP errors about an offloaded connection reach either end, with the addresses that it knows.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn icmp_errors_reach_either_end() {
    for to in FIRST {
        let node = Node::new();
        observe();
        let mapping = [PortMapping::new(Transport::Udp, PORT, ECHO)];
        let (pod, _attachment) = node.attached("pod", &bridged(), mapping);
        for pod_closes in [true, false] {
            let (server, client) = talking(&node, &pod, to);
            assert!(!offloaded().is_empty(), "{to}: {:?}", view::flows());
            let (stays, goes) = if pod_closes { (client, server) } else { (server, client) };
            drop(goes);
            stays.send(b"?").expect("a route");
            let refused = stays.recv(&mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{to} {pod_closes}");
        }
    }
}

/// Both ends of a UDP connection through the port that is offloaded.
fn talking(node: &Node, pod: &Pod, to: &str) -> (UdpSocket, UdpSocket) {
    let server = pod.netns.run(|| UdpSocket::bind(("::", ECHO)).expect("a free port"));
    let client = node.client.run(|| Line::open(Transport::Udp, to, PORT));
    let Line::Udp(client) = client else { panic!("it is UDP") };
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut heard = [0; 8];
    for _ in 0..3 {
        client.send(b"?").expect("a route");
        let (_, from) = server.recv_from(&mut heard).expect("a question");
        server.connect(from).expect("a route");
        server.send(b"!").expect("a route");
        client.recv(&mut heard).expect("an answer");
    }
    (server, client)
}

/// A pod that reaches itself by the node's address.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn a_pod_reaches_itself() {
    let node = Node::new();
    observe();
    let (pod, _attachment) = web(&node, &bridged());
    for transport in Transport::BOTH {
        let mut line = pod.netns.run(|| Line::open(transport, FIRST[0], PORT));
        line.goes_on("before");
        line.goes_on("when it is offloaded");
        line.bypasses(&format!("{transport:?}"));
    }
}

/// The pod answers after the kernel has let go of the flow.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn a_late_answer_arrives() {
    let node = Node::new();
    observe();
    sysctl("net/netfilter/nf_flowtable_udp_timeout", "2");
    let mapping = [PortMapping::new(Transport::Udp, PORT, ECHO)];
    let (pod, _attachment) = node.attached("late", &bridged(), mapping);
    let (server, client) = talking(&node, &pod, FIRST[0]);
    assert_eq!(offloaded().len(), 1, "{:?}", view::flows());
    let mut heard = [0; 8];
    client.send(b"?").expect("a route");
    server.recv(&mut heard).expect("a question");
    thread::sleep(Duration::from_secs(6));
    assert!(offloaded().is_empty(), "{:?}", offloaded());
    server.send(b"!").expect("a route");
    client.recv(&mut heard).expect("a late answer");
}
