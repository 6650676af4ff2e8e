use std::collections::BTreeMap;
use std::net::IpAddr;

use autoport::app::{Listing, Unread};
use autoport::cni::{Config, NodeFiles};
use autoport::model::{HostPort, Protocol};
use autoport::store::Reservation;
use k8s_openapi::api::core::v1;
use serde_json::{Value, json};

use super::*;

fn spec(spec: &Value) -> v1::PodSpec {
    serde_json::from_value(spec.clone()).expect("a spec")
}

fn container(limits: &Value) -> Value {
    json!({"name": "c", "resources": {"limits": limits}})
}

/// As the scheduler counts: the sum of the containers, or one init container that asks for more.
#[test]
fn a_pod_asks_for_what_the_scheduler_counts() {
    const GAME: &str = "autoport.cni/ports-game";
    let cases = [
        (json!({"containers": []}), 0, 0),
        (
            json!({"containers": [container(&json!({RESOURCE: "3"})), container(&json!({RESOURCE: 2}))]}),
            5,
            0,
        ),
        (
            json!({"containers": [container(&json!({RESOURCE: "2k", GAME: "1", "cpu": "7"}))]}),
            2000,
            1,
        ),
        (json!({"containers": [container(&json!({RESOURCE: "1500m"}))]}), 0, 0),
        (
            json!({
                "initContainers": [container(&json!({RESOURCE: "4"}))],
                "containers": [container(&json!({RESOURCE: "3", GAME: "1"}))],
            }),
            4,
            1,
        ),
        (
            json!({
                "initContainers": [{
                    "name": "s", "restartPolicy": "Always", "resources": {"limits": {RESOURCE: "4"}},
                }],
                "containers": [container(&json!({RESOURCE: "3"}))],
            }),
            7,
            0,
        ),
    ];
    for (written, ports, game) in cases {
        let mut wanted = Wanted::default();
        wanted.note("u1", Some(&spec(&written)));
        assert_eq!(wanted.of("u1", RESOURCE), Some(ports), "{written}");
        assert_eq!(wanted.of("u1", GAME), Some(game), "{written}");
        assert_eq!(wanted.of("u2", RESOURCE), None);
    }
}

#[test]
fn only_changes_are_counted_as_such() {
    let mut wanted = Wanted::default();
    let asks = |count: &str| spec(&json!({"containers": [container(&json!({RESOURCE: count}))]}));
    wanted.note("u1", Some(&asks("1")));
    wanted.note("u2", None);
    let before = wanted.changes();
    wanted.note("u1", Some(&asks("1")));
    wanted.keep(|_| true);
    assert_eq!(wanted.changes(), before);
    wanted.note("u1", Some(&asks("2")));
    wanted.keep(|uid| uid == "u1");
    assert_eq!(wanted.changes(), before + 2);
    assert_eq!((wanted.of("u1", RESOURCE), wanted.of("u2", RESOURCE)), (Some(2), None));
}

/// Ranges that are excluded in part, and a name that Kubernetes does not take.
#[test]
fn each_range_is_a_resource() {
    let file =
        br#"{"portRange": ["20000-20009", "20020-20029"], "excludePorts": ["20005-20024", "53"],
                    "namedRanges": {"game": "7000-7004", "x_": "8000-8001"}}"#;
    let (config, _) = Config::read(Some(file), &NodeFiles::default()).expect("it is right");
    let all = count(&config.ports, &Listing::default(), &Wanted::default());
    let expected = [(RESOURCE, (10, 0)), ("autoport.cni/ports-game", (5, 0))];
    assert_eq!(all, expected.map(|(name, counts)| (name.to_owned(), counts)).into());
}

/// Whatever is held by others is subtracted once, in however many protocols.
#[test]
fn what_is_reserved_is_not_there() {
    let (config, _) = Config::read(Some(br#"{"portRange": "20000-20009"}"#), &NodeFiles::default())
        .expect("right");
    let hosts = |ports: &[u16]| -> Vec<HostPort> {
        let both = [Protocol::Tcp, Protocol::Udp];
        let of = |port: &u16| {
            let port = (*port).try_into().expect("a port");
            both.map(|protocol| HostPort { protocol, address: IpAddr::from([0; 4]), port })
        };
        ports.iter().flat_map(of).collect()
    };
    let name = "web".to_owned();
    let reservation = Reservation {
        name,
        hosts: hosts(&[20_001, 20_002, 30_000]),
        created: 0,
        persistent: false,
    };
    let reason = "damaged".to_owned();
    let unread = Unread { name: "x".to_owned(), reason, hosts: hosts(&[20_002, 20_003]) };
    let listing =
        Listing { reservations: vec![reservation], unreadable: vec![unread], ..Listing::default() };
    let all = count(&config.ports, &listing, &Wanted::default());
    assert_eq!(all[RESOURCE], (7, 0));
}

#[test]
fn nothing_is_offered_of_what_is_not_led() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let dir = tempfile::tempdir().expect("a directory");
        let ports: BTreeMap<_, _> = [(RESOURCE.to_owned(), 3)].into();
        let mut offers = BTreeMap::new();
        let capacity = |leads| Capacity { leads, healthy: true, ports: ports.clone() };
        let sockets = Sockets::default();
        tend(dir.path(), "50", &sockets, &mut offers, capacity(true)).await;
        assert_eq!(offers.len(), 1, "kubelet may come later");
        tend(dir.path(), "50", &sockets, &mut offers, capacity(false)).await;
        assert!(offers.is_empty());
    });
}
