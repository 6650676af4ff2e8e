use std::net::IpAddr;

use super::*;
use crate::model::Mapping;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("a test address")
}

fn networks(text: &[&str]) -> Vec<IpNetwork> {
    text.iter().map(|one| one.parse().expect("a test network")).collect()
}

/// A mapping to the pod.
fn mapping(host: &str) -> Mapping {
    let host = socket(host);
    let port = host.port().try_into().expect("a test port");
    let target = socket(if host.is_ipv4() { "10.1.0.5:53" } else { "[fd00::5]:53" });
    Mapping {
        host: HostPort { protocol: Protocol::Udp, address: host.ip(), port },
        container_port: port,
        target: Some(target),
    }
}

fn traffic(host: &str) -> Traffic {
    Traffic { mappings: vec![mapping(host)], ..Traffic::default() }
}

fn flow(from: &str, to: &str, by: &str) -> Flow {
    let from = from.parse().expect("a test address");
    let (to, answered_by) = (socket(to), socket(by));
    Flow { protocol: Protocol::Udp, from, to, answered_by, handle: Vec::new() }
}

/// Whether the flow ends on a node whose addresses are 192.0.2.1, `2001:db8::1` and those of the loopback.
fn ends(change: &Redirected, flow: &Flow) -> bool {
    let own: [IpAddr; 4] =
        ["192.0.2.1:1", "[2001:db8::1]:1", "127.0.0.1:1", "[::1]:1"].map(|one| socket(one).ip());
    change.turns().iter().any(|turn| turn.ends(flow, &|address| own.contains(&address)))
}

#[test]
fn what_is_new_ends_what_met_the_node_itself() {
    let new = |host: &str| Redirected { new: vec![traffic(host)], ..Redirected::default() };
    let ends = |host, to, by| ends(&new(host), &flow("198.51.100.9", to, by));
    assert!(ends("0.0.0.0:53", "192.0.2.1:53", "192.0.2.1:53"), "to the node itself");
    assert!(!ends("0.0.0.0:53", "192.0.2.1:53", "10.1.0.4:53"), "translated by others");
    assert!(!ends("0.0.0.0:53", "192.0.2.1:53", "10.1.0.5:53"), "to the pod itself");
    assert!(!ends("0.0.0.0:53", "192.0.2.1:54", "192.0.2.1:54"), "another port");
    assert!(!ends("0.0.0.0:53", "198.51.100.1:53", "198.51.100.1:53"), "only forwarded");
    assert!(!ends("0.0.0.0:53", "[2001:db8::1]:53", "[2001:db8::1]:53"), "another family");
    assert!(ends("192.0.2.1:53", "192.0.2.1:53", "192.0.2.1:53"), "the claimed address");
    assert!(!ends("192.0.2.2:53", "192.0.2.2:53", "192.0.2.2:53"), "an address of others");
    assert!(!ends("192.0.2.2:53", "192.0.2.1:53", "192.0.2.1:53"), "another address");
}

/// What the gates of the table do not let through is not translated, now or before.
#[test]
fn the_policy_decides_which_flows_are_meant() {
    let narrow = Traffic {
        host_addresses: networks(&["198.51.100.0/24"]),
        source_ranges: networks(&["203.0.113.0/24"]),
        ..traffic("0.0.0.0:53")
    };
    let open = Traffic { host_addresses: networks(&["192.0.2.1"]), ..narrow.clone() };
    let deaf = Traffic { leaves_loopback: true, ..traffic("0.0.0.0:53") };
    let new = |by: &Traffic| Redirected { new: vec![by.clone()], ..Redirected::default() };
    let gone = |by: &Traffic| Redirected { gone: vec![by.clone()], ..Redirected::default() };
    let at_node = |from| flow(from, "192.0.2.1:53", "192.0.2.1:53");
    let local = |from| flow(from, "127.0.0.1:53", "127.0.0.1:53");
    assert!(!ends(&new(&narrow), &at_node("203.0.113.7")), "at an address that is left out");
    assert!(ends(&new(&open), &at_node("203.0.113.7")), "at one that is not");
    assert!(!ends(&new(&open), &at_node("198.51.100.7")), "from a client that is not let in");
    assert!(ends(&new(&traffic("0.0.0.0:53")), &local("127.0.0.1")), "from loopback");
    assert!(!ends(&new(&deaf), &local("127.0.0.1")), "from loopback, which is not masqueraded");
    let v6 = flow("::1", "[::1]:53", "[::1]:53");
    assert!(!ends(&new(&traffic("[::]:53")), &v6), "from ::1, which is never translated");
    let to_pod = flow("203.0.113.7", "192.0.2.1:53", "10.1.0.5:53");
    assert!(!ends(&gone(&narrow), &to_pod) && ends(&gone(&open), &to_pod));
}

#[test]
fn what_is_gone_ends_what_went_to_its_target() {
    let gone = |host: &str| Redirected { gone: vec![traffic(host)], ..Redirected::default() };
    let ends = |host, to, by| ends(&gone(host), &flow("198.51.100.9", to, by));
    assert!(ends("0.0.0.0:53", "192.0.2.1:53", "10.1.0.5:53"));
    assert!(!ends("0.0.0.0:53", "192.0.2.1:53", "10.1.0.4:53"), "to another pod");
    assert!(!ends("0.0.0.0:53", "192.0.2.1:54", "10.1.0.5:53"), "by another host port");
    assert!(!ends("0.0.0.0:53", "10.96.0.10:53", "10.1.0.5:53"), "by a Service");
    assert!(!ends("0.0.0.0:53", "10.1.0.5:53", "10.1.0.5:53"), "straight to the pod");
    assert!(ends("192.0.2.2:53", "192.0.2.2:53", "10.1.0.5:53"), "by an address that has left");
    assert!(!ends("192.0.2.2:53", "192.0.2.1:53", "10.1.0.5:53"), "by another address");
}

#[test]
fn the_cheapest_way_is_taken() {
    let ways = |by: Traffic, new: bool, pods_stay, entries| {
        let (gone, new) = if new { (Vec::new(), vec![by]) } else { (vec![by], Vec::new()) };
        let change = Redirected { gone, new, pods_stay };
        deletions(&change.turns(), entries).map(|all| all.concat().len())
    };
    let many = |count| Traffic {
        mappings: (1..=count).map(|port| mapping(&format!("0.0.0.0:{port}"))).collect(),
        ..Traffic::default()
    };
    let of = |host| traffic(host);
    assert_eq!(ways(of("0.0.0.0:53"), false, false, 262_144), Some(1));
    assert_eq!(ways(of("192.0.2.1:53"), false, true, 1), Some(1));
    assert_eq!(ways(of("0.0.0.0:53"), false, true, 1), None, "the node's addresses decide");
    assert_eq!(ways(of("[::]:53"), false, false, 1), None, "the kernel cannot compare");
    assert_eq!(ways(of("0.0.0.0:53"), true, false, 1), None, "the clients decide");
    assert_eq!(ways(many(16), false, false, 100), Some(16));
    assert_eq!(ways(many(16), false, false, 262_144), None, "one listing by the pod's address");
    let at = |hosts| Traffic { host_addresses: networks(hosts), ..traffic("0.0.0.0:53") };
    assert_eq!(ways(at(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]), false, true, 1), Some(2));
    assert_eq!(ways(at(&["192.0.2.0/24"]), false, true, 1), None);
    let listed = |by: Traffic, is_new| {
        let all = Redirected { gone: vec![by], ..Redirected::default() };
        let turns: Vec<_> = all.turns().into_iter().map(|turn| Turn { is_new, ..turn }).collect();
        listings(&turns).len()
    };
    assert_eq!((listed(many(4), true), listed(many(5), true), listed(many(5), false)), (4, 1, 1));
}
