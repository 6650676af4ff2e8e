//! The node agent beside containerd 1.7 and 2.1, which ask it before they create sandboxes and
//! containers.

mod away;
mod closed;
mod cost;
mod ending;
mod hook;
mod off;
mod steps;
mod swap;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::daemon::{Containerd, Release};
use crate::machine::{IMAGE, wait_until};
use crate::stage::chain::Network;
use crate::stage::plugin::Plugin;
use crate::stage::probe::Transport;
use crate::stage::view::{STATE, assert_nothing_held};

const PORTS: &str = "autoport.cni/ports";
const REQUIRED: (&str, &str) = ("autoport.cni/env", "required");

type Environment = BTreeMap<String, String>;

/// A running agent. It ends with the machine.
struct Agent {
    name: &'static str,
    process: Child,
}

impl Agent {
    fn log(&self) -> String {
        fs::read_to_string(log(self.name)).unwrap_or_default()
    }

    /// Sends it a signal, and waits for its end.
    fn ends(self, node: &Containerd, signal: &str) {
        self.signal(node, signal);
        self.reap();
    }

    fn reap(mut self) {
        self.process.wait().expect("a child can be waited for");
    }

    fn signal(&self, node: &Containerd, signal: &str) {
        let pid = fs::read_to_string(pid(self.name)).expect("it has said its number");
        node.machine.run("kill", &[signal, pid.trim()]);
    }

    fn stops(&self, node: &Containerd) {
        self.signal(node, "-STOP");
    }

    fn goes_on(&self, node: &Containerd) {
        self.signal(node, "-CONT");
        // nsenter(1) stops with its child, and does not go on with it.
        let nsenter = Pid::from_raw(self.process.id() as i32);
        kill(nsenter, Signal::SIGCONT).expect("our child");
    }

    /// Waits until it has been told of everything on the node this many times.
    fn wait_for_session(&self, number: usize) {
        wait_until("the agent is connected", || {
            self.log().matches(" synchronized ").count() >= number
        });
    }
}

impl Drop for Agent {
    #[expect(clippy::print_stderr, reason = "libtest shows it with the failure it belongs to")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.name, self.log());
        }
    }
}

fn log(name: &str) -> String {
    format!("/run/{name}.log")
}

fn pid(name: &str) -> String {
    format!("/run/{name}.pid")
}

fn same(network: Network) -> Network {
    network
}

/// What turns NRI on in containerd 1.7, as the documentation has it.
fn documented_lines() -> &'static str {
    let document = include_str!("../../docs/agent.md");
    let lines = document.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    lines.expect("they are there")
}

/// The variables that a text of a process's environment has.
fn variables(text: &str) -> Environment {
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Containerd {
    /// One whose NRI is on.
    fn with_agents(release: Release, network: impl FnOnce(Network) -> Network) -> Self {
        let lines = if release == Release::Trixie { documented_lines() } else { "" };
        Self::configured(release, lines, network)
    }

    /// Starts an agent, and waits until it is connected.
    fn agent(&self, name: &'static str, options: &[&str]) -> Agent {
        let agent = self.lonely_agent(name, options);
        agent.wait_for_session(1);
        agent
    }

    fn lonely_agent(&self, name: &'static str, options: &[&str]) -> Agent {
        let built = || Plugin::Autoport.path().with_file_name("autoport-agent");
        let program = env::var_os("AUTOPORT_AGENT").map_or_else(built, PathBuf::from);
        assert!(program.exists(), "{} is missing: run make test-clients", program.display());
        let _ = fs::remove_file(log(name));
        let script = format!(
            "echo $$ >{}; exec {} --net-conf-dir /run/net.d {} 2>{}",
            pid(name),
            program.display(),
            options.join(" "),
            log(name)
        );
        let mut command = self.machine.command("sh");
        let process = command.args(["-c", &script]).stdin(Stdio::null()).spawn();
        Agent { name, process: process.expect("nsenter is there") }
    }

    /// A pod with these annotations.
    fn asking(&self, name: &str, annotations: &[(&str, &str)]) -> Value {
        let mut pod = self.pod(name, 0);
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        pod["annotations"] = json!(annotations);
        pod
    }

    /// The same on the node's network.
    fn on_host(&self, name: &str, annotations: &[(&str, &str)]) -> Value {
        let mut pod = self.asking(name, annotations);
        pod["hostname"] = json!("");
        pod["linux"]["security_context"] = json!({"namespace_options": {"network": "NODE"}});
        pod
    }

    /// The request for a container whose configuration has these fields more.
    fn request(pod: &Value, sandbox: &str, name: &str, more: Value) -> String {
        let network = &pod["linux"]["security_context"]["namespace_options"]["network"];
        let network = network.as_str().unwrap_or("POD");
        let mut config = json!({
            "metadata": {"name": name},
            "image": {"image": IMAGE},
            "linux": {"security_context": {"namespace_options": {"pid": "CONTAINER", "network": network}}},
        });
        let more: BTreeMap<String, Value> = serde_json::from_value(more).expect("an object");
        for (key, value) in more {
            config[key] = value;
        }
        json!({"podSandboxId": sandbox, "config": config, "sandboxConfig": pod}).to_string()
    }

    /// Creates and starts a container whose configuration has these fields more. The values of its variables
    /// are in base64.
    fn try_create(&self, pod: &Value, sandbox: &str, name: &str, more: Value) -> (bool, String) {
        let file = "/run/request.json";
        fs::write(file, Self::request(pod, sandbox, name, more)).expect("/run is ours");
        self.cri("create", &format!("@{file}"))
    }

    fn creates(&self, pod: &Value, sandbox: &str, name: &str, more: Value) -> String {
        let (ok, text) = self.try_create(pod, sandbox, name, more);
        assert!(ok, "{text}");
        text
    }

    /// One that answers with the pod's name on the ports that its environment names.
    fn serves(&self, pod: &Value, sandbox: &str, variables: &[&str]) -> String {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let ports = variables.iter().map(|variable| format!("${variable}"));
        let args: Vec<_> = ["-name".to_owned(), name.to_owned()].into_iter().chain(ports).collect();
        self.creates(pod, sandbox, "main", json!({"args": args}))
    }

    fn try_exec(&self, container: &str, words: &[&str]) -> (bool, String) {
        let cmd = [&["/echo"], words].concat();
        self.cri("exec", &json!({"containerId": container, "cmd": cmd}).to_string())
    }

    fn exec(&self, container: &str, words: &[&str]) -> String {
        let (ok, text) = self.try_exec(container, words);
        assert!(ok, "{text}");
        text
    }

    /// The environment of the container's first process. That of a process started later is the same.
    fn environment(&self, container: &str) -> Environment {
        let of = |process| {
            let mut printed = (false, String::new());
            // Until runc has started the program, nobody may read what its process has.
            wait_until("the program runs", || {
                printed = self.try_exec(container, &["-print", process]);
                printed.0 || !printed.1.contains("permission denied")
            });
            let (ok, text) = printed;
            assert!(ok, "{text}");
            variables(&text)
        };
        let (first, later) = (of("/proc/1/environ"), of("/proc/self/environ"));
        let told = |all: &Environment| -> Environment {
            let ours = |name: &str| name.starts_with("AUTOPORT_") || name.starts_with("PORT");
            all.clone().into_iter().filter(|(name, _)| ours(name)).collect()
        };
        assert_eq!(told(&first), told(&later));
        first
    }

    /// A pod with a container that serves a port of the node's choice; gives its sandbox and the port.
    fn serving(&self, pod: &Value) -> (String, u16) {
        let sandbox = self.runs(pod);
        let container = self.serves(pod, &sandbox, &["AUTOPORT_PORT_HTTP"]);
        let port = number(&self.environment(&container), "AUTOPORT_HOST_PORT_HTTP");
        let name = pod["metadata"]["name"].as_str().expect("a name");
        self.machine.assert_reached(name, Transport::Tcp, port);
        (sandbox, port)
    }
}

fn number(environment: &Environment, name: &str) -> u16 {
    let value = environment.get(name).unwrap_or_else(|| panic!("no {name} in {environment:?}"));
    value.parse().expect("a port")
}

fn every_container_has_the_variables_and_the_files(release: Release) {
    let node = Containerd::with_agents(release, same);
    let _agent = node.agent("agent", &[]);
    let pod = node.asking("web", &[(PORTS, "http=8080, game=9000/udp")]);
    let sandbox = node.runs(&pod);
    let own = json!([
        {"key": "GREETING", "value": "R3LDvMOfZSDimIM="},
        {"key": "AUTOPORT_PORT_HTTP", "value": "MQ=="},
    ]);
    let main = node.creates(&pod, &sandbox, "main", json!({"envs": own}));
    let environment = node.environment(&main);
    assert_eq!(environment["GREETING"], "Grüße ☃");
    assert_eq!(environment["AUTOPORT_PORT_HTTP"], "8080", "the container's own is replaced");
    let published = format!("{STATE}/pods/uid-web/ports.env");
    let published = fs::read_to_string(published).expect("it is published");
    assert!(
        published.contains(&format!(
            "AUTOPORT_HOST_PORT_GAME='{}'",
            environment["AUTOPORT_HOST_PORT_GAME"]
        )),
        "{published}"
    );

    // The files, which the container cannot change.
    assert_eq!(node.exec(&main, &["-print", "/run/autoport/pod/ports.env"]), published.trim_end());
    let (ok, text) = node.try_exec(&main, &["-write", "/run/autoport/pod/ports.env"]);
    assert!(!ok && text.contains("read-only"), "{text}");

    // Another container, and the first one when it is started again.
    let other = node.creates(&pod, &sandbox, "other", json!({}));
    node.does("end", &main);
    let again = json!({"metadata": {"name": "main", "attempt": 1}});
    let main = node.creates(&pod, &sandbox, "main", again);
    for container in [&other, &main] {
        let its = node.environment(container);
        let ours = environment.iter().filter(|(name, _)| name.starts_with("AUTOPORT_"));
        for (name, value) in ours {
            assert_eq!(its.get(name), Some(value), "{name}");
        }
    }

    // Without the files, and without a port.
    let bare = node.asking("bare", &[(PORTS, "8080"), ("autoport.cni/mount", "false")]);
    let plain = node.asking("plain", &[]);
    for pod in [&bare, &plain] {
        let sandbox = node.runs(pod);
        let container = node.creates(pod, &sandbox, "main", json!({}));
        let (ok, _) = node.try_exec(&container, &["-print", "/run/autoport/pod/ports.env"]);
        assert!(!ok);
        let told = node.environment(&container).contains_key("AUTOPORT_HOST_IP");
        assert_eq!(told, pod == &bare);
        node.does("stop", &sandbox);
        node.does("remove", &sandbox);
    }
    node.ends(&[&sandbox]);
}

fn port_counts_what_the_container_declares(release: Release) {
    let node = Containerd::with_agents(release, same);
    let _agent = node.agent("agent", &[]);
    let kubewharf = "pod.kubewharf.kubernetes.io/autoport";
    let pod = node.asking("web", &[(kubewharf, "true"), (PORTS, "http=80, metrics=81")]);
    let sandbox = node.runs(&pod);
    let declares = |port: u16| {
        let text = format!(r#"[{{"containerPort":{port},"protocol":"TCP"}}]"#);
        json!({"annotations": {"io.kubernetes.container.ports": text}})
    };
    for (name, port, expected) in [("web", 80, "HTTP"), ("metrics", 81, "METRICS")] {
        let container = node.creates(&pod, &sandbox, name, declares(port));
        let environment = node.environment(&container);
        let host_port = &environment[&format!("AUTOPORT_HOST_PORT_{expected}")];
        assert_eq!([&environment["PORT"], &environment["PORT0"]], [host_port; 2]);
        assert!(!environment.contains_key("PORT1"), "{environment:?}");
    }
    // One that declares nothing counts those of the pod.
    let container = node.creates(&pod, &sandbox, "none", json!({}));
    assert!(node.environment(&container).contains_key("PORT1"));
    node.ends(&[&sandbox]);
}

fn fixed_ports_are_told_where_they_are_required(release: Release) {
    let node = Containerd::with_agents(release, same);
    let _agent = node.agent("agent", &[]);
    for (name, annotations, expected) in
        [("asks", &[("autoport.cni/env", "required")][..], Some("8080")), ("silent", &[], None)]
    {
        let mut pod = node.asking(name, annotations);
        pod["port_mappings"] = json!([{"host_port": 8080, "container_port": 80}]);
        let sandbox = node.runs(&pod);
        let container = node.creates(&pod, &sandbox, "main", json!({}));
        let environment = node.environment(&container);
        let told = environment.get("AUTOPORT_HOST_PORT_80_TCP").map(String::as_str);
        assert_eq!(told, expected, "{name}");
        node.machine.assert_reached(name, Transport::Tcp, 8080);
        node.ends(&[&sandbox]);
    }
}

fn pods_on_the_host_network_listen_on_ports_of_the_nodes_choice(release: Release) {
    let node = Containerd::with_agents(release, |network| network.with("portRange", "20000-20003"));
    let _agent = node.agent("agent", &[]);
    let asked = [(PORTS, "http=auto, game=auto/udp")];
    let pods = ["one", "two"].map(|name| node.on_host(name, &asked));
    let mut sandboxes = Vec::new();
    let mut ports = Vec::new();
    for pod in &pods {
        let sandbox = node.runs(pod);
        let names = ["AUTOPORT_PORT_HTTP", "AUTOPORT_PORT_GAME"];
        let container = node.serves(pod, &sandbox, &names);
        let environment = node.environment(&container);
        ports.push(names.map(|name| number(&environment, name)));
        sandboxes.push(sandbox);
    }
    for (pod, [http, game]) in pods.iter().zip(&ports) {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        node.machine.assert_reached(name, Transport::Tcp, *http);
        // Over IPv6 its socket, which is bound to no address, answers from the node's second one.
        wait_until(&format!("{name} answers on {game}/udp"), || {
            node.machine.answers(Transport::Udp, *game)[0].by() == Some(name)
        });
    }
    let mut numbers = ports.concat();
    numbers.sort_unstable();
    assert_eq!(numbers, [20_000, 20_001, 20_002, 20_003]);

    // The range is full: a sandbox of either network fails with the same error.
    let third = node.on_host("third", &asked);
    for pod in [&third, &node.asking("fourth", &[(PORTS, "8080")])] {
        let (ok, text) = node.cri("run", &pod.to_string());
        assert!(!ok && text.contains("OutOfHostPort"), "{text}");
    }
    node.does("stop", &sandboxes[0]);
    node.machine.assert_refused(ports[0][0]);
    let third = node.runs(&third);
    node.ends(&[&sandboxes[0], &sandboxes[1], &third]);
}

fn what_the_host_network_does_not_have_fails_the_sandbox(release: Release) {
    let node = Containerd::with_agents(release, same);
    let _agent = node.agent("agent", &[]);
    let (ok, text) = node.cri("run", &node.on_host("one", &[(PORTS, "http=8080")]).to_string());
    assert!(!ok && text.contains(r#"write "http=auto/tcp""#), "{text}");
    assert_nothing_held();
}

fn many_ports_and_a_large_environment(release: Release) {
    let node = Containerd::with_agents(release, |network| network.with("maxPortsPerPod", 1000));
    let _agent = node.agent("agent", &[]);
    // Three quarters of what Linux passes to a program.
    let own: Vec<_> = (0..20)
        .map(|number| json!({"key": format!("LARGE_{number}"), "value": "eHh4".repeat(25_000)}))
        .collect();
    for (name, count) in [("some", 128), ("many", 1000)] {
        let items: Vec<_> = (0..count).map(|at| format!("p{at}={}", 1000 + at)).collect();
        let pod = node.asking(name, &[(PORTS, &items.join(", "))]);
        let sandbox = node.runs(&pod);
        let container = node.creates(&pod, &sandbox, "main", json!({"envs": own}));
        let environment = node.environment(&container);
        let ports = environment.keys().filter(|name| name.starts_with("AUTOPORT_HOST_PORT_P"));
        assert_eq!(ports.count(), count);
        assert_eq!(environment["LARGE_19"].len(), 75_000);
        node.ends(&[&sandbox]);
    }
}

on_releases!(trixie Trixie, sid Sid: (
    every_container_has_the_variables_and_the_files,
    port_counts_what_the_container_declares,
    fixed_ports_are_told_where_they_are_required,
    pods_on_the_host_network_listen_on_ports_of_the_nodes_choice,
    what_the_host_network_does_not_have_fails_the_sandbox,
    many_ports_and_a_large_environment,
));
