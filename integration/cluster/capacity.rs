//! The resource `autoport.cni/ports`: what kubelet and the scheduler make of the agents' device plugin.

use std::fs;

use serde_json::{Value, json};

use crate::agents::{PORTS, node_with_agents, number};
use crate::api::{self, PATIENCE};
use crate::cluster;
use crate::configuration::NODE;
use crate::machine::wait_for;
use crate::second::{SECOND_NODE, two_nodes_with_agents};

const RESOURCE: &str = "autoport.cni/ports";

/// How many host ports the scheduler may give away on a node.
fn allocatable_on(node: &str) -> Value {
    let node = api::get(&format!("/api/v1/nodes/{node}"));
    node["status"]["allocatable"][RESOURCE].clone()
}

fn allocatable() -> Value {
    allocatable_on(NODE.name)
}

/// A Pod that asks for two host ports, and for so many of the resource.
fn pod(name: &str, count: &str) -> Value {
    let mut pod = cluster::pod(name, &[]);
    pod["metadata"]["annotations"] = json!({PORTS: "http=8080, game=8080/udp"});
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {RESOURCE: count}});
    pod
}

fn waits(name: &str) {
    wait_for(PATIENCE, &format!("{name} waits for a node with host ports"), || {
        api::events(name, "FailedScheduling").contains("Insufficient autoport.cni/ports")
    });
}

#[test]
fn pods_go_where_host_ports_are_left_and_an_agent_is() {
    let mut cluster = node_with_agents();
    wait_for(PATIENCE, "the range is counted", || allocatable() == "10k");
    api::create("pods", &pod("first", "2"));
    api::wait_for_pod("first");
    let first = api::get("/api/v1/namespaces/default/pods/first");
    let environment = cluster.environment(&first, "echo");
    assert!((20_000..30_000).contains(&number(&environment, "AUTOPORT_HOST_PORT_HTTP")));
    api::create("pods", &pod("greedy", "9999"));
    waits("greedy");
    api::delete("pods", "greedy");
    assert_eq!(allocatable(), "10k", "the scheduler subtracts what Pods have asked for");
    // One that has not asked is subtracted by the agent.
    let mut silent = pod("silent", "1");
    silent["spec"]["containers"][0]["resources"] = json!({});
    api::create("pods", &silent);
    api::wait_for_pod("silent");
    wait_for(PATIENCE, "it is counted", || allocatable() == "9998");
    // Without an agent no Pod comes that asks; it starts when there is one again.
    let select = |node: &Value| {
        let selector = json!({"spec": {"template": {"spec": {"nodeSelector": node}}}});
        let patch = selector.to_string();
        cluster.in_system(&["patch", "daemonset", "autoport", "--patch", &patch]);
    };
    select(&json!({"no": "such-node"}));
    wait_for(PATIENCE, "nothing is left to give away", || allocatable() == "0");
    api::create("pods", &pod("late", "2"));
    waits("late");
    select(&json!({"no": null}));
    api::wait_for_pod("late");
    let late = api::get("/api/v1/namespaces/default/pods/late");
    let environment = cluster.environment(&late, "echo");
    assert!((20_000..30_000).contains(&number(&environment, "AUTOPORT_HOST_PORT_HTTP")));
    for name in ["first", "silent", "late"] {
        api::ends(name);
    }
    cluster.ends_with_agents("autoport");
}

/// Waits until a Pod is ready; insists that it is on this node.
fn comes_to(node: &str, name: &str) {
    api::wait_for_pod(name);
    let pod = api::get(&format!("{}/{name}", api::folder("pods")));
    assert_eq!(pod["spec"]["nodeName"], node, "{name}");
}

#[test]
fn pods_go_to_the_node_that_has_room() {
    // The first node's own file comes before the ConfigMap, so it has room for two Pods.
    let (mut cluster, second) = two_nodes_with_agents(|_| {
        let own = json!({"portRange": "20000-20003"}).to_string();
        fs::write("/etc/cni/autoport.json", own).expect("the folder is covered");
    });
    wait_for(PATIENCE, "both ranges are counted", || {
        [NODE, SECOND_NODE].map(|place| allocatable_on(place.name)) == ["4", "10k"]
    });
    cluster.kubectl(&["cordon", SECOND_NODE.name]);
    for name in ["a", "b", "c"] {
        api::create("pods", &pod(name, "2"));
        if name == "c" {
            waits(name);
        } else {
            comes_to(NODE.name, name);
        }
    }
    // The scheduler prefers the node with fewer Pods, but not without room.
    cluster.kubectl(&["uncordon", SECOND_NODE.name]);
    comes_to(SECOND_NODE.name, "c");
    for name in ["d", "e", "f"] {
        api::create("pods", &pod(name, "2"));
        comes_to(SECOND_NODE.name, name);
    }
    // Where one goes there is room again.
    api::ends("a");
    cluster.kubectl(&["cordon", SECOND_NODE.name]);
    api::create("pods", &pod("g", "2"));
    comes_to(NODE.name, "g");
    for name in ["b", "c", "d", "e", "f", "g"] {
        api::delete("pods", name);
    }
    second.ends_with(&mut cluster);
}
