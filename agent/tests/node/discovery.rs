//! `EndpointSlices` of Pods that name a Service.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::agent::{Agent, Node};
use super::api::Api;
use super::runtime::{Connection, Runtime};
use super::{PORTS, create, doors, host_pod, ip, run};

struct Scene {
    node: Node,
    api: Api,
    runtime: Runtime,
}

/// What the Service permits, or not.
fn service(annotation: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
           "metadata": {"name": "game", "annotations": {"autoport.cni/endpoints": annotation}}})
}

fn permits() -> Value {
    service("true", &json!({"clusterIP": "None"}))
}

impl Scene {
    fn new() -> Self {
        Self { node: Node::new(""), api: Api::new(), runtime: Runtime::new() }
    }

    fn start(&self, options: &[&str]) -> Agent {
        let kubeconfig = self.api.kubeconfig(self.node.node_dir());
        let kubeconfig = kubeconfig.to_str().expect("an ASCII path");
        let options = [&["--kubeconfig", kubeconfig, "--node-name", "n1"], options].concat();
        self.node.start(&self.runtime.socket(), &options)
    }

    /// A Pod with a port in this Service.
    fn put(&self, uid: &str, service: Option<&str>, is_ready: bool) {
        let spec = json!({"nodeName": "n1", "hostNetwork": true, "containers": []});
        let ready = if is_ready { "True" } else { "False" };
        let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
        let mut annotations = json!({PORTS: "game=auto/tcp+udp"});
        if let Some(service) = service {
            annotations["autoport.cni/service"] = json!(service);
        }
        self.api.put_pod(uid, &annotations, &spec, &status);
    }

    fn await_slices(&self, what: &str, is_right: impl Fn(&[(String, Value)]) -> bool) {
        let begun = Instant::now();
        loop {
            let slices: Vec<_> = self.api.slices().into_iter().collect();
            if is_right(&slices) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_mins(1), "{what}: {slices:#?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn await_event(&self, reason: &str) {
        let begun = Instant::now();
        let is_it = |event: &Value| {
            event["reason"] == "EndpointsNotCreated"
                && event["note"].as_str().is_some_and(|note| note.contains(reason))
        };
        while !self.api.reported().iter().any(is_it) {
            assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", self.api.reported());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn runs(runtime: &mut Connection, uid: &str) -> u16 {
    let pod = host_pod(uid, &format!("sandbox-{uid}"), &[(PORTS, "game=auto/tcp+udp")]);
    run(runtime, &pod).expect("it is assigned its ports");
    let variables = create(runtime, &pod).expect("it is created");
    variables["AUTOPORT_HOST_PORT_GAME"].parse().expect("a port")
}

fn is_ready(slice: &Value) -> &Value {
    &slice["endpoints"][0]["conditions"]["ready"]
}

#[test]
fn a_pod_has_a_slice_that_follows_it() {
    let scene = Scene::new();
    scene.api.put_service("game", Some(permits()));
    let agent = scene.start(&["--discovery"]);
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.put("one", Some("game"), false);
    let game = runs(&mut connection, "one");
    scene.await_slices("it is made", |slices| slices.len() == 1);
    let slice = scene.api.slices().remove("game-one-v4").expect("its name");
    let ports = json!([{"name": "game", "port": game, "protocol": "TCP"},
                       {"name": "game-udp", "port": game, "protocol": "UDP"}]);
    assert_eq!(slice["ports"], ports);
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "one");
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
    assert_eq!(is_ready(&slice), false);
    scene.put("one", Some("game"), true);
    scene.await_slices("it is ready", |slices| is_ready(&slices[0].1) == true);
    assert_eq!(scene.api.slice_reads(), 0, "no earlier agent can have made one");
    // Another agent finds it, and has nothing to write.
    let writes = scene.api.slice_writes();
    agent.signal(Signal::SIGKILL);
    drop((agent, connection));
    let _agent = scene.start(&["--discovery"]);
    let again = host_pod("one", "sandbox-one", &[(PORTS, "game=auto/tcp+udp")]);
    let mut connection = scene.runtime.connect(vec![again.clone()], Vec::new());
    create(&mut connection, &again).expect("it is created");
    thread::sleep(Duration::from_secs(4));
    assert_eq!(scene.api.slice_writes(), writes);
    assert_eq!(scene.api.slice_reads(), 2, "of both families");
    // The Pod leaves the Service.
    scene.put("one", None, true);
    scene.await_slices("it is deleted", <[_]>::is_empty);
}

#[test]
fn a_service_that_does_not_permit_it_gets_no_slices() {
    let scene = Scene::new();
    let _agent = scene.start(&["--discovery"]);
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    let selects = json!({"clusterIP": "None", "selector": {"app": "game"}});
    for (uid, other, reason) in [
        ("one", None, "does not exist"),
        ("two", Some(service("false", &json!({"clusterIP": "None"}))), "has no annotation"),
        ("three", Some(service("true", &selects)), "has a selector"),
    ] {
        scene.api.put_service(uid, other);
        scene.put(uid, Some(uid), true);
        runs(&mut connection, uid);
        scene.await_event(reason);
    }
    scene.put("four", Some("No.Service"), true);
    runs(&mut connection, "four");
    scene.await_event("not the name of a Service");
    assert!(scene.api.slices().is_empty(), "{:?}", scene.api.slices());
    // The Service is created.
    scene.api.put_service("one", Some(permits()));
    scene.await_slices("it is found", |slices| slices.len() == 1);
}

#[test]
fn no_more_slices_are_made_than_permitted_and_those_of_others_are_left_alone() {
    let scene = Scene::new();
    let config = scene.node.state().with_file_name("agent.json");
    let file = r#"{"discovery": true, "maxEndpointSlices": 1}"#;
    std::fs::write(&config, file).expect("it can be written");
    scene.api.put_service("game", Some(permits()));
    scene.api.put_slice("game-one-v4", json!({"metadata": {"name": "game-one-v4"}}));
    let _agent = scene.start(&["--config", config.to_str().expect("an ASCII path")]);
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.put("one", Some("game"), true);
    runs(&mut connection, "one");
    scene.await_event("already exists");
    scene.put("two", Some("game"), true);
    runs(&mut connection, "two");
    scene.await_slices("there is room for it", |slices| slices.len() == 2);
    scene.put("three", Some("game"), true);
    runs(&mut connection, "three");
    scene.await_event("this node has 1 already");
    let other = &scene.api.slices()["game-one-v4"];
    assert_eq!(other, &json!({"metadata": {"name": "game-one-v4"}}), "{other}");
}

/// The agent that made it ended before it had written the Pod's status, or the answer was lost.
#[test]
fn a_slice_of_a_pod_without_a_status_is_found() {
    let scene = Scene::new();
    scene.api.put_service("game", Some(permits()));
    let made = json!({"metadata": {
        "name": "game-one-v4", "labels": {"endpointslice.kubernetes.io/managed-by": "autoport.cni"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "game-one", "uid": "one"}],
    }, "addressType": "IPv4", "endpoints": []});
    scene.api.put_slice("game-one-v4", made);
    let _agent = scene.start(&["--discovery"]);
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.put("one", Some("game"), true);
    let game = runs(&mut connection, "one");
    scene.await_slices("it is changed", |slices| slices[0].1["ports"][0]["port"] == game);
    assert_eq!(scene.api.slice_writes(), ["POST ", "PATCH game-one-v4"]);
    assert!(scene.api.reported().is_empty(), "{:?}", scene.api.reported());
}

#[test]
fn slices_that_are_not_written_are_counted() {
    let scene = Scene::new();
    ip("link set lo up");
    scene.api.put_service("game", Some(permits()));
    scene.api.forbid_slices(true);
    let _agent = scene.start(&["--discovery", "--metrics-address", doors::ADDRESS]);
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    let await_waiting = |count| {
        let begun = Instant::now();
        let waiting = |object| {
            let name = format!("autoport_agent_api_writes_waiting{{object=\"{object}\"}}");
            doors::value(&doors::metrics(), &name)
        };
        while (waiting("pod"), waiting("endpointslice")) != (Some(0), Some(count)) {
            assert!(begun.elapsed() < Duration::from_mins(1), "{}", doors::metrics());
            thread::sleep(Duration::from_millis(50));
        }
    };
    await_waiting(0);
    for uid in ["one", "two"] {
        scene.put(uid, Some("game"), true);
        runs(&mut connection, uid);
    }
    await_waiting(2);
    scene.api.forbid_slices(false);
    await_waiting(0);
    assert_eq!(scene.api.slices().len(), 2);
}

#[test]
fn without_the_option_no_slices_are_made() {
    let scene = Scene::new();
    scene.api.put_service("game", Some(permits()));
    let _agent = scene.start(&[]);
    let mut connection = scene.runtime.connect(Vec::new(), Vec::new());
    scene.put("one", Some("game"), true);
    runs(&mut connection, "one");
    thread::sleep(Duration::from_secs(3));
    assert_eq!((scene.api.slices().len(), scene.api.changes().len()), (0, 1));
}
