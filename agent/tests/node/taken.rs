//! Another process on the port of a pod on the host network.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::agent::Node;
use super::cgroup::Cgroup;
use super::doors::{ADDRESS, metrics, value};
use super::runtime::Runtime;
use super::{asking, create, ip, port, run};

const PORT: &str = "AUTOPORT_TEST_PORT";
const TAKEN: &str = "autoport_agent_ports_taken_total";

/// A process in an inner cgroup that listens on this port.
pub(crate) fn listener(cgroup: &Cgroup, path: &str, port: u16) -> Listener {
    let this = env::current_exe().expect("the path of this program");
    let mut child = cgroup
        .command(path, this)
        .args(["--exact", "taken::listen", "--ignored", "--nocapture"])
        .env(PORT, port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be started");
    let said = BufReader::new(child.stdout.take().expect("it was piped")).lines();
    let listens = said.map_while(Result::ok).any(|line| line.contains("it listens"));
    assert!(listens, "the process has ended");
    Listener(child)
}

pub(crate) struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process of [`listener`].
#[test]
#[ignore = "run by listener, as a process of its own"]
#[expect(clippy::print_stdout, reason = "the test waits for it")]
fn listen() {
    let port: u16 = env::var(PORT).expect("a port").parse().expect("a number");
    let _listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    println!("it listens");
    let _ = std::io::stdin().lines().next();
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn a_process_that_takes_the_port_of_a_pod_is_reported_once() {
    let cgroup = Cgroup::new();
    let (node, runtime) = (Node::new(""), Runtime::new());
    ip("link set lo up");
    let agent = node.start(&runtime.socket(), &["--metrics-address", ADDRESS]);
    let mut runtime = runtime.connect(Vec::new(), Vec::new());
    run(&mut runtime, &asking("one")).expect("it is assigned a port");
    let port = port(&mut runtime, &asking("one"));
    let counted = || value(&metrics(), TAKEN);
    let own = listener(&cgroup, "podone/c1", port);
    create(&mut runtime, &asking("one")).expect("it is created");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(counted(), Some(0), "it is the pod's own");
    drop(own);

    let other = listener(&cgroup, "other.service", port);
    let begun = Instant::now();
    while counted() != Some(1) {
        create(&mut runtime, &asking("one")).expect("a container that is created again");
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not reported");
        std::thread::sleep(Duration::from_millis(50));
    }
    create(&mut runtime, &asking("one")).expect("a container that is created again");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(counted(), Some(1), "it is reported once");
    let pid = other.0.id();
    drop(other);
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, log) = agent.end();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("PortTaken")).collect();
    let [line] = *lines else { panic!("{log}") };
    for part in
        ["game-one", "other.service", &format!("process {pid} (node-"), &format!(":{port}/tcp")]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
}
