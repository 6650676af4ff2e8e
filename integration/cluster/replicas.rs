//! Deployments whose pods learn their host ports from the node agents: one on the pod network and one on the
//! host network, on the same node.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::agents::{
    Environment, PORTS, assert_told_addresses, name, node_with_agents, number, own_name, uids,
};
use crate::api::{self, PATIENCE, is_true};
use crate::cluster::Cluster;
use crate::machine::{IMAGE, wait_for};
use crate::stage::probe::Transport;
use crate::stage::view::{elements, index, records};

const GAMES: u64 = 20;
const PROXIES: u64 = 10;
const ALL: usize = 30;

/// A Deployment of these containers.
fn deployment(name: &str, replicas: u64, ports: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["terminationGracePeriodSeconds"] = json!(1);
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = json!(IMAGE);
            container["imagePullPolicy"] = json!("Never");
            container["env"] = own_name();
        }
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": {PORTS: ports}},
                "spec": spec,
            },
        },
    })
}

/// Pods with an init container, whose log is its environment, and two containers.
fn games() -> Value {
    let containers = json!({
        "initContainers": [{"name": "init", "command": ["/echo", "-print", "/proc/self/environ"]}],
        "containers": [
            {"name": "game", "command": ["/echo", "8000"]},
            {"name": "metrics", "command": ["/echo", "8001"]},
        ],
    });
    deployment("games", GAMES, "game=8000/tcp+udp, metrics=8001", &containers)
}

/// Pods that listen where their environment says.
fn proxies() -> Value {
    let listen = ["$AUTOPORT_PORT_HTTP", "$AUTOPORT_PORT_GAME"];
    let words = [&["/echo", "-name", "$(POD_NAME)"], &listen[..]].concat();
    let containers = json!({
        "hostNetwork": true,
        "containers": [{"name": "proxy", "command": words}],
    });
    deployment("proxies", PROXIES, "http=auto, game=auto/udp", &containers)
}

/// The pods of both, when there are no others and all are ready.
fn both() -> [Vec<Value>; 2] {
    let pods = api::wait_for_pods(ALL);
    let (games, proxies): (Vec<_>, Vec<_>) =
        pods.into_iter().partition(|pod| pod["metadata"]["labels"]["app"] == "games");
    assert_eq!([games.len() as u64, proxies.len() as u64], [GAMES, PROXIES]);
    [games, proxies]
}

/// Host ports with their protocols.
type Numbers = BTreeSet<(&'static str, u16)>;

fn ours(environment: &Environment) -> Environment {
    let ours = environment.iter().filter(|(name, _)| name.starts_with("AUTOPORT_"));
    ours.map(|(name, value)| (name.clone(), value.clone())).collect()
}

impl Cluster {
    /// Insists that each container has its variables, that the numbers in them are nobody else's, and that the
    /// pod answers there.
    fn assert_all_told(&self, [games, proxies]: &[Vec<Value>; 2]) -> Numbers {
        let mut numbers = Numbers::new();
        let mut take = |pod: &str, transport: Transport, number| {
            assert!(numbers.insert((transport.name(), number)), "{number} of {pod} is another's");
        };
        for pod in games {
            let environment = self.environment(pod, "game");
            let metrics = self.environment(pod, "metrics");
            let pod = name(pod);
            assert_told_addresses(&environment);
            let others = [metrics, Self::environment_of_init(pod)];
            for other in others {
                assert_eq!(ours(&other), ours(&environment), "{pod}");
            }
            let game = number(&environment, "AUTOPORT_HOST_PORT_GAME");
            let metrics = number(&environment, "AUTOPORT_HOST_PORT_METRICS");
            for transport in Transport::BOTH {
                take(pod, transport, game);
                self.machine.assert_reached(pod, transport, game);
            }
            take(pod, Transport::Tcp, metrics);
            self.machine.assert_reached(pod, Transport::Tcp, metrics);
        }
        for pod in proxies {
            let environment = self.environment(pod, "proxy");
            let pod = name(pod);
            assert_told_addresses(&environment);
            for (port, transport) in [("HTTP", Transport::Tcp), ("GAME", Transport::Udp)] {
                let [host, own] = ["HOST_PORT", "PORT"]
                    .map(|kind| number(&environment, &format!("AUTOPORT_{kind}_{port}")));
                assert_eq!(host, own, "nothing is translated: {environment:?}");
                take(pod, transport, host);
                self.assert_listens(pod, transport, host);
            }
        }
        let held: BTreeSet<_> = self.machine.held().into_iter().collect();
        let told = numbers.iter().map(|(protocol, number)| format!("{number}/{protocol}"));
        assert_eq!(told.collect::<BTreeSet<_>>(), held, "nobody else holds any");
        numbers
    }

    fn environment_of_init(pod: &str) -> Environment {
        let path = format!("{}/{pod}/log?container=init", api::folder("pods"));
        let (status, text) = api::request("GET", &path, None);
        assert_eq!(status, 200, "{text}");
        crate::agents::variables(&text)
    }
}

#[test]
fn thirty_pods_on_both_networks() {
    let mut cluster = node_with_agents();
    for deployment in [games(), proxies()] {
        api::create("deployments", &deployment);
    }
    let old = both();
    let before = cluster.assert_all_told(&old);

    // A rolling update of both.
    let change = json!({"spec": {"template": {"metadata": {"labels": {"version": "2"}}}}});
    for name in ["games", "proxies"] {
        api::patch("deployments", name, &change);
    }
    for name in ["deployment/games", "deployment/proxies"] {
        cluster.kubectl(&["rollout", "status", name, "--timeout=180s"]);
    }
    let new = both();
    for (new, old) in new.iter().zip(&old) {
        assert!(uids(new).is_disjoint(&uids(old)), "these are new pods");
    }
    let after = cluster.assert_all_told(&new);
    for (_, number) in &before {
        if !after.iter().any(|(_, other)| other == number) {
            cluster.machine.assert_refused(*number);
        }
    }

    // All must leave the node. The agents stay.
    cluster.kubectl(&["drain", "node", "--ignore-daemonsets", "--timeout=180s"]);
    wait_for(PATIENCE, "nobody is on the node", || {
        let pods = api::items("pods");
        pods.len() == ALL && pods.iter().all(|pod| !is_true(pod, "PodScheduled"))
    });
    wait_for(PATIENCE, "every number is released", || {
        records().is_empty() && index().is_empty() && elements().is_empty()
    });
    for (_, number) in after {
        cluster.machine.assert_refused(number);
    }
    for name in ["games", "proxies"] {
        api::delete("deployments", name);
    }
    cluster.ends_with_agents("autoport");
}
