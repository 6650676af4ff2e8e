//! Agents that are asked to end, both at once or one of them, while pods are created.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use autoport::store::Store;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use prost::Message as _;

use autoport_agent::nri::message::{
    Container, ContainerCreated, CreateContainer, Pod, StateChange,
};

use super::agent::Node;
use super::runtime::{Connection, Runtime};
use super::{PORTS, add, asking, cbr0_pod, create, run, try_add};

/// By then an agent that nothing needs has ended. The machine may be busy.
const SOON: Duration = Duration::from_secs(2);

/// What the runtime tells the plugin of a pod that asks for a port.
const ASKED: &str = r#"{"io.kubernetes.cri.pod-annotations": {"autoport.cni/ports": "http=8080"}}"#;

/// An agent that was started, and its connection.
fn start(node: &Node, runtime: &Runtime, options: &[&str]) -> (super::agent::Agent, Connection) {
    let agent = node.start(&runtime.socket(), options);
    (agent, runtime.connect(Vec::new(), Vec::new()))
}

fn is_connected(node: &Node) -> bool {
    Store::at(&node.state()).agent().is_some_and(|agent| agent.connected)
}

fn wait_until(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Has the runtime tell those agents that are there of the sandbox.
fn run_all(agents: &mut [Connection], pod: &Pod) {
    let change = StateChange { event: 1, pod: Some(pod.clone()), container: None };
    for agent in agents {
        assert!(agent.call_if_alive("StateChange", &change).is_none_or(|done| done.is_ok()));
    }
}

/// How many of them give a container its variables: the runtime lets two fail.
fn create_all(agents: &mut [Connection], pod: &Pod) -> usize {
    let container = Container { id: pod.id.clone(), name: "main".into(), ..Container::default() };
    let create = CreateContainer { pod: Some(pod.clone()), container: Some(container) };
    let called =
        agents.iter_mut().filter_map(|agent| agent.call_if_alive("CreateContainer", &create));
    let adjusted = called.map(|told| {
        let payload = told.expect("it is not rejected");
        let created = ContainerCreated::decode(payload.as_slice()).expect("an answer");
        created.adjust.is_some_and(|adjust| !adjust.env.is_empty())
    });
    adjusted.filter(|has_variables| *has_variables).count()
}

#[test]
fn agents_that_end_together_answer_until_each_sandbox_has_its_container() {
    for is_leader_first in [true, false] {
        let (node, runtime) = (Node::new("\"agent\": \"required\""), Runtime::new());
        let (leader, first) = start(&node, &runtime, &[]);
        let (standby, second) = start(&node, &runtime, &["--standby"]);
        let mut agents = [first, second];
        wait_until("the leader is connected", || is_connected(&node));
        // One sandbox is set up, of the other the plugin has just been called.
        let pods = ["one", "two"].map(|uid| {
            let sandbox = format!("s-{uid}");
            add(&node, uid, &sandbox, ASKED);
            cbr0_pod(uid, &sandbox, &[(PORTS, "http=8080")])
        });
        let host = asking("host");
        run_all(&mut agents, &pods[0]);
        run_all(&mut agents, &host);
        let both = if is_leader_first { [&leader, &standby] } else { [&standby, &leader] };
        let begun = Instant::now();
        for agent in both {
            agent.signal(Signal::SIGTERM);
        }
        wait_until("the plugin is told", || !is_connected(&node));
        let (is_done, told) = try_add(&node, "three", "s-three", ASKED);
        assert!(!is_done && told.contains("no node agent is connected"), "{told}");

        thread::sleep(Duration::from_secs(2));
        run_all(&mut agents, &pods[1]);
        for pod in pods.iter().chain([&host]) {
            assert_eq!(create_all(&mut agents, pod), 1, "{}", pod.name);
        }
        for agent in [leader, standby] {
            let (status, log) = agent.end();
            assert!(status == Some(0) && !log.contains("have no variables"), "{log}");
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert!(!is_connected(&node));
    }
}

#[test]
fn an_agent_that_ends_goes_on_for_some_seconds_only() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let (agent, mut connection) = start(&node, &runtime, &[]);
    run(&mut connection, &asking("one")).expect("it is assigned a port");
    let begun = Instant::now();
    agent.signal(Signal::SIGTERM);
    let (status, log) = agent.end();
    let took = begun.elapsed();
    assert!(status == Some(0) && log.contains("have no variables"), "{log}");
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&took), "{took:?}");
    // Asked twice, it ends at once; so it does where a person interrupts it.
    for signals in [&[Signal::SIGTERM, Signal::SIGTERM][..], &[Signal::SIGINT]] {
        let (agent, _connection) = start(&node, &runtime, &[]);
        let begun = Instant::now();
        for signal in signals {
            agent.signal(*signal);
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(agent.end().0, Some(0));
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[test]
fn where_another_agent_stays_one_ends_when_that_one_leads() {
    let (node, runtime) = (Node::new("\"agent\": \"required\""), Runtime::new());
    let (leader, mut first) = start(&node, &runtime, &[]);
    let (_standby, mut second) = start(&node, &runtime, &["--standby"]);
    for connection in [&mut first, &mut second] {
        run(connection, &asking("one")).expect("it is assigned a port");
    }
    let begun = Instant::now();
    leader.signal(Signal::SIGTERM);
    let (_, log) = leader.end();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(log.contains("asked to end") && !log.contains("have no variables"), "{log}");
    assert!(is_connected(&node), "the standby leads already");
    assert!(create(&mut second, &asking("one")).is_ok_and(|told| !told.is_empty()));
}

#[test]
fn an_agent_answers_until_the_one_that_stays_leads() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let (leader, first) = start(&node, &runtime, &[]);
    let (standby, second) = start(&node, &runtime, &["--standby"]);
    let mut agents = [first, second];
    let pod = asking("one");
    run_all(&mut agents, &pod);
    standby.signal(Signal::SIGSTOP);
    leader.signal(Signal::SIGTERM);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(create_all(&mut agents[..1], &pod), 1);
    standby.signal(Signal::SIGCONT);
    let (status, log) = leader.end();
    assert!(status == Some(0) && !log.contains("have no variables"), "{log}");
    assert_eq!(create_all(&mut agents, &pod), 1);
}

/// However an agent ends: the runtime asks the next one as soon as it sees the end of the session.
#[test]
fn the_lead_is_free_when_the_session_is_over() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let ends = [&[Signal::SIGKILL][..], &[Signal::SIGINT], &[Signal::SIGTERM; 2]];
    for signals in ends.into_iter().cycle().take(30) {
        let (agent, mut connection) = start(&node, &runtime, &[]);
        run(&mut connection, &asking("one")).expect("it is assigned a port");
        for (number, signal) in signals.iter().enumerate() {
            thread::sleep(Duration::from_millis(20) * number as u32);
            agent.signal(*signal);
        }
        connection.wait_for_end();
        let lock = File::open(node.state().join("agent.lock")).expect("its lock");
        assert!(Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok(), "{signals:?}");
    }
}
