use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1;
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::inject::tests::http;

const NODE: &str = "n1";

/// A port that the node has chosen.
pub(crate) fn held() -> Publication {
    Publication::of(&[http()]).expect("the node has chosen a port")
}

fn object(annotations: &Value, spec: &Value, status: &Value) -> v1::Pod {
    let pod = json!({
        "metadata": {"namespace": "games", "name": "game-0", "uid": "u1", "resourceVersion": "7",
                     "annotations": annotations},
        "spec": spec, "status": status,
    });
    serde_json::from_value(pod).expect("a Pod")
}

fn facts(annotations: &Value, gates: &[&str], status: &Value) -> Facts {
    let gates: Vec<_> = gates.iter().map(|kind| json!({"conditionType": kind})).collect();
    let spec = json!({"nodeName": NODE, "containers": [], "readinessGates": gates});
    Facts::of(&object(annotations, &spec, status)).expect("a Pod of a node")
}

fn asking() -> Value {
    json!({"autoport.cni/ports": "http=8080"})
}

fn needed(facts: &Facts, verdict: Option<&Verdict>) -> Option<Value> {
    patch(facts, Some(&held()), verdict, NODE, &Time(Timestamp::UNIX_EPOCH))
}

fn verdict(listens: bool) -> Verdict {
    Verdict { listens, message: String::new() }
}

#[test]
fn the_annotation_has_what_the_documentation_says() {
    let mut held = held();
    let (host, own) = (held.entries[0].host_port, held.entries[0].container_port);
    let expected = json!({"version": 1, "node": NODE, "addresses": ["192.0.2.1"], "ports": [
        {"name": "http", "protocols": ["tcp"], "hostPort": host, "containerPort": own, "count": 1},
    ]});
    let read = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let nodes = ["198.51.100.1".parse().expect("an address")];
    assert_eq!(read(&text(&held, NODE, &nodes)), expected);
    // A port with a host IP of its own.
    let mut other = held.entries[0].clone();
    (other.name, other.host_ips) = (None, vec!["192.0.2.2".parse().expect("an address")]);
    held.entries.push(other);
    let status = read(&text(&held, NODE, &nodes));
    assert_eq!(status["addresses"], json!(["192.0.2.1", "192.0.2.2"]));
    assert_eq!(status["ports"][1]["addresses"], json!(["192.0.2.2"]));
    assert!(status["ports"][1].get("name").is_none(), "{status}");
    // Where no record knows an address, the API server does.
    held.entries.iter_mut().for_each(|entry| entry.host_ips.clear());
    let status = read(&text(&held, NODE, &nodes));
    assert_eq!(status["addresses"], json!(["198.51.100.1"]));
    assert!(status["ports"][0].get("addresses").is_none(), "{status}");
}

#[test]
fn a_pod_is_changed_once_and_only_where_it_differs() {
    let bare = facts(&asking(), &[], &json!({"hostIP": "192.0.2.9"}));
    let change = needed(&bare, None).expect("it carries nothing yet");
    assert_eq!(change["metadata"]["uid"], "u1");
    assert!(change.get("status").is_none(), "it has no gate: {change}");
    let mut carried = asking();
    let told = &change["metadata"]["annotations"];
    assert_eq!(told["autoport.cni/host-port.http"], "20001");
    for (key, value) in told.as_object().expect("an object") {
        carried[key] = value.clone();
    }
    assert_eq!(needed(&facts(&carried, &[], &json!({})), None), None);
    carried[STATUS] = json!("{}");
    carried["autoport.cni/host-port.old"] = json!("1");
    let change = needed(&facts(&carried, &[], &json!({})), None).expect("the author's own");
    let changed = change["metadata"]["annotations"].as_object().expect("an object");
    let keys: Vec<_> = changed.keys().collect();
    assert_eq!(keys, ["autoport.cni/host-port.old", STATUS]);
    assert_eq!(changed["autoport.cni/host-port.old"], Value::Null);
}

#[test]
fn a_gate_is_told_with_the_annotation_and_then_by_itself() {
    let gated =
        |annotations: &Value, status: &Value| facts(annotations, &["other", LISTENING], status);
    let bare = gated(&asking(), &json!({}));
    assert_eq!(needed(&bare, None), None, "the first look is waited for");
    let both = needed(&bare, Some(&verdict(false))).expect("it carries nothing yet");
    let condition = &both["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!(LISTENING), &json!("False")));
    assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:00Z");
    let mut carried = asking();
    for (key, value) in both["metadata"]["annotations"].as_object().expect("an object") {
        carried[key] = value.clone();
    }
    let with = |status: &str| {
        let ready = json!({"type": "Ready", "status": "False"});
        let own = json!({"type": LISTENING, "status": status});
        gated(&carried, &json!({"conditions": [ready, own]}))
    };
    assert_eq!(needed(&with("False"), Some(&verdict(false))), None);
    let opened = needed(&with("False"), Some(&verdict(true))).expect("it has changed");
    assert_eq!(opened["status"]["conditions"][0]["status"], "True");
    assert!(opened["metadata"].get("annotations").is_none(), "{opened}");
    assert_eq!(needed(&with("True"), Some(&verdict(true))), None);
}

#[test]
fn a_pod_that_has_ended_carries_nothing() {
    let ended = json!({"phase": "Failed"});
    let nothing = |facts: &Facts| patch(facts, None, None, NODE, &Time(Timestamp::UNIX_EPOCH));
    let mut carried = asking();
    assert_eq!(nothing(&facts(&carried, &[], &ended)), None);
    carried[STATUS] = json!("{}");
    let change = nothing(&facts(&carried, &[], &ended)).expect("it carries something");
    assert_eq!(change["metadata"]["annotations"][STATUS], Value::Null);
    assert_eq!(nothing(&facts(&carried, &[], &json!({"phase": "Running"}))), None);
    let of_author = facts(&json!({STATUS: "{}"}), &[], &ended);
    assert_eq!(nothing(&of_author), None, "it never asked");
}

#[test]
fn a_pod_is_known_by_two_identities_and_its_nodes_addresses() {
    let uid = "0123456789abcdef0123456789abcdef";
    let mirror = json!({"kubernetes.io/config.mirror": uid});
    let spec = json!({"nodeName": NODE, "containers": [], "hostNetwork": true});
    let status = json!({"hostIP": "192.0.2.9", "podIP": "192.0.2.9",
                        "hostIPs": [{"ip": "192.0.2.9"}, {"ip": "2001:db8::9"}]});
    let facts = Facts::of(&object(&mirror, &spec, &status)).expect("a Pod");
    assert_eq!((&*facts.pod.uid, &*facts.uid, facts.version), (uid, "u1", 7));
    assert!(facts.is_on_host && !facts.asks && !facts.has_gate);
    assert_eq!(facts.host_ips.len(), 2);
    let old = Facts::of(&object(&mirror, &spec, &json!({"hostIP": "192.0.2.9"}))).expect("a Pod");
    assert_eq!(old.host_ips, facts.host_ips[..1]);
}

#[test]
fn a_run_and_what_cannot_be_connected_to_do_not_count() {
    let mut held = held();
    let entry = |name: &str, protocols: &[Protocol], count: u16| Entry {
        name: Some(name.to_owned()),
        protocols: protocols.to_vec(),
        count: count.try_into().expect("a number"),
        ..held.entries[0].clone()
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let entries = vec![entry("a", &[tcp, udp], 1), entry("b", &[udp], 1), entry("c", &[tcp], 2)];
    held.entries = entries;
    let (host, own) = (held.entries[0].host_port, held.entries[0].container_port);
    let target = |protocol, port| Target { protocol, port };
    assert_eq!(targets(&held, false), [target(tcp, own)]);
    assert_eq!(targets(&held, true), [target(tcp, host), target(udp, host), target(udp, host)]);
}

#[test]
fn one_look_that_differs_does_not_change_a_condition_that_was_true() {
    let mut now = Instant::now();
    let mut gate = Gate::new(None);
    assert!(gate.is_due(now) && gate.verdict().is_none());
    let mut look = |gate: &mut Gate, listens: bool| {
        let changed = gate.look(verdict(listens), now);
        let mut pause = Duration::ZERO;
        while !gate.is_due(now + pause) {
            pause += Duration::from_millis(500);
        }
        now += pause;
        (changed, pause.as_secs())
    };
    assert_eq!(look(&mut gate, false), (true, 1), "the first one is told");
    assert_eq!(look(&mut gate, false), (false, 1));
    assert_eq!(look(&mut gate, true), (true, 10));
    assert_eq!(look(&mut gate, false), (false, 1));
    assert_eq!(look(&mut gate, true), (false, 10));
    for _ in 0..2 {
        assert_eq!(look(&mut gate, false), (false, 1));
    }
    assert_eq!(look(&mut gate, false), (true, 1));
    for _ in 0..2 {
        assert_eq!(look(&mut gate, true), (false, 1), "nor does it come back at once");
    }
    assert_eq!(look(&mut gate, true), (true, 10));
    // A program that never listens is looked for less often.
    let mut gate = Gate::new(Some(false));
    let pauses: Vec<_> = (0..70).map(|_| look(&mut gate, false).1).collect();
    assert_eq!((pauses[0], pauses[69]), (1, 10));
    assert_eq!(Gate::new(Some(true)).verdict(), Some(&verdict(true)), "what a Pod carries counts");
}
