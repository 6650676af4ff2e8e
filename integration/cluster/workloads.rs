//! Deployments whose pods ask by annotation.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::api::{self, PATIENCE, is_true};
use crate::cluster::{Cluster, spec};
use crate::machine::{published, wait_for};
use crate::stage::node::{FIRST, SECOND, address};
use crate::stage::probe::{Probe, Transport};

/// A Deployment whose pods want two ports, `game` over TCP and UDP, and `tell`, on which each says
/// what was published for it: the container has it mounted, as docs/published-files.md recommends.
fn games(replicas: usize) -> Value {
    let mut spec = spec(&[], &["-tell", "/autoport/ports.json", "8000"]);
    spec["containers"][0]["env"] =
        json!([{"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}]);
    spec["containers"][0]["volumeMounts"] = json!([{
        "name": "autoport", "mountPath": "/autoport", "subPathExpr": "$(POD_UID)", "readOnly": true,
    }]);
    spec["volumes"] = json!([{
        "name": "autoport",
        "hostPath": {"path": "/run/autoport/pods", "type": "DirectoryOrCreate"},
    }]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "games"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "games"}},
            "template": {
                "metadata": {
                    "labels": {"app": "games"},
                    "annotations": {"autoport.cni/ports": "game=8000/tcp+udp, tell=82"},
                },
                "spec": spec,
            },
        },
    })
}

impl Cluster {
    /// Insists that each of these pods is reached on ports of its own, and was told which.
    fn assert_games(&self, pods: &[Value]) -> BTreeSet<u64> {
        let mut ports = BTreeSet::new();
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().expect("it has a name");
            let uid = pod["metadata"]["uid"].as_str().expect("it has a UID");
            let file = published(uid);
            assert_eq!(
                file["pod"],
                json!({"namespace": "default", "name": name, "uid": uid}),
                "this is another's: {file}"
            );
            let [game, tell] = ["game", "tell"].map(|wanted| {
                let entries = file["ports"].as_array().into_iter().flatten();
                let mut entries = entries.filter(|entry| entry["name"] == wanted);
                let entry = entries.next().unwrap_or_else(|| panic!("no {wanted} in {file}"));
                assert_eq!(
                    (entry["origin"].as_str(), entry["count"].as_u64()),
                    (Some("chosen"), Some(1))
                );
                let port = entry["hostPort"].as_u64().expect("a number");
                assert!((20_000..30_000).contains(&port), "{file}");
                assert!(ports.insert(port), "{port} of {name} is another's too");
                u16::try_from(port).expect("a port")
            });
            for transport in Transport::BOTH {
                self.machine.assert_reached(name, transport, game);
            }
            // There too where the file says; one address of each family.
            let hosts = file["ports"][0]["hostIPs"].as_array().expect("a list");
            assert_eq!(hosts.len(), 2, "{file}");
            for host in hosts.iter().map(|host| host.as_str().expect("an address")) {
                assert!([FIRST, SECOND].concat().contains(&host), "{host} is not the node's");
                let answer = self.machine.node.client_asks(&Probe::tcp(host, game));
                assert_eq!(answer.by(), Some(name), "{host}: {answer}");
            }
            let told = self.machine.node.client.run(|| {
                let mut told = String::new();
                let mut stream = TcpStream::connect((address(FIRST[0]), tell)).expect("it answers");
                stream.read_to_string(&mut told).expect("it tells");
                told
            });
            let told: Value =
                serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
            assert_eq!(told, file, "the container of {name} sees something else");
        }
        assert_eq!(self.machine.held().len(), 3 * pods.len(), "nobody else holds any");
        ports
    }
}

fn uids(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect()
}

#[test]
fn twenty_replicas_have_ports_of_their_own() {
    let mut cluster = Cluster::new();
    api::create("deployments", &games(20));
    let pods = api::wait_for_pods(20);
    assert_eq!(cluster.assert_games(&pods).len(), 40);
    // Half of them go, and the others keep what they have.
    api::patch("deployments", "games", &json!({"spec": {"replicas": 10}}));
    let rest = api::wait_for_pods(10);
    assert!(uids(&rest).is_subset(&uids(&pods)));
    cluster.assert_games(&rest);
    api::delete("deployments", "games");
    cluster.assert_nothing_left();
}

#[test]
fn a_rolling_update() {
    let mut cluster = Cluster::new();
    api::create("deployments", &games(4));
    let old = api::wait_for_pods(4);
    let before = cluster.assert_games(&old);
    let change = json!({"spec": {"template": {"metadata": {"labels": {"version": "2"}}}}});
    api::patch("deployments", "games", &change);
    cluster.kubectl(&["rollout", "status", "deployment/games", "--timeout=180s"]);
    let new = api::wait_for_pods(4);
    assert!(uids(&new).is_disjoint(&uids(&old)), "these are new pods");
    let after = cluster.assert_games(&new);
    for port in before.difference(&after) {
        cluster.machine.assert_refused(u16::try_from(*port).expect("a port"));
    }
    api::delete("deployments", "games");
    cluster.assert_nothing_left();
}

#[test]
fn a_drain() {
    let mut cluster = Cluster::new();
    api::create("deployments", &games(3));
    let pods = api::wait_for_pods(3);
    let ports = cluster.assert_games(&pods);
    cluster.kubectl(&["drain", "node", "--timeout=180s"]);
    // The Deployment has made others, which have nowhere to go.
    wait_for(PATIENCE, "nobody is on the node", || {
        let pods = api::items("pods");
        pods.len() == 3 && pods.iter().all(|pod| !is_true(pod, "PodScheduled"))
    });
    crate::stage::view::assert_nothing_held();
    for port in ports {
        cluster.machine.assert_refused(u16::try_from(port).expect("a port"));
    }
    cluster.kubectl(&["uncordon", "node"]);
    let pods = api::wait_for_pods(3);
    cluster.assert_games(&pods);
    api::delete("deployments", "games");
    cluster.assert_nothing_left();
}
