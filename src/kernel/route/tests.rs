use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().expect("a test address")
}

#[test]
fn local_is_what_a_network_holds_not_what_is_beside_it() {
    let networks = ["127.0.0.0/8", "192.0.2.1/32", "2001:db8::1/128"];
    let local: Local =
        networks.iter().map(|text| text.parse::<IpNetwork>().expect("a network")).collect();
    for own in ["127.0.0.1", "127.8.9.1", "192.0.2.1", "2001:db8::1"] {
        assert!(local.contains(address(own)), "{own}");
    }
    for other in ["128.0.0.1", "192.0.2.2", "2001:db8::2", "::1"] {
        assert!(!local.contains(address(other)), "{other}");
    }
    assert!(!Local::default().contains(address("127.0.0.1")));
}

#[test]
fn only_local_routes_count() {
    let route = |to: &str, prefix, kind| {
        RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address(to), prefix)
            .expect("a test route")
            .kind(kind)
            .build()
    };
    let loopback = route("127.0.0.0", 8, RouteType::Local);
    assert_eq!(destination(Family::V4, &loopback), Some("127.0.0.0/8".parse().expect("ok")));
    assert_eq!(destination(Family::V6, &loopback), None);
    for kind in [RouteType::Unicast, RouteType::Broadcast, RouteType::Anycast] {
        assert_eq!(destination(Family::V4, &route("192.0.2.0", 32, kind)), None, "{kind:?}");
    }
    let mut everything = route("0.0.0.0", 0, RouteType::Local);
    everything.attributes.clear();
    assert_eq!(destination(Family::V4, &everything), Some("0.0.0.0/0".parse().expect("ok")));
}

/// A program of tasks may call what has a runtime of its own.
#[test]
fn a_question_can_be_asked_from_within_a_task() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let found =
        runtime.block_on(async { (links(), outward_addresses(&[]).expect("the kernel answers")) });
    assert!(!found.0.expect("every namespace has a loopback").is_empty());
}
