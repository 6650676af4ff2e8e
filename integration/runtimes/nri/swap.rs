//! Containers that are created while one of the node's two agents is killed or stopped at random moments.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Agent, PORTS, same, variables};
use crate::daemon::{Containerd, Release};

/// How many containers are created, unless `SOAK_CONTAINERS` says otherwise.
const CONTAINERS: usize = 500;

/// How long both are left alone after a hit: until the hit one is back at work, so that no hit is the second
/// of two.
const PAUSE: Duration = Duration::from_secs(1);

/// How long kubelet may have to repeat a request.
const PATIENCE: Duration = Duration::from_mins(1);

const AGENTS: [(&str, &[&str]); 2] = [("agent", &[]), ("standby", &["--standby"])];

/// What became of the containers.
#[derive(Debug, Default)]
struct Tally {
    created: usize,
    without: Vec<String>,
    /// Creations that were rejected, and came later.
    rejected: usize,
    longest_wait: Duration,
}

#[expect(clippy::print_stderr, reason = "the figures are what the test is run for")]
fn no_container_lacks_its_variables_while_one_of_two_agents_is_hit(release: Release) {
    let node = Containerd::with_agents(release, same);
    let mut agents = AGENTS.map(|(name, options)| Some(node.agent(name, options)));
    let done = AtomicBool::new(false);
    let (tally, hits) = thread::scope(|scope| {
        let hitter = scope.spawn(|| {
            let (mut rng, mut hits) = (fastrand::Rng::with_seed(1), [0, 0]);
            while !done.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(rng.u64(0..1000)));
                let (which, is_killed) = (rng.usize(0..2), rng.bool());
                hit(&node, &mut agents[which], which, is_killed, &mut rng);
                hits[usize::from(is_killed)] += 1;
                thread::sleep(PAUSE);
            }
            hits
        });
        let tally = catch_unwind(AssertUnwindSafe(|| create_all(&node)));
        done.store(true, Ordering::SeqCst);
        let hits = hitter.join().expect("no panic");
        (tally.unwrap_or_else(|panic| resume_unwind(panic)), hits)
    });
    let [stopped, killed] = hits;
    eprintln!("{killed} agents killed, {stopped} stopped: {tally:?}");
    assert!(tally.without.is_empty(), "{tally:?}");
    assert!(killed > 0 && stopped > 0 && tally.rejected < tally.created / 10, "{tally:?}");
}

/// Kills the agent and starts it again, or stops it for a while.
fn hit(
    node: &Containerd,
    agent: &mut Option<Agent>,
    which: usize,
    is_killed: bool,
    rng: &mut fastrand::Rng,
) {
    let (name, options) = AGENTS[which];
    if is_killed {
        agent.take().expect("it runs").ends(node, "-KILL");
        thread::sleep(Duration::from_millis(rng.u64(0..500)));
        *agent = Some(node.agent(name, options));
        return;
    }
    let agent = agent.as_ref().expect("it runs");
    agent.stops(node);
    thread::sleep(Duration::from_millis(rng.u64(500..4000)));
    agent.goes_on(node);
}

fn create_all(node: &Containerd) -> Tally {
    let count = env::var("SOAK_CONTAINERS").ok().filter(|text| !text.is_empty());
    let count = count.map_or(CONTAINERS, |text| text.parse().expect("a number"));
    let pods = [
        node.asking("web", &[(PORTS, "http=8080")]),
        node.on_host("game", &[(PORTS, "http=auto")]),
    ];
    // Kubelet repeats what is rejected.
    let sandboxes = pods.each_ref().map(|pod| {
        let begun = Instant::now();
        loop {
            let (ok, text) = node.cri("run", &pod.to_string());
            if ok {
                return text;
            }
            assert!(begun.elapsed() < PATIENCE, "{text}");
        }
    });
    let mut tally = Tally::default();
    for number in 0..count {
        let (pod, sandbox) = (&pods[number % 2], &sandboxes[number % 2]);
        let begun = Instant::now();
        let container = loop {
            let name = format!("c{number}-{}", tally.rejected);
            let (ok, text) = node.try_create(pod, sandbox, &name, json!({}));
            if ok {
                break text;
            }
            tally.rejected += 1;
            assert!(begun.elapsed() < PATIENCE, "{text}");
        };
        tally.longest_wait = tally.longest_wait.max(begun.elapsed());
        tally.created += 1;
        let environment = variables(&node.exec(&container, &["-print", "/proc/self/environ"]));
        if !environment.contains_key("AUTOPORT_HOST_PORT_HTTP") {
            tally.without.push(format!("{number}: {environment:?}"));
        }
        node.does("end", &container);
    }
    node.ends(&sandboxes.each_ref().map(String::as_str));
    tally
}

on_releases!(trixie Trixie, sid Sid: (
    #[ignore = "takes three minutes, run by make soak-agent"]
    no_container_lacks_its_variables_while_one_of_two_agents_is_hit,
));
