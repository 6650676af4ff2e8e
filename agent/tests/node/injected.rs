//! What the command line learns of containers with and without their variables, and from which agent.

use std::thread;
use std::time::{Duration, Instant};

use autoport::cni::NodeFiles;
use autoport::diagnosis::{self, Facts, State};
use autoport::regular;
use autoport::store::{Containers, Lack, Store};
use nix::sys::signal::Signal;

use autoport_agent::nri::message::{Container, CreateContainer, Pod};

use super::agent::Node;
use super::runtime::{Connection, Runtime};
use super::{PORTS, add, asking, cbr0_pod, run};

fn container(pod: &Pod, id: &str, name: &str) -> Container {
    let (id, name, pod_sandbox_id) = (id.to_owned(), name.to_owned(), pod.id.clone());
    Container { id, name, pod_sandbox_id, state: 3, ..Container::default() }
}

fn call(runtime: &mut Connection, method: &str, pod: &Pod, container: Container) {
    let event = CreateContainer { pod: Some(pod.clone()), container: Some(container) };
    runtime.call(method, &event).expect("it is answered");
}

/// A pod whose port the plugin has assigned.
fn web(node: &Node) -> Pod {
    let list = format!(r#"{{"io.kubernetes.cri.pod-annotations": {{"{PORTS}": "http=8080"}}}}"#);
    add(node, "web", "s1", &list);
    cbr0_pod("web", "s1", &[(PORTS, "http=8080")])
}

/// Waits until these containers are all that is written, each with the reason why it has no variables.
fn wait_for(node: &Node, expected: &[(&str, Option<Lack>)]) -> Containers {
    let (store, begun) = (Store::at(&node.state()), Instant::now());
    loop {
        let found = store.containers();
        let listed = found.iter().flat_map(|found| &found.containers);
        let listed: Vec<_> = listed.map(|one| (&*one.id, one.uninjected)).collect();
        if listed == expected
            && let Some(found) = found
        {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{listed:?} is not {expected:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What doctor warns of about agents.
fn warnings(node: &Node) -> Vec<String> {
    let dir = node.node_dir();
    let files = NodeFiles::in_dir(dir, regular::read);
    let facts = Facts::gather(dir.join("net.d"), dir.into(), &Store::at(&node.state()), files);
    let of_agents =
        diagnosis::findings(&facts, &Ok(Vec::new())).into_iter().filter(|it| it.check == "agent");
    of_agents.filter(|it| it.state == State::Warning).map(|it| it.text).collect()
}

fn as_of(node: &Node, containers: &Containers) -> String {
    containers.as_of(&Store::at(&node.state()).agent().expect("one was started"))
}

#[test]
fn a_container_without_variables_is_named_until_it_ends_whichever_agent_leads() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let web = web(&node);
    let leader = node.start(&runtime.socket(), &[]);
    let lists = || (vec![web.clone()], vec![container(&web, "c1", "main")]);
    let (pods, containers) = lists();
    let mut first = runtime.connect(pods, containers);
    let one = asking("one");
    run(&mut first, &one).expect("it is assigned a port");
    call(&mut first, "CreateContainer", &one, container(&one, "c2", "main"));
    let found = wait_for(&node, &[("c1", Some(Lack::NoAgent)), ("c2", None)]);
    assert!(found.complete && as_of(&node, &found).is_empty(), "{found:?}");
    assert!(found.containers.iter().all(|it| it.variables > 3 && it.since > 0), "{found:?}");
    let told = warnings(&node).join("\n");
    assert!(told.contains("1 container: main (c1) of games/game-web"), "{told}");

    // The standby is told of what happens, and goes on with it. What it writes is the same.
    let _standby = node.start(&runtime.socket(), &["--standby"]);
    let (mut pods, mut containers) = lists();
    pods.push(one.clone());
    let env = vec![b"AUTOPORT_HOST_PORT_HTTP=20000".to_vec()];
    containers.push(Container { env, ..container(&one, "c3", "side") });
    let mut second = runtime.connect(pods, containers);
    call(&mut second, "CreateContainer", &one, container(&one, "c2", "main"));
    drop((leader, first));
    let expected = [("c1", Some(Lack::NoAgent)), ("c3", Some(Lack::NoAgent)), ("c2", None)];
    let next = wait_for(&node, &expected);
    let since =
        |found: &Containers, id| found.containers.iter().find(|it| it.id == id).map(|it| it.since);
    assert_eq!(since(&next, "c1"), since(&found, "c1"));

    // kubelet restarts the container: it has ended, and another is created.
    call(&mut second, "StopContainer", &web, container(&web, "c1", "main"));
    wait_for(&node, &[("c3", Some(Lack::NoAgent)), ("c2", None)]);
    call(&mut second, "CreateContainer", &web, container(&web, "c4", "main"));
    call(&mut second, "RemoveContainer", &web, container(&web, "c1", "main"));
    call(&mut second, "RemoveContainer", &one, container(&one, "c3", "side"));
    wait_for(&node, &[("c4", None), ("c2", None)]);
    assert!(warnings(&node).is_empty());
}

#[test]
fn without_an_agent_the_last_that_was_known_is_told_with_its_age() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let web = web(&node);
    let agent = node.start(&runtime.socket(), &[]);
    let _connection = runtime.connect(vec![web.clone()], vec![container(&web, "c1", "main")]);
    wait_for(&node, &[("c1", Some(Lack::NoAgent))]);
    agent.signal(Signal::SIGKILL);
    agent.end();
    thread::sleep(Duration::from_secs(1));
    let found = Store::at(&node.state()).containers().expect("it is there");
    let told = as_of(&node, &found);
    assert!(told.contains("as of 1 s ago") || told.contains("as of 2 s ago"), "{told}");
    let told = warnings(&node).join("\n");
    assert!(told.contains("s ago, when an agent was last connected: main (c1) of"), "{told}");
    // What another agent finds then is what counts.
    let _agent = node.start(&runtime.socket(), &[]);
    let _connection = runtime.connect(Vec::new(), Vec::new());
    let found = wait_for(&node, &[]);
    assert_eq!((found.injected, found.uninjected, found.complete), (0, 0, true));
}

#[test]
fn the_file_is_written_when_something_changes() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let _agent = node.start(&runtime.socket(), &[]);
    let mut first = runtime.connect(Vec::new(), Vec::new());
    wait_for(&node, &[]);
    let file = node.state().join("agent.containers");
    let changed = || std::fs::metadata(&file).expect("it is there").modified().expect("a time");
    let before = changed();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(changed(), before, "the heart has beaten meanwhile");
    // A busy store keeps nothing: it is written later.
    let one = asking("one");
    run(&mut first, &one).expect("it is assigned a port");
    call(&mut first, "CreateContainer", &one, container(&one, "c1", "main"));
    let busy = Store::at(&node.state()).lock(&mut autoport::event::Silent).expect("it is free");
    thread::sleep(Duration::from_millis(700));
    assert_eq!(changed(), before);
    drop(busy);
    wait_for(&node, &[("c1", None)]);
}
