//! Containers with and without the variables of their host ports, as the node's agents have written of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::commands::json_of;
use crate::stage::agent;
use crate::stage::bare::{add, attachment, network, tcp};
use crate::stage::node::Node;
use crate::stage::operator::told;
use crate::stage::view::{STATE, snapshot};

/// Writes the file of this boot, or of another.
fn write(boot_id: &str, complete: bool, containers: &[Value]) {
    let is_without = |one: &&Value| !one["uninjected"].is_null();
    let uninjected = containers.iter().filter(is_without).count();
    let file = json!({
        "version": 1, "bootId": boot_id, "complete": complete, "uninjected": uninjected,
        "injected": containers.len() - uninjected, "containers": containers
    });
    fs::write(Path::new(STATE).join("agent.containers"), file.to_string()).expect("it is ours");
}

fn container(name: &str, uid: &str, uninjected: Option<&str>) -> Value {
    json!({
        "id": format!("{name}-0123456789abcdef"), "name": name,
        "pod": {"namespace": "shop", "name": "web", "uid": uid},
        "since": 1_700_000_000, "variables": 8, "uninjected": uninjected
    })
}

fn doctor() -> Value {
    let report = json_of(&["doctor"]).1;
    let findings = report["findings"].as_array().expect("findings").clone();
    let text = |it: &Value| it["text"].as_str().is_some_and(|text| text.starts_with("without the"));
    let is_it = |it: &Value| it["check"] == "agent" && it["state"] == "warning" && text(it);
    findings.into_iter().find(is_it).unwrap_or_default()
}

#[test]
fn containers_without_their_variables_are_named() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "4f2a", 5).of_pod("shop", "web", "uid-web");
    add(&node, &web.mapping([tcp(8080)]));
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("this boot");
    let boot_id = boot_id.trim();
    let both = [
        container("main", "uid-web", Some("noAgent")),
        container("ma\u{1b}[2Jin", "uid-other", Some("noPorts")),
        container("side", "uid-web", None),
    ];
    write(boot_id, true, &both);
    let no_agent = told(&["status"]);
    assert!(!no_agent.contains("containers  "), "no agent was started: {no_agent}");
    assert_eq!(json_of(&["status"]).1["containers"], Value::Null);

    let lock = agent::lead();
    agent::beat(Duration::ZERO);
    let before = snapshot();
    let known = "containers  1 with their variables, 2 without\n";
    assert!(told(&["status"]).contains(known), "{}", told(&["status"]));
    let expected = json!({"injected": 1, "uninjected": 2, "current": true});
    assert_eq!(json_of(&["status"]).1["containers"], expected);
    let found = doctor();
    assert_eq!(
        found["text"],
        "without the variables of their host ports: 2 containers: main (main-0123456) of shop/web, \
         ma\\u{1b}[2Jin (ma\\u{1b}[2Jin-012) of shop/web"
    );
    assert!(found["remedy"].as_str().is_some_and(|it| it.contains("delete their Pods")), "{found}");
    let shown = told(&["show", "8080"]);
    for line in [
        "  container   main (main-0123456): runs without its variables since 2023-11-14T22:13:20Z: no agent \
         answered when it was created\n",
        "  container   side (side-0123456): 8 variables since 2023-11-14T22:13:20Z\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(!shown.contains("[2Jin"), "of another Pod: {shown}");
    let listed = &json_of(&["show", "shop/web"]).1["attachments"][0]["containers"];
    assert_eq!(listed, &json!([both[0], both[2]]));
    let wide = told(&["list", "-o", "wide"]);
    assert!(wide.contains("VARIABLES") && wide.contains("1 of 2"), "{wide}");
    assert!(!told(&["list"]).contains("1 of 2"), "only where there is room");
    let counted = json!({"injected": 1, "uninjected": 1});
    assert_eq!(json_of(&["list"]).1["attachments"][0]["variables"], counted);
    assert_eq!(snapshot(), before, "nothing is changed");

    // What an agent wrote that is not connected was so at its last heartbeat.
    drop(lock);
    agent::beat(Duration::from_secs(90));
    let as_of = ", as of 90 s ago, when an agent was last connected";
    for told in [told(&["status"]), told(&["show", "8080"]), doctor()["text"].to_string()] {
        assert!(told.contains(as_of), "{told}");
    }
    assert_eq!(json_of(&["status"]).1["containers"]["current"], false);
    assert_eq!(json_of(&["list"]).1["attachments"][0]["variables"], Value::Null, "not sure");
    let _lock = agent::lead();
    agent::beat(Duration::ZERO);
    write(boot_id, false, &both);
    let told_now = told(&["status"]);
    assert!(told_now.contains("2 without, and others are still to be examined\n"), "{told_now}");

    // What an earlier boot left is not believed.
    write("00000000-0000-0000-0000-000000000000", true, &both);
    assert!(!told(&["status"]).contains("containers  ") && doctor() == Value::Null);
    assert!(!told(&["show", "8080"]).contains("container   "));
}
