use super::*;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("a test address")
}

fn flow(to: &str, by: &str) -> Flow {
    Flow { to: socket(to), answered_by: socket(by), handle: Vec::new() }
}

/// Whether a flow to `to` that `by` answers is stale for a mapping of `host` to the pod, on a
/// node whose address is 192.0.2.1.
fn stale(stale: Stale, host: &str, to: &str, by: &str) -> bool {
    let host = socket(host);
    let host = HostPort {
        protocol: Protocol::Udp,
        address: host.ip(),
        port: host.port().try_into().expect("a test port"),
    };
    let target = Some(socket("10.1.0.5:53"));
    let mapping = Mapping { host, container_port: host.port, target };
    let own: IpAddr = socket("192.0.2.1:1").ip();
    let ports = Ports::of(&[mapping], Protocol::Udp, Family::of(&host.address));
    assert_eq!(ports.only(), Some(host.port.get()));
    ports.end(&flow(to, by), stale, &|address| address == own)
}

#[test]
fn an_added_mapping_ends_what_went_elsewhere() {
    let ends = |host, to, by| stale(Stale::Elsewhere, host, to, by);
    assert!(ends("0.0.0.0:53", "192.0.2.1:53", "192.0.2.1:53"), "to the node itself");
    assert!(ends("0.0.0.0:53", "192.0.2.1:53", "10.1.0.4:53"), "to the pod before");
    assert!(!ends("0.0.0.0:53", "192.0.2.1:53", "10.1.0.5:53"), "to the pod itself");
    assert!(!ends("0.0.0.0:53", "192.0.2.1:54", "192.0.2.1:54"), "another port");
    assert!(!ends("0.0.0.0:53", "198.51.100.1:53", "198.51.100.1:53"), "only forwarded");
    assert!(!ends("0.0.0.0:53", "10.96.0.10:53", "10.1.0.4:53"), "a Service");
    assert!(ends("192.0.2.2:53", "192.0.2.2:53", "192.0.2.2:53"), "the claimed address");
    assert!(!ends("192.0.2.2:53", "192.0.2.1:53", "192.0.2.1:53"), "another address");
}

#[test]
fn a_removed_mapping_ends_what_went_to_its_target() {
    let ends = |host, to, by| stale(Stale::Target, host, to, by);
    assert!(ends("0.0.0.0:53", "192.0.2.1:53", "10.1.0.5:53"));
    assert!(!ends("0.0.0.0:53", "192.0.2.1:53", "10.1.0.4:53"), "to another pod");
    assert!(!ends("0.0.0.0:53", "192.0.2.1:54", "10.1.0.5:53"), "by another host port");
    assert!(!ends("192.0.2.2:53", "192.0.2.1:53", "10.1.0.5:53"), "by another address");
}

#[test]
fn the_nodes_addresses_matter_to_few_flows() {
    let mapping = |protocol, host: &str, target: Option<&str>| {
        let host = socket(host);
        let port = host.port().try_into().expect("a test port");
        let host = HostPort { protocol, address: host.ip(), port };
        Mapping { host, container_port: port, target: target.map(socket) }
    };
    let pod = Some("10.1.0.5:53");
    let mappings = [
        mapping(Protocol::Udp, "0.0.0.0:53", pod),
        mapping(Protocol::Udp, "192.0.2.2:54", pod),
        mapping(Protocol::Udp, "0.0.0.0:55", None),
        mapping(Protocol::Tcp, "0.0.0.0:56", pod),
        mapping(Protocol::Udp, "[::]:57", Some("[fd00::5]:53")),
    ];
    let ports = Ports::of(&mappings, Protocol::Udp, Family::V4);
    assert_eq!(ports.0.keys().collect::<Vec<_>>(), [&53, &54]);
    assert_eq!(ports.only(), None);
    let asks = |stale, to: &str, by: &str| {
        let asked = std::cell::Cell::new(false);
        let flow = flow(to, by);
        assert_eq!(ports.concern(&flow), matches!(flow.to.port(), 53 | 54), "{to}");
        ports.end(&flow, stale, &|_| asked.replace(true));
        asked.get()
    };
    assert!(asks(Stale::Elsewhere, "198.51.100.1:53", "198.51.100.1:53"));
    assert!(!asks(Stale::Elsewhere, "192.0.2.1:53", "10.1.0.5:53"), "the pod answers");
    assert!(!asks(Stale::Target, "198.51.100.1:53", "198.51.100.1:53"), "a removal");
    for port in [54, 55, 56, 57, 443] {
        let to = format!("198.51.100.1:{port}");
        assert!(!asks(Stale::Elsewhere, &to, &to), "{to}");
    }
}
