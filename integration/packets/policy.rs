//! The keys of a network, with packets: permitted clients, node addresses, masquerading.

use std::fs;
use std::net::UdpSocket;

use serde_json::{Value, json};

use crate::stage::bare::{add, attachment, network, run, tcp, udp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::echo::Echo;
use crate::stage::netns::{ip, nft, ruleset};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, Pod, SECOND, address};
use crate::stage::operator::told;
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe};
use crate::stage::view::{self, table};

const PORT: u16 = 8080;

/// A node with one pod, `web`, on a network with this key.
fn scene(key: &str, value: Value) -> (Node, Pod, Attachment) {
    scene_on(SECOND[0], key, value)
}

/// A pod with a port on every address, and the next one on this host IP.
fn scene_on(host_ip: &str, key: &str, value: Value) -> (Node, Pod, Attachment) {
    let node = Node::new();
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport).with(key, value);
    let mut mappings = PortMapping::both(PORT, POD_PORT, "");
    mappings.extend(PortMapping::both(PORT + 1, POD_PORT, host_ip));
    let (pod, attachment) = node.attached("web", &blue, mappings);
    attachment.check().success();
    (node, pod, attachment)
}

fn by(source: &str) -> Answer {
    Answer::reached("web", source)
}

/// Asks from outside over TCP and over UDP, and insists that both get the same answer.
fn both(node: &Node, to: &str, port: u16, from: &str) -> Answer {
    let probes = [Probe::tcp(to, port), Probe::udp(to, port)];
    let [tcp, udp] = probes.map(|probe| node.client_asks(&probe.from(from, 0)));
    assert_eq!(tcp, udp, "{to}:{port} from {from}");
    tcp
}

#[test]
fn source_ranges_say_who_may_connect() {
    let ranges = [format!("{}/32", CLIENT[0]), "2001:db8:0:1::100".to_owned()];
    let (node, pod, _attachment) = scene("sourceRanges", json!(ranges));
    let others = ["192.0.2.101", "2001:db8:0:1::101"];
    node.client.run(|| {
        ip(&format!(
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad",
            others[0], others[1]
        ));
    });
    for family in [0, 1] {
        assert_eq!(both(&node, FIRST[family], PORT, CLIENT[family]), by(CLIENT[family]));
        assert_eq!(both(&node, FIRST[family], PORT, others[family]), Answer::Refused);
        assert_eq!(Probe::tcp(FIRST[family], PORT).ask(), Answer::Refused, "nor the node");
        assert_eq!(pod.asks(&Probe::tcp(FIRST[family], PORT)), Answer::Refused, "nor the pod");
    }
    assert_eq!(both(&node, SECOND[0], PORT + 1, CLIENT[0]), by(CLIENT[0]));
    assert_eq!(both(&node, SECOND[0], PORT + 1, others[0]), Answer::Refused);
    assert_eq!(Probe::tcp("127.0.0.1", PORT).ask(), by("10.1.0.1"), "loopback always may");
}

#[test]
fn host_addresses_say_where_wildcards_answer() {
    let (node, _pod, _attachment) =
        scene_on(FIRST[0], "hostAddresses", json!([FIRST[0], FIRST[1]]));
    for family in [0, 1] {
        assert_eq!(both(&node, FIRST[family], PORT, CLIENT[family]), by(CLIENT[family]));
        assert_eq!(both(&node, SECOND[family], PORT, CLIENT[family]), Answer::Refused);
        assert_eq!(Probe::tcp(FIRST[family], PORT).ask(), by(FIRST[family]));
    }
    assert_eq!(Probe::tcp("127.0.0.1", PORT).ask(), Answer::Refused);
    // Another host IP would be forbidden.
    assert_eq!(both(&node, FIRST[0], PORT + 1, CLIENT[0]), by(CLIENT[0]));
    assert_eq!(both(&node, SECOND[0], PORT + 1, CLIENT[0]), Answer::Refused);
}

/// A daemon on an address that the claim leaves out stays reachable there, and does not count.
#[test]
fn a_daemon_beside_the_claims_addresses_does_not_count() {
    let node = Node::new();
    let own = [PORT, PORT + 1].map(|port| (address(SECOND[0]), port).into());
    let _daemon = Echo::start("daemon", &node.here, &own);
    let _resolver = UdpSocket::bind(("127.0.0.53", PORT)).expect("a free port");
    let network = |addresses: Value| network("blue").with("hostAddresses", addresses);
    let everywhere = [udp(PORT), tcp(PORT), tcp(PORT).on(SECOND[0])];
    for (mapping, remedy) in everywhere.into_iter().zip([true, true, false]) {
        let web = attachment(&node, &network(json!([])), "web", 200).mapping([mapping]);
        let refused = run(&web, "ADD");
        let message = refused.failure(103).message().to_owned();
        assert!(message.contains("hostListeners"), "{message}");
        let both = message.contains("hostAddresses") && message.contains("host IP");
        assert_eq!(both, remedy, "{message}");
    }
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport)
        .with("hostAddresses", json!([FIRST[0], FIRST[1]]))
        .with("portRange", format!("{}", PORT + 1));
    let mappings = [PortMapping::both(PORT, POD_PORT, ""), vec![tcp(0)]].concat();
    let (_web, _attachment) = node.attached("web", &blue, mappings);
    for (port, to) in [PORT, PORT + 1].into_iter().zip(FIRST) {
        assert_eq!(node.client_asks(&Probe::tcp(to, port)).by(), Some("web"));
        assert_eq!(node.client_asks(&Probe::tcp(SECOND[0], port)).by(), Some("daemon"));
    }
}

#[test]
fn all_of_a_family_is_a_host_address_too() {
    let (node, _pod, _attachment) = scene("hostAddresses", json!(["0.0.0.0/0"]));
    assert_eq!(both(&node, FIRST[0], PORT, CLIENT[0]), by(CLIENT[0]));
    assert_eq!(both(&node, SECOND[0], PORT, CLIENT[0]), by(CLIENT[0]));
    assert_eq!(both(&node, FIRST[1], PORT, CLIENT[1]), Answer::Refused);
}

fn route_localnet(interface: &str) -> String {
    // /proc/sys/net is that of the thread that reads.
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
    fs::read_to_string(path).expect("a sysctl").trim().to_owned()
}

#[test]
fn without_snat_nobody_is_masqueraded() {
    let (node, pod, _attachment) = scene("snat", json!(false));
    for family in [0, 1] {
        assert_eq!(both(&node, FIRST[family], PORT, CLIENT[family]), by(CLIENT[family]));
        assert_eq!(Probe::tcp(FIRST[family], PORT).ask(), by(FIRST[family]));
    }
    // Refused beats a translation that cannot be answered.
    assert_eq!(Probe::tcp("127.0.0.1", PORT).ask(), Answer::Refused);
    // A pod that asks for itself is answered by itself, past the node, and does not know itself.
    assert_eq!(pod.asks(&Probe::tcp(FIRST[0], PORT).in_vain()).by(), None);
    assert_eq!(route_localnet("cni1"), "0");
}

#[test]
fn with_masq_all_everybody_is_masqueraded() {
    let (node, pod, attachment) = scene("masqAll", json!(true));
    let gateway = attachment.network.gateway();
    for family in [0, 1] {
        let masqueraded = by(&gateway[family]);
        assert_eq!(both(&node, FIRST[family], PORT, CLIENT[family]), masqueraded);
        assert_eq!(Probe::tcp(FIRST[family], PORT).ask(), masqueraded);
        assert_eq!(pod.asks(&Probe::tcp(FIRST[family], PORT)), masqueraded);
    }
    assert_eq!(Probe::tcp("127.0.0.1", PORT).ask(), by(&gateway[0]));
}

/// The mark is used between two hooks and cleared before other programs evaluate it. Only TCP is examined:
/// the kernel's own multicast reports have marks that no rule set (`reserved_tailroom` of an skb
/// is the same memory).
#[test]
fn any_mark_bit_works_and_is_taken_off() {
    for bit in [0, 13, 31] {
        let (node, pod, _attachment) = scene("markMasqBit", json!(bit));
        nft("table inet witness {
                chain marked { type filter hook postrouting priority 150; meta l4proto tcp meta mark != 0 counter; }
                chain before { type filter hook forward priority 0; meta l4proto tcp meta mark != 0 counter; }
            }");
        assert_eq!(pod.asks(&Probe::tcp(FIRST[0], PORT)), by("10.1.0.1"), "bit {bit}");
        assert_eq!(Probe::tcp("127.0.0.1", PORT).ask(), by("10.1.0.1"), "bit {bit}");
        assert_eq!(both(&node, FIRST[0], PORT, CLIENT[0]), by(CLIENT[0]), "bit {bit}");
        let listing = crate::stage::netns::settle();
        let counted = |chain: &str| {
            let rest = listing.split(&format!("chain {chain} {{")).nth(1).expect("the witness");
            let packets = rest.split("packets ").nth(1).expect("a counter");
            packets.split(' ').next().expect("a number").to_owned()
        };
        assert_eq!(counted("marked"), "0", "bit {bit}: {listing}");
        assert_ne!(counted("before"), "0", "bit {bit}: the witness sees marks: {listing}");
    }
}

/// A packet that arrives while a command changes the table may find a port in one set and not yet, or no longer,
/// in another: none passes by the gates.
#[test]
fn without_one_of_its_elements_a_port_behind_a_gate_is_closed() {
    let (node, _pod, _attachment) = scene("sourceRanges", json!(["198.51.100.0/24"]));
    let refused = || {
        let answer = both(&node, FIRST[0], PORT, CLIENT[0]);
        answer == Answer::Refused && Probe::tcp("127.0.0.1", PORT).ask() == Answer::Refused
    };
    assert_eq!(both(&node, FIRST[0], PORT, CLIENT[0]), Answer::Refused);
    assert_eq!(Probe::tcp("127.0.0.1", PORT).ask(), by("10.1.0.1"), "loopback is always allowed");
    let listing = ruleset();
    let held = listing.lines().find_map(|line| line.trim().strip_prefix("set held4_"));
    let held = format!("held4_{}", held.expect("a set").trim_end_matches(" {"));
    for map in [format!("set inet autoport {held}"), "map inet autoport gated_ports4".to_owned()] {
        nft(&format!("flush {map}"));
        assert!(refused(), "{map}");
        told(&["repair"]);
        assert_eq!(Probe::tcp("127.0.0.1", PORT).ask(), by("10.1.0.1"), "{map}");
    }
}

#[test]
fn counters_count_connections() {
    let (node, _pod, attachment) = scene("snat", json!(true));
    for _ in 0..3 {
        assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], PORT)), by(CLIENT[0]));
    }
    assert_eq!(node.client_asks(&Probe::udp(SECOND[0], PORT + 1)), by(CLIENT[0]));
    let counted = |set: &str, key: &Value| {
        let maps = table().into_iter().filter_map(|part| part.get("map").cloned());
        let map = maps.into_iter().find(|map| map["name"] == set).expect(set);
        let elements = map["elem"].as_array().expect("elements").clone();
        let element = elements.iter().find(|element| &element[0]["elem"]["val"]["concat"] == key);
        element.unwrap_or_else(|| panic!("no {key} in {map}"))[0]["elem"]["counter"]["packets"]
            .clone()
    };
    assert_eq!(counted("ports4", &json!(["tcp", PORT])), 3);
    assert_eq!(counted("ports6", &json!(["tcp", PORT])), 0);
    assert_eq!(counted("host_ports4", &json!([SECOND[0], "udp", PORT + 1])), 1);
    attachment.check().success();
    add(&node, &attachment);
    assert_eq!(counted("ports4", &json!(["tcp", PORT])), 3, "ADD again keeps the count");
}

/// The build machine's kernel has no SCTP sockets, so the elements must do; the rules that read
/// them are those of TCP and UDP.
#[test]
fn sctp_is_mapped_like_the_others() {
    let node = Node::new();
    let sctp = PortMapping { protocol: "SCTP", ..tcp(PORT) };
    let web = attachment(&node, &network("blue"), "web", 5).mapping([sctp, tcp(PORT)]);
    add(&node, &web);
    web.check().success();
    let elements = view::elements();
    let of = |protocol: &str| {
        let own = elements.iter().filter(|element| element.contains(&format!("\"{protocol}\"")));
        own.map(|element| element.replace(protocol, "")).collect::<Vec<_>>()
    };
    assert_eq!(of("sctp").len(), 4, "{elements:?}");
    assert_eq!(of("sctp"), of("tcp"));
}

#[test]
fn route_localnet_is_set_towards_the_pod_only() {
    for (main, towards) in [(Main::Bridge, "cni1"), (Main::Ptp, "veth")] {
        let node = Node::new();
        let blue = Network::new("blue", main, 1, Plugin::Autoport);
        let (_pod, _attachment) = node.attached("web", &blue, [tcp(PORT)]);
        let all = fs::read_dir("/proc/sys/net/ipv4/conf").expect("sysctls").flatten();
        let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let set: Vec<String> = names.filter(|name| route_localnet(name) == "1").collect();
        let [one] = &set[..] else { panic!("{main:?}: set on {set:?}") };
        assert!(one.starts_with(towards), "{main:?}: {one}");
        assert_eq!(Probe::tcp("127.0.0.1", PORT).ask().by(), Some("web"), "{main:?}");
        if main == Main::Bridge {
            // Pods that share the interface find it set; it may not be reset by somebody's ADD.
            let (_second, _attachment) = node.attached("second", &blue, [tcp(PORT + 1)]);
            assert_eq!(route_localnet("cni1"), "1");
        }
    }
}
