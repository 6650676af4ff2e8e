//! What starts while no agent is connected, by runtime and kind of pod. docs/agent.md has the table.

use std::fs;

use serde_json::{Value, json};

use super::{Agent, PORTS, REQUIRED, number, pid, same};
use crate::daemon::{Containerd, Release};
use crate::machine::wait_until;
use crate::stage::plugin::Plugin;
use crate::stage::probe::Transport;
use crate::stage::view::assert_nothing_held;

/// How the table in the documentation begins. Its columns are in the order of the releases.
const TABLE: &str = "| Pod, while no agent is connected |";

/// A row of the table as it was seen, and the sandbox that was made for it.
struct Row {
    name: &'static str,
    outcome: &'static str,
    sandbox: Option<String>,
}

fn web(node: &Containerd, name: &str) -> Value {
    node.asking(name, &[(PORTS, "http=8080")])
}

fn strict(node: &Containerd, name: &str) -> Value {
    node.asking(name, &[(PORTS, "http=8080"), REQUIRED])
}

fn host(node: &Containerd, name: &str) -> Value {
    node.on_host(name, &[(PORTS, "http=auto")])
}

/// Creates the pod with a container.
fn created(node: &Containerd, name: &'static str, pod: &Value) -> Row {
    let (ok, text) = node.cri("run", &pod.to_string());
    if ok {
        let outcome = outcome(node, pod, &text);
        return Row { name, outcome, sandbox: Some(text) };
    }
    assert!(text.contains("no node agent is connected"), "{name}: {text}");
    Row { name, outcome: "waits", sandbox: None }
}

/// Creates a container in the sandbox of the pod, and tells what it has got.
fn outcome(node: &Containerd, pod: &Value, sandbox: &str) -> &'static str {
    let container = node.creates(pod, sandbox, "late", json!({}));
    let environment = node.environment(&container);
    let is_told = environment.keys().any(|variable| variable.starts_with("AUTOPORT_"));
    let pod = format!("shop/{}", pod["metadata"]["name"].as_str().expect("a name"));
    let has_ports = node.machine.list().iter().flatten().any(|word| *word == pod);
    match (has_ports, is_told) {
        (true, true) => "ports and variables",
        (true, false) => "ports, no variables",
        (false, true) => "variables, no ports",
        (false, false) => "no ports, no variables",
    }
}

/// The names of the documented rows with what this column says.
fn documented(column: usize) -> Vec<(&'static str, &'static str)> {
    let document = include_str!("../../../docs/agent.md");
    let lines = document.lines().skip_while(|line| !line.starts_with(TABLE)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    let rows = rows.map(|row| row.split('|').map(str::trim).skip(1).collect::<Vec<_>>());
    rows.map(|cells| (cells[0], cells[column])).collect()
}

fn what_starts_while_no_agent_is_connected(release: Release) {
    let (column, has_nri) = match release {
        Release::Bookworm => (1, false),
        Release::Trixie => (2, true),
        Release::Sid => (3, true),
    };
    let node = if has_nri {
        Containerd::with_agents(release, same)
    } else {
        Containerd::new(release, same)
    };
    let both = has_nri.then(|| [node.agent("agent", &[]), node.agent("standby", &["--standby"])]);
    let old = [web(&node, "old-web"), strict(&node, "old-strict"), host(&node, "old-host")];
    let old = old.map(|pod| {
        let sandbox = node.cri("run", &pod.to_string());
        (pod, sandbox)
    });
    if let Some(both) = both {
        kill(&node, both);
    }

    let mut rows = new_pods(&node);
    let names = [
        "another container of a Pod on the pod network",
        "the same, with `autoport.cni/env: required`",
        "another container of a Pod on the host network",
    ];
    for (name, (pod, (ok, sandbox))) in names.into_iter().zip(&old) {
        // Without NRI one of the pods waits.
        let outcome = if *ok { outcome(&node, pod, sandbox) } else { "waits" };
        rows.push(Row { name, outcome, sandbox: ok.then(|| sandbox.clone()) });
    }
    let seen: Vec<_> = rows.iter().map(|row| (row.name, row.outcome)).collect();
    assert_eq!(seen, documented(column));
    if has_nri {
        the_next_agent_reports(&node, &rows);
    }
    for sandbox in rows.iter().filter_map(|row| row.sandbox.as_ref()) {
        node.does("stop", sandbox);
        node.does("remove", sandbox);
    }
    assert_nothing_held();
}

/// Kills both agents at once.
fn kill(node: &Containerd, both: [Agent; 2]) {
    let pids = both.each_ref().map(|agent| fs::read_to_string(pid(agent.name)).expect("it runs"));
    node.machine.run("kill", &["-KILL", pids[0].trim(), pids[1].trim()]);
    for agent in both {
        agent.reap();
    }
}

fn new_pods(node: &Containerd) -> Vec<Row> {
    let mut fixed = node.asking("fixed", &[]);
    fixed["port_mappings"] = json!([{"host_port": 8080, "container_port": 80}]);
    let mut rows = vec![
        created(node, "`autoport.cni/ports`", &web(node, "web")),
        created(
            node,
            "`autoport.cni/ports`, `autoport.cni/env: required`",
            &strict(node, "strict"),
        ),
        created(node, "`autoport.cni/ports` on the host network", &host(node, "host")),
        created(node, "no annotation", &node.asking("plain", &[])),
    ];
    fs::write("/etc/cni/autoport.json", r#"{"agent": "required"}"#).expect("/etc/cni is ours");
    rows.extend([
        created(
            node,
            "`autoport.cni/ports`, `\"agent\": \"required\"` on the node",
            &web(node, "wants"),
        ),
        created(node, "a fixed `hostPort`, `\"agent\": \"required\"` on the node", &fixed),
    ]);
    rows
}

/// The next agent names what runs without variables. The next container of such a pod has them, and ports if it
/// had none.
fn the_next_agent_reports(node: &Containerd, rows: &[Row]) {
    let agent = node.agent("agent", &[]);
    for name in ["web", "host", "old-web", "old-strict", "old-host"] {
        let pod = format!("pod=\"{name}\"");
        let names = |line: &str| line.contains("without the variables") && line.contains(&pod);
        wait_until(&format!("the agent reports {name}"), || agent.log().lines().any(names));
    }
    // The command line names them too.
    let program = Plugin::Autoport.path();
    let told = |words: &[&str]| node.machine.try_run(&program.to_string_lossy(), words).1;
    let wait_for = |with: usize, without: usize| {
        let counted = format!("{with} with their variables, {without} without");
        wait_until(&counted, || told(&["status"]).contains(&counted));
    };
    wait_for(0, 5);
    let report = told(&["doctor"]);
    assert!(report.contains("their host ports: 5 containers: late ("), "{report}");
    let shown = told(&["show", "shop/web"]);
    assert!(shown.contains("runs without its variables since"), "{shown}");
    for (row, pod) in [(0, web(node, "web")), (2, host(node, "host"))] {
        let sandbox = rows[row].sandbox.as_ref().expect("it was created");
        let container = node.serves(&pod, sandbox, &["AUTOPORT_PORT_HTTP"]);
        let port = number(&node.environment(&container), "AUTOPORT_HOST_PORT_HTTP");
        let name = pod["metadata"]["name"].as_str().expect("a name");
        node.machine.assert_reached(name, Transport::Tcp, port);
        wait_for(1, 5);
        // One that ends by itself is not counted, nor one that is stopped.
        node.creates(&pod, sandbox, "short", json!({"args": ["-print", "/proc/self/environ"]}));
        wait_for(1, 5);
        node.does("end", &container);
        wait_for(0, 5);
    }
}

on_releases!(bookworm Bookworm, trixie Trixie, sid Sid: (what_starts_while_no_agent_is_connected));
