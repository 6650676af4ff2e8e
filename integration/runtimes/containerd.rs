//! containerd 1.6 from Debian 12 and containerd 2 from Debian sid, driven by the CRI as a kubelet
//! does. What a sandbox runs for its first process is our echo server.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::machine::{
    CONFIGURATIONS, CONTAINERD, Machine, PLUGINS, configure, containerd_configuration, install,
    published, wait_until,
};
use crate::recording::{assert_recorded, calls, commands};
use crate::stage::chain::{Main, Network};
use crate::stage::node::FIRST;
use crate::stage::plugin::{Plugin, tool};
use crate::stage::probe::Transport;
use crate::stage::view::assert_nothing_held;

const LOG: &str = "/run/containerd.log";
const PID: &str = "/run/containerd.pid";

/// Which containerd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Release {
    /// 1.6, whose libcni knows the specification up to 1.0.0.
    Bookworm,
    /// 2.1, which asks for STATUS.
    Sid,
}

/// A machine with a running containerd that has the echo server for its sandbox image.
struct Containerd {
    machine: Machine,
    daemon: Option<Child>,
}

impl Containerd {
    fn new(release: Release, network: impl FnOnce(Network) -> Network) -> Self {
        // Debian sid's runc needs a newer libc.
        let folder = if release == Release::Sid { "sid" } else { "bookworm" };
        let mut machine = Machine::new(folder);
        machine.environment = vec![("CRI_SOCKET", CONTAINERD.to_owned())];
        let version = if release == Release::Sid { "1.1.0" } else { "1.0.0" };
        let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport).speaking(version);
        configure(&network(blue));
        let configuration = containerd_configuration(PLUGINS, CONFIGURATIONS);
        fs::write("/run/containerd.toml", configuration).expect("/run is ours");
        let mut containerd = Self { machine, daemon: None };
        containerd.starts();
        let mut import = vec!["--address", CONTAINERD, "--namespace", "k8s.io", "images", "import"];
        if release == Release::Sid {
            import.push("--local");
        }
        let image = tool("image.tar");
        import.extend(["--snapshotter", "native"]);
        import.push(image.to_str().expect("a path in UTF-8"));
        containerd.machine.run("ctr", &import);
        // STATUS has been asked while we waited for the daemon.
        commands();
        containerd
    }

    fn starts(&mut self) {
        let script =
            format!("echo $$ >{PID}; exec containerd --config /run/containerd.toml >>{LOG} 2>&1");
        let mut daemon = self.machine.command("sh");
        daemon.args(["-c", &script]).stdin(Stdio::null());
        self.daemon = Some(daemon.spawn().expect("nsenter is there"));
        wait_until("containerd answers", || self.cri("status", "").0);
    }

    /// Ends the daemon; the sandboxes stay.
    fn stops(&mut self) {
        let pid = fs::read_to_string(PID).expect("the daemon has said its number");
        self.machine.run("kill", &[pid.trim()]);
        let mut daemon = self.daemon.take().expect("it was started");
        daemon.wait().expect("a child can be waited for");
    }

    /// One call of the CRI; whether it succeeded, and what it gave.
    fn cri(&self, method: &str, argument: &str) -> (bool, String) {
        let client = tool("bin/cri");
        self.machine.try_run(&client.to_string_lossy(), &[method, argument])
    }

    /// One that has to succeed.
    fn does(&self, method: &str, argument: &str) -> String {
        let (ok, text) = self.cri(method, argument);
        assert!(ok, "{text}");
        text
    }

    /// A sandbox's configuration: `pod` is its name and its UID.
    fn pod(&self, pod: &str, attempt: u32) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": pod, "uid": format!("uid-{pod}"), "attempt": attempt},
            "hostname": pod,
            "linux": {"cgroup_parent": self.machine.cgroup},
        })
    }

    /// A configuration with a static host port 8080 and, by annotation, one that the node chooses.
    fn web(&self, attempt: u32) -> Value {
        let mut web = self.pod("web", attempt);
        web["port_mappings"] = json!([
            {"host_port": 8080, "container_port": 80},
            {"container_port": 81},
        ]);
        web["annotations"] = json!({"autoport.cni/ports": "game=81/tcp+udp", "else": ""});
        web
    }

    fn runs(&self, config: &Value) -> String {
        self.does("run", &config.to_string())
    }

    /// Stops and removes sandboxes, and insists that nothing is left.
    fn ends(&self, sandboxes: &[&str]) {
        for sandbox in sandboxes {
            self.does("stop", sandbox);
            self.does("remove", sandbox);
        }
        assert_nothing_held();
        assert_eq!(self.machine.held(), [""; 0]);
    }

    /// The status and the message of a condition.
    fn condition(&self, name: &str) -> (bool, String) {
        let status: Value = serde_json::from_str(&self.does("status", "")).expect("JSON");
        let conditions = status["status"]["conditions"].as_array().expect("there are conditions");
        let found = conditions.iter().find(|condition| condition["type"] == name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {status}"));
        let message = found["message"].as_str().unwrap_or_default();
        (found["status"] == true, message.to_owned())
    }
}

impl Drop for Containerd {
    #[expect(clippy::print_stderr, reason = "libtest shows it with the failure it belongs to")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(LOG).unwrap_or_default();
            let lines = log.lines().filter(|line| !line.contains("level=info"));
            eprintln!("--- containerd ---\n{}", lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The host port that the pod web was told for its port called game.
fn chosen() -> u16 {
    let told = published("uid-web");
    let ports = told["ports"].as_array().expect("a list");
    let game = ports.iter().find(|port| port["name"] == "game").expect("there is a game port");
    game["hostPort"].as_u64().and_then(|port| port.try_into().ok()).expect("a port")
}

/// What is left of pods in the namespace folder and in host-local's.
fn left(folder: &str, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn same(network: Network) -> Network {
    network
}

fn port_mappings_and_annotation(release: Release) {
    let containerd = Containerd::new(release, same);
    let web = containerd.runs(&containerd.web(0));
    containerd.machine.assert_reached("web", Transport::Tcp, 8080);
    for transport in Transport::BOTH {
        containerd.machine.assert_reached("web", transport, chosen());
    }
    let game = chosen();
    let held = [format!("{game}/tcp"), format!("{game}/udp"), "8080/tcp".to_owned()];
    assert_eq!(containerd.machine.held(), held);
    containerd.ends(&[&web]);
    containerd.machine.assert_refused(8080);
    containerd.machine.assert_refused(game);
    assert!(!Path::new("/run/autoport/pods/uid-web").exists());
}

fn a_new_sandbox_of_the_same_pod_keeps_its_ports(release: Release) {
    let containerd = Containerd::new(release, same);
    let first = containerd.runs(&containerd.web(0));
    let game = chosen();
    containerd.does("stop", &first);
    // Another pod comes in between, and would take what is free.
    let mut other = containerd.pod("other", 0);
    other["annotations"] = json!({"autoport.cni/ports": "80"});
    let other = containerd.runs(&other);
    let second = containerd.runs(&containerd.web(1));
    assert_eq!(chosen(), game);
    containerd.machine.assert_reached("web", Transport::Udp, game);
    // The kubelet did not come to stop this one.
    let third = containerd.runs(&containerd.web(2));
    assert_eq!(chosen(), game);
    // The late DEL of an older sandbox does not touch what is the newer one's.
    containerd.does("stop", &second);
    containerd.does("remove", &first);
    containerd.machine.assert_reached("web", Transport::Tcp, 8080);
    containerd.ends(&[&second, &other, &third].map(String::as_str));
}

fn stopping_twice_and_removing(release: Release) {
    let containerd = Containerd::new(release, same);
    let web = containerd.runs(&containerd.web(0));
    containerd.does("stop", &web);
    assert_nothing_held();
    containerd.machine.assert_refused(8080);
    containerd.does("stop", &web);
    containerd.does("remove", &web);
    containerd.does("remove", &web);
    let dels = ["DEL"; 3].map(str::to_owned);
    let calls = calls();
    let commands: Vec<_> = calls.iter().map(|call| call.command().to_owned()).collect();
    assert_eq!(commands, [&["ADD".to_owned()][..], &dels].concat());
    // The namespace is gone by then, and so is the result.
    assert_eq!(calls[3].environment["CNI_NETNS"], "");
    assert_nothing_held();
}

fn a_restart_with_pods_running(release: Release) {
    let mut containerd = Containerd::new(release, same);
    let web = containerd.runs(&containerd.web(0));
    let (held, game) = (containerd.machine.held(), chosen());
    commands();
    containerd.machine.assert_reached("web", Transport::Tcp, 8080);
    containerd.stops();
    let meanwhile = containerd.machine.answers(Transport::Tcp, 8080);
    assert!(meanwhile.iter().all(|answer| answer.by() == Some("web")), "{meanwhile:?}");
    containerd.starts();
    let made = commands();
    assert!(made.iter().all(|command| command == "STATUS"), "of the pods nobody is told: {made:?}");
    containerd.machine.assert_reached("web", Transport::Udp, game);
    assert_eq!(containerd.machine.held(), held);
    containerd.ends(&[&web]);
    containerd.machine.assert_refused(8080);
}

fn network_ready(release: Release) {
    let containerd = Containerd::new(release, |network| network.with("portRange", "20000-20000"));
    assert_eq!(containerd.condition("NetworkReady"), (true, String::new()));
    let web = containerd.runs(&containerd.web(0));
    assert_eq!(chosen(), 20_000);
    // The range is full: that is the next pod's trouble, not the node's.
    assert_eq!(containerd.condition("NetworkReady"), (true, String::new()));
    let mut other = containerd.pod("other", 0);
    other["annotations"] = json!({"autoport.cni/ports": "80"});
    let (ok, text) = containerd.cri("run", &other.to_string());
    assert!(!ok && text.contains("OutOfHostPort"), "{text}");
    // Without CAP_NET_ADMIN the plugin cannot reach nf_tables.
    install("/usr/bin/setpriv --bounding-set -net_admin --inh-caps -net_admin");
    commands();
    let (ready, message) = containerd.condition("NetworkReady");
    if release == Release::Bookworm {
        assert_eq!((ready, commands()), (true, Vec::new()), "1.6 does not know STATUS");
    } else {
        assert!(!ready, "nf_tables is out of reach: {message}");
        let ours = ["host ports cannot be mapped on this node", "Operation not permitted"];
        assert!(ours.iter().all(|part| message.contains(part)), "{message}");
        assert_eq!(commands(), ["STATUS"]);
    }
    install("");
    wait_until("the network is ready again", || containerd.condition("NetworkReady").0);
    containerd.ends(&[&web]);
}

fn a_host_network_sandbox_makes_no_call(release: Release) {
    let containerd = Containerd::new(release, same);
    let mut config = containerd.pod("host", 0);
    config["hostname"] = json!("");
    config["port_mappings"] = json!([{"host_port": 80, "container_port": 80}]);
    config["annotations"] = json!({"autoport.cni/ports": "80"});
    config["linux"]["security_context"] = json!({"namespace_options": {"network": "NODE"}});
    let host = containerd.runs(&config);
    let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("it has a name");
    containerd.machine.assert_reached(name.trim(), Transport::Tcp, 80);
    containerd.does("stop", &host);
    containerd.does("remove", &host);
    assert_eq!(commands(), [""; 0]);
    assert_nothing_held();
}

fn a_failed_add_leaves_nothing(release: Release) {
    let containerd = Containerd::new(release, same);
    let web = containerd.runs(&containerd.web(0));
    let held = containerd.machine.held();
    let (addresses, namespaces) = ("/var/lib/cni/networks/blue", "/run/netns");
    let before = (left(addresses, "10."), left(namespaces, "cni-"));
    assert_eq!((before.0.len(), before.1.len()), (1, 1));
    commands();
    let mut other = containerd.pod("other", 0);
    other["port_mappings"] = json!([
        {"host_port": 8079, "container_port": 80},
        {"host_port": 8080, "container_port": 80, "host_ip": FIRST[0]},
    ]);
    other["annotations"] = json!({"autoport.cni/ports": "81"});
    let (ok, text) = containerd.cri("run", &other.to_string());
    assert!(!ok && text.contains("8080") && text.contains("shop/web"), "{text}");
    assert_eq!(commands(), ["ADD", "DEL"]);
    assert_eq!(containerd.machine.held(), held);
    containerd.machine.assert_refused(8079);
    assert_eq!((left(addresses, "10."), left(namespaces, "cni-")), before);
    let list: Value = serde_json::from_str(&containerd.does("list", "")).expect("JSON");
    let running = list["items"].as_array().expect("a list");
    assert_eq!(running.len(), 1, "{list}");
    // Once there is room, the same pod gets what it asked for.
    containerd.ends(&[&web]);
    let other = containerd.runs(&other);
    containerd.machine.assert_reached("other", Transport::Tcp, 8079);
    containerd.ends(&[&other]);
}

fn what_containerd_sends(release: Release) {
    let containerd = Containerd::new(release, same);
    let mut web = containerd.web(0);
    let mappings = web["port_mappings"].as_array_mut().expect("a list");
    mappings.push(
        json!({"host_port": 8053, "container_port": 80, "protocol": "UDP", "host_ip": FIRST[0]}),
    );
    mappings.push(json!({"host_port": 5000, "container_port": 80, "protocol": "SCTP"}));
    let web = containerd.runs(&web);
    let plain = containerd.runs(&containerd.pod("plain", 0));
    if release == Release::Sid {
        containerd.condition("NetworkReady");
    }
    containerd.ends(&[&web, &plain]);
    let version = containerd.machine.run("containerd", &["--version"]);
    let version = version.split_whitespace().nth(2).unwrap_or_default();
    assert_recorded("containerd", version, calls());
}

mod bookworm {
    use super::Release::Bookworm;

    #[test]
    fn port_mappings_and_annotation() {
        super::port_mappings_and_annotation(Bookworm);
    }

    #[test]
    fn a_new_sandbox_of_the_same_pod_keeps_its_ports() {
        super::a_new_sandbox_of_the_same_pod_keeps_its_ports(Bookworm);
    }

    #[test]
    fn stopping_twice_and_removing() {
        super::stopping_twice_and_removing(Bookworm);
    }

    #[test]
    fn a_restart_with_pods_running() {
        super::a_restart_with_pods_running(Bookworm);
    }

    #[test]
    fn network_ready() {
        super::network_ready(Bookworm);
    }

    #[test]
    fn a_host_network_sandbox_makes_no_call() {
        super::a_host_network_sandbox_makes_no_call(Bookworm);
    }

    #[test]
    fn a_failed_add_leaves_nothing() {
        super::a_failed_add_leaves_nothing(Bookworm);
    }

    #[test]
    fn what_containerd_sends() {
        super::what_containerd_sends(Bookworm);
    }
}

mod sid {
    use super::Release::Sid;

    #[test]
    fn port_mappings_and_annotation() {
        super::port_mappings_and_annotation(Sid);
    }

    #[test]
    fn a_new_sandbox_of_the_same_pod_keeps_its_ports() {
        super::a_new_sandbox_of_the_same_pod_keeps_its_ports(Sid);
    }

    #[test]
    fn stopping_twice_and_removing() {
        super::stopping_twice_and_removing(Sid);
    }

    #[test]
    fn a_restart_with_pods_running() {
        super::a_restart_with_pods_running(Sid);
    }

    #[test]
    fn network_ready() {
        super::network_ready(Sid);
    }

    #[test]
    fn a_host_network_sandbox_makes_no_call() {
        super::a_host_network_sandbox_makes_no_call(Sid);
    }

    #[test]
    fn a_failed_add_leaves_nothing() {
        super::a_failed_add_leaves_nothing(Sid);
    }

    #[test]
    fn what_containerd_sends() {
        super::what_containerd_sends(Sid);
    }
}
