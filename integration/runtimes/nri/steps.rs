//! What each step against containers without variables does when agents fail: docs/agent.md has the table.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use super::{PORTS, REQUIRED, number, same};
use crate::daemon::{Containerd, Release};
use crate::machine::wait_until;
use crate::stage::view::STATE;

/// For how long a runtime waits for an agent that is stopped.
const LIMIT: Duration = Duration::from_secs(2);

fn the_standby_answers_when_the_leader_is_stopped(release: Release) {
    let node = Containerd::with_agents(release, same);
    let leader = node.agent("agent", &[]);
    let _standby = node.agent("standby", &["--standby"]);
    let (web, first) = node.serving(&node.asking("web", &[(PORTS, "http=8080")]));
    leader.stops(&node);
    let begun = Instant::now();
    let (game, second) = node.serving(&node.on_host("game", &[(PORTS, "http=auto")]));
    node.machine.node.note(format!("served after {:?}", begun.elapsed()));
    assert!(begun.elapsed() >= LIMIT && first != second);
    leader.goes_on(&node);
    node.ends(&[&web, &game]);
}

fn a_locked_store_is_an_error_before_the_runtime_gives_up(release: Release) {
    let node = Containerd::with_agents(release, same);
    let _agent = node.agent("agent", &[]);
    let lock = File::open(Path::new(STATE).join("lock")).expect("the agent has made it");
    let lock = Flock::lock(lock, FlockArg::LockExclusive).expect("it can be locked");
    let host = node.on_host("host", &[(PORTS, "http=auto")]);
    let (ok, text) = node.cri("run", &host.to_string());
    assert!(!ok && text.contains("lock"), "{text}");
    let plain = node.runs(&node.on_host("plain", &[]));
    node.creates(&node.on_host("plain", &[]), &plain, "main", json!({}));
    drop(lock);
    let (host, _) = node.serving(&host);
    node.ends(&[&plain, &host]);
}

fn agents_that_are_stopped_count_as_missing_after_5_seconds(release: Release) {
    let node = Containerd::with_agents(release, same);
    let agent = node.agent("agent", &[]);
    let (sandbox, _) = node.serving(&node.asking("web", &[(PORTS, "http=8080"), REQUIRED]));
    agent.stops(&node);
    thread::sleep(Duration::from_secs(6));
    let late = node.asking("late", &[(PORTS, "http=8080"), REQUIRED]);
    let (ok, text) = node.cri("run", &late.to_string());
    assert!(!ok && text.contains("no node agent is connected"), "{text}");
    agent.goes_on(&node);
    let mut created = (false, String::new());
    wait_until("the agent is connected again", || {
        created = node.cri("run", &late.to_string());
        created.0
    });
    let container = node.creates(&late, &created.1, "main", json!({}));
    number(&node.environment(&container), "AUTOPORT_HOST_PORT_HTTP");
    node.ends(&[&sandbox, &created.1]);
}

on_releases!(trixie Trixie, sid Sid: (
    the_standby_answers_when_the_leader_is_stopped,
    a_locked_store_is_an_error_before_the_runtime_gives_up,
    agents_that_are_stopped_count_as_missing_after_5_seconds,
));
