//! The component `discovery` of `deploy/kubernetes`: Pods are found by DNS.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::agents::{PORTS, node_with_agents, process};
use crate::api::{self, PATIENCE};
use crate::cluster::{Cluster, pod, spec};
use crate::configuration::Api;
use crate::dns::{self, Server};
use crate::machine::wait_for;
use crate::stage::netns::Netns;
use crate::stage::node::FIRST;
use crate::stage::probe::{Probe, Transport};

const GATE: &str = "example.com/Admitted";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn access() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/discovery");
    folder.join("access.yaml").to_string_lossy().into_owned()
}

impl Cluster {
    /// The component, for whose kustomization Kubernetes 1.20 is too old.
    pub(crate) fn discovers(&self) {
        self.kubectl(&["apply", "--filename", &access()]);
        let add = |container: usize| {
            let path = format!("/spec/template/spec/containers/{container}/command/-");
            json!({"op": "add", "path": path, "value": "--discovery"})
        };
        let patch = json!([add(1), add(2)]).to_string();
        self.in_system(&["patch", "daemonset", "autoport", "--type=json", "--patch", &patch]);
        self.in_system(&["rollout", "status", "daemonset/autoport", "--timeout=180s"]);
    }
}

pub(crate) fn service(name: &str, annotation: &str) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "annotations": {"autoport.cni/endpoints": annotation}},
        "spec": {"clusterIP": "None"},
    });
    api::create("services", &service);
}

pub(crate) fn annotations(service: &str) -> Value {
    json!({PORTS: "game=8000/tcp+udp, query=8001", "autoport.cni/service": service})
}

/// So many Pods with two ports each.
fn games(replicas: u64) -> Value {
    let template = json!({
        "metadata": {"labels": {"app": "game"}, "annotations": annotations("game")},
        "spec": spec(&[], &["8000", "8001"]),
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "game"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "game"}},
                 "template": template},
    })
}

/// What a client Pod knows: its network namespace, and the address of the server.
struct Client {
    inside: Netns,
    server: SocketAddr,
}

impl Client {
    fn targets(&self, port: &str) -> Vec<dns::Target> {
        let question = format!("{port}.game.default.svc.cluster.local");
        self.inside.run(|| dns::targets(self.server, &question))
    }

    /// Waits until so many Pods are found under this name; all of them answer there.
    fn finds(&self, port: &str, number: usize) {
        let mut found = Vec::new();
        wait_for(PATIENCE, &format!("{number} targets of {port}"), || {
            found = self.targets(port);
            found.len() == number
        });
        let ports: BTreeSet<_> = found.iter().map(|target| target.port).collect();
        assert_eq!(ports.len(), number, "they are on one node: {found:?}");
        for target in &found {
            let address = self.inside.run(|| dns::addresses(self.server, &target.host));
            assert_eq!(address.len(), 1, "{target:?}: {address:?}");
            let address = address[0].to_string();
            let transport = if port.ends_with("_udp") { Transport::Udp } else { Transport::Tcp };
            let probe = || Probe { transport, ..Probe::tcp(&address, target.port) };
            let answer = self.inside.run(|| probe().ask());
            let name = target.host.split('.').next();
            assert_eq!(answer.by(), name, "{target:?}: {answer}");
        }
    }
}

fn slices() -> Vec<Value> {
    let found = api::get(SLICES)["items"].take();
    let all = found.as_array().cloned().unwrap_or_default();
    let label = "endpointslice.kubernetes.io/managed-by";
    all.into_iter().filter(|it| it["metadata"]["labels"][label] == "autoport.cni").collect()
}

fn has_event(cluster: &Cluster, parts: &[&str]) -> bool {
    let selector = "--field-selector=reason=EndpointsNotCreated";
    let found = cluster.kubectl(&["get", "events", selector, "--output=json"]);
    parts.iter().all(|part| found.contains(part))
}

/// 1.36 has the API of `EndpointSlices`.
fn are_found(cluster: &Cluster) {
    service("game", "true");
    service("closed", "false");
    api::create("deployments", &games(10));
    let mut late = pod("late", &[]);
    late["metadata"]["annotations"] = annotations("game");
    late["spec"]["readinessGates"] = json!([{"conditionType": GATE}]);
    api::create("pods", &late);
    let mut stranger = pod("stranger", &[]);
    stranger["metadata"]["annotations"] = annotations("closed");
    api::runs(&stranger);
    api::runs(&pod("client", &[]));
    let client = api::get(&format!("{}/client", api::folder("pods")));
    let inside = cluster.machine.netns(&format!("/proc/{}/ns/net", process(&client, "echo")));
    let server: SocketAddr = format!("{}:5300", FIRST[0]).parse().expect("an address");
    let _server = Server::new(server);
    let client = Client { inside, server };
    for port in ["_game._tcp", "_game-udp._udp", "_query._tcp"] {
        client.finds(port, 10);
    }
    // One that is not ready is marked, and found when it is.
    wait_for(PATIENCE, "the slice of the late Pod is there", || {
        slices().iter().any(|slice| {
            let endpoint = &slice["endpoints"][0];
            endpoint["hostname"] == "late" && endpoint["conditions"]["ready"] == false
        })
    });
    let admitted = json!([{"type": GATE, "status": "True"}]);
    let late = api::get(&format!("{}/late", api::folder("pods")));
    let mut conditions = late["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.extend(admitted.as_array().cloned().unwrap_or_default());
    let status = format!("{}/late/status", api::folder("pods"));
    api::does("PATCH", &status, Some(&json!({"status": {"conditions": conditions}})));
    client.finds("_game._tcp", 11);
    // Slices go with their Pods, and none is in a Service that does not permit it.
    api::patch("deployments", "game", &json!({"spec": {"replicas": 4}}));
    api::ends("late");
    client.finds("_game._tcp", 4);
    let families = slices().iter().map(|it| it["addressType"].to_string()).collect::<BTreeSet<_>>();
    wait_for(PATIENCE, "slices go with their Pods", || slices().len() == 4 * families.len());
    let label = "kubernetes.io/service-name";
    assert!(slices().iter().all(|slice| slice["metadata"]["labels"][label] == "game"));
    wait_for(PATIENCE, "an event tells of the other", || {
        has_event(cluster, &["\"stranger\"", "Service closed has no annotation"])
    });
    api::delete("deployments", "game");
    for name in ["client", "stranger"] {
        api::ends(name);
    }
}

/// 1.20 does not: nothing stops, and it enforces RBAC.
fn are_told_of(cluster: &Cluster) {
    let slices = "endpointslices.discovery.k8s.io";
    for verb in ["get", "create", "patch", "delete"] {
        assert!(cluster.lets_agents(verb, slices, ""), "{verb}");
    }
    for (verb, resource) in [
        ("list", slices),
        ("update", slices),
        ("list", "services"),
        ("patch", "services"),
        ("get", "secrets"),
        ("get", "endpoints"),
    ] {
        assert!(!cluster.lets_agents(verb, resource, ""), "{verb} {resource}");
    }
    assert!(cluster.lets_agents("get", "services", ""));
    service("game", "true");
    let mut game = pod("game", &[]);
    game["metadata"]["annotations"] = annotations("game");
    api::runs(&game);
    wait_for(PATIENCE, "an event tells why there is no slice", || {
        has_event(cluster, &["\"game\"", "could not find the requested resource"])
    });
    api::ends("game");
}

#[test]
fn a_client_finds_ten_replicas_on_two_ports_of_one_node() {
    let mut cluster = node_with_agents();
    cluster.confines_agents();
    cluster.discovers();
    match Api::of_this_run() {
        Api::Libraries => are_found(&cluster),
        Api::Kubernetes => are_told_of(&cluster),
    }
    cluster.ends_with_agents("autoport");
}
