//! While the agent or the runtime is away, and after that.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PORTS, number, same};
use crate::daemon::{Containerd, Release};
use crate::machine::{wait_for, wait_until};
use crate::stage::probe::Transport;
use crate::stage::view::{STATE, assert_nothing_held};

/// What the leader writes.
fn heartbeat() -> Value {
    let text = fs::read(format!("{STATE}/agent.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn containerd_is_killed_and_started_again(release: Release) {
    let mut node = Containerd::with_agents(release, same);
    let pods = [
        node.asking("web", &[(PORTS, "http=8080")]),
        node.on_host("game", &[(PORTS, "http=auto")]),
    ];
    let agent = node.agent("agent", &[]);
    let (sandboxes, ports): (Vec<_>, Vec<_>) = pods.iter().map(|pod| node.serving(pod)).unzip();
    node.stops("-KILL");
    node.starts();
    let begun = Instant::now();
    agent.wait_for_session(2);
    node.machine.node.note(format!("connected again after {:?}", begun.elapsed()));
    for (pod, port) in pods.iter().zip(&ports) {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        node.machine.assert_reached(name, Transport::Tcp, *port);
    }
    // A container of a pod that was there, and a pod that was not.
    let container = node.creates(&pods[0], &sandboxes[0], "late", json!({}));
    assert_eq!(number(&node.environment(&container), "AUTOPORT_HOST_PORT_HTTP"), ports[0]);
    let (late, _) = node.serving(&node.on_host("late", &[(PORTS, "http=auto")]));
    for sandbox in sandboxes.iter().chain([&late]) {
        node.does("stop", sandbox);
        node.does("remove", sandbox);
    }
    // containerd sends no event about a sandbox that is older than itself.
    wait_for(Duration::from_secs(200), "its ports are released", || node.machine.held().is_empty());
    assert_nothing_held();
}

fn the_standby_answers_when_the_leader_is_killed(release: Release) {
    let node = Containerd::with_agents(release, same);
    let leader = node.agent("agent", &[]);
    let _standby = node.agent("standby", &["--standby"]);
    let (web, first) = node.serving(&node.asking("web", &[(PORTS, "http=8080")]));
    leader.ends(&node, "-KILL");
    let (game, second) = node.serving(&node.on_host("game", &[(PORTS, "http=auto")]));
    assert_ne!(first, second);
    assert_eq!(heartbeat()["standby"], true);
    // It gives the lead back.
    let _leader = node.agent("agent", &[]);
    wait_until("the leader leads again", || heartbeat()["standby"] == false);
    let (late, _) = node.serving(&node.asking("late", &[(PORTS, "http=8080")]));
    node.ends(&[&web, &game, &late]);
}

fn an_agent_that_comes_late_reports_what_runs_without_variables(release: Release) {
    let node = Containerd::with_agents(release, same);
    let asking = node.asking("web", &[(PORTS, "http=8080")]);
    let plain = node.asking("plain", &[]);
    let sandboxes = [&asking, &plain].map(|pod| {
        let sandbox = node.runs(pod);
        node.creates(pod, &sandbox, "main", json!({}));
        sandbox
    });
    let agent = node.agent("agent", &[]);
    let missed = "the container runs without the variables";
    wait_until("the agent reports the container", || agent.log().contains(missed));
    let log = agent.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(missed)).collect();
    assert!(lines.len() == 1 && lines[0].contains("pod=\"web\""), "{log}");
    // Once it is started again it is told.
    let container = node.creates(&asking, &sandboxes[0], "again", json!({}));
    assert!(node.environment(&container).contains_key("AUTOPORT_HOST_PORT_HTTP"));
    node.ends(&sandboxes.each_ref().map(String::as_str));
}

fn a_pod_that_requires_the_agent_waits_for_it(release: Release) {
    let node = Containerd::with_agents(release, |network| network.with("agent", "required"));
    let pod = node.asking("web", &[(PORTS, "http=8080")]);
    let refused = || {
        let (ok, text) = node.cri("run", &pod.to_string());
        assert!(!ok && text.contains("no node agent is connected"), "{text}");
    };
    refused();
    let agent = node.agent("agent", &[]);
    let (sandbox, _) = node.serving(&pod);
    node.ends(&[&sandbox]);
    agent.ends(&node, "-KILL");
    // Its lock is free.
    refused();
}

on_releases!(trixie Trixie, sid Sid: (
    containerd_is_killed_and_started_again,
    the_standby_answers_when_the_leader_is_killed,
    an_agent_that_comes_late_reports_what_runs_without_variables,
    a_pod_that_requires_the_agent_waits_for_it,
));
