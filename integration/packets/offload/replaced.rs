//! Pods that leave while their connections are offloaded, and others that take over their ports.

use std::time::{Duration, Instant};

use super::{Line, PORT, bridged, forwarded, observe, offloaded, web};
use crate::stage::chain::{Attachment, PortMapping};
use crate::stage::netns::ip;
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod};
use crate::stage::probe::{Probe, Transport};
use crate::stage::view;

const SOURCE: u16 = 41000;

/// The kernel looks for flows whose connection is no longer tracked about once in a second.
const SWEEP: Duration = Duration::from_secs(5);

fn attached(node: &Node, name: &str) -> (Pod, Attachment) {
    node.attached(name, &bridged(), PortMapping::both(PORT, POD_PORT, ""))
}

fn probe(transport: Transport, to: &str) -> Probe {
    let client = CLIENT[usize::from(to.contains(':'))];
    let probe = Probe::new(transport, (crate::stage::node::address(to), PORT)).from(client, SOURCE);
    Probe { patience: Duration::from_millis(250), ..probe }
}

/// A client that asks from the same port again and again is answered by the new pod soon, and by the old one
/// never again.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn the_next_pod_gets_the_clients_of_its_port() {
    for to in FIRST {
        let node = Node::new();
        observe();
        let (old, attachment) = attached(&node, "old");
        let udp = probe(Transport::Udp, to);
        for _ in 0..4 {
            assert_eq!(node.client_asks(&udp).by(), Some("old"), "{to}");
        }
        assert_eq!(offloaded().len(), 1, "{to}: {:?}", view::flows());
        attachment.del().success();
        assert!(!interfaces_of(&old), "{to}: the main plugin has deleted the interface");
        let (_new, _) = attached(&node, "new");
        becomes(&node, &udp, "new");
        for _ in 0..4 {
            assert_eq!(node.client_asks(&udp).by(), Some("new"), "{to}");
        }
        assert_eq!(offloaded().len(), 1, "{to}: {:?}", view::flows());
        assert_eq!(node.client_asks(&probe(Transport::Tcp, to)).by(), Some("new"), "{to}");
    }
}

fn interfaces_of(pod: &Pod) -> bool {
    pod.netns.run(|| std::fs::exists("/proc/sys/net/ipv4/conf/eth0").expect("a sysctl"))
}

/// Asks until `name` answers.
fn becomes(node: &Node, probe: &Probe, name: &str) {
    let begun = Instant::now();
    while node.client_asks(probe).by() != Some(name) {
        assert!(begun.elapsed() < SWEEP, "{name} does not answer: {:?}", view::flows());
    }
}

/// The same while the interface of the old pod is still there: only what autoport does counts.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn flows_of_udp_end_with_the_mapping() {
    for to in FIRST {
        let node = Node::new();
        observe();
        let (_stays, _) = {
            let mapping = [PortMapping::new(Transport::Tcp, 9090, POD_PORT)];
            node.attached("stays", &bridged(), mapping)
        };
        let (_old, attachment) = attached(&node, "old");
        let udp = probe(Transport::Udp, to);
        for _ in 0..4 {
            assert_eq!(node.client_asks(&udp).by(), Some("old"), "{to}");
        }
        assert_eq!(offloaded().len(), 1, "{to}: {:?}", view::flows());
        attachment.plugin_call("DEL").run().success();
        let (_new, _) = attached(&node, "new");
        becomes(&node, &udp, "new");
        for _ in 0..8 {
            assert_eq!(node.client_asks(&udp).by(), Some("new"), "{to}");
        }
    }
}

/// An established connection of TCP ends with its pod: the next pod hears nothing of it, and a client that
/// connects again from the same port reaches the next pod.
#[test]
#[ignore = "needs a kernel with nf_flow_table: make test-kernels"]
fn a_connection_of_tcp_ends_with_its_pod() {
    let node = Node::new();
    observe();
    let (old, attachment) = web(&node, &bridged());
    let mut line = Line::established(&node, Transport::Tcp, FIRST[0]);
    line.bypasses("before");
    // As in a power cut: without a word to its clients.
    old.netns.run(|| ip("link set eth0 down"));
    attachment.del().success();
    let (_new, _) = node.attached("new", &bridged(), PortMapping::both(PORT, POD_PORT, ""));
    let Line::Tcp(stream) = &line else { panic!("it is TCP") };
    stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
    line.exchange().expect_err("the old pod is gone, and the new one does not know of it");
    let before = forwarded();
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)).by(), Some("new"));
    assert!(forwarded() > before, "a new connection passes FORWARD");
}
