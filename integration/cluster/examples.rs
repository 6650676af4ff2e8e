//! The manifests of `deploy/examples`, as they are. Our echo server takes the place of their programs (`images.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::agents::{name, node_with_agents, number};
use crate::api::{self, PATIENCE};
use crate::cluster::Cluster;
use crate::machine::wait_for;
use crate::stage::node::FIRST;
use crate::stage::probe::Transport;

/// What the agents write of the port `game`.
const NUMBER: &str = "autoport.cni/host-port.game";

/// A path in the project.
pub(crate) fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The command of docs/examples.md that prints the servers of a load balancer: what follows `kubectl`.
fn for_a_load_balancer() -> Vec<String> {
    let text = fs::read_to_string(in_project("docs/examples.md")).expect("docs/examples.md");
    let begin = "kubectl get pods -l app=game -o jsonpath=";
    let line = text.lines().find(|line| line.starts_with(begin)).expect("it has the line");
    let output = line.trim_start_matches("kubectl get pods -l app=game -o ").replace('\'', "");
    ["get", "pods", "-l", "app=game", "-o", &output].map(str::to_owned).into()
}

impl Cluster {
    /// Creates what is in the file, and gives so many Pods when all are ready.
    fn applies(&self, file: &str, pods: usize) -> Vec<Value> {
        let path = in_project("deploy/examples").join(file);
        self.kubectl(&["apply", "--filename", &path.to_string_lossy()]);
        api::wait_for_pods(pods)
    }

    fn removes(&self, file: &str) {
        let path = in_project("deploy/examples").join(file);
        self.kubectl(&["delete", "--filename", &path.to_string_lossy()]);
        wait_for(PATIENCE, "its Pods are gone", || api::items("pods").is_empty());
    }

    /// The number in a variable of the first container of a Pod.
    fn told(&self, pod: &Value, variable: &str) -> u16 {
        let container = pod["spec"]["containers"][0]["name"].as_str().expect("it has a name");
        number(&self.environment(pod, container), variable)
    }

    fn game_servers(&self) {
        let pods = self.applies("game-servers.yaml", 3);
        let mut servers = BTreeSet::new();
        for pod in &pods {
            let port = self.told(pod, "AUTOPORT_HOST_PORT_GAME");
            for transport in Transport::BOTH {
                self.machine.assert_reached(name(pod), transport, port);
            }
            let node = pod["status"]["hostIP"].as_str().expect("the node has an address");
            assert!(FIRST.contains(&node), "{node}");
            servers.insert(format!("server {} {node}:{port}", name(pod)));
        }
        let words = for_a_load_balancer();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        wait_for(PATIENCE, "all Pods carry their numbers", || {
            api::items("pods").iter().all(|pod| pod["metadata"]["annotations"][NUMBER].is_string())
        });
        let told: BTreeSet<_> = self.kubectl(&words).lines().map(str::to_owned).collect();
        assert_eq!(told, servers);
        self.removes("game-servers.yaml");
    }

    fn media_servers(&self) {
        let pods = self.applies("media-servers.yaml", 2);
        let first = pods.iter().map(|pod| self.told(pod, "AUTOPORT_HOST_PORT_RTP"));
        let runs: Vec<_> = first.map(|first| first..first + 100).collect();
        assert!(runs[0].end <= runs[1].start || runs[1].end <= runs[0].start, "{runs:?}");
        for (pod, run) in pods.iter().zip(runs) {
            for port in [run.start, run.end - 1] {
                self.machine.assert_reached(name(pod), Transport::Udp, port);
            }
            let sip = self.told(pod, "AUTOPORT_HOST_PORT_SIP");
            for transport in Transport::BOTH {
                self.machine.assert_reached(name(pod), transport, sip);
            }
        }
        self.removes("media-servers.yaml");
    }

    fn ingress(&self) {
        let pods = self.applies("ingress.yaml", 2);
        let mut ports = BTreeSet::new();
        for pod in &pods {
            for variable in ["AUTOPORT_PORT_HTTP", "AUTOPORT_PORT_ADMIN"] {
                let port = self.told(pod, variable);
                assert!(ports.insert(port), "{port} of {} is another's too", name(pod));
                // All have the name of the node.
                let [answer, _] = self.machine.answers(Transport::Tcp, port);
                assert!(answer.by().is_some(), "{variable} of {}: {answer}", name(pod));
            }
        }
        self.removes("ingress.yaml");
    }

    fn stable_ports(&self) {
        let ports = |pods: &[Value]| -> Vec<_> {
            pods.iter().map(|pod| self.told(pod, "AUTOPORT_HOST_PORT_P2P")).collect()
        };
        let pods = self.applies("stable-ports.yaml", 2);
        let before = ports(&pods);
        self.kubectl(&["delete", "pod", "peer-0", "peer-1"]);
        wait_for(PATIENCE, "there are two others", || {
            let uids = |pods: &[Value]| -> BTreeSet<String> {
                pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect()
            };
            let now = api::items("pods");
            now.len() == 2 && uids(&now).is_disjoint(&uids(&pods))
        });
        let pods = api::wait_for_pods(2);
        assert_eq!(ports(&pods), before);
        for (pod, port) in pods.iter().zip(before) {
            self.machine.assert_reached(name(pod), Transport::Tcp, port);
        }
        self.removes("stable-ports.yaml");
    }
}

#[test]
fn the_examples_are_reached() {
    let mut cluster = node_with_agents();
    cluster.game_servers();
    cluster.media_servers();
    cluster.ingress();
    cluster.stable_ports();
    cluster.ends_with_agents("autoport");
}
