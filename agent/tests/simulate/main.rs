//! Many nodes on a real API server: each has an agent, as a process, on a runtime that runs nothing. `make simulate`
//! measures what that costs; the small one insists that it works.

#![expect(clippy::disallowed_methods, reason = "a test starts processes and prepares files")]

mod fleet;
mod objects;
mod observer;
#[path = "../nri/runtime.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod runtime;
mod scene;
mod servers;

use std::env;
use std::time::Duration;

use self::scene::Scene;

#[test]
fn a_few_nodes_tell_the_api_server_what_their_pods_have() {
    let mut scene = Scene::new(3, true, Duration::from_secs(1));
    let all = scene.create("burst", 5);
    assert_eq!(scene.burst("burst", &all), 15);
    assert_eq!(scene.ready("ready", &all), 15);
    let written = scene.requests("PATCH", "pods/status");
    // One of kubelet and one of the agent for each Pod, and nothing is written again.
    assert!((30..=31).contains(&written), "{written}");
    let slices = ["POST", "PATCH"].map(|verb| scene.requests(verb, "endpointslices"));
    assert!(slices[0] == 15 && slices[1] <= 16, "{slices:?}");
    scene.restart_api("restart", Duration::from_secs(1));
    scene.remove("removal", &all);
    let memory = scene.anonymous_memory();
    assert!(memory < 8.0, "an agent has {memory} MiB of anonymous memory");
}

/// The value of a variable, which `make simulate` sets.
fn parameter(name: &str, usual: usize) -> usize {
    let value = env::var(name).ok().filter(|value| !value.is_empty());
    value.map_or(usual, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn measure(discovers: bool) {
    let (nodes, pods) = (parameter("SIMULATE_NODES", 50), parameter("SIMULATE_PODS", 100));
    let mut scene = Scene::new(nodes, discovers, Duration::from_secs(5));
    scene.idle("agents without Pods");
    let all = scene.create("Pods created", pods);
    scene.burst("burst", &all);
    scene.ready("ready", &all);
    scene.idle("idle");
    let all = scene.churn("churn", all, Duration::from_mins(1), parameter("SIMULATE_CHURN", 20));
    scene.restart_api("API server restarted", Duration::from_secs(10));
    scene.restart_agents("all agents restarted");
    scene.remove("removal", &all);
}

#[test]
#[ignore = "a measurement, run by make simulate"]
fn with_status_only() {
    measure(false);
}

#[test]
#[ignore = "a measurement, run by make simulate"]
fn with_status_and_discovery() {
    measure(true);
}
