//! The agent as a process: pods on the host network, two agents, restarts. The runtime is the one of the session's
//! tests, the store and the kernel are real.

#![expect(clippy::disallowed_methods, reason = "a test starts processes and prepares files")]

mod agent;
mod api;
mod busy;
mod capacity;
mod cgroup;
mod discovery;
mod doors;
mod ending;
mod events;
mod figures;
mod hook;
mod injected;
mod late;
mod monitoring;
mod picture;
#[path = "../nri/runtime.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod runtime;
mod spec;
mod status;
mod swap;
mod table;
mod taint;
mod taken;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use autoport::app::{self, World};
use autoport::cni::NodeFiles;
use autoport::event::Silent;
use autoport::regular;
use autoport::store::Store;
use nix::sys::signal::Signal;
use prost::Message as _;

use autoport_agent::config::Plugin;
use autoport_agent::hostnet::{self, Call};
use autoport_agent::nri::message::{
    Adjustment, Container, ContainerCreated, CreateContainer, LinuxPod, Namespace, Pod, PodEvent,
    StateChange, Status,
};

use self::agent::{Agent, Node};
use self::runtime::{Connection, Runtime};

const PORTS: &str = "autoport.cni/ports";

/// A pod on the host network.
fn host_pod(uid: &str, sandbox: &str, annotations: &[(&str, &str)]) -> Pod {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let namespace = |kind: &str| Namespace { kind: kind.to_owned(), path: String::new() };
    Pod {
        id: sandbox.to_owned(),
        name: format!("game-{uid}"),
        uid: uid.to_owned(),
        namespace: "games".to_owned(),
        annotations: annotations.iter().map(own).collect(),
        linux: Some(LinuxPod {
            namespaces: ["pid", "ipc", "mount"].map(namespace).to_vec(),
            ..LinuxPod::default()
        }),
    }
}

/// A pod on the network cbr0.
fn cbr0_pod(uid: &str, sandbox: &str, annotations: &[(&str, &str)]) -> Pod {
    let network = Namespace { kind: "network".to_owned(), path: "/run/netns/none".to_owned() };
    let linux = Some(LinuxPod { namespaces: vec![network], ..LinuxPod::default() });
    Pod { linux, ..host_pod(uid, sandbox, annotations) }
}

fn ip(command: &str) {
    tool("ip", command);
}

fn tool(program: &str, words: &str) {
    let done = Command::new(program).args(words.split(' ')).status().expect("it can be started");
    assert!(done.success(), "{program} {words}");
}

fn run(runtime: &mut Connection, pod: &Pod) -> Result<(), Status> {
    let change = StateChange { event: 1, pod: Some(pod.clone()), container: None };
    runtime.call("StateChange", &change).map(drop)
}

/// Stops a pod as runtimes do: without its namespaces.
fn stop(runtime: &mut Connection, pod: &Pod) {
    let pod = Pod { linux: None, ..pod.clone() };
    runtime.call("StopPodSandbox", &PodEvent { pod: Some(pod) }).expect("it never fails");
}

/// What is changed in a container of the pod.
fn adjusted(runtime: &mut Connection, pod: &Pod) -> Result<Adjustment, Status> {
    let container = Container { name: "main".to_owned(), ..Container::default() };
    let create = CreateContainer { pod: Some(pod.clone()), container: Some(container) };
    let payload = runtime.call("CreateContainer", &create)?;
    let created = ContainerCreated::decode(payload.as_slice()).expect("an answer");
    Ok(created.adjust.unwrap_or_default())
}

/// The variables that it gets.
fn create(runtime: &mut Connection, pod: &Pod) -> Result<BTreeMap<String, String>, Status> {
    let env = adjusted(runtime, pod)?.env;
    Ok(env.into_iter().map(|variable| (variable.name, variable.value)).collect())
}

fn port(runtime: &mut Connection, pod: &Pod) -> u16 {
    let variables = create(runtime, pod).expect("it is created");
    variables["AUTOPORT_PORT_HTTP"].parse().expect("a port")
}

fn asking(uid: &str) -> Pod {
    host_pod(uid, &format!("sandbox-{uid}"), &[(PORTS, "http=auto")])
}

#[test]
fn two_pods_on_the_host_network_have_a_port_each() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let _agent = node.start(&runtime.socket(), &[]);
    let mut runtime = runtime.connect(Vec::new(), Vec::new());
    let (one, two) = (asking("one"), asking("two"));
    run(&mut runtime, &one).expect("it is assigned a port");
    run(&mut runtime, &two).expect("it is assigned a port");
    let (first, second) = (port(&mut runtime, &one), port(&mut runtime, &two));
    assert_ne!(first, second);
    let variables = create(&mut runtime, &one).expect("a restarted container is told the same");
    assert_eq!(variables["AUTOPORT_HOST_PORT_HTTP"], first.to_string());
    assert_eq!(variables["AUTOPORT_ADDR_HTTP"], format!("192.0.2.1:{first}"));
    assert_eq!(variables["PORT"], first.to_string());
    assert!(node.state().join("pods/one/ports.env").exists());
    stop(&mut runtime, &one);
    assert!(!node.state().join("pods/one/ports.env").exists());
    // Made again with a new sandbox, and a late event about the old one.
    let again = Pod { id: "sandbox-2".to_owned(), ..one.clone() };
    run(&mut runtime, &again).expect("it is assigned a port");
    stop(&mut runtime, &one);
    assert_eq!(port(&mut runtime, &again), first, "the same pod gets the same number");
}

const CALL: &str = "AUTOPORT_TEST_NODE_DIR";
const RUNTIME_CONFIG: &str = "AUTOPORT_TEST_RUNTIME_CONFIG";

/// The plugin, for [`add`]: a process of its own, because the library looks at the namespaces of its process.
#[test]
#[ignore = "run by add, as a process of its own"]
fn call_the_plugin() {
    let node_dir = env::var_os(CALL).expect("the directory of the node");
    let runtime_config = env::var(RUNTIME_CONFIG).expect("what the runtime tells the plugin");
    let stdin = format!(
        r#"{{"cniVersion": "1.0.0", "name": "cbr0", "type": "autoport",
            "runtimeConfig": {runtime_config},
            "prevResult": {{"cniVersion": "1.0.0", "interfaces": [], "ips": []}}}}"#
    );
    let outcome = app::run(World {
        env: &env::vars_os().collect(),
        stdin: Ok(stdin.into_bytes()),
        node_files: || NodeFiles::in_dir(Path::new(&node_dir), regular::read),
        is_awaited: &|| true,
        now: SystemTime::now().duration_since(UNIX_EPOCH).expect("a time of today").as_secs(),
        log: &mut Silent,
    });
    assert!(!outcome.failed, "{}", String::from_utf8_lossy(&outcome.stdout));
}

/// The plugin's ADD for this sandbox, as a runtime calls it before the event.
fn add(node: &Node, uid: &str, sandbox: &str, runtime_config: &str) {
    let (is_done, told) = try_add(node, uid, sandbox, runtime_config);
    assert!(is_done, "{told}");
}

/// The same, which may fail; with its reply where it does.
fn try_add(node: &Node, uid: &str, sandbox: &str, runtime_config: &str) -> (bool, String) {
    let called = Command::new(env::current_exe().expect("the path of this program"))
        .args(["--exact", "call_the_plugin", "--ignored"])
        .env(CALL, node.node_dir())
        .env(RUNTIME_CONFIG, runtime_config)
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", sandbox)
        .env("CNI_NETNS", "/proc/self/ns/net")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=games;K8S_POD_NAME=web;K8S_POD_UID={uid}"))
        .output()
        .expect("it can be run again");
    (called.status.success(), String::from_utf8_lossy(&called.stdout).into_owned())
}

#[test]
fn a_pod_on_the_pod_network_is_told_what_the_plugin_assigned() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let _agent = node.start(&runtime.socket(), &[]);
    let mut runtime = runtime.connect(Vec::new(), Vec::new());
    let pod = cbr0_pod("web", "s1", &[(PORTS, "http=8080")]);
    let status = create(&mut runtime, &pod).expect_err("the plugin was not called");
    assert!(status.message.contains("io.kubernetes.cri.pod-annotations"), "{status:?}");
    let list = format!(r#"{{"io.kubernetes.cri.pod-annotations": {{"{PORTS}": "http=8080"}}}}"#);
    add(&node, "web", "s1", &list);
    run(&mut runtime, &pod).expect("there is nothing to do");
    let variables = create(&mut runtime, &pod).expect("it is created");
    let number: u16 = variables["AUTOPORT_HOST_PORT_HTTP"].parse().expect("a port");
    assert!((20000..30000).contains(&number));
    assert_eq!(variables["AUTOPORT_PORT_HTTP"], "8080");
    // The records of an earlier sandbox are not those of this one.
    let again = Pod { id: "s2".to_owned(), ..pod.clone() };
    assert!(create(&mut runtime, &again).is_err());
    stop(&mut runtime, &pod);
    assert!(
        create(&mut runtime, &pod).is_ok(),
        "what the plugin assigned is released by the plugin"
    );
}

#[test]
fn a_pod_with_fixed_ports_is_told_them_with_the_nodes_address_and_without_files() {
    let (node, runtime) = (Node::new("\"advertiseAddresses\": []"), Runtime::new());
    for command in [
        "link add d0 type veth peer name d1",
        "addr add 192.0.2.7/24 dev d0",
        "link set d0 up",
        "link set d1 up",
    ] {
        ip(command);
    }
    let _agent = node.start(&runtime.socket(), &[]);
    let mut runtime = runtime.connect(Vec::new(), Vec::new());
    let pod = cbr0_pod("web", "s1", &[("autoport.cni/env", "required")]);
    add(
        &node,
        "web",
        "s1",
        r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#,
    );
    let adjusted = adjusted(&mut runtime, &pod).expect("it is created");
    let value = |name| adjusted.env.iter().find(|it| it.name == name).map(|it| it.value.as_str());
    assert_eq!(value("AUTOPORT_HOST_PORT_80_TCP"), Some("8080"));
    assert_eq!(value("AUTOPORT_HOST_IP"), Some("192.0.2.7"));
    assert_eq!(value("AUTOPORT_ADDR_80_TCP"), Some("192.0.2.7:8080"));
    let published = node.state().join("pods/web").exists();
    assert_eq!((published, adjusted.mounts.len()), (false, 0), "a mount needs its directory");
}

#[test]
fn nothing_is_released_by_an_agent_that_no_longer_leads() {
    let node = Node::new("");
    let store = Store::at(&node.state());
    let plugin = Plugin::new(node.state().join("net.d")).with_node_dir(node.node_dir().to_owned());
    let config = plugin.read().expect("the node's file is right");
    let mut call = Call { store: &store, now: 1, log: &mut Silent };
    let claimed = hostnet::claim(&asking("one"), config, &mut call, &|| true);
    let claimed = claimed.expect("it can be had").expect("it asks for a port");
    hostnet::undo(&claimed, &|| false, &mut call).expect("it is left to the other agent");
    assert_eq!(hostnet::release("one", &|| false, &mut call), Ok(false));
    let held = || {
        let records = app::records_of_pod(&store, "one", &mut Silent).expect("they can be read");
        records.iter().any(hostnet::is_of_host)
    };
    assert!(held());
    hostnet::undo(&claimed, &|| true, &mut call).expect("it can be released");
    assert!(!held());
}

#[test]
fn what_a_pod_cannot_have_is_an_error_that_helps() {
    let (node, runtime) = (Node::new("\"portRange\": \"20000-20000\""), Runtime::new());
    let _agent = node.start(&runtime.socket(), &[]);
    let mut runtime = runtime.connect(Vec::new(), Vec::new());
    let kubewharf = "pod.kubewharf.kubernetes.io/autoport";
    for (annotation, shown) in [
        ((PORTS, "http=8080"), "\\\"http=auto/tcp\\\""),
        ((kubewharf, "true"), "\\\"http=auto, game=auto/udp\\\""),
        (("autoport.cni/port", "http=auto"), "did you mean autoport.cni/ports?"),
    ] {
        let pod = host_pod("wrong", "s0", &[annotation]);
        let status = run(&mut runtime, &pod).expect_err("it cannot have that");
        let shown = shown.replace('\\', "");
        assert!(status.code == 9 && status.message.contains(&shown), "{status:?}");
        assert!(create(&mut runtime, &pod).is_err(), "and no container without");
    }
    run(&mut runtime, &asking("one")).expect("the only port");
    let status = run(&mut runtime, &asking("two")).expect_err("none is left");
    assert!(status.message.contains("20000") && status.message.contains("101"), "{status:?}");
    stop(&mut runtime, &asking("one"));
    run(&mut runtime, &asking("two")).expect("it is free again");
    run(&mut runtime, &host_pod("other", "s3", &[])).expect("it asks for nothing");
    assert_eq!(create(&mut runtime, &host_pod("other", "s3", &[])), Ok(BTreeMap::new()));
}

#[test]
fn a_pod_that_was_not_told_about_is_assigned_its_ports_before_its_container() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let agent = node.start(&runtime.socket(), &["--log-format", "json"]);
    let running = Container {
        name: "main".to_owned(),
        pod_sandbox_id: "sandbox-one".to_owned(),
        state: 3,
        ..Container::default()
    };
    let web = cbr0_pod("web", "s1", &[(PORTS, "http=8080")]);
    let of_web = Container { pod_sandbox_id: "s1".to_owned(), ..running.clone() };
    let (pods, containers) = (vec![asking("one"), web], vec![running.clone(), of_web]);
    let mut connection = runtime.connect(pods, containers);
    let first = port(&mut connection, &asking("one"));
    agent.signal(Signal::SIGTERM);
    let (status, log) = agent.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{log}");
    let told: Vec<_> = log.lines().filter(|line| line.contains("without the variables")).collect();
    assert!(told[0].contains("game-one") && told[0].contains("delete the Pod"), "{log}");
    assert!(told[1].contains("game-web") && told[1].contains("holds none"), "{log}");
    // The next agent finds the container that was created without.
    let next = node.start(&runtime.socket(), &[]);
    let mut connection = runtime.connect(vec![asking("one")], vec![running]);
    assert_eq!(port(&mut connection, &asking("one")), first);
    next.signal(Signal::SIGTERM);
    let (_, log) = next.end();
    assert!(log.contains("without the variables") && log.contains("game-one"), "{log}");
}

/// A leader and a standby that have been told of the pod `one`.
fn pair(node: &Node, runtime: &Runtime) -> [(Agent, Connection); 2] {
    let mut pair = [&[][..], &["--standby"]].map(|options| {
        let agent = node.start(&runtime.socket(), options);
        (agent, runtime.connect(Vec::new(), Vec::new()))
    });
    for (_, connection) in &mut pair {
        run(connection, &asking("one")).expect("it is assigned a port");
    }
    pair
}

#[test]
fn a_standby_answers_when_the_leader_is_killed() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let [(leader, mut first), (_standby, mut second)] = pair(&node, &runtime);
    let told = port(&mut first, &asking("one"));
    assert_eq!(create(&mut second, &asking("one")), Ok(BTreeMap::new()), "one of them answers");
    drop((leader, first));
    assert_eq!(port(&mut second, &asking("one")), told);
    run(&mut second, &asking("two")).expect("it is assigned a port");
    // Another leader gets the lead back. It never lets an event pass to the standby, which may end just then.
    let _leader = node.start(&runtime.socket(), &[]);
    let mut first = runtime.connect(Vec::new(), Vec::new());
    assert_eq!(create(&mut first, &host_pod("other", "s3", &[])), Ok(BTreeMap::new()));
    assert_eq!(port(&mut first, &asking("one")), told);
    assert_eq!(create(&mut second, &asking("one")), Ok(BTreeMap::new()));
}

#[test]
fn a_standby_answers_when_the_leader_is_stopped() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let [(leader, mut first), (_standby, mut second)] = pair(&node, &runtime);
    let told = port(&mut first, &asking("one"));
    std::thread::sleep(Duration::from_secs(1));
    leader.signal(Signal::SIGSTOP);
    let create_one = CreateContainer {
        pod: Some(asking("one")),
        container: Some(Container { name: "main".to_owned(), ..Container::default() }),
    };
    // The runtime waits for 2 s, drops the leader, and calls the next.
    first.ask("CreateContainer", create_one.encode_to_vec(), Duration::from_secs(2));
    std::thread::sleep(Duration::from_secs(2));
    drop(first);
    assert_eq!(port(&mut second, &asking("one")), told);
    leader.signal(Signal::SIGCONT);
    assert_eq!(port(&mut second, &asking("one")), told);
}

#[test]
fn a_restarted_runtime_is_found_at_once() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let _agent = node.start(&runtime.socket(), &[]);
    for _ in 0..3 {
        let begun = Instant::now();
        let mut connection = runtime.connect(vec![asking("one")], Vec::new());
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(port(&mut connection, &asking("one")) >= 20000);
    }
}

#[test]
fn the_heartbeat_tells_the_plugin_that_an_agent_is_connected() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let agent = node.start(&runtime.socket(), &[]);
    let path = node.state().join("agent.json");
    let mut connection = runtime.accept();
    assert!(!path.exists(), "not before the runtime has called");
    connection.register();
    connection.configure(2000);
    connection.synchronize(Vec::new(), Vec::new(), false).expect("it is synchronized");
    let read =
        || autoport_agent::keeper::read(&path).expect("it can be read").expect("it is there");
    let first = read();
    assert_eq!((first.version, first.pid, first.connected), (1, agent.pid(), true));
    std::thread::sleep(Duration::from_millis(1100));
    assert!(read().heartbeat > first.heartbeat);
}

#[test]
fn a_supervised_agent_is_started_again_and_ends_with_its_parent() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let agent = node.start(&runtime.socket(), &["--supervise"]);
    let connection = runtime.connect(Vec::new(), Vec::new());
    let read = || autoport_agent::keeper::read(&node.state().join("agent.json"));
    let worker = read().expect("it can be read").expect("it is there").pid;
    assert_ne!(worker, agent.pid());
    let worker = nix::unistd::Pid::from_raw(worker as i32);
    nix::sys::signal::kill(worker, Signal::SIGKILL).expect("the worker runs");
    drop(connection);
    let begun = Instant::now();
    let _connection = runtime.connect(Vec::new(), Vec::new());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    agent.signal(Signal::SIGTERM);
    let (status, log) = agent.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("started again"), "{log}");
}

#[test]
fn a_wrong_configuration_ends_the_agent_with_the_reason() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let file = node.state().with_file_name("agent.json");
    fs::write(&file, r#"{"sokcet": "/run/nri.sock"}"#).expect("it can be written");
    let file = file.to_str().expect("an ASCII path");
    for options in [&["--config", file][..], &["--config", file, "--supervise"]] {
        let (status, log) = node.start(&runtime.socket(), options).end();
        assert_eq!(status, Some(2), "{log}");
        assert!(log.contains("unknown field `sokcet`") && log.contains(file), "{log}");
    }
    let (status, log) = node.start(&runtime.socket(), &["--index", "100"]).end();
    assert_eq!(status, Some(2), "{log}");
}
