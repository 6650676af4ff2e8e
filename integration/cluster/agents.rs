//! A node on which the node agents run, as `deploy/kubernetes` brings them, and what the containers of its
//! pods are told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::api::{self, PATIENCE};
use crate::cluster::{Cluster, Runtime};
use crate::configuration::Api;
use crate::daemonset::installers;
use crate::deployed::{image, manifests, network, node};
use crate::images::archive;
use crate::machine::{wait_for, wait_until};
use crate::stage::node::{FIRST, SECOND};
use crate::stage::probe::Transport;
use crate::stage::view::{index, records};

/// The variables of a process.
pub(crate) type Environment = BTreeMap<String, String>;

/// Where containerd keeps what it knows of the containers that run.
const TASKS: &str = "/run/containerd/state/io.containerd.runtime.v2.task/k8s.io";

pub(crate) const PORTS: &str = "autoport.cni/ports";

/// A node whose agents are connected to containerd.
pub(crate) fn node_with_agents() -> Cluster {
    let cluster = node(Runtime::Containerd2, &network().speaking("1.1.0"));
    for archive in [image(), archive()] {
        wait_for(PATIENCE, "containerd has the images", || cluster.imports(&archive));
    }
    cluster.brings_agents();
    cluster
}

/// What a text of a process's environment has.
pub(crate) fn variables(text: &str) -> Environment {
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The number in a variable.
pub(crate) fn number(environment: &Environment, name: &str) -> u16 {
    let value = environment.get(name).unwrap_or_else(|| panic!("no {name} in {environment:?}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}"))
}

/// A pod's name.
pub(crate) fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().expect("it has a name")
}

pub(crate) fn uids(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect()
}

/// A container's own name, which its program answers with, by a variable: on the host network all have the
/// host name of the node.
pub(crate) fn own_name() -> Value {
    json!([{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}])
}

/// Insists that the addresses in an environment are the node's.
pub(crate) fn assert_told_addresses(environment: &Environment) {
    for variable in ["AUTOPORT_HOST_IP", "AUTOPORT_HOST_IP_V4", "AUTOPORT_HOST_IP_V6"] {
        let address = environment[variable].as_str();
        assert!([FIRST, SECOND].concat().contains(&address), "{variable} is {address}");
    }
}

/// The number of the first process of a container that is ready.
pub(crate) fn process(pod: &Value, container: &str) -> String {
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let mut its = statuses.filter(|status| status["name"] == container);
    let id = its.next().and_then(|status| status["containerID"].as_str());
    let id = id.and_then(|id| id.strip_prefix("containerd://"));
    let id = id.unwrap_or_else(|| panic!("{container} has not started: {pod}"));
    let pid = fs::read_to_string(format!("{TASKS}/{id}/init.pid")).expect("it runs");
    pid.trim().to_owned()
}

impl Cluster {
    /// Has the agents come to every node, whose containerd has their image.
    pub(crate) fn brings_agents(&self) {
        self.kubectl(&["apply", "-k", &manifests("kubernetes")]);
        self.in_system(&["rollout", "status", "daemonset/autoport", "--timeout=180s"]);
        for pod in installers() {
            for container in ["agent", "agent-standby"] {
                wait_for(
                    PATIENCE,
                    &format!("{container} reads the Pods from the API server"),
                    || {
                        let logs = ["logs", name(&pod), "--container", container];
                        self.in_system(&logs).contains("watching the node's Pods")
                    },
                );
            }
        }
    }

    /// The environment of the first process of a container that is ready.
    pub(crate) fn environment(&self, pod: &Value, container: &str) -> Environment {
        let process = process(pod, container);
        variables(&self.machine.run("cat", &[&format!("/proc/{process}/environ")]))
    }

    /// Keeps the agents to their own node and to what is theirs, by the policy that later versions than 1.20 have.
    pub(crate) fn confines_agents(&self) {
        if Api::of_this_run() == Api::Libraries {
            let policy = "deploy/kubernetes/agent-policy/policy.yaml";
            let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join(policy);
            self.kubectl(&["apply", "--filename", &policy.to_string_lossy()]);
        }
    }

    /// Whether the agents' account may do that in all namespaces, with objects or a part of them, such as `status`.
    pub(crate) fn lets_agents(&self, verb: &str, resource: &str, part: &str) -> bool {
        let account = "--as=system:serviceaccount:kube-system:autoport-agent";
        let part = format!("--subresource={part}");
        self.try_kubectl(&["auth", "can-i", verb, resource, &part, account, "--all-namespaces"]).0
    }

    /// Insists that a pod on the host network answers on a port, on the node's first addresses. Over UDP
    /// and IPv6 a socket that is bound to no address answers from another one.
    pub(crate) fn assert_listens(&self, pod: &str, transport: Transport, port: u16) {
        if transport == Transport::Tcp {
            return self.machine.assert_reached(pod, transport, port);
        }
        wait_until(&format!("{pod} answers on {port}/udp"), || {
            self.machine.answers(transport, port)[0].by() == Some(pod)
        });
    }

    /// Waits until the pods are gone and the agents have released what they held. Then it removes the agents,
    /// and insists that nothing is left. autoport itself stays: their own sandboxes have to end as well.
    pub(crate) fn ends_with_agents(&mut self, daemonset: &str) {
        wait_for(PATIENCE, "all pods are gone", || api::items("pods").is_empty());
        wait_until_released();
        self.in_system(&["delete", "daemonset", daemonset, "--cascade=foreground"]);
        self.assert_nothing_left();
    }
}

/// Waits until nothing is held or requested on the node of this thread.
pub(crate) fn wait_until_released() {
    wait_for(PATIENCE, "nothing is held or requested", || {
        let requests = fs::read_dir("/run/autoport/requests").into_iter().flatten();
        records().is_empty() && index().is_empty() && requests.count() == 0
    });
}

/// Makes a Deployment of these pods; gives them when all are ready.
pub(crate) fn deploys(deployment: &Value) -> Vec<Value> {
    api::create("deployments", deployment);
    let replicas = deployment["spec"]["replicas"].as_u64().expect("a number");
    api::wait_for_pods(usize::try_from(replicas).expect("a number"))
}
