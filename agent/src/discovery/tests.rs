use std::num::NonZeroU16;

use autoport::model::Protocol;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::status::tests;

fn facts(name: &str, status: &Value, meta: &Value) -> Facts {
    let mut pod = json!({
        "metadata": {"namespace": "games", "name": name, "uid": "u1",
                     "annotations": {"autoport.cni/service": "game"}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": status,
    });
    for (key, value) in meta.as_object().expect("an object") {
        pod["metadata"][key] = value.clone();
    }
    let pod: Pod = serde_json::from_value(pod).expect("a Pod");
    Facts::of(&pod).expect("a Pod of a node")
}

fn ready() -> Value {
    json!({"conditions": [{"type": "Ready", "status": "True"}]})
}

/// Name, number on the node and in the Pod, how many, protocols.
type Given<'a> = (Option<&'a str>, u16, u16, u16, &'a [Protocol]);

fn held(entries: &[Given<'_>]) -> Publication {
    let mut held = tests::held();
    let number = |number: u16| NonZeroU16::new(number).expect("a port");
    let entry =
        |(name, host, own, count, protocols): &(Option<&str>, u16, u16, u16, &[Protocol])| Entry {
            name: name.map(str::to_owned),
            host_port: number(*host),
            container_port: number(*own),
            count: number(*count),
            protocols: protocols.to_vec(),
            ..held.entries[0].clone()
        };
    held.entries = entries.iter().map(entry).collect();
    held
}

/// Name, protocol and number of each port of the first slice.
fn shown(wanted: &Wanted) -> Vec<String> {
    let ports = wanted.slices[0].ports.iter().flatten();
    let text = |text: &Option<String>| text.clone().expect("it is there");
    ports
        .map(|it| format!("{} {} {}", text(&it.name), text(&it.protocol), it.port.expect("one")))
        .collect()
}

const BOTH: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];
const UDP: &[Protocol] = &[Protocol::Udp];

#[test]
fn a_slice_has_the_host_ports_under_their_names() {
    let held = held(&[
        (Some("game"), 20000, 7777, 1, BOTH),
        (Some("rtp"), 20010, 9000, 10, UDP),
        (None, 20001, 8080, 1, BOTH),
    ]);
    let wanted = slices(&facts("game-0", &ready(), &json!({})), &held, "game", "n1");
    assert_eq!(
        shown(&wanted),
        [
            "game TCP 20000",
            "game-udp UDP 20000",
            "rtp UDP 20010",
            "8080-tcp TCP 20001",
            "8080-udp UDP 20001",
        ]
    );
    assert_eq!((wanted.slices.len(), wanted.problem), (1, None), "the node has IPv4 only");
    let slice = serde_json::to_value(&wanted.slices[0]).expect("JSON");
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(slice["metadata"]["name"], "game-u1-v4");
    assert_eq!(
        slice["metadata"]["labels"],
        json!({"kubernetes.io/service-name": "game", MANAGED_BY: MANAGER,
               "service.kubernetes.io/headless": ""})
    );
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "game-0", "uid": "u1"}]);
    assert_eq!(slice["metadata"]["ownerReferences"], owner);
    let endpoint = json!([{
        "addresses": ["192.0.2.1"], "hostname": "game-0", "nodeName": "n1",
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": "games", "name": "game-0", "uid": "u1"},
    }]);
    assert_eq!(slice["endpoints"], endpoint);
}

#[test]
fn each_family_has_a_slice_with_the_ports_that_answer_there() {
    let mut held = held(&[(Some("a"), 20000, 1, 1, UDP), (Some("b"), 20001, 2, 1, UDP)]);
    let v6: IpAddr = "2001:db8::1".parse().expect("an address");
    held.entries[0].host_ips.push(v6);
    let wanted = slices(&facts("game-0", &ready(), &json!({})), &held, "game", "n1");
    let types: Vec<_> = wanted.slices.iter().map(|slice| &*slice.address_type).collect();
    assert_eq!(types, ["IPv4", "IPv6"]);
    let ports = |slice: &EndpointSlice| slice.ports.as_ref().map(Vec::len);
    assert_eq!(wanted.slices.iter().map(ports).collect::<Vec<_>>(), [Some(2), Some(1)]);
}

#[test]
fn readiness_follows_the_pod() {
    let held = held(&[(Some("a"), 20000, 1, 1, UDP)]);
    let conditions = |status: &Value, meta: &Value| {
        let wanted = slices(&facts("game.0", status, meta), &held, "game", "n1");
        let endpoint = &wanted.slices[0].endpoints[0];
        assert_eq!(endpoint.hostname, None, "a host name has no dots");
        let all = endpoint.conditions.clone().expect("they are there");
        [all.ready, all.serving, all.terminating].map(Option::unwrap_or_default)
    };
    assert_eq!(conditions(&json!({}), &json!({})), [false, false, false]);
    assert_eq!(conditions(&ready(), &json!({})), [true, true, false]);
    let ending = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    assert_eq!(conditions(&ready(), &ending), [false, true, true]);
}

#[test]
fn what_does_not_fit_is_told() {
    let facts = facts("game-0", &ready(), &json!({}));
    let clash = held(&[(Some("a"), 20000, 1, 1, BOTH), (Some("a-udp"), 20001, 2, 1, UDP)]);
    let wanted = slices(&facts, &clash, "game", "n1");
    assert_eq!(shown(&wanted), ["a TCP 20000", "a-udp UDP 20000"]);
    assert!(wanted.problem.is_some_and(|text| text.contains("a-udp")));
    let many: Vec<_> = (0..101).map(|at| (None, 20000 + at, 1 + at, 1, UDP)).collect();
    let wanted = slices(&facts, &held(&many), "game", "n1");
    assert_eq!(shown(&wanted).len(), 100);
    assert!(wanted.problem.is_some_and(|text| text.contains("100 ports")));
}

#[test]
fn a_service_permits_it_if_it_is_headless_without_a_selector_and_says_so() {
    let service = |annotation: &str, spec: &Value| -> Service {
        let service = json!({"metadata": {"annotations": {ENDPOINTS: annotation}}, "spec": spec});
        serde_json::from_value(service).expect("a Service")
    };
    let headless = json!({"clusterIP": "None"});
    assert_eq!(permits(Some(&service("true", &headless)), "game"), Ok(()));
    for (service, reason) in [
        (None, "does not exist"),
        (Some(service("false", &headless)), "no annotation autoport.cni/endpoints"),
        (Some(service("true", &json!({"clusterIP": "10.96.0.7"}))), "not headless"),
        (
            Some(service("true", &json!({"clusterIP": "None", "selector": {"app": "game"}}))),
            "has a selector",
        ),
    ] {
        let told = permits(service.as_ref(), "game").expect_err("it does not permit it");
        assert!(told.contains(reason), "{told}");
    }
}

#[test]
fn a_slice_of_another_manager_or_pod_is_not_touched() {
    let facts = facts("game-0", &ready(), &json!({}));
    let held = held(&[(Some("a"), 20000, 1, 1, UDP)]);
    let slice = slices(&facts, &held, "game", "n1").slices.remove(0);
    assert!(is_its(&slice, &facts) && is_like(&slice, &slice));
    let mut other = slice.clone();
    other.metadata.owner_references = None;
    assert!(!is_its(&other, &facts));
    let mut other = slice.clone();
    other.metadata.labels.as_mut().expect("labels").remove(MANAGED_BY);
    assert!(!is_its(&other, &facts) && !is_like(&other, &slice));
}
