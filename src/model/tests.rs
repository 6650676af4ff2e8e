//! The rules of the nouns.

use std::collections::BTreeMap;

use super::*;

fn host(text: &str) -> HostPort {
    let (address, port) = text.rsplit_once('@').map_or((text, "80"), |(a, p)| (a, p));
    HostPort {
        protocol: Protocol::Tcp,
        address: address.parse().expect("a test address"),
        port: port.parse().expect("a test port"),
    }
}

#[test]
fn wildcards_overlap_within_their_family_only() {
    assert!(host("0.0.0.0").overlaps(&host("192.0.2.1")));
    assert!(host("192.0.2.1").overlaps(&host("0.0.0.0")));
    assert!(!host("0.0.0.0").overlaps(&host("2001:db8::1")));
    assert!(!host("::").overlaps(&host("0.0.0.0")));
    assert!(!host("192.0.2.1").overlaps(&host("192.0.2.2")));
    assert!(!host("0.0.0.0@80").overlaps(&host("0.0.0.0@81")));
    let udp = HostPort { protocol: Protocol::Udp, ..host("0.0.0.0") };
    assert!(!udp.overlaps(&host("0.0.0.0")));
}

#[test]
fn names_follow_the_rules_of_libcni() {
    for good in ["a", "0", "cbr0", "A.b_c-d", &"x".repeat(4000)] {
        assert_eq!(check_identifier("container ID", good), Ok(()), "{good}");
    }
    for bad in ["", "-a", ".a", "_a", "a/b", "../a", "a b", "a\n", "\u{e9}"] {
        assert!(check_identifier("container ID", bad).is_err(), "{bad:?}");
    }
    for good in ["eth0", "a", "exactly15bytes!"] {
        assert_eq!(check_ifname(good), Ok(()), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\u{a0}b", "sixteen-bytes-..."] {
        assert!(check_ifname(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn host_ports_print_like_socket_addresses() {
    assert_eq!(host("0.0.0.0").to_string(), "0.0.0.0:80/tcp");
    assert_eq!(host("::").to_string(), "[::]:80/tcp");
}

/// What most networks have.
fn test_policy() -> Policy {
    Policy {
        masquerade: Masquerade::Local,
        mark_bit: 13,
        source_ranges: Vec::new(),
        host_addresses: Vec::new(),
    }
}

/// Ranges to choose from and no limit that a test would notice.
pub(crate) fn test_ports(ranges: &[PortRange]) -> PortPolicy {
    PortPolicy {
        ranges: ranges.to_vec(),
        named_ranges: BTreeMap::new(),
        excluded: Vec::new(),
        min_port: NonZeroU16::MIN,
        allocation: Allocation::Sequential,
        host_listeners: HostListeners::Reject,
        allowed_namespaces: None,
        max_per_pod: NonZeroU16::new(128).expect("it is not 0"),
        max_per_namespace: None,
    }
}

/// A record of no ports, for tests to fill in.
pub(crate) fn test_record(owner: Owner) -> Record {
    Record {
        owner,
        pod_addresses: Vec::new(),
        policy: test_policy(),
        mappings: Vec::new(),
        grants: Vec::new(),
        dialects: [].into(),
        advertised: Vec::new(),
        offload: None,
        created: 0,
        boot_id: String::new(),
    }
}

/// A request for nothing, for tests to fill in.
pub(crate) fn test_ask(ports: PortPolicy) -> Ask {
    let attachment = Attachment::new("net", "c1", "eth0").expect("a valid name");
    Ask {
        holder: attachment.into(),
        pod: None,
        netns: None,
        fixed: Vec::new(),
        requested: Vec::new(),
        annotation: None,
        allocation: ports.allocation,
        dialects: BTreeSet::new(),
        pod_addresses: Vec::new(),
        host_interfaces: Vec::new(),
        ports,
        policy: test_policy(),
        advertise_addresses: Vec::new(),
        guard_except: Vec::new(),
        offload: Vec::new(),
    }
}
