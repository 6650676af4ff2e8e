//! What the node agent costs, in time and memory. It measures, and fails for no figure.

use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

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

/// How many pods are created at once.
const PODS: usize = 100;

/// How long kubelet may have to repeat a request.
const PATIENCE: Duration = Duration::from_mins(5);

/// A pod that was created with others, and its container.
struct Created {
    sandbox: String,
    container: String,
    /// From the beginning of all to the start of the container.
    after: Duration,
    /// With what it was rejected, each time.
    rejections: Vec<String>,
}

/// Creates all pods at once, each with a container. What is rejected is repeated, as kubelet does.
fn at_once(node: &Containerd, pods: &[Value]) -> Vec<Created> {
    let ready = Barrier::new(pods.len());
    let create = |pod: &Value| {
        ready.wait();
        let begun = Instant::now();
        let mut rejections = Vec::new();
        let sandbox = loop {
            let (ok, text) = node.cri("run", &pod.to_string());
            if ok {
                break text;
            }
            assert!(begun.elapsed() < PATIENCE, "{text}");
            rejections.push(text);
        };
        let request = Containerd::request(pod, &sandbox, "main", json!({}));
        let container = node.does("create", &request);
        Created { sandbox, container, after: begun.elapsed(), rejections }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(|| create(pod))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// Prints how long they took, and removes them; gives how many have the variables of their ports.
#[expect(clippy::print_stdout, reason = "what was measured")]
fn show(node: &Containerd, name: &str, mut created: Vec<Created>) -> usize {
    created.sort_unstable_by_key(|one| one.after);
    let [p50, p99, last] = [PODS / 2, PODS * 99 / 100 - 1, PODS - 1].map(|at| created[at].after);
    println!("{PODS} Pods at once {name} agents: p50 {p50:.2?}, p99 {p99:.2?}, all {last:.2?}");
    for rejection in created.iter().flat_map(|one| &one.rejections) {
        println!("rejected, and repeated: {rejection}");
    }
    let told = created.iter().filter(|one| {
        let environment = node.environment(&one.container);
        node.does("stop", &one.sandbox);
        node.does("remove", &one.sandbox);
        environment.contains_key("AUTOPORT_HOST_PORT_HTTP")
    });
    told.count()
}

#[test]
#[ignore = "a measurement, run by make bench-agent"]
fn what_the_agent_costs_100_pods_at_once() {
    let node = Containerd::with_agents(Release::Sid, same);
    // Half of them on each network.
    let pods: Vec<_> = (0..PODS)
        .map(|number| match number % 2 {
            0 => node.asking(&format!("web{number}"), &[(PORTS, "http=8080")]),
            _ => node.on_host(&format!("game{number}"), &[(PORTS, "http=auto")]),
        })
        .collect();
    assert_eq!(show(&node, "without", at_once(&node, &pods)), 0);
    let _agents = [node.agent("agent", &[]), node.agent("standby", &["--standby"])];
    assert_eq!(show(&node, "with", at_once(&node, &pods)), PODS);
}
