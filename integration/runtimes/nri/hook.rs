//! The bind hook: containers of two pods on the host network listen on the same port, which is a Go program's.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Agent, PORTS, number, same};
use crate::daemon::{Containerd, Release};
use crate::stage::node::CLIENT;
use crate::stage::probe::{Answer, Transport};
use crate::stage::view::STATE;

const BIND: &str = "autoport.cni/bind";

impl Containerd {
    /// A pod with the hook, whose cgroup is its own as those of kubelet are.
    fn hooked(&self, name: &str) -> Value {
        let annotations = [(PORTS, "http=8080/tcp+udp"), (BIND, "redirect")];
        let mut pod = self.on_host(name, &annotations);
        pod["linux"]["cgroup_parent"] = json!(format!("{}/poduid-{name}", self.machine.cgroup));
        pod
    }

    /// A container whose program listens on port 8080, whatever its environment has.
    fn listens(&self, pod: &Value, sandbox: &str, attempt: u32) -> String {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let metadata = json!({"name": "main", "attempt": attempt});
        let args = ["-name", name, "8080"];
        self.creates(pod, sandbox, "main", json!({"args": args, "metadata": metadata}))
    }

    /// Insists that the pod's program answers at the port, and sees its client.
    fn is_reached(&self, name: &str, port: u16) {
        self.machine.assert_reached(name, Transport::Tcp, port);
        let expected = CLIENT.map(|client| Answer::reached(name, client));
        assert_eq!(self.machine.answers(Transport::Tcp, port), expected);
        assert_eq!(self.machine.answers(Transport::Udp, port)[0], expected[0]);
    }
}

fn two_pods_listen_on_one_port(release: Release) {
    let node = Containerd::with_agents(release, same);
    let agents: [Agent; 2] = [node.agent("agent", &[]), node.agent("standby", &["--standby"])];
    let pods = ["one", "two"].map(|name| node.hooked(name));
    let mut running = Vec::new();
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let sandbox = node.runs(pod);
        let container = node.listens(pod, &sandbox, 0);
        let environment = node.environment(&container);
        let port = number(&environment, "AUTOPORT_HOST_PORT_HTTP");
        assert_eq!(environment["AUTOPORT_PORT_HTTP"], "8080");
        node.is_reached(name, port);
        running.push((name, sandbox, container, port));
    }
    node.machine.assert_refused(8080);

    // Both agents are upgraded, one after the other; then none is there, and a container is started again.
    let [agent, standby] = agents;
    standby.ends(&node, "-TERM");
    let standby = node.agent("standby", &["--standby"]);
    agent.ends(&node, "-TERM");
    let agent = node.agent("agent", &[]);
    let are_reached = || {
        for (name, _, _, port) in &running {
            node.is_reached(name, *port);
        }
    };
    are_reached();
    for gone in [agent, standby] {
        gone.ends(&node, "-KILL");
    }
    let (name, sandbox, container, port) = &running[0];
    node.does("end", container);
    node.listens(&pods[0], sandbox, 1);
    node.is_reached(name, *port);
    let _agent = node.agent("agent", &[]);
    node.does("end", &running[1].2);
    node.listens(&pods[1], &running[1].1, 1);
    are_reached();
    node.ends(&[&running[0].1, &running[1].1]);
}

fn where_it_cannot_be_attached_the_sandbox_fails(release: Release) {
    let node = Containerd::with_agents(release, same);
    let _agent = node.agent("agent", &[]);
    let mut pod = node.hooked("one");
    pod["linux"]["cgroup_parent"] = json!(node.machine.cgroup);
    let (ok, text) = node.cri("run", &pod.to_string());
    assert!(!ok && text.contains("cannot attach the bind hook"), "{text}");
    assert_eq!(node.machine.held(), [""; 0]);
}

fn a_port_is_kept_for_its_pod_by_the_guard(release: Release) {
    let node = Containerd::with_agents(release, |network| network.with("guardRange", true));
    let agents = [node.agent("agent", &[]), node.agent("standby", &["--standby"])];
    let below = |mut pod: Value| {
        let uid = pod["metadata"]["uid"].as_str().expect("a UID").to_owned();
        let all = format!("{}/kubepods", node.machine.cgroup);
        // kubelet makes it before it asks for the sandbox.
        let trees = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let tree = trees.into_iter().find(|tree| tree.join("cgroup.controllers").exists());
        let made =
            format!("{}{all}/burstable/pod{uid}", tree.expect("cgroups of version 2").display());
        fs::create_dir_all(made).expect("a cgroup");
        pod["linux"]["cgroup_parent"] = json!(format!("{all}/burstable/pod{uid}"));
        pod
    };
    let pods = ["one", "two"].map(|name| below(node.hooked(name)));
    let other = below(node.on_host("other", &[]));
    let sandboxes = [&pods[0], &pods[1]].map(|pod| node.runs(pod));
    let other_sandbox = node.runs(&other);
    let taker =
        node.creates(&other, &other_sandbox, "main", json!({"args": ["-name", "other", "9999"]}));
    node.machine.assert_reached("other", Transport::Tcp, 9999);
    for (at, pod) in pods.iter().enumerate() {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let uid = pod["metadata"]["uid"].as_str().expect("a UID");
        let published = fs::read_to_string(format!("{STATE}/pods/{uid}/ports.env"));
        let published = published.expect("it is published");
        let port = published.lines().find_map(|line| line.strip_prefix("AUTOPORT_HOST_PORT_HTTP="));
        let port: u16 = port.expect("it has one").trim_matches('\'').parse().expect("a port");
        let (ok, text) = node.try_exec(&taker, &["-name", "other", &port.to_string()]);
        assert!(!ok && text.contains("address already in use"), "{text}");
        node.machine.assert_refused(port);
        node.listens(pod, &sandboxes[at], 0);
        node.is_reached(name, port);
    }
    node.ends(&[&sandboxes[0], &sandboxes[1]]);
    // Both agents are asked to end, and with the last one the guard ends.
    for agent in agents {
        agent.ends(&node, "-TERM");
    }
    node.creates(&other, &other_sandbox, "late", json!({"args": ["-name", "late", "20999"]}));
    node.machine.assert_reached("late", Transport::Tcp, 20999);
    node.ends(&[&other_sandbox]);
}

on_releases!(trixie Trixie, sid Sid: (
    two_pods_listen_on_one_port,
    a_port_is_kept_for_its_pod_by_the_guard,
    where_it_cannot_be_attached_the_sandbox_fails,
));
