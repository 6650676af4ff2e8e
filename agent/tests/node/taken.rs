//! Another process on the port of a pod on the host network.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::agent::Node;
use super::doors::{ADDRESS, metrics, value};
use super::runtime::Runtime;
use super::{asking, create, ip, port, run};

const PORT: &str = "AUTOPORT_TEST_PORT";
const TAKEN: &str = "autoport_agent_ports_taken_total";

/// A cgroup of version 2, with those in it; they are removed with the test.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Has the thread see the cgroups of version 2, which a machine may not have mounted.
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        for words in ["--make-rprivate /", "-t cgroup2 none /sys/fs/cgroup"] {
            let mounted = Command::new("mount").args(words.split(' ')).status();
            assert!(mounted.is_ok_and(|done| done.success()), "mount {words}");
        }
        let own = Path::new("/sys/fs/cgroup").join(format!("autoport-test-{}", std::process::id()));
        fs::create_dir(&own).expect("a cgroup");
        Self(own)
    }

    /// A process in an inner cgroup that listens on this port.
    fn listener(&self, path: &str, port: u16) -> Listener {
        let dir = self.0.join(path);
        fs::create_dir_all(&dir).expect("an inner cgroup");
        let this = env::current_exe().expect("the path of this program");
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ > $0/cgroup.procs && exec \"$@\""])
            .arg(&dir)
            .arg(this)
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
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for path in ["podone/c1", "podone", "other.service", ""] {
            let _ = fs::remove_dir(self.0.join(path));
        }
    }
}

struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process of [`Cgroup::listener`].
#[test]
#[ignore = "run by Cgroup::listener, as a process of its own"]
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
    let own = cgroup.listener("podone/c1", port);
    create(&mut runtime, &asking("one")).expect("it is created");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(counted(), Some(0), "it is the pod's own");
    drop(own);

    let other = cgroup.listener("other.service", port);
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
