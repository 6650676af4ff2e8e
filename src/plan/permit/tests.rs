use super::*;
use crate::model::{ContainerPort, NamedRange, Pod, PortRange, Protocol, Request, test_ports};

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a port is not 0")
}

fn policy() -> PortPolicy {
    let range = |first, last| PortRange { first: port(first), last: port(last) };
    let kept = NamedRange {
        ports: vec![range(7000, 7099)],
        namespaces: Some(BTreeSet::from(["games".to_owned()])),
    };
    PortPolicy {
        named_ranges: [("game".to_owned(), kept)].into(),
        excluded: vec![range(22, 22), range(6000, 6100)],
        min_port: port(20),
        ..test_ports(&[range(20000, 29999)])
    }
}

fn pod(namespace: &str) -> Pod {
    Pod { namespace: namespace.into(), name: "web".into(), uid: "u1".into() }
}

fn block(count: u16) -> Request {
    Request {
        name: None,
        protocols: vec![Protocol::Tcp, Protocol::Udp],
        container_port: ContainerPort::From(port(80)),
        count: port(count),
        address: None,
        range: None,
    }
}

fn fixed(address: &str, number: u16) -> Vec<Mapping> {
    let address = (!address.is_empty()).then(|| address.parse().expect("an address"));
    let hosts = HostPort::each(Protocol::Tcp, address, port(number));
    hosts.map(|host| Mapping::towards(host, port(80), &[])).collect()
}

fn verdict(
    ports: &PortPolicy,
    namespace: &str,
    fixed: &[Mapping],
    requests: &[Request],
    held: Chosen,
) -> String {
    let networks = ["192.0.2.0/24", "2001:db8::/64"].map(|it| it.parse().expect("a network"));
    let mut ask = crate::model::test_ask(ports.clone());
    ask.pod = Some(pod(namespace));
    ask.annotation = (!requests.is_empty()).then_some("autoport.cni/ports");
    ask.policy.host_addresses = networks.to_vec();
    ask.fixed = fixed.to_vec();
    ask.requested = requests.to_vec();
    permit(&ask, held).err().map_or(String::new(), |error| error.to_string())
}

#[test]
fn numbers_and_addresses_that_are_named() {
    let judge = |address, number| {
        verdict(&policy(), "shop", &fixed(address, number), &[], Chosen::default())
    };
    for number in [20, 21, 23, 5999, 6101, 65535] {
        assert_eq!(judge("", number), "", "{number}");
    }
    assert!(judge("", 19).contains("below minPort, 20"));
    for number in [22, 6000, 6050, 6100] {
        assert!(judge("", number).contains("excludePorts"), "{number}");
    }
    for address in ["", "0.0.0.0", "::", "192.0.2.7", "2001:db8::1"] {
        assert_eq!(judge(address, 80), "", "{address}");
    }
    for address in ["192.0.3.1", "127.0.0.1", "::1", "2001:db8:1::1"] {
        let text = judge(address, 80);
        let start = format!("host IP {address} is in none of hostAddresses of this node's");
        assert!(text.starts_with(&start) && text.contains("192.0.2.0/24, 2001:db8::/64"), "{text}");
        let request = Request { address: address.parse().ok(), ..block(1) };
        assert_eq!(verdict(&policy(), "shop", &[], &[request], Chosen::default()), text);
    }
}

#[test]
fn a_range_can_be_kept_for_namespaces() {
    let request = Request { range: Some("game".into()), ..block(1) };
    let judge = |namespace| {
        verdict(&policy(), namespace, &[], std::slice::from_ref(&request), Chosen::default())
    };
    assert_eq!(judge("games"), "");
    let expected = "pods in namespace \"shop\" may not choose from range game; namespaces of \
                    namedRanges.game of this node's configuration would have to name it";
    assert_eq!(judge("shop"), expected);
    assert!(judge("").starts_with("pods of unknown namespace may not choose from range game"));
}

#[test]
fn limits_count_numbers_of_pod_and_namespace() {
    let mut ports = policy();
    let held = |pod, namespace| Chosen { pod, namespace };
    let judge = |ports: &PortPolicy, requests: &[Request], held| {
        verdict(ports, "shop", &fixed("", 8080), requests, held)
    };
    // A number in two protocols is one; a port that the Pod names itself is none.
    assert_eq!(judge(&ports, &[block(128)], held(0, 0)), "");
    assert_eq!(judge(&ports, &[block(100), block(28)], held(0, 5000)), "");
    assert_eq!(judge(&ports, &[], held(500, 5000)), "", "it asks for none");
    let expected = "28 host ports are asked for, and pod shop/web has 101 already, which together is \
                    more than maxPortsPerPod of this node's configuration permits, 128: it counts \
                    each number that the node chose, once for all protocols; ask for fewer ports, or \
                    have the node's operator raise maxPortsPerPod";
    assert_eq!(judge(&ports, &[block(27), block(1)], held(101, 0)), expected);
    assert!(judge(&ports, &[block(129)], held(0, 0)).contains("maxPortsPerPod"));
    ports.max_per_namespace = Some(port(200));
    assert_eq!(judge(&ports, &[block(100)], held(0, 100)), "");
    let text = judge(&ports, &[block(100)], held(0, 101));
    assert!(text.contains("namespace shop on this node has 101 already"), "{text}");
    assert!(text.contains("maxPortsPerNamespace of this node's configuration permits, 200"));
}
