//! What the node agent costs, in time and memory. It measures, and fails for no figure.

use std::fs;

use serde_json::{Value, json};

use super::{PORTS, pid, same};
use crate::daemon::{Containerd, Release};

/// The microseconds of fifty sandboxes and of their containers, in the order of their sizes.
fn measured(node: &Containerd, pod: &Value) -> [Vec<u64>; 2] {
    let text = node.does("measure", &Containerd::request(pod, "", "main", json!({})));
    let rows = text
        .lines()
        .map(|line| line.split_whitespace().map(|word| word.parse().expect("a number")));
    let rows: Vec<Vec<u64>> = rows.map(Iterator::collect).collect();
    [0, 1].map(|column| rows.iter().map(|row| row[column]).collect())
}

#[test]
#[ignore = "a measurement, run by make bench-agent"]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn what_the_agent_costs() {
    let node = Containerd::with_agents(Release::Sid, same);
    let pod = node.asking("web", &[(PORTS, "http=8080")]);
    let mut columns = [const { Vec::new() }; 4];
    for _ in 0..3 {
        let without = measured(&node, &pod);
        let agents = [node.agent("agent", &[]), node.agent("standby", &["--standby"])];
        let with = measured(&node, &pod);
        for (column, numbers) in columns.iter_mut().zip(without.into_iter().chain(with)) {
            column.extend(numbers);
        }
        let pid = fs::read_to_string(pid("agent")).expect("it has said its number");
        let status = node.machine.run("cat", &[&format!("/proc/{}/status", pid.trim())]);
        let memory =
            status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("RssAnon"));
        println!("agent: {}", memory.map(str::trim).collect::<Vec<_>>().join(", "));
        for agent in agents {
            agent.ends(&node, "-TERM");
        }
    }
    let names = [
        "RunPodSandbox without",
        "CreateContainer without",
        "RunPodSandbox with",
        "CreateContainer with",
    ];
    for (name, mut numbers) in names.into_iter().zip(columns) {
        numbers.sort_unstable();
        let at = |share: usize| numbers[numbers.len() * share / 100];
        println!("{name}: p50 {} us, p99 {} us, of {}", at(50), at(99), numbers.len());
    }
}
