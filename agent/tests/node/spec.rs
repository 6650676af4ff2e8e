//! Ports that a Pod declares in its spec: from the API server to the plugin's ADD and the container's variables.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::agent::{Agent, Node};
use super::api::Api;
use super::runtime::Runtime;
use super::{add, asking, cbr0_pod, create, port, run, try_add};

const KUBEWHARF: &str = "pod.kubewharf.kubernetes.io/autoport";

/// What the runtime tells the plugin of a Pod with `KubeWharf`'s annotation alone.
const ALONE: &str =
    r#"{"io.kubernetes.cri.pod-annotations": {"pod.kubewharf.kubernetes.io/autoport": "true"}}"#;

struct Cluster {
    node: Node,
    api: Api,
    runtime: Runtime,
}

impl Cluster {
    fn new() -> Self {
        Self { node: Node::new(""), api: Api::new(), runtime: Runtime::new() }
    }

    fn start(&self, options: &[&str]) -> Agent {
        let kubeconfig = self.api.kubeconfig(self.node.state().parent().expect("a directory"));
        let kubeconfig = kubeconfig.to_str().expect("an ASCII path");
        let options = [&["--kubeconfig", kubeconfig, "--node-name", "n1"], options].concat();
        self.node.start(&self.runtime.socket(), &options)
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.node.state().join("requests").join(format!("{uid}.json"))
    }

    fn await_file(&self, uid: &str, is_there: bool) {
        let begun = Instant::now();
        while self.file(uid).exists() != is_there {
            assert!(begun.elapsed() < Duration::from_secs(10), "{uid}: {is_there} never comes");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A Pod with `KubeWharf`'s annotation alone.
    fn put(&self, uid: &str) {
        self.api.put(uid, &json!({KUBEWHARF: "true"}), &ports());
    }
}

fn ports() -> Value {
    json!([
        {"name": "http", "containerPort": 8080, "protocol": "TCP"},
        {"name": "game", "containerPort": 7777, "protocol": "UDP"},
    ])
}

#[test]
fn kubewharfs_annotation_alone_is_served_with_the_ports_of_the_spec() {
    let cluster = Cluster::new();
    cluster.put("before");
    cluster.api.put("other", &json!({"autoport.cni/ports": "8080"}), &ports());
    let _agent = cluster.start(&[]);
    let mut runtime = cluster.runtime.connect(Vec::new(), Vec::new());
    cluster.await_file("before", true);
    assert!(!cluster.file("other").exists(), "it does not need its spec");
    let text = fs::read_to_string(cluster.file("before")).expect("a file");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(file["ports"], "http=8080/tcp, game=7777/udp");
    assert_eq!((&file["namespace"], &file["name"]), (&json!("games"), &json!("web")));
    add(&cluster.node, "before", "s1", ALONE);
    let pod = cbr0_pod("before", "s1", &[(KUBEWHARF, "true")]);
    run(&mut runtime, &pod).expect("there is nothing to do");
    let variables = create(&mut runtime, &pod).expect("it is created");
    assert_eq!(variables["AUTOPORT_PORT_HTTP"], "8080");
    assert_eq!(variables["PORT0"], variables["AUTOPORT_HOST_PORT_HTTP"]);
    assert_eq!(variables["PORT1"], variables["AUTOPORT_HOST_PORT_GAME"]);
    let asked = cluster.api.asked();
    assert!(
        asked.iter().all(|path| path.contains("fieldSelector=spec.nodeName%3Dn1")),
        "{asked:?}"
    );
    assert!(asked[0].contains("resourceVersion=0"), "{asked:?}");
    cluster.api.delete("before");
    cluster.await_file("before", false);
}

#[test]
fn an_add_waits_for_a_pod_that_the_agent_sees_late() {
    let cluster = Cluster::new();
    let _agent = cluster.start(&[]);
    let _runtime = cluster.runtime.connect(Vec::new(), Vec::new());
    let begun = Instant::now();
    while !cluster.api.asked().iter().any(|path| path.contains("watch=true")) {
        assert!(begun.elapsed() < Duration::from_secs(10), "the agent does not follow the Pods");
        thread::sleep(Duration::from_millis(5));
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(500));
            cluster.put("late");
        });
        add(&cluster.node, "late", "s1", ALONE);
    });
    // The sandbox is made again, with what the agent wrote on the Pod.
    let status = ALONE.replace("\"true\"", "\"true\", \"autoport.cni/status\": \"{}\"");
    add(&cluster.node, "late", "s2", &status);
}

#[test]
fn watches_that_began_together_do_not_end_together() {
    let cluster = Cluster::new();
    let _agents: Vec<_> = (0..8).map(|_| cluster.start(&[])).collect();
    let begun = Instant::now();
    let mut limits = BTreeSet::new();
    while limits.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", cluster.api.asked());
        thread::sleep(Duration::from_millis(5));
        let limit = |path: &String| path.split("timeoutSeconds=").nth(1)?.get(..3)?.parse().ok();
        limits = cluster.api.asked().iter().filter_map(limit).collect::<BTreeSet<u32>>();
    }
    assert!(limits.iter().all(|limit| (200..=290).contains(limit)), "{limits:?}");
}

#[test]
fn a_pod_that_declares_too_many_ports_is_told_by_its_add() {
    let cluster = Cluster::new();
    let ports: Vec<Value> = (1..=1025).map(|number| json!({"containerPort": number})).collect();
    cluster.api.put("many", &json!({KUBEWHARF: "true"}), &json!(ports));
    let _agent = cluster.start(&[]);
    let _runtime = cluster.runtime.connect(Vec::new(), Vec::new());
    cluster.await_file("many", true);
    let (is_done, told) = try_add(&cluster.node, "many", "s1", ALONE);
    let shown = "Pod games/web declares more than 1024 ports";
    assert!(!is_done && told.contains(shown) && told.contains("\"code\":104"), "{told}");
}

#[test]
fn both_agents_write_and_either_is_enough() {
    let cluster = Cluster::new();
    let first = cluster.start(&[]);
    let _first = cluster.runtime.connect(Vec::new(), Vec::new());
    let second = cluster.start(&["--standby"]);
    let _second = cluster.runtime.connect(Vec::new(), Vec::new());
    cluster.put("one");
    cluster.await_file("one", true);
    drop(first);
    cluster.put("two");
    cluster.await_file("two", true);
    cluster.api.delete("one");
    cluster.await_file("one", false);
    drop(second);
}

#[test]
fn while_the_api_server_is_away_nothing_on_the_node_stops() {
    let cluster = Cluster::new();
    cluster.api.set_away(true);
    let _agent = cluster.start(&[]);
    let mut runtime = cluster.runtime.connect(Vec::new(), Vec::new());
    let pod = asking("host");
    run(&mut runtime, &pod).expect("it is assigned a port");
    assert!(port(&mut runtime, &pod) >= 20000);
    cluster.put("one");
    cluster.api.set_away(false);
    cluster.await_file("one", true);
    // Away again: what is written stays.
    cluster.api.set_away(true);
    cluster.put("two");
    thread::sleep(Duration::from_millis(500));
    assert!(cluster.file("one").exists() && !cluster.file("two").exists());
    add(&cluster.node, "one", "s1", ALONE);
    cluster.api.set_away(false);
    cluster.await_file("two", true);
    // Changes that were missed are not missed for long.
    cluster.put("three");
    cluster.api.forget();
    cluster.await_file("three", true);
}

/// Authors of Pods must not be able to have the agents of a node killed for their memory.
#[test]
fn large_pods_do_not_fill_the_memory() {
    let cluster = Cluster::new();
    for number in 0..64 {
        let annotations = json!({KUBEWHARF: "true", "example.com/large": "x".repeat(1 << 20)});
        cluster.api.put(&format!("uid-{number:02}"), &annotations, &ports());
    }
    let agent = cluster.start(&[]);
    cluster.await_file("uid-63", true);
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a figure");
    let most: u64 = most.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(most < 48 << 10, "{most} kB for 64 Pods of a megabyte each");
}

#[test]
fn without_kubernetes_that_is_said_once_and_the_rest_works() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let agent = node.start(&runtime.socket(), &[]);
    let mut connection = runtime.connect(Vec::new(), Vec::new());
    run(&mut connection, &asking("one")).expect("it is assigned a port");
    assert!(!node.state().join("requests").exists());
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, log) = agent.end();
    assert_eq!(log.matches("not connected to Kubernetes").count(), 1, "{log}");
    assert!(log.contains("no kubeconfig is given"), "{log}");
}

#[test]
fn a_kubeconfig_that_cannot_be_used_ends_the_agent_with_the_reason() {
    let (cluster, dir) = (Cluster::new(), tempfile::tempdir().expect("a directory"));
    let good = fs::read_to_string(cluster.api.kubeconfig(dir.path())).expect("a file");
    let path = dir.path().join("other");
    for (text, shown) in [
        (good.replace("127.0.0.1", "api.example.com"), "write its IP address"),
        (
            good.replace("\"current-context\":\"c\"", "\"current-context\":\"d\""),
            "cannot use kubeconfig",
        ),
        ("{".to_owned(), "cannot use kubeconfig"),
    ] {
        fs::write(&path, text).expect("it can be written");
        let option = ["--kubeconfig", path.to_str().expect("an ASCII path")];
        let (status, log) = cluster.node.start(&cluster.runtime.socket(), &option).end();
        assert_eq!(status, Some(2), "{log}");
        assert!(log.contains(shown), "{log}");
    }
}
