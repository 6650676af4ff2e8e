//! Nodes: on each one agent, a real process with a state directory of its own, and a runtime that is none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use autoport_agent::nri::message::{
    Container, CreateContainer, LinuxPod, Namespace, Pod, PodEvent, StateChange, Status,
};

use super::runtime::{Connection, Runtime};
use super::servers;

/// Kubelet tries again after about this time.
const AGAIN: Duration = Duration::from_secs(1);

/// An agent connects within this time.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often a runtime looks whether an agent connects.
const LOOK: Duration = Duration::from_millis(250);

/// What the runtimes have begun.
#[derive(Default)]
pub(crate) struct Begun {
    /// When the sandbox of a Pod was begun the first time, by UID.
    pub(crate) sandboxes: BTreeMap<String, Instant>,
    /// Sandboxes and containers that an agent refused.
    pub(crate) refused: usize,
}

enum Task {
    Run(Pod),
    Stop(Pod),
    /// The agent is another process.
    Connect,
}

pub(crate) struct Node {
    pub(crate) name: String,
    dir: PathBuf,
    options: Vec<String>,
    agent: Child,
    tasks: Option<Sender<Task>>,
    runtime: Option<JoinHandle<()>>,
}

/// All nodes.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) begun: Arc<Mutex<Begun>>,
}

impl Fleet {
    /// Starts so many nodes in `dir`, which has the kubeconfig.
    pub(crate) fn start(dir: &Path, count: usize, options: &[&str]) -> Self {
        let begun = Arc::new(Mutex::new(Begun::default()));
        let nodes = (0..count).map(|number| Node::start(dir, number, options, begun.clone()));
        Self { nodes: nodes.collect(), begun }
    }

    /// The memory of the agents in MiB, sorted, by a line of their status.
    pub(crate) fn memory(&self, line: &str) -> Vec<f64> {
        let agents = self.nodes.iter().map(|node| servers::memory(node.agent.id(), line));
        let mut all: Vec<_> = agents.collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// The processor time of all agents together.
    pub(crate) fn processor_time(&self) -> Duration {
        self.nodes.iter().map(|node| servers::processor_time(node.agent.id())).sum()
    }

    /// Kills every agent and starts it again, as an update of all nodes at once does.
    pub(crate) fn restart(&mut self) {
        for node in &mut self.nodes {
            let _ = node.agent.kill();
            let _ = node.agent.wait();
        }
        for node in &mut self.nodes {
            node.agent = agent(&node.dir, &node.name, &node.options);
            node.send(Task::Connect);
        }
    }
}

impl Node {
    fn start(dir: &Path, number: usize, options: &[&str], begun: Arc<Mutex<Begun>>) -> Self {
        let name = format!("node-{number}");
        let kubeconfig = dir.join("kubeconfig").display().to_string();
        let dir = dir.join(&name);
        fs::create_dir(&dir).expect("the directory is ours");
        let file = format!(
            r#"{{"stateDir": "{}", "advertiseAddresses": "{}"}}"#,
            dir.join("state").display(),
            address(number)
        );
        fs::write(dir.join("autoport.json"), file).expect("the directory is ours");
        let runtime = Runtime::new();
        let mut all = vec![
            "--socket".to_owned(),
            runtime.socket().display().to_string(),
            "--kubeconfig".to_owned(),
            kubeconfig,
        ];
        all.extend(options.iter().map(|option| (*option).to_owned()));
        let agent = agent(&dir, &name, &all);
        let (tasks, received) = channel();
        let serve = move || serve(&runtime, &received, &begun);
        let runtime = Some(thread::spawn(serve));
        Self { name, dir, options: all, agent, tasks: Some(tasks), runtime }
    }

    /// Has the runtime run a Pod.
    pub(crate) fn run(&self, pod: Pod) {
        self.send(Task::Run(pod));
    }

    /// Has it stopped.
    pub(crate) fn stop(&self, pod: Pod) {
        self.send(Task::Stop(pod));
    }

    fn send(&self, task: Task) {
        self.tasks.as_ref().expect("it runs").send(task).expect("the runtime runs");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The runtime ends with its channel, and its tasks need the agent.
        drop(self.tasks.take());
        if !thread::panicking() {
            let _ = self.runtime.take().map(JoinHandle::join);
        }
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// The address of a node.
pub(crate) fn address(number: usize) -> String {
    format!("10.0.{}.{}", number / 200, number % 200 + 1)
}

fn agent(dir: &Path, name: &str, options: &[String]) -> Child {
    let program = std::env::var_os("AUTOPORT_AGENT")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_autoport-agent").into());
    let log = File::options().create(true).append(true).open(dir.join("log"));
    let mut agent = Command::new(program);
    agent
        .args(options)
        .args(["--node-name", name, "--node-dir"])
        .arg(dir)
        .arg("--net-conf-dir")
        .arg(dir.join("net.d"));
    let agent = agent.stderr(log.expect("the directory is ours")).stdout(Stdio::null());
    agent.spawn().expect("the agent can be started")
}

/// What a runtime does, one after the other.
fn serve(runtime: &Runtime, tasks: &Receiver<Task>, begun: &Mutex<Begun>) {
    let mut connection = runtime.connect(Vec::new(), Vec::new());
    let mut running: BTreeMap<String, Pod> = BTreeMap::new();
    loop {
        match tasks.recv_timeout(LOOK) {
            Ok(Task::Run(pod)) => {
                let at = Instant::now();
                begun
                    .lock()
                    .expect("no test failed")
                    .sandboxes
                    .entry(pod.uid.clone())
                    .or_insert(at);
                while runs(&mut connection, &pod).is_err() {
                    begun.lock().expect("no test failed").refused += 1;
                    thread::sleep(AGAIN);
                }
                running.insert(pod.uid.clone(), pod);
            }
            Ok(Task::Stop(pod)) => {
                running.remove(&pod.uid);
                let event = PodEvent { pod: Some(Pod { linux: None, ..pod }) };
                connection.call("StopPodSandbox", &event).expect("it never fails");
            }
            Ok(Task::Connect) => {
                let begun = Instant::now();
                connection = loop {
                    if let Some(new) = accept(runtime, &running) {
                        break new;
                    }
                    assert!(begun.elapsed() < PATIENCE, "the agent does not connect");
                    thread::sleep(LOOK / 10);
                };
            }
            Err(RecvTimeoutError::Timeout) => drop(accept(runtime, &running)),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Accepts what connects, with the Pods that run; gives the agent's connection. One that only asks for the list
/// has another name.
fn accept(runtime: &Runtime, running: &BTreeMap<String, Pod>) -> Option<Connection> {
    let (who, connection) = runtime.connect_with(running.values().cloned().collect())?;
    (!who.plugin_name.ends_with("-list")).then_some(connection)
}

fn runs(connection: &mut Connection, pod: &Pod) -> Result<(), Status> {
    let change = StateChange { event: 1, pod: Some(pod.clone()), container: None };
    connection.call("StateChange", &change)?;
    let container = Container { name: "main".to_owned(), ..Container::default() };
    let create = CreateContainer { pod: Some(pod.clone()), container: Some(container) };
    connection.call("CreateContainer", &create).map(drop)
}

/// The Pod as the runtime knows it.
pub(crate) fn sandbox(name: &str, uid: &str, annotations: BTreeMap<String, String>) -> Pod {
    let namespace = |kind: &str| Namespace { kind: kind.to_owned(), path: String::new() };
    Pod {
        id: format!("sandbox-{uid}"),
        name: name.to_owned(),
        uid: uid.to_owned(),
        namespace: "games".to_owned(),
        annotations,
        linux: Some(LinuxPod {
            namespaces: ["pid", "ipc", "mount"].map(namespace).to_vec(),
            ..LinuxPod::default()
        }),
    }
}
