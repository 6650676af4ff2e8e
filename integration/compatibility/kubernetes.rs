//! What Kubernetes expects of host ports, next to kube-proxy's rules.

use std::net::IpAddr;

use crate::stage::chain::{Main, Network, PortMapping};
use crate::stage::netns::nft;
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, SECOND};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe, Transport};

/// "`HostPort` validates that there is no conflict between pods with same hostPort but different
/// hostIP and protocol" of Kubernetes' conformance tests: the client is a pod on the node's own
/// network, and binds to the node's address.
pub(crate) fn conformance(plugin: Plugin) {
    const PORT: u16 = 54323;
    let node = Node::new();
    for (subnet, family, loopback) in [(1, 0, "127.0.0.1"), (2, 1, "::1")] {
        let network = Network::new(&format!("net{subnet}"), Main::Bridge, subnet, plugin);
        let host = FIRST[family];
        let attach = |number: u8, transport, host_ip: &str| {
            let mapping = PortMapping::new(transport, PORT, POD_PORT).on(host_ip);
            node.attached(&format!("pod{number}-{subnet}"), &network, [mapping])
        };
        let pods = [
            attach(1, Transport::Tcp, loopback),
            attach(2, Transport::Tcp, host),
            attach(3, Transport::Udp, host),
        ];
        let [first, second, third] = pods.each_ref().map(|(pod, _)| Some(&*pod.name));
        assert_eq!(Probe::tcp(loopback, PORT).from(host, 0).ask().by(), first);
        assert_eq!(Probe::tcp(host, PORT).ask().by(), second);
        assert_eq!(Probe::udp(host, PORT).ask().by(), third);
        assert_eq!(node.client_asks(&Probe::tcp(host, PORT)).by(), second);
        assert_eq!(node.client_asks(&Probe::udp(host, PORT)).by(), third);
    }
}

/// When kube-proxy made its table. The kernel runs the base chains of one priority in the order of
/// their making, the latest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KubeProxy {
    BeforeThePlugin,
    AfterThePlugin,
}

/// A Service on an address of this node (an external IP, a load balancer's, in IPVS mode even a
/// cluster IP) goes to its endpoint, although a pod has the same port as a host port.
pub(crate) fn a_service_on_a_node_address_wins(plugin: Plugin, order: KubeProxy) {
    let node = Node::new();
    let network = Network::new("blue", Main::Bridge, 1, plugin);
    let (endpoint, _) = node.attached("endpoint", &network, []);
    let start = || {
        let endpoint = [false, true].map(|v6| endpoint.address(v6));
        kube_proxy(&FIRST.map(|address| (address, 8080)), endpoint);
    };
    if order == KubeProxy::BeforeThePlugin {
        start();
    }
    let (_holder, _) = node.attached("holder", &network, PortMapping::both(8080, POD_PORT, ""));
    if order == KubeProxy::AfterThePlugin {
        start();
    }
    for transport in Transport::BOTH {
        for (first, second) in FIRST.into_iter().zip(SECOND) {
            let at = |address: &str| Probe { transport, ..Probe::tcp(address, 8080) };
            for (answer, asker) in
                [(node.client_asks(&at(first)), "the client"), (at(first).ask(), "the node")]
            {
                assert_eq!(answer.by(), Some("endpoint"), "{first} {transport:?} from {asker}");
            }
            assert_eq!(node.client_asks(&at(second)).by(), Some("holder"), "{transport:?}");
        }
    }
}

/// Service traffic that reaches a pod which has a host port, too, is not masqueraded: this is what
/// `ct status dnat` cannot tell apart.
pub(crate) fn service_traffic_keeps_its_source(plugin: Plugin) {
    const SERVICE: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
    let node = Node::new();
    let network = Network::new("blue", Main::Bridge, 1, plugin);
    let other = Network::new("green", Main::Bridge, 2, plugin);
    let (holder, _) = node.attached("holder", &network, PortMapping::both(8080, POD_PORT, ""));
    let (neighbour, _) = node.attached("neighbour", &network, []);
    let (stranger, _) = node.attached("stranger", &other, []);
    kube_proxy(&SERVICE.map(|address| (address, 80)), [false, true].map(|v6| holder.address(v6)));
    for transport in Transport::BOTH {
        for (service, client) in SERVICE.into_iter().zip(CLIENT) {
            let probe = Probe { transport, ..Probe::tcp(service, 80) };
            assert_eq!(node.client_asks(&probe), Answer::reached("holder", client));
            // Neighbours need their bridge to call iptables for any Service; clusters set it.
            for pod in [&stranger, &neighbour] {
                let own = pod.address(service.contains(':')).to_string();
                assert_eq!(pod.asks(&probe), Answer::reached("holder", &own));
            }
        }
    }
}

/// A table as kube-proxy's: at dstnat, translating each service address to `endpoint`.
fn kube_proxy(services: &[(&str, u16)], endpoint: [IpAddr; 2]) {
    let rule = |(address, port): &(&str, u16)| {
        let (family, target) = if address.contains(':') {
            ("ip6", format!("[{}]:{POD_PORT}", endpoint[1]))
        } else {
            ("ip", format!("{}:{POD_PORT}", endpoint[0]))
        };
        let matches =
            format!("{family} daddr {address} meta l4proto {{ tcp, udp }} th dport {port}");
        format!("{matches} dnat {family} to {target}\n")
    };
    let rules = services.iter().map(rule).collect::<Vec<_>>().concat();
    nft(&format!(
        "table inet kube-proxy {{
             chain services {{ {rules} }}
             chain prerouting {{ type nat hook prerouting priority -100; jump services; }}
             chain output {{ type nat hook output priority -100; jump services; }}
         }}"
    ));
}

#[test]
fn one_port_is_held_by_three_pods_on_different_addresses_and_protocols() {
    conformance(Plugin::Autoport);
}

#[test]
fn services_on_node_addresses_win_over_a_later_plugin() {
    a_service_on_a_node_address_wins(Plugin::Autoport, KubeProxy::BeforeThePlugin);
}

#[test]
fn services_on_node_addresses_win_over_an_earlier_plugin() {
    a_service_on_a_node_address_wins(Plugin::Autoport, KubeProxy::AfterThePlugin);
}

#[test]
fn services_keep_the_source_address() {
    service_traffic_keeps_its_source(Plugin::Autoport);
}
