//! Warnings about Pods in the API.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use autoport_agent::nri::message::{Container, Pod};

use super::agent::{Agent, Node};
use super::api::Api;
use super::runtime::Runtime;
use super::{PORTS, add, cbr0_pod, host_pod, run};

fn container(pod: &Pod, name: &str) -> Container {
    let (id, pod_sandbox_id) = (format!("{}-{name}", pod.id), pod.id.clone());
    Container { id, name: name.to_owned(), pod_sandbox_id, state: 3, ..Container::default() }
}

/// A pod whose port the plugin has assigned, and whose two containers run without variables.
fn web(node: &Node) -> (Pod, Vec<Container>) {
    let list = format!(r#"{{"io.kubernetes.cri.pod-annotations": {{"{PORTS}": "http=8080"}}}}"#);
    add(node, "web", "s1", &list);
    let pod = cbr0_pod("web", "s1", &[(PORTS, "http=8080")]);
    let containers = ["main", "side"].map(|name| container(&pod, name)).to_vec();
    (pod, containers)
}

fn start(node: &Node, api: &Api, runtime: &Runtime) -> Agent {
    let kubeconfig = api.kubeconfig(node.node_dir());
    let kubeconfig = kubeconfig.to_str().expect("an ASCII path");
    node.start(&runtime.socket(), &["--kubeconfig", kubeconfig, "--node-name", "n1"])
}

fn await_events(api: &Api) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let events = api.reported();
        if !events.is_empty() {
            return events;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no event");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_pod_whose_containers_lack_their_variables_is_warned_about_when_the_api_is_there() {
    let (node, runtime, api) = (Node::new(""), Runtime::new(), Api::new());
    let (pod, containers) = web(&node);
    api.set_away(true);
    let _agent = start(&node, &api, &runtime);
    let _connection = runtime.connect(vec![pod.clone()], containers);
    thread::sleep(Duration::from_secs(1));
    api.set_away(false);
    let [event] = &await_events(&api)[..] else { panic!("one for both: {:?}", api.reported()) };
    let about = json!({"apiVersion": "v1", "kind": "Pod", "namespace": "games", "name": pod.name, "uid": "web"});
    assert_eq!(event["regarding"], about);
    for (field, expected) in [
        ("type", "Warning"),
        ("reason", "PortsNotInjected"),
        ("action", "Check"),
        ("reportingController", "autoport.cni/agent"),
        ("reportingInstance", "n1"),
    ] {
        assert_eq!(event[field], expected, "{event}");
    }
    assert!(event["eventTime"].is_string(), "{event}");
    let text = event["note"].as_str().expect("a text");
    assert!(text.contains("main, side; delete the Pod"), "{text}");
    assert!(event["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(&pod.name)));
}

/// Its cgroup is not its own, and without root this node has no hook at all.
#[test]
fn a_pod_whose_bind_hook_cannot_be_attached_is_warned_about() {
    let (node, runtime, api) = (Node::new(""), Runtime::new(), Api::new());
    let _agent = start(&node, &api, &runtime);
    let mut connection = runtime.connect(Vec::new(), Vec::new());
    let hooked = [(PORTS, "http=8080"), ("autoport.cni/bind", "redirect")];
    let status = run(&mut connection, &host_pod("one", "s1", &hooked)).expect_err("it is rejected");
    let [event] = &await_events(&api)[..] else { panic!("one: {:?}", api.reported()) };
    assert_eq!([&event["reason"], &event["regarding"]["name"]], ["BindHookFailed", "game-one"]);
    let text = event["note"].as_str().expect("a text");
    assert!(
        text.contains("cannot attach the bind hook") && status.message.contains(text),
        "{text}"
    );
}

/// Nothing waits for it, and it is not tried for ever.
#[test]
fn an_agent_that_may_not_create_events_says_so_once() {
    let (node, runtime, api) = (Node::new(""), Runtime::new(), Api::new());
    let (pod, containers) = web(&node);
    api.forbid_events();
    let agent = start(&node, &api, &runtime);
    let _connection = runtime.connect(vec![pod], containers);
    thread::sleep(Duration::from_secs(4));
    agent.signal(Signal::SIGTERM);
    let (_, log) = agent.end();
    assert_eq!(log.matches("cannot create an event: events is forbidden").count(), 1, "{log}");
    let asked = api.asked().into_iter().filter(|path| path.contains("events.k8s.io")).count();
    assert_eq!((asked, api.reported().len()), (1, 0));
}
