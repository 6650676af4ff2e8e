//! What an agent takes while nothing happens. It measures, and fails for no figure.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use autoport_agent::nri::message::{Container, Pod};

use super::agent::{Agent, Node};
use super::doors::ADDRESS;
use super::runtime::Runtime;
use super::{asking, ip, run};

/// Fields of `/proc/<pid>/status`, such as the memory.
fn status(agent: &Agent, fields: &[&str]) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    let is_meant = |line: &&str| fields.iter().any(|field| line.starts_with(field));
    let lines: Vec<_> = text.lines().filter(is_meant).map(|line| line.replace('\t', " ")).collect();
    lines.join(", ")
}

/// How long its threads have had a processor.
fn processor_time(agent: &Agent) -> Duration {
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("it runs").flatten();
    let time = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    });
    time.map(Duration::from_nanos).sum()
}

fn pods(count: usize) -> (Vec<Pod>, Vec<Container>) {
    let pods: Vec<_> = (0..count).map(|number| asking(&format!("pod{number}"))).collect();
    let container = |pod: &Pod| Container {
        pod_sandbox_id: pod.id.clone(),
        name: "main".to_owned(),
        state: 3,
        env: (0..20).map(|it| format!("SERVICE_{it}_HOST=10.0.0.{it}").into_bytes()).collect(),
        ..Container::default()
    };
    let containers = pods.iter().map(container).collect();
    (pods, containers)
}

#[test]
#[ignore = "a measurement, run by make bench-agent"]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn what_an_idle_agent_takes() {
    for count in [0, 100, 500] {
        let (node, runtime) = (Node::new(""), Runtime::new());
        ip("link set lo up");
        let agent = node.start(&runtime.socket(), &["--metrics-address", ADDRESS]);
        let mut connection = runtime.connect(Vec::new(), Vec::new());
        let (pods, _) = pods(count);
        let mut claims: Vec<_> = pods
            .iter()
            .map(|pod| {
                let begun = Instant::now();
                run(&mut connection, pod).expect("it is assigned a port");
                begun.elapsed()
            })
            .collect();
        claims.sort_unstable();
        if count > 0 {
            let [p50, p99] = [50, 99].map(|share| claims[count * share / 100]);
            println!("{count} Pods on the host network: a port after p50 {p50:.2?}, p99 {p99:.2?}");
        }
        thread::sleep(Duration::from_secs(2));
        println!("{count} Pods with a port each: {}", status(&agent, &["VmRSS", "RssAnon"]));
        if count != 100 {
            let before = processor_time(&agent);
            thread::sleep(Duration::from_mins(1));
            let spent = processor_time(&agent).saturating_sub(before);
            println!(
                "{count} Pods, a minute later: {spent:.1?} of processor time, {}",
                status(&agent, &["VmRSS", "RssAnon"])
            );
        }
    }
    // What an agent lists that connects to a runtime with many pods.
    let (node, runtime) = (Node::new(""), Runtime::new());
    let agent = node.start(&runtime.socket(), &[]);
    let (pods, containers) = pods(500);
    let _connection = runtime.connect(pods, containers);
    thread::sleep(Duration::from_secs(2));
    println!("500 Pods at once: {}", status(&agent, &["VmRSS", "RssAnon", "VmHWM"]));
}
