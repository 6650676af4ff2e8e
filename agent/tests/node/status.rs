//! What the agent writes on Pods: their host ports, and whether their programs listen.

use std::net::{TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::agent::{Agent, Node};
use super::api::{Api, Change};
use super::cgroup::Cgroup;
use super::runtime::{Connection, Runtime};
use super::taken::listener;
use super::{PORTS, add, create, host_pod, ip, run};

const STATUS: &str = "autoport.cni/status";
const GATE: &str = "autoport.cni/Listening";

struct Scene {
    node: Node,
    api: Api,
    runtime: Runtime,
}

impl Scene {
    fn new() -> Self {
        Self { node: Node::new(""), api: Api::new(), runtime: Runtime::new() }
    }

    fn start(&self) -> Agent {
        let kubeconfig = self.api.kubeconfig(self.node.node_dir());
        let kubeconfig = kubeconfig.to_str().expect("an ASCII path");
        self.node.start(&self.runtime.socket(), &["--kubeconfig", kubeconfig, "--node-name", "n1"])
    }

    /// A Pod on the host network that asks for these ports.
    fn put(&self, uid: &str, ports: &str, gates: &Value) {
        let spec = json!({"nodeName": "n1", "hostNetwork": true, "containers": [{"name": "main"}],
                          "readinessGates": gates});
        let status = json!({"phase": "Running", "hostIP": "192.0.2.9", "podIP": "192.0.2.9"});
        self.api.put_pod(uid, &json!({PORTS: ports}), &spec, &status);
    }

    /// The status that a Pod carries, if it carries one.
    fn status(&self, uid: &str) -> Option<Value> {
        let text = self.api.pod(uid)["metadata"]["annotations"][STATUS].take();
        text.as_str().map(|text| serde_json::from_str(text).expect("JSON"))
    }

    fn await_status(&self, uid: &str) -> Value {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.status(uid) {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", self.api.changes());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn await_changes(&self, number: usize) -> Vec<Change> {
        let begun = Instant::now();
        while self.api.changes().len() < number {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", self.api.changes());
            thread::sleep(Duration::from_millis(10));
        }
        self.api.changes()
    }

    /// Insists that nothing more is written.
    fn assert_calm(&self, number: usize) {
        thread::sleep(Duration::from_secs(3));
        let changes = self.api.changes();
        assert_eq!(changes.len(), number, "{changes:?}");
    }

    /// The condition that the Pod carries, once it has this status.
    fn await_condition(&self, uid: &str, status: &str) -> Value {
        let begun = Instant::now();
        loop {
            let conditions = self.api.pod(uid)["status"]["conditions"].take();
            let mut all = conditions.as_array().into_iter().flatten();
            if let Some(own) = all.find(|one| one["type"] == GATE && one["status"] == status) {
                return own.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", self.api.changes());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn runs(runtime: &mut Connection, uid: &str, ports: &str) -> u16 {
    let pod = host_pod(uid, &format!("sandbox-{uid}"), &[(PORTS, ports)]);
    run(runtime, &pod).expect("it is assigned its ports");
    let variables = create(runtime, &pod).expect("it is created");
    variables["AUTOPORT_HOST_PORT_HTTP"].parse().expect("a port")
}

#[test]
fn a_pod_carries_the_ports_that_the_node_chose() {
    let scene = Scene::new();
    let agent = scene.start();
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.put("one", "http=auto, rtp=auto/udp", &json!([]));
    scene.put("other", "", &json!([]));
    let http = runs(&mut connection, "one", "http=auto, rtp=auto/udp");
    let status = scene.await_status("one");
    assert_eq!((&status["version"], &status["node"]), (&json!(1), &json!("n1")));
    assert_eq!(status["addresses"], json!(["192.0.2.1"]), "as the plugin advertises");
    let expected = json!({"name": "http", "protocols": ["tcp"], "hostPort": http,
                          "containerPort": http, "count": 1});
    assert_eq!((&status["ports"][0], &status["ports"][1]["name"]), (&expected, &json!("rtp")));
    let [change] = &scene.await_changes(1)[..] else { panic!("{:?}", scene.api.changes()) };
    assert_eq!(change.patch["metadata"]["uid"], "one");
    // Its sandbox is made again with another port, and what the agent wrote is no request.
    let asked = [(PORTS, "http=auto, rtp=auto/udp, more=auto"), (STATUS, "{}")];
    let again = host_pod("one", "s2", &asked);
    run(&mut connection, &again).expect("it is assigned its ports");
    let mut annotations = scene.api.pod("one")["metadata"]["annotations"].take();
    annotations[PORTS] = json!(asked[0].1);
    scene.api.put_pod("one", &annotations, &json!({"containers": []}), &json!({}));
    scene.await_changes(2);
    let status = scene.await_status("one");
    assert_eq!(status["ports"].as_array().map(Vec::len), Some(3), "{status}");
    // Another agent has nothing to write.
    agent.signal(Signal::SIGKILL);
    drop((agent, connection));
    let _agent = scene.start();
    let mut connection = scene.runtime.connect(vec![again.clone()], Vec::new());
    create(&mut connection, &again).expect("it is created");
    scene.assert_calm(2);
    // A Pod that has ended carries nothing that is another's by now.
    let ended = json!({"phase": "Succeeded"});
    let annotations = scene.api.pod("one")["metadata"]["annotations"].take();
    assert_eq!(
        annotations["autoport.cni/host-port.http"],
        status["ports"][0]["hostPort"].to_string()
    );
    scene.api.put_pod("one", &annotations, &json!({"containers": []}), &ended);
    scene.await_changes(3);
    assert_eq!(scene.api.pod("one")["metadata"]["annotations"], json!({PORTS: asked[0].1}));
    scene.assert_calm(3);
}

#[test]
fn a_pod_on_the_pod_network_carries_what_the_plugin_recorded() {
    let scene = Scene::new();
    let _agent = scene.start();
    let _connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.api.put("web", &json!({PORTS: "http=8080/tcp+udp, rtp=9000-9009/udp"}), &json!([]));
    let list = r#"{"io.kubernetes.cri.pod-annotations":
                   {"autoport.cni/ports": "http=8080/tcp+udp, rtp=9000-9009/udp"}}"#;
    add(&scene.node, "web", "s1", list);
    let status = scene.await_status("web");
    let ports = &status["ports"];
    assert_eq!(ports[0]["protocols"], json!(["tcp", "udp"]), "{status}");
    assert_eq!((&ports[1]["containerPort"], &ports[1]["count"]), (&json!(9000), &json!(10)));
    assert!(ports[0]["hostPort"].as_u64().is_some_and(|port| port >= 20000), "{status}");
}

/// Nothing on the node waits for the API server, and the newest state arrives.
#[test]
fn an_api_server_that_is_away_slow_or_full_gets_the_newest_state_later() {
    let scene = Scene::new();
    let agent = scene.start();
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.put("one", "http=auto", &json!([]));
    let begun = Instant::now();
    while !scene.api.asked().iter().any(|path| path.contains("watch=true")) {
        assert!(begun.elapsed() < Duration::from_secs(10), "the agent does not follow the Pods");
        thread::sleep(Duration::from_millis(5));
    }
    scene.api.set_away(true);
    let begun = Instant::now();
    let http = runs(&mut connection, "one", "http=auto");
    assert!(begun.elapsed() < Duration::from_secs(1), "it has waited: {:?}", begun.elapsed());
    thread::sleep(Duration::from_secs(2));
    scene.api.set_away(false);
    assert_eq!(scene.await_status("one")["ports"][0]["hostPort"], http);
    // Too much to do: the server says when to come again.
    scene.api.reject(&[429, 500]);
    scene.put("two", "http=auto", &json!([]));
    let http = runs(&mut connection, "two", "http=auto");
    assert_eq!(scene.await_status("two")["ports"][0]["hostPort"], http);
    let changes = scene.api.changes();
    let codes: Vec<_> = changes.iter().map(|change| change.code).collect();
    assert_eq!(codes, [200, 429, 500, 200]);
    assert!(changes[2].at - changes[1].at >= Duration::from_secs(2), "{changes:?}");
    // Slow: what it is given last is the newest.
    scene.api.slow_down(Duration::from_secs(2));
    for uid in ["three", "four"] {
        scene.put(uid, "http=auto", &json!([]));
        runs(&mut connection, uid, "http=auto");
    }
    let again = host_pod("four", "s2", &[(PORTS, "http=auto, more=auto")]);
    run(&mut connection, &again).expect("it is assigned its ports");
    scene.await_status("three");
    assert_eq!(scene.await_status("four")["ports"].as_array().map(Vec::len), Some(2));
    agent.signal(Signal::SIGTERM);
    let (_, log) = agent.end();
    assert_eq!(log.matches("cannot write the status of the Pod").count(), 2, "{log}");
    assert!(!log.contains("ERROR"), "a failure is told once: {log}");
}

#[test]
fn no_more_than_twenty_pods_are_written_in_a_second() {
    let scene = Scene::new();
    let _agent = scene.start();
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    for number in 0..50 {
        let uid = format!("pod-{number}");
        scene.put(&uid, "http=auto", &json!([]));
        runs(&mut connection, &uid, "http=auto");
    }
    let changes = scene.await_changes(50);
    for window in changes.windows(22) {
        let took = window[21].at - window[0].at;
        assert!(took >= Duration::from_secs(1), "22 in {took:?}");
    }
    scene.assert_calm(50);
}

#[test]
fn an_agent_that_may_not_write_says_so_once_and_tries_again() {
    let scene = Scene::new();
    let agent = scene.start();
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.api.reject_all(Some(403));
    for uid in ["one", "two"] {
        scene.put(uid, "http=auto", &json!([]));
        runs(&mut connection, uid, "http=auto");
    }
    scene.await_changes(2);
    scene.assert_calm(2);
    scene.api.reject_all(None);
    scene.await_status("one");
    scene.await_status("two");
    agent.signal(Signal::SIGTERM);
    let (_, log) = agent.end();
    assert_eq!(log.matches("rejected with 403").count(), 1, "{log}");
}

/// As a webhook can have it.
#[test]
fn an_api_server_that_drops_a_change_is_not_asked_over_and_over() {
    let scene = Scene::new();
    let agent = scene.start();
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.api.drop_changes();
    scene.put("one", "http=auto", &json!([]));
    runs(&mut connection, "one", "http=auto");
    scene.await_changes(1);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(scene.api.changes().len(), 1);
    agent.signal(Signal::SIGTERM);
    let (_, log) = agent.end();
    assert_eq!(log.matches("has taken the change and dropped it").count(), 1, "{log}");
}

#[test]
fn a_pod_that_was_created_again_under_its_name_is_not_written_for_the_former() {
    let scene = Scene::new();
    let _agent = scene.start();
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.api.slow_down(Duration::from_secs(1));
    scene.put("former", "http=auto", &json!([]));
    runs(&mut connection, "former", "http=auto");
    thread::sleep(Duration::from_millis(500));
    scene.api.delete("former");
    scene.put("latter", "http=auto", &json!([]));
    let http = runs(&mut connection, "latter", "http=auto");
    assert_eq!(scene.await_status("latter")["ports"][0]["hostPort"], http);
    scene.api.slow_down(Duration::ZERO);
    let former =
        scene.api.changes().into_iter().filter(|it| it.patch["metadata"]["uid"] == "former");
    let codes: Vec<_> = former.map(|change| change.code).collect();
    assert!(codes.len() <= 1 && codes.iter().all(|code| *code == 409), "{codes:?}");
}

#[test]
fn a_standby_writes_nothing() {
    let scene = Scene::new();
    let leader = scene.start();
    let mut first = scene.runtime.connect(Vec::new(), Vec::new());
    let other = Runtime::new();
    let kubeconfig = scene.api.kubeconfig(scene.node.node_dir());
    let kubeconfig = kubeconfig.to_str().expect("an ASCII path");
    let options = ["--kubeconfig", kubeconfig, "--node-name", "n1", "--standby"];
    let _standby = scene.node.start(&other.socket(), &options);
    let mut second = other.connect(Vec::new(), Vec::new());
    scene.put("one", "http=auto", &json!([]));
    runs(&mut first, "one", "http=auto");
    scene.await_status("one");
    scene.assert_calm(1);
    // It does when it leads.
    drop((leader, first));
    scene.put("two", "http=auto", &json!([]));
    runs(&mut second, "two", "http=auto");
    scene.await_status("two");
}

/// The node of the test has no cgroups of this pod, so any listener counts.
#[test]
fn a_pod_on_the_host_network_is_ready_while_its_program_listens() {
    let scene = Scene::new();
    let _agent = scene.start();
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.put("one", "http=auto/tcp+udp", &json!([{"conditionType": GATE}]));
    let http = runs(&mut connection, "one", "http=auto/tcp+udp");
    let condition = scene.await_condition("one", "False");
    assert_eq!(condition["message"], format!("port {http}/tcp has no listener"));
    assert_eq!(condition["reason"], "NotListening");
    let [change] = &scene.api.changes()[..] else { panic!("{:?}", scene.api.changes()) };
    assert!(change.patch["metadata"]["annotations"][STATUS].is_string(), "one change has both");
    let tcp = TcpListener::bind(("0.0.0.0", http)).expect("it is free");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(scene.api.changes().len(), 1, "UDP is missing");
    let udp = UdpSocket::bind(("0.0.0.0", http)).expect("it is free");
    let condition = scene.await_condition("one", "True");
    assert!(condition["lastTransitionTime"].is_string() && condition["message"] == "");
    // A moment without a listener changes nothing.
    drop(udp);
    thread::sleep(Duration::from_millis(500));
    let udp = UdpSocket::bind(("0.0.0.0", http)).expect("it is free");
    scene.assert_calm(2);
    drop((tcp, udp));
    scene.await_condition("one", "False");
    assert_eq!(scene.api.changes().len(), 3);
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn a_listener_of_another_cgroup_does_not_make_a_pod_ready() {
    let cgroup = Cgroup::new();
    let scene = Scene::new();
    let _agent = scene.start();
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.put("one", "http=auto", &json!([{"conditionType": GATE}]));
    cgroup.parent("podone");
    let http = runs(&mut connection, "one", "http=auto");
    let other = listener(&cgroup, "other.service", http);
    scene.await_condition("one", "False");
    scene.assert_calm(1);
    drop(other);
    let _own = listener(&cgroup, "podone/c1", http);
    scene.await_condition("one", "True");
}

#[test]
fn a_pod_on_the_pod_network_is_ready_while_its_tcp_ports_take_connections() {
    let scene = Scene::new();
    ip("addr add 10.9.0.7/32 dev lo");
    let _agent = scene.start();
    let _connection = scene.runtime.connect(Vec::new(), Vec::new());
    let asked = "http=8080/tcp+udp, rtp=9000-9009/tcp, game=7777/udp";
    let list = format!(r#"{{"io.kubernetes.cri.pod-annotations": {{"{PORTS}": "{asked}"}}}}"#);
    add(&scene.node, "web", "s1", &list);
    let spec =
        json!({"nodeName": "n1", "containers": [], "readinessGates": [{"conditionType": GATE}]});
    let status = json!({"phase": "Running", "hostIP": "192.0.2.1", "podIP": "10.9.0.7"});
    scene.api.put_pod("web", &json!({PORTS: asked}), &spec, &status);
    let condition = scene.await_condition("web", "False");
    assert_eq!(condition["message"], "port 8080/tcp takes no connection");
    let _listener = TcpListener::bind("10.9.0.7:8080").expect("it is free");
    scene.await_condition("web", "True");
    assert_eq!(scene.api.changes().len(), 2);
}
