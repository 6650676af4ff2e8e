//! `kubectl exec` into the Pod of the agents: the command line answers there as on the node.

use serde_json::{Value, json};

use crate::agents::{PORTS, node_with_agents};
use crate::api;
use crate::cluster::pod;
use crate::deployed::PLUGINS;

/// What `doctor` finds in a container is found on the node too. Checks that need more than the container has are
/// "not seen" there.
fn assert_found_on_the_node(inside: &Value, outside: &Value) {
    let findings = |answer: &Value| answer["findings"].as_array().expect("a list").clone();
    let (inside, outside) = (findings(inside), findings(outside));
    let (unseen, seen): (Vec<_>, Vec<_>) =
        inside.iter().partition(|finding| finding["state"] == "unseen");
    let is_unseen = |finding: &&Value| unseen.iter().any(|one| one["check"] == finding["check"]);
    let on_node: Vec<&Value> = outside.iter().filter(|finding| !is_unseen(finding)).collect();
    assert!(on_node.len() > 8, "too little is seen in the container: {unseen:#?}");
    let seen: Vec<&Value> = seen.into_iter().filter(|finding| !is_unseen(finding)).collect();
    assert_eq!(seen, on_node);
}

fn without_times(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|key, _| {
                !["ageSeconds", "heartbeatAge", "packets", "bytes"].contains(&&**key)
            });
            members.values_mut().for_each(without_times);
        }
        Value::Array(items) => items.iter_mut().for_each(without_times),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn exec<'a>(container: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    let exec = ["exec", "daemonset/autoport", "--container", container, "--", "/autoport"];
    [&exec[..], words].concat()
}

fn answer(text: &str) -> Value {
    let mut answer = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    without_times(&mut answer);
    answer
}

#[test]
fn the_command_line_answers_in_the_pod_of_the_agents_as_on_the_node() {
    let mut cluster = node_with_agents();
    let mut web = pod("web", &[]);
    web["metadata"]["annotations"] = json!({PORTS: "http=8000, game=8001/udp"});
    api::create("pods", &web);
    api::wait_for_pod("web");
    let executable = format!("{PLUGINS}/autoport");
    for container in ["agent", "agent-standby"] {
        let inside = answer(&cluster.in_system(&exec(container, &["status", "--output=json"])));
        assert_eq!(inside["agent"]["connected"], true, "{container}: {inside}");
    }
    for words in [
        &["list"][..],
        &["show", "web"],
        &["env", "web"],
        &["status"],
        &["config"],
        &["gc", "--dry-run"],
        &["doctor"],
    ] {
        let words = [words, &["--output=json"]].concat();
        let inside = answer(&cluster.in_system(&exec("agent", &words)));
        let outside = answer(&cluster.machine.run(&executable, &words));
        if words[0] == "list" {
            assert!(inside.to_string().contains("\"alive\""), "{inside}");
        }
        if words[0] == "doctor" {
            assert_found_on_the_node(&inside, &outside);
        } else {
            assert_eq!(inside, outside, "{words:?}");
        }
    }
    api::delete("pods", "web");
    cluster.ends_with_agents("autoport");
}
