use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::status::tests::held;

const UID: &str = "u1";

fn pod(version: u32, phase: &str, annotations: &Value) -> v1::Pod {
    let mut all = json!({"autoport.cni/ports": "http=8080"});
    for (key, value) in annotations.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    let pod = json!({
        "metadata": {"namespace": "games", "name": "game-0", "uid": UID, "annotations": all,
                     "resourceVersion": version.to_string()},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": phase},
    });
    serde_json::from_value(pod).expect("a Pod")
}

fn needed(desk: &Desk) -> Option<Value> {
    desk.patch(UID, "n1", &Time(Timestamp::UNIX_EPOCH)).map(|(_, _, patch)| patch)
}

/// A Pod that holds a port, and what it then carries.
fn desk() -> (Desk, Value) {
    let desk = Desk::new(true);
    desk.note(&pod(7, "Running", &json!({})));
    desk.hold(UID, Some(held()));
    let patch = needed(&desk).expect("it carries nothing yet");
    (desk, patch["metadata"]["annotations"].clone())
}

#[test]
fn news_that_are_older_than_an_answer_change_nothing() {
    let (desk, carried) = desk();
    desk.note(&pod(9, "Running", &carried));
    assert_eq!(needed(&desk), None);
    desk.changed.take();
    desk.note(&pod(8, "Running", &json!({})));
    assert_eq!((needed(&desk), desk.changed.take().len()), (None, 0));
    // An API server that was restored from a backup lists older Pods.
    desk.begin();
    desk.note(&pod(3, "Running", &json!({})));
    assert!(needed(&desk).is_some());
}

#[test]
fn what_a_pod_holds_stays_while_its_sandbox_is_made_again() {
    let (desk, carried) = desk();
    desk.hold(UID, None);
    assert!(needed(&desk).is_some());
    desk.note(&pod(8, "Succeeded", &carried));
    desk.hold(UID, Some(held()));
    let patch = needed(&desk).expect("its record is there for a moment");
    assert_eq!(patch["metadata"]["annotations"][status::STATUS], Value::Null);
}

#[test]
fn pods_that_hold_something_and_those_that_do_not_are_looked_at() {
    let (desk, _) = desk();
    assert_eq!(desk.asking(false), [UID]);
    assert!(desk.asking(true).is_empty());
    assert_eq!((desk.changed.take().len(), desk.slices.take().len()), (1, 1));
    desk.hold(UID, Some(held()));
    assert_eq!(desk.slices.take().len(), 0, "it holds the same");
    desk.keep(|_| false);
    assert!(desk.asking(false).is_empty() && needed(&desk).is_none());
    let without = Desk::new(false);
    without.note(&pod(7, "Running", &json!({})));
    assert_eq!((without.changed.take().len(), without.slices.take().len()), (1, 0));
}
