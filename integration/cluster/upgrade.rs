//! The agents are replaced by others while pods are created all the time.
//!
//! With `maxSurge` the controllers of Kubernetes 1.22 and later have the new Pod of a node ready before the
//! old one ends. Those of these tests, of 1.20, do not know the field. So the surge is made by hand: a
//! second `DaemonSet`, and the first is deleted when the Pod of the second is ready. What the agents see is the
//! same: four of them at once, two of each kind, and SIGTERM for two.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agents::{PORTS, node_with_agents, variables};
use crate::api::{self, PATIENCE};
use crate::cluster::Cluster;
use crate::machine::{IMAGE, wait_for};

/// How often the agents are replaced.
const UPGRADES: usize = 3;

/// How many pods are on their way at a time.
const AT_ONCE: usize = 3;

const FOLDER: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets";

/// What became of the pods.
#[derive(Debug, Default)]
struct Tally {
    created: usize,
    without: Vec<String>,
    /// Pods that were rejected at first, each with its event. All of them started later.
    refused: BTreeMap<String, String>,
    longest: Duration,
}

/// A pod that prints its environment and ends. Half of them are on the host network.
fn printing(name: &str, is_on_host: bool) -> Value {
    let ports = if is_on_host { "http=auto" } else { "http=8000" };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {PORTS: ports}},
        "spec": {
            "hostNetwork": is_on_host,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main",
                "image": IMAGE,
                "imagePullPolicy": "Never",
                "command": ["/echo", "-print", "/proc/self/environ"],
            }],
        },
    })
}

/// Creates one pod after the other until it is time to end.
fn create(number: usize, is_done: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !is_done.load(Ordering::SeqCst) {
        let name = format!("pod-{number}-{}", tally.created);
        let path = format!("{}/{name}", api::folder("pods"));
        let begun = Instant::now();
        api::create("pods", &printing(&name, tally.created % 2 == 1));
        wait_for(PATIENCE, &format!("{name} has ended"), || {
            let phase = &api::get(&path)["status"]["phase"];
            assert_ne!(phase, "Failed", "{name}");
            phase == "Succeeded"
        });
        tally.longest = tally.longest.max(begun.elapsed());
        tally.created += 1;
        let (status, text) = api::request("GET", &format!("{path}/log"), None);
        assert_eq!(status, 200, "{name}: {text}");
        let environment = variables(&text);
        if !environment.contains_key("AUTOPORT_HOST_PORT_HTTP") {
            tally.without.push(format!("{name}: {environment:?}"));
        }
        let said = ["FailedCreatePodSandBox", "Failed"].map(|reason| api::events(&name, reason));
        let said = said.concat();
        if !said.is_empty() {
            tally.refused.insert(name.clone(), said);
        }
        api::delete("pods", &name);
    }
    tally
}

/// The `DaemonSet` of another version: it has another name, and selects its own pods.
fn other_version(now: &Value, name: &str) -> Value {
    let component = json!({"matchLabels": {"app.kubernetes.io/component": name}});
    let mut spec = now["spec"].clone();
    spec["selector"] = component.clone();
    spec["template"]["metadata"]["labels"] = component["matchLabels"].clone();
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name},
        "spec": spec,
    })
}

impl Cluster {
    /// The agents of `new` come, and those of `old` go when these are ready.
    fn replaces(&self, old: &str, new: &str) {
        let now = api::get(&format!("{FOLDER}/{old}"));
        api::does("POST", FOLDER, Some(&other_version(&now, new)));
        let daemonset = format!("daemonset/{new}");
        self.in_system(&["rollout", "status", &daemonset, "--timeout=180s"]);
        self.in_system(&["delete", "daemonset", old, "--cascade=foreground"]);
    }
}

/// Creates pods while `work` is done, and insists that each container has its variables.
#[expect(clippy::print_stderr, reason = "the figures are what the test is run for")]
fn while_pods_are_created(work: impl FnOnce()) -> Vec<Tally> {
    let is_done = &AtomicBool::new(false);
    let tallies: Vec<_> = thread::scope(|scope| {
        let create = |number| scope.spawn(move || create(number, is_done));
        let creators: Vec<_> = (0..AT_ONCE).map(create).collect();
        let done = catch_unwind(AssertUnwindSafe(work));
        is_done.store(true, Ordering::SeqCst);
        let tallies = creators.into_iter().map(|creator| creator.join().expect("no panic"));
        let tallies = tallies.collect();
        done.unwrap_or_else(|panic| resume_unwind(panic));
        tallies
    });
    for Tally { created, without, refused, longest } in &tallies {
        eprintln!(
            "{created} pods, {} without their variables, {} rejected at first; the longest took {longest:?}",
            without.len(),
            refused.len()
        );
    }
    assert!(tallies.iter().all(|tally| tally.without.is_empty()), "{tallies:#?}");
    tallies
}

#[test]
fn no_container_lacks_its_variables_while_the_agents_are_replaced() {
    let mut cluster = node_with_agents();
    let version = |number| match number {
        0 => "autoport".to_owned(),
        number => format!("autoport-{number}"),
    };
    let tallies = while_pods_are_created(|| {
        for upgrade in 0..UPGRADES {
            cluster.replaces(&version(upgrade), &version(upgrade + 1));
        }
    });
    assert!(tallies.iter().all(|tally| tally.created > UPGRADES), "{tallies:#?}");
    cluster.ends_with_agents(&version(UPGRADES));
}
