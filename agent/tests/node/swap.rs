//! A leader and a standby. The test kills one of them, stops it, or asks it to end, again and again, while it creates
//! containers. The runtime of the tests acts like containerd: it asks both agents in turn, drops one that does not answer in
//! 2 s, and creates the container with the answers that it got.

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use prost::Message as _;

use autoport_agent::nri::message::{Container, ContainerCreated, CreateContainer};

use super::agent::{Agent, Node};
use super::runtime::{Connection, Runtime};
use super::{asking, pair, port, run};

/// How often an agent is hit, unless `SWAP_HITS` says otherwise; each hit takes some seconds.
const HITS: u64 = 6;

/// How long, in milliseconds, both are left alone after a hit, unless `SWAP_PAUSE` says otherwise. It is enough
/// for the hit one to be back at work, so that no hit is the second of two.
const PAUSE: u64 = 1000;

fn setting(name: &str, usual: u64) -> u64 {
    let text = env::var(name).ok().filter(|text| !text.is_empty());
    text.map_or(usual, |text| text.parse().expect("a number"))
}

/// What became of the containers.
#[derive(Debug, Default)]
struct Tally {
    created: usize,
    /// What each agent did about a container that has no variables.
    without: Vec<String>,
    /// By an agent, or because both have answered: kubelet tries again.
    refused: usize,
}

#[test]
#[expect(clippy::print_stderr, reason = "the figures are what the test is run longer for")]
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
    thread::sleep(Duration::from_millis(setting("SWAP_PAUSE", PAUSE)));
    let done = AtomicBool::new(false);
    let tally = thread::scope(|scope| {
        let done = &done;
        let created = scope.spawn(move || create_all(&runtime, connected, done));
        let mut rng = fastrand::Rng::with_seed(1);
        for hit in 0..setting("SWAP_HITS", HITS) {
            thread::sleep(Duration::from_millis(rng.u64(0..400)));
            let which = rng.usize(0..2);
            let options: &[&str] = if which == 0 { &[] } else { &["--standby"] };
            let hit = Hit::ALL[hit as usize % Hit::ALL.len()];
            hit_one(&mut agents[which], hit, &mut rng, || start(options));
        }
        done.store(true, Ordering::SeqCst);
        created.join().expect("the runtime goes on")
    });
    eprintln!("{tally:?}");
    assert!(tally.created > 200, "{tally:?}");
    assert!(tally.without.is_empty(), "{tally:?}");
    assert!(tally.refused < tally.created / 20, "{tally:?}");
}

/// A leader that was stopped reads the event for which the runtime has dropped it, or gets it shortly before that.
#[test]
fn an_agent_that_the_runtime_has_dropped_does_not_take_the_lead() {
    for stopped in [2500, 1800] {
        let (node, runtime) = (Node::new(""), Runtime::new());
        let [(leader, mut first), (_standby, mut second)] = pair(&node, &runtime);
        let told = port(&mut first, &asking("one"));
        leader.signal(Signal::SIGSTOP);
        let container = Container { name: "main".to_owned(), ..Container::default() };
        let create = CreateContainer { pod: Some(asking("one")), container: Some(container) };
        let payload = create.encode_to_vec();
        first.ask("CreateContainer", payload, Duration::from_secs(2));
        let drop_it = || {
            thread::sleep(Duration::from_secs(2));
            drop(first);
        };
        let go_on = || {
            thread::sleep(Duration::from_millis(stopped));
            leader.signal(Signal::SIGCONT);
        };
        thread::scope(|scope| {
            scope.spawn(go_on);
            drop_it();
        });
        // It connects, and the runtime does not answer yet.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1500) {
            assert_eq!(port(&mut second, &asking("one")), told);
        }
    }
}

/// What is done to an agent.
#[derive(Clone, Copy)]
enum Hit {
    /// It is killed, and another is started.
    Kill,
    /// It is stopped for a while.
    Stop,
    /// It is asked to end, and another is started.
    Replace,
}

impl Hit {
    const ALL: [Self; 3] = [Self::Kill, Self::Stop, Self::Replace];
}

fn hit_one(agent: &mut Agent, hit: Hit, rng: &mut fastrand::Rng, start: impl FnOnce() -> Agent) {
    match hit {
        Hit::Kill => {
            agent.signal(Signal::SIGKILL);
            thread::sleep(Duration::from_millis(rng.u64(0..500)));
            *agent = start();
        }
        Hit::Stop => {
            agent.signal(Signal::SIGSTOP);
            thread::sleep(Duration::from_millis(rng.u64(500..4000)));
            agent.signal(Signal::SIGCONT);
        }
        Hit::Replace => {
            agent.signal(Signal::SIGTERM);
            agent.wait();
            *agent = start();
        }
    }
    thread::sleep(Duration::from_millis(setting("SWAP_PAUSE", PAUSE)));
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
            (Some(1), _) => {}
            (Some(0), told) => tally.without.push(told),
            (Some(_) | None, _) => tally.refused += 1,
        }
        thread::sleep(Duration::from_millis(10));
    }
    tally
}

/// How many agents have given the container its variables, `None` if one has rejected it; and what each did.
fn create(agents: &mut BTreeMap<String, Connection>) -> (Option<usize>, String) {
    let container = Container { name: "main".to_owned(), ..Container::default() };
    let create = CreateContainer { pod: Some(asking("one")), container: Some(container) };
    let (mut told, mut done) = (0, Vec::new());
    let mut gone = Vec::new();
    let mut refused = false;
    for (index, agent) in &mut *agents {
        let begun = Instant::now();
        let called = agent.call_if_alive("CreateContainer", &create);
        let what = called.as_ref().map(Result::is_ok);
        done.push(format!("{index}: {what:?} after {:?}", begun.elapsed()));
        match called {
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
    ((!refused).then_some(told), done.join(", "))
}
