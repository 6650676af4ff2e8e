//! A leader and a standby. The test kills or stops one of them, again and again, while it creates containers. The
//! runtime of the tests acts like containerd: it asks both agents in turn, drops one that does not answer in
//! 2 s, and creates the container with the answers that it got.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use prost::Message as _;

use autoport_agent::nri::message::{Container, ContainerCreated, CreateContainer};

use super::agent::{Agent, Node};
use super::runtime::{Connection, Runtime};
use super::{asking, run};

/// How often an agent is hit; each hit takes some seconds.
const HITS: usize = 6;

/// What became of the containers.
#[derive(Debug, Default)]
struct Tally {
    created: usize,
    without: usize,
    /// By an agent, or because both have answered: kubelet tries again.
    refused: usize,
}

#[test]
fn no_container_is_created_without_its_variables_while_one_of_two_agents_is_hit() {
    let (node, runtime) = (Node::new(""), Runtime::new());
    let socket = runtime.socket();
    let start = |options: &[&str]| node.start(&socket, options);
    let mut agents = [start(&[]), start(&["--standby"])];
    let mut connected = BTreeMap::new();
    while connected.len() < 2 {
        connected.extend(runtime.connect_if_any());
    }
    for connection in connected.values_mut() {
        run(connection, &asking("one")).expect("it is assigned a port");
    }
    let done = AtomicBool::new(false);
    let tally = thread::scope(|scope| {
        let done = &done;
        let created = scope.spawn(move || create_all(&runtime, connected, done));
        let mut rng = fastrand::Rng::with_seed(1);
        for hit in 0..HITS {
            thread::sleep(Duration::from_millis(rng.u64(1000..1400)));
            let which = rng.usize(0..2);
            let options: &[&str] = if which == 0 { &[] } else { &["--standby"] };
            hit_one(&mut agents[which], hit % 2 == 0, &mut rng, || start(options));
        }
        done.store(true, Ordering::SeqCst);
        created.join().expect("the runtime goes on")
    });
    assert!(tally.created > 200, "{tally:?}");
    assert_eq!(tally.without, 0, "{tally:?}");
    assert!(tally.refused < tally.created / 20, "{tally:?}");
}

/// Kills the agent and starts another, or stops it for a while.
fn hit_one(
    agent: &mut Agent,
    is_killed: bool,
    rng: &mut fastrand::Rng,
    start: impl FnOnce() -> Agent,
) {
    if is_killed {
        agent.signal(Signal::SIGKILL);
        thread::sleep(Duration::from_millis(rng.u64(0..500)));
        *agent = start();
    } else {
        agent.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_millis(rng.u64(500..4000)));
        agent.signal(Signal::SIGCONT);
    }
    // The next hit is to find both at work.
    thread::sleep(Duration::from_secs(1));
}

fn create_all(
    runtime: &Runtime,
    mut agents: BTreeMap<String, Connection>,
    done: &AtomicBool,
) -> Tally {
    let mut tally = Tally::default();
    while !done.load(Ordering::SeqCst) {
        agents.extend(runtime.connect_if_any());
        tally.created += 1;
        match create(&mut agents) {
            Some(1) => {}
            Some(0) => tally.without += 1,
            Some(_) | None => tally.refused += 1,
        }
        thread::sleep(Duration::from_millis(10));
    }
    tally
}

/// How many agents have given the container its variables; none if one has rejected it.
fn create(agents: &mut BTreeMap<String, Connection>) -> Option<usize> {
    let container = Container { name: "main".to_owned(), ..Container::default() };
    let create = CreateContainer { pod: Some(asking("one")), container: Some(container) };
    let mut told = 0;
    let mut gone = Vec::new();
    let mut refused = false;
    for (index, agent) in &mut *agents {
        match agent.call_if_alive("CreateContainer", &create) {
            None => gone.push(index.clone()),
            Some(Err(_)) => {
                refused = true;
                break;
            }
            Some(Ok(payload)) => {
                let created = ContainerCreated::decode(payload.as_slice()).expect("an answer");
                told += usize::from(created.adjust.is_some_and(|it| !it.env.is_empty()));
            }
        }
    }
    agents.retain(|index, _| !gone.contains(index));
    (!refused).then_some(told)
}
