//! What the agents write on Pods, as an operator sees it, and what kubelet makes of the readiness gate.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::agents::{PORTS, node_with_agents, number, own_name};
use crate::api::{self, PATIENCE, is_true};
use crate::cluster::{Cluster, pod};
use crate::configuration::Api;
use crate::machine::{IMAGE, wait_for};
use crate::stage::node::FIRST;
use crate::stage::probe::Transport;

const GATE: &str = "autoport.cni/Listening";
const STATUS: &str = "autoport.cni/status";

pub(crate) fn get(name: &str) -> Value {
    api::get(&format!("{}/{name}", api::folder("pods")))
}

/// What the Pod carries.
pub(crate) fn status(name: &str) -> Option<Value> {
    let text = get(name)["metadata"]["annotations"][STATUS].take();
    text.as_str().map(|text| serde_json::from_str(text).expect("JSON"))
}

fn condition(name: &str) -> Value {
    let conditions = get(name)["status"]["conditions"].take();
    let mut all = conditions.as_array().into_iter().flatten();
    all.find(|one| one["type"] == GATE).cloned().unwrap_or_default()
}

/// A Pod with the gate and without a probe; on the pod network it listens on port 8000.
fn web(name: &str) -> Value {
    let mut pod = pod(name, &[]);
    pod["metadata"]["annotations"] = json!({PORTS: "game=8000/tcp+udp"});
    pod["spec"]["readinessGates"] = json!([{"conditionType": GATE}]);
    pod["spec"]["containers"][0]["readinessProbe"] = Value::Null;
    pod
}

/// A Pod on the host network whose program listens on this.
fn proxy(name: &str, port: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": {PORTS: "game=auto"}},
        "spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 1,
            "readinessGates": [{"conditionType": GATE}],
            "containers": [{
                "name": "echo", "image": IMAGE, "imagePullPolicy": "Never", "env": own_name(),
                "command": ["/echo", "-name", "$(POD_NAME)", port],
            }],
        },
    })
}

/// The line of docs/cluster.md that shows address and port of each Pod, without `kubectl`.
fn documented() -> Vec<String> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cluster.md");
    let text = fs::read_to_string(document).expect("docs/cluster.md");
    let begin = "kubectl get pods -o custom-columns=";
    let line = text.lines().find(|line| line.starts_with(begin)).expect("it has the line");
    let words = line.split(' ').skip(1);
    words.map(|word| word.replace('\'', "")).collect()
}

impl Cluster {
    /// Insists that the Pod carries the port at which it is reached.
    fn assert_carries(&self, name: &str) -> u16 {
        let environment = self.environment(&get(name), "echo");
        let game = number(&environment, "AUTOPORT_HOST_PORT_GAME");
        wait_for(PATIENCE, &format!("{name} carries its port"), || {
            status(name).is_some_and(|status| status["ports"][0]["hostPort"] == game)
        });
        let status = status(name).expect("it has one");
        assert_eq!((&status["version"], &status["node"]), (&json!(1), &json!("node")), "{status}");
        assert_eq!(status["addresses"][0], environment["AUTOPORT_HOST_IP"], "{status}");
        self.machine.assert_reached(name, Transport::Tcp, game);
        game
    }
}

#[test]
fn pods_carry_their_ports_and_are_ready_when_they_listen() {
    let mut cluster = node_with_agents();
    cluster.confines_agents();
    api::runs(&web("web"));
    api::runs(&proxy("proxy", "$AUTOPORT_PORT_GAME"));
    let mut shown = Vec::new();
    for name in ["web", "proxy"] {
        let game = cluster.assert_carries(name);
        shown.push(format!("{name} {} {game}", FIRST[0]));
        assert_eq!(condition(name)["status"], "True");
    }
    let documented = documented();
    let documented: Vec<&str> = documented.iter().map(String::as_str).collect();
    let table = cluster.kubectl(&documented);
    let lines: Vec<_> =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(shown.iter().all(|line| lines.contains(line)), "{shown:?}: {table}");
    // One that listens elsewhere is not ready, and says why.
    api::create("pods", &proxy("silent", "0"));
    wait_for(PATIENCE, "the program does not listen", || condition("silent")["status"] == "False");
    let port = status("silent").expect("one change has both")["ports"][0]["hostPort"].clone();
    assert_eq!(condition("silent")["message"], format!("port {port}/tcp has no listener"));
    assert!(!is_true(&get("silent"), "Ready"));
    if Api::of_this_run() == Api::Kubernetes {
        // The one that enforces it.
        let all = [("patch", "status"), ("patch", ""), ("update", "status")];
        assert_eq!(
            all.map(|(verb, part)| cluster.lets_agents(verb, "pods", part)),
            [true, false, false]
        );
    }
    // The API server is started again, and a Pod is created again under its name.
    let former = get("web");
    cluster.stops("kube-apiserver");
    cluster.starts("kube-apiserver");
    wait_for(PATIENCE, "the API server is back", || api::request("GET", "/readyz", None).0 == 200);
    api::ends("web");
    api::runs(&web("web"));
    assert_ne!(get("web")["metadata"]["uid"], former["metadata"]["uid"]);
    cluster.assert_carries("web");
    for name in ["web", "proxy", "silent"] {
        api::ends(name);
    }
    cluster.ends_with_agents("autoport");
}
