//! The bind hook and the port guard, by the component `deploy/kubernetes/bind-hook`: kubelet makes the cgroups, and
//! starts containers again.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::agents::{PORTS, node_with_agents, number, process};
use crate::api::{self, PATIENCE};
use crate::cluster::Cluster;
use crate::machine::{IMAGE, wait_for};
use crate::stage::probe::Transport;

const BIND: &str = "autoport.cni/bind";

/// What the component changes. kubectl of 1.20 knows no components, so it gets the patch alone.
fn component() -> String {
    let file = "deploy/kubernetes/bind-hook/kustomization.yaml";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
    let text = text.expect("the component");
    text.split_once("patch: |\n").expect("it has one patch").1.to_owned()
}

/// A Pod on the host network, whose program listens on these ports, TCP and UDP, and is told nothing of others.
fn listens(name: &str, annotations: &Value, ports: &[&str]) -> Value {
    let command = [&["/echo", "-name", name], ports].concat();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "echo", "image": IMAGE, "imagePullPolicy": "Never", "command": command,
            }],
        },
    })
}

impl Cluster {
    /// Has the agents of this node attach hook and guard.
    fn has_hook(&self) {
        let configuration = json!({"agent": "required", "guardRange": true}).to_string();
        let data = json!({"data": {"autoport.json": configuration}}).to_string();
        self.in_system(&["patch", "configmap", "autoport", "--patch", &data]);
        let patch = ["patch", "daemonset", "autoport", "--type=json", "--patch"];
        self.in_system(&[&patch[..], &[&component()]].concat());
        self.rolls_out();
        for container in ["agent", "agent-standby"] {
            let logs = ["logs", "daemonset/autoport", "--container", container];
            wait_for(PATIENCE, &format!("{container} has the hook"), || {
                self.in_system(&logs).contains("the bind hook can be attached")
            });
        }
    }

    fn rolls_out(&self) {
        self.in_system(&["rollout", "status", "daemonset/autoport", "--timeout=180s"]);
    }

    /// Insists that the Pod answers at its host port, and gives that.
    fn is_reached(&self, name: &str) -> u16 {
        let pod = api::get(&format!("{}/{name}", api::folder("pods")));
        let port = number(&self.environment(&pod, "echo"), "AUTOPORT_HOST_PORT_HTTP");
        self.machine.assert_reached(name, Transport::Tcp, port);
        port
    }
}

#[test]
fn two_pods_of_one_node_bind_the_same_port() {
    let mut cluster = node_with_agents();
    cluster.has_hook();
    let annotations = json!({PORTS: "http=8080/tcp+udp", BIND: "redirect"});
    let names = ["one", "two"];
    for name in names {
        api::runs(&listens(name, &annotations, &["8080"]));
    }
    let ports = names.map(|name| cluster.is_reached(name));
    assert_ne!(ports[0], ports[1]);
    cluster.machine.assert_refused(8080);

    // Another Pod of the node gets neither a number of the range nor less than what is outside of it.
    wait_for(PATIENCE, "the guard is in force", || {
        let logs = ["logs", "daemonset/autoport", "--container", "agent"];
        let logs = cluster.in_system(&logs);
        logs.contains("the port guard is in force") && logs.contains("/kubepods")
    });
    api::runs(&listens("free", &json!({}), &["31999"]));
    cluster.machine.assert_reached("free", Transport::Tcp, 31999);
    let mut taker = listens("taker", &json!({}), &["29999"]);
    taker["spec"]["restartPolicy"] = json!("Never");
    api::create("pods", &taker);
    let path = format!("{}/taker", api::folder("pods"));
    wait_for(PATIENCE, "its program has failed", || api::get(&path)["status"]["phase"] == "Failed");
    let (_, log) = api::request("GET", &format!("{path}/log"), None);
    assert!(log.contains("address already in use"), "{log}");

    // The agents are replaced, and kubelet starts a container again: it has its port.
    cluster.in_system(&["rollout", "restart", "daemonset/autoport"]);
    cluster.rolls_out();
    let path = format!("{}/one", api::folder("pods"));
    let restarts = || api::get(&path)["status"]["containerStatuses"][0]["restartCount"].as_u64();
    cluster.machine.run("kill", &["-KILL", &process(&api::get(&path), "echo")]);
    wait_for(PATIENCE, "kubelet has started it again", || restarts() == Some(1));
    api::wait_for_pod("one");
    assert_eq!(names.map(|name| cluster.is_reached(name)), ports);
    for name in ["one", "two", "free", "taker"] {
        api::ends(name);
    }
    cluster.ends_with_agents("autoport");
}
