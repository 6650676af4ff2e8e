//! The example manifests of the documentation of `KubeWharf` and of BCS, whose annotations autoport reads. What
//! differs from them is named at each test. Our echo server takes the place of nginx (`images.rs`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::agents::{
    PORTS, assert_told_addresses, deploys, name, node_with_agents, number, own_name, variables,
};
use crate::api::{self, PATIENCE};
use crate::cluster::Cluster;
use crate::configuration::Api;
use crate::machine::{published, wait_for};
use crate::stage::node::FIRST;
use crate::stage::probe::Transport;

/// The Deployment of docs/design/pod-auto-port-assignment in kubewharf/enhanced-k8s, with these fields of the
/// pod and the container. It has no `imagePullPolicy`, but this node has no registry to ask.
fn kubewharf(pod: &Value, ports: &Value) -> Value {
    let mut spec = pod.clone();
    spec["containers"] = json!([{
        "name": "nginx", "image": "nginx", "imagePullPolicy": "IfNotPresent", "ports": ports,
    }]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "nginx"},
        "spec": {
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": "nginx"}},
            "replicas": 3,
            "template": {
                "metadata": {
                    "annotations": {"pod.kubewharf.kubernetes.io/autoport": "true"},
                    "labels": {"app": "nginx"},
                },
                "spec": spec,
            },
        },
    })
}

/// The Deployment of docs/features/bcs-webhook-server in TencentBlueKing/bk-bcs, as it is.
fn bcs() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "nginx-deployment", "labels": {"app": "nginx"}},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "nginx"}},
            "template": {
                "metadata": {
                    "labels": {"app": "nginx"},
                    "annotations": {
                        "randhostport.webhook.bkbcs.tencent.com": "true",
                        "ports.randhostport.webhook.bkbcs.tencent.com": "8080,metric",
                    },
                },
                "spec": {"containers": [{
                    "name": "nginx",
                    "image": "nginx:1.14.2",
                    "ports": [{"containerPort": 8080}, {"name": "metric", "containerPort": 8081}],
                }]},
            },
        },
    })
}

/// Insists that these variables, one for each of these ports of the container, are host ports of the pod
/// that answer, and gives them.
fn reached(cluster: &Cluster, pod: &Value, ports: [(&str, u16); 2]) -> [u16; 2] {
    let environment = cluster.environment(pod, "nginx");
    assert_told_addresses(&environment);
    let published = published(pod["metadata"]["uid"].as_str().expect("it has a UID"));
    let entries = published["ports"].as_array().expect("a list");
    assert_eq!(entries.len(), ports.len(), "{published}");
    ports.map(|(variable, container_port)| {
        let port = number(&environment, variable);
        cluster.machine.assert_reached(name(pod), Transport::Tcp, port);
        let is_its = |entry: &&Value| entry["containerPort"] == container_port;
        let entry = entries.iter().find(is_its).unwrap_or_else(|| panic!("{published}"));
        assert_eq!(entry["hostPort"], port, "{variable}: {published}");
        port
    })
}

fn all_distinct(ports: impl IntoIterator<Item = [u16; 2]>) {
    let ports: Vec<u16> = ports.into_iter().flatten().collect();
    let distinct: BTreeSet<_> = ports.iter().collect();
    assert_eq!(distinct.len(), ports.len(), "{ports:?}");
}

#[test]
fn the_deployment_of_kubewharf() {
    let mut cluster = node_with_agents();
    let ports = json!([{"containerPort": 80}, {"containerPort": 443}]);
    let pods = deploys(&kubewharf(&json!({}), &ports));
    let ports = pods.iter().map(|pod| {
        let environment = cluster.environment(pod, "nginx");
        assert_eq!(environment["PORT"], environment["PORT0"]);
        assert!(!environment.contains_key("PORT2"), "{environment:?}");
        reached(&cluster, pod, [("PORT0", 80), ("PORT1", 443)])
    });
    all_distinct(ports.collect::<Vec<_>>());
    api::delete("deployments", "nginx");
    cluster.ends_with_agents("autoport");
}

/// `KubeWharf`'s other Deployment declares `containerPort: 0`, which no API server but theirs takes, and has
/// `hostNetwork` in the container. Here its pods are on the host network too, and have the list in `autoport.cni/ports` that the error shows.
#[test]
fn the_deployment_of_kubewharf_on_the_host_network() {
    let mut cluster = node_with_agents();
    let on_host = json!({"hostNetwork": true});
    if Api::of_this_run() == Api::Kubernetes {
        let ports = json!([{"containerPort": 0}, {"containerPort": 0}]);
        let written = kubewharf(&on_host, &ports);
        let (status, text) = api::request("POST", &api::folder("deployments"), Some(&written));
        assert!(status == 422 && text.contains("containerPort"), "{status}: {text}");
    }
    let mut deployment = kubewharf(&on_host, &json!([]));
    api::create("deployments", &deployment);
    wait_for(PATIENCE, "an event shows what to write", || {
        let pods = api::items("pods");
        let said = pods.iter().map(|pod| api::events(name(pod), "FailedCreatePodSandBox"));
        said.into_iter().any(|said| said.contains(PORTS) && said.contains("http=auto"))
    });
    api::delete("deployments", "nginx");
    wait_for(PATIENCE, "its pods are gone", || api::items("pods").is_empty());

    let template = &mut deployment["spec"]["template"];
    template["metadata"]["annotations"][PORTS] = json!("http=auto, https=auto");
    let container = &mut template["spec"]["containers"][0];
    container["env"] = own_name();
    container["args"] = json!(["-name", "$(POD_NAME)", "$PORT0", "$PORT1"]);
    let pods = deploys(&deployment);
    let ports = pods.iter().map(|pod| {
        let environment = cluster.environment(pod, "nginx");
        assert_eq!(environment["PORT"], environment["PORT0"]);
        ["PORT0", "PORT1"].map(|variable| {
            let port = number(&environment, variable);
            cluster.assert_listens(name(pod), Transport::Tcp, port);
            port
        })
    });
    all_distinct(ports.collect::<Vec<_>>());
    api::delete("deployments", "nginx");
    cluster.ends_with_agents("autoport");
}

#[test]
fn the_deployment_of_bcs() {
    let mut cluster = node_with_agents();
    let pods = deploys(&bcs());
    let ports = pods.iter().map(|pod| {
        let environment = cluster.environment(pod, "nginx");
        assert_eq!(environment["BCS_RANDHOSTPORT_HOSTIP"], FIRST[0]);
        assert_eq!(environment["BCS_RANDHOSTPORT_POD_NAME"], name(pod));
        assert_eq!(environment["BCS_RANDHOSTPORT_POD_NAMESPACE"], "default");
        // A process that comes later has the same.
        let print = ["exec", name(pod), "--", "/echo", "-print", "/proc/self/environ"];
        let later = variables(&cluster.kubectl(&print));
        let is_ours = |(variable, _): &(&String, _)| variable.contains("PORT");
        assert!(later.iter().filter(is_ours).eq(environment.iter().filter(is_ours)), "{later:?}");
        let variable = "BCS_RANDHOSTPORT_FOR_CONTAINER_PORT_";
        let variables = [8080, 8081].map(|port| format!("{variable}{port}"));
        reached(&cluster, pod, [(&variables[0], 8080), (&variables[1], 8081)])
    });
    all_distinct(ports.collect::<Vec<_>>());
    api::delete("deployments", "nginx-deployment");
    cluster.ends_with_agents("autoport");
}
