//! Two nodes in one cluster, with a routed link between them.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::agents::{PORTS, process};
use crate::api::{self, PATIENCE, is_true};
use crate::cluster::{Cluster, pod, spec};
use crate::configuration::{Api, NODE, Place};
use crate::confined::Client;
use crate::daemonset::installers;
use crate::discovery::{annotations, service};
use crate::dns::{self, Server};
use crate::examples::in_project;
use crate::machine::{Machine, wait_for};
use crate::second::{SECOND_NODE, Second, two_nodes_with_agents};
use crate::stage::netns::Netns;
use crate::stage::node::{FIRST, address};
use crate::stage::probe::{Answer, Probe, Transport, source_towards};
use crate::stage::view::{assert_nothing_held, elements, index, records};
use crate::status::{get, status};

const NODES: [Place; 2] = [NODE, SECOND_NODE];

/// Where a Pod is reached, as its annotation tells.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    node: String,
    addresses: Vec<String>,
    port: u16,
}

impl Told {
    fn by(pod: &str) -> Self {
        let mut found = None;
        wait_for(PATIENCE, &format!("{pod} carries its ports"), || {
            found = status(pod);
            found.is_some()
        });
        let status = found.expect("it was there");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let addresses = status["addresses"].as_array().expect("a list").iter().map(text).collect();
        let port = status["ports"][0]["hostPort"].as_u64().expect("a number");
        Self { node: text(&status["node"]), addresses, port: u16::try_from(port).expect("a port") }
    }

    /// Insists that it is on this node, with one of its addresses for each family.
    fn assert_on(&self, place: &Place) {
        assert_eq!(self.node, place.name);
        let [first, second, _] = place.addresses;
        assert_eq!(self.addresses.len(), 2, "{self:?}");
        for (family, address) in self.addresses.iter().enumerate() {
            assert!([first[family], second[family]].contains(&&**address), "{self:?}");
        }
    }
}

/// The node itself, the client outside it, and the network namespace of a Pod there.
fn askers<'a>(machine: &'a Machine, pod: &'a Netns) -> [(&'static str, &'a Netns); 3] {
    [("node", &machine.node.here), ("client", &machine.node.client), ("pod", pod)]
}

/// Insists that each of them reaches the Pod where it says, and that the Pod sees who asks.
fn assert_reached(askers: [(&str, &Netns); 3], pod: &str, told: &Told) {
    for (who, asker) in askers {
        for to in &told.addresses {
            for transport in Transport::BOTH {
                let to = SocketAddr::new(address(to), told.port);
                let (source, answer) =
                    asker.run(|| (source_towards(to), Probe::new(transport, to).ask()));
                let expected = Answer::Reached { by: pod.to_owned(), source };
                assert_eq!(answer, expected, "{who} to {to}/{}", transport.name());
            }
        }
    }
}

/// The network namespace of a Pod that runs on this machine.
fn inside(machine: &Machine, pod: &Value) -> Netns {
    machine.netns(&format!("/proc/{}/ns/net", process(pod, "echo")))
}

/// The Pod of the agents on a node.
fn agents(place: &Place) -> Value {
    let all = installers().into_iter();
    let mut there =
        all.filter(|pod| pod["spec"]["nodeName"] == place.name && is_true(pod, "Ready"));
    there.next().expect("every node has one")
}

/// The token in a Pod of agents that runs on this machine.
fn token(machine: &Machine, agents: &Value) -> String {
    let process = process(agents, "agent");
    let path = "var/run/secrets/kubernetes.io/serviceaccount/token";
    machine.run("cat", &[&format!("/proc/{process}/root/{path}")])
}

/// A Pod for one of the nodes.
fn on(place: &Place) -> Value {
    let mut pod = pod(&format!("on-{}", place.name), &[]);
    pod["metadata"]["annotations"] = annotations("game");
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": place.name});
    pod
}

/// A Pod on each node is reached on the addresses of its own node: from the other node, from the client behind it, and
/// from the Pod there.
fn are_reached_from_the_other_node(cluster: &Cluster, second: &Second, pods: &[Value; 2]) {
    let [first_pod, second_pod] = pods;
    let machine = &cluster.machine;
    let first_inside = inside(machine, first_pod);
    let second_inside = second.run(|machine| inside(machine, second_pod));
    for (place, name, askers) in [
        (&NODE, "on-node", askers(&second.machine, &second_inside)),
        (&SECOND_NODE, "on-second", askers(machine, &first_inside)),
    ] {
        let told = Told::by(name);
        told.assert_on(place);
        assert_reached(askers, name, &told);
    }
}

/// What the token of each agent permits for the Pods of both. RBAC, which 1.20 has alone, cannot tell the nodes apart.
fn agents_keep_to_their_node(cluster: &Cluster, second: &Second) {
    let [first, other] = [agents(&NODE), agents(&SECOND_NODE)];
    let tokens = [token(&cluster.machine, &first), second.run(|machine| token(machine, &other))];
    for (agent, token) in NODES.iter().zip(&tokens) {
        let client = Client::with(cluster, token);
        for of in &NODES {
            let pod = format!("on-{}", of.name);
            // What it is already, so that its own agent has nothing to correct.
            let number = Told::by(&pod).port.to_string();
            let patch =
                json!({"metadata": {"annotations": {"autoport.cni/host-port.game": number}}});
            let pod = format!("{}/{pod}", api::folder("pods"));
            let status = format!("{pod}/status");
            if of.name == agent.name || Api::of_this_run() == Api::Kubernetes {
                client.is_permitted("PATCH", &status, &patch);
            } else {
                let reason = format!("may change Pods of its own node only, not of {}", of.name);
                client.is_forbidden("PATCH", &status, &patch, &reason);
            }
            let reason = match Api::of_this_run() {
                Api::Kubernetes => "cannot delete resource",
                Api::Libraries => "may change nothing of a Pod but its status",
            };
            client.is_forbidden("DELETE", &pod, &json!({}), reason);
        }
    }
}

/// The Pod on the second node finds both by DNS, each at the address of its node, and reaches them there.
fn are_found_on_both_nodes(second: &Second, client: &Value) {
    let server: SocketAddr = format!("{}:5300", FIRST[0]).parse().expect("an address");
    let _server = Server::new(server);
    let inside = second.run(|machine| inside(machine, client));
    let mut found = Vec::new();
    wait_for(PATIENCE, "both Pods are found", || {
        found = inside.run(|| dns::targets(server, "_game._tcp.game.default.svc.cluster.local"));
        found.len() == NODES.len()
    });
    for place in NODES {
        let pod = format!("on-{}", place.name);
        let target =
            found.iter().find(|target| target.host.split('.').next() == Some(pod.as_str()));
        let target = target.unwrap_or_else(|| panic!("{pod} is not among {found:?}"));
        let addresses = inside.run(|| dns::addresses(server, &target.host));
        let addresses: Vec<_> = addresses.into_iter().map(IpAddr::from).collect();
        let told = Told::by(&pod);
        told.assert_on(&place);
        assert_eq!(addresses, [address(&told.addresses[0])], "{target:?}");
        assert_eq!(target.port, told.port);
        let answer = inside.run(|| Probe::tcp(&told.addresses[0], told.port).ask());
        assert_eq!(answer.by(), Some(&*pod), "{target:?}: {answer}");
    }
}

fn games() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "games"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "games"}},
            "template": {
                "metadata": {
                    "labels": {"app": "games"},
                    "annotations": {PORTS: "game=8000/tcp+udp"},
                },
                "spec": spec(&[], &["8000", "8001"]),
            },
        },
    })
}

/// The names of all Pods, when so many are ready, all on this node.
fn all_are_on(place: &Place, number: usize) -> Vec<String> {
    let mut pods = Vec::new();
    wait_for(PATIENCE, &format!("{number} Pods are ready on {}", place.name), || {
        pods = api::items("pods");
        let is_there = |pod: &Value| pod["spec"]["nodeName"] == place.name && is_true(pod, "Ready");
        pods.len() == number && pods.iter().all(is_there)
    });
    let name = |pod: &Value| pod["metadata"]["name"].as_str().expect("a name").to_owned();
    pods.iter().map(name).collect()
}

/// The numbers of the `StatefulSet`'s replicas, when all Pods are reached on this node, from everywhere.
fn stable_numbers(cluster: &Cluster, second: &Second, place: &Place) -> Vec<(String, u16)> {
    let mut stable = Vec::new();
    for name in all_are_on(place, 4) {
        let told = Told::by(&name);
        told.assert_on(place);
        for machine in [&cluster.machine, &second.machine] {
            for host in &told.addresses {
                for transport in Transport::BOTH {
                    let probe = Probe::new(transport, (address(host), told.port));
                    // Not each has a readiness probe.
                    wait_for(PATIENCE, &format!("{name} answers at {host}:{}", told.port), || {
                        machine.node.client_asks(&probe).by() == Some(&*name)
                    });
                }
            }
        }
        if name.starts_with("peer-") {
            stable.push((name, told.port));
        }
    }
    stable.sort();
    assert_eq!(stable.len(), 2, "{stable:?}");
    stable
}

/// Insists that nothing is held on the node of this thread any more.
fn assert_released(machine: &Machine, ports: &[(String, u16)]) {
    wait_for(PATIENCE, "every number is released", || {
        records().is_empty() && index().is_empty() && elements().is_empty()
    });
    assert_nothing_held();
    assert_eq!(machine.held(), [""; 0]);
    for (_, port) in ports {
        machine.assert_refused(*port);
    }
}

/// Pods move from the first node to the second and back. Those of the `StatefulSet` have their numbers on both.
fn are_drained_to_the_other_node(cluster: &Cluster, second: &Second) {
    cluster.kubectl(&["cordon", SECOND_NODE.name]);
    api::create("deployments", &games());
    let file = in_project("deploy/examples/stable-ports.yaml");
    let file = file.to_string_lossy();
    cluster.kubectl(&["apply", "--filename", &file]);
    let numbers = stable_numbers(cluster, second, &NODE);
    cluster.kubectl(&["uncordon", SECOND_NODE.name]);
    for [from, to] in [[NODE, SECOND_NODE], [SECOND_NODE, NODE]] {
        cluster.kubectl(&["drain", from.name, "--ignore-daemonsets", "--timeout=180s"]);
        assert_eq!(stable_numbers(cluster, second, &to), numbers, "on {}", to.name);
        if from.name == NODE.name {
            assert_released(&cluster.machine, &numbers);
        } else {
            second.run(|machine| assert_released(machine, &numbers));
        }
        cluster.kubectl(&["uncordon", from.name]);
    }
    api::delete("deployments", "games");
    cluster.kubectl(&["delete", "--filename", &file]);
}

#[test]
fn pods_are_reached_and_found_across_two_nodes_and_drained_to_the_other() {
    let (mut cluster, second) = two_nodes_with_agents(Cluster::confines_agents);
    if Api::of_this_run() == Api::Libraries {
        cluster.discovers();
        service("game", "true");
    }
    for place in NODES {
        api::create("pods", &on(&place));
    }
    api::wait_for_pods(NODES.len());
    let pods = NODES.map(|place| get(&format!("on-{}", place.name)));
    are_reached_from_the_other_node(&cluster, &second, &pods);
    agents_keep_to_their_node(&cluster, &second);
    if Api::of_this_run() == Api::Libraries {
        are_found_on_both_nodes(&second, &pods[1]);
    }
    for place in NODES {
        api::ends(&format!("on-{}", place.name));
    }
    are_drained_to_the_other_node(&cluster, &second);
    second.ends_with(&mut cluster);
}
