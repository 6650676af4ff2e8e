//! A cluster of one node, in namespaces, with a root and a cgroup of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::api::{self, PATIENCE};
use crate::configuration::{
    Api, NODE, Place, arguments, private_folders, write_certificates, write_configurations,
};
use crate::machine::{CONFIGURATIONS, CONTAINERD, IMAGE, Machine, PLUGINS, configure, wait_for};
use crate::recording::{Call, calls};
use crate::stage::chain::{Main, Network};
use crate::stage::netns::{Netns, ip};
use crate::stage::plugin::{Plugin, tool};

/// The daemons, in the order in which they are started.
const CONTROL: [&str; 3] = ["etcd", "containerd", "kube-apiserver"];
const OTHERS: [&str; 5] =
    ["kubelet", "kubectl", "kube-controller-manager", "kube-scheduler", "kube-proxy"];

/// The image of the sandboxes of containerd 2, see [`crate::images`].
pub(crate) const PAUSE: &str = "autoport.test/pause:1";

/// Which containerd, and with it the kubelet that speaks its CRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// 1.6, of Debian 12.
    Containerd1,
    /// 2.1, of sid, which asks the node agents.
    Containerd2,
}

impl Runtime {
    fn folder(self) -> &'static str {
        if self == Self::Containerd1 { "bookworm" } else { "sid" }
    }

    /// What sandboxes are made from. Where containers listen on any port, they do not.
    pub(crate) fn sandboxes(self) -> &'static str {
        if self == Self::Containerd1 { IMAGE } else { PAUSE }
    }

    /// Where the program of a daemon is.
    fn program(self, daemon: &str) -> String {
        match daemon {
            "containerd" => self.tool("containerd"),
            "kubelet" if self == Self::Containerd2 => "kubelet-v1".to_owned(),
            other => other.to_owned(),
        }
    }

    fn tool(self, name: &str) -> String {
        tool(self.folder()).join("usr/bin").join(name).to_string_lossy().into_owned()
    }

    /// Starts a daemon of a node.
    pub(crate) fn starts(self, machine: &Machine, place: &Place, name: &str) -> Child {
        let mut daemon = machine.command("sh");
        let of_api = Api::of_this_run().program(name);
        let program = of_api.unwrap_or_else(|| self.program(name));
        let script =
            format!("echo $$ >/run/{name}.pid; exec {program} \"$@\" >>/run/{name}.log 2>&1");
        daemon.args(["-c", &script, name]).args(arguments(name, place)).stdin(Stdio::null());
        daemon.spawn().expect("nsenter is there")
    }

    /// Whether a node's containerd answers, and has what is in this archive then.
    pub(crate) fn imports(self, machine: &Machine, archive: &Path) -> bool {
        // Otherwise containerd 2 unpacks for its default snapshotter.
        let local: &[&str] = if self == Self::Containerd2 { &["--local"] } else { &[] };
        let more = ["--snapshotter", "native", &archive.to_string_lossy()];
        let all = ["--address", CONTAINERD, "--namespace", "k8s.io", "images", "import"];
        machine.try_run(&self.tool("ctr"), &[&all[..], local, &more].concat()).0
    }
}

/// A machine with what the daemons of a node need there.
pub(crate) fn machine(place: &Place) -> Machine {
    let mut machine = Machine::at("kubernetes", place.addresses);
    machine.environment = vec![
        // Otherwise kubelet asks for metadata at its start.
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("CRI_SOCKET", CONTAINERD.to_owned()),
        ("TMPDIR", "/run/tmp".to_owned()),
        // What kubelet says of times is recorded.
        ("TZ", "UTC".to_owned()),
    ];
    machine.node.bridges_call_iptables(true);
    // Without a route the node could not send to a Service's address.
    let [_, _, client] = place.addresses;
    ip(&format!(
        "route add default via {}
         route add default via {}
         route add unreachable 169.254.0.0/16",
        client[0], client[1]
    ));
    machine
}

/// A running cluster. Everything in it ends with it.
pub(crate) struct Cluster {
    pub(crate) machine: Machine,
    pub(crate) runtime: Runtime,
    daemons: BTreeMap<&'static str, Child>,
    /// The calls of the plugin that were looked at already.
    pub(crate) seen: Vec<Call>,
}

impl Cluster {
    /// A cluster whose containerd calls the plugin by way of the recorder.
    pub(crate) fn new() -> Self {
        Self::with(Runtime::Containerd1, [PLUGINS, CONFIGURATIONS], || {
            configure(&Network::new("blue", Main::Bridge, 1, Plugin::Autoport).speaking("1.0.0"));
        })
    }

    /// A cluster whose containerd looks for plugins and for networks in these folders, and finds what
    /// `furnish` puts there.
    pub(crate) fn with(runtime: Runtime, folders: [&str; 2], furnish: impl FnOnce()) -> Self {
        let machine = machine(&NODE);
        furnish();
        private_folders(&machine);
        write_certificates(&machine);
        write_configurations(&machine, &NODE, folders, runtime.sandboxes());
        let mut cluster = Self { machine, runtime, daemons: BTreeMap::new(), seen: Vec::new() };
        for name in CONTROL {
            cluster.starts(name);
        }
        cluster.starts("kubelet");
        wait_for(PATIENCE, "containerd has the image", || cluster.import());
        wait_for(PATIENCE, "the API server listens", || cluster.try_kubectl(&["version"]).0);
        for name in &OTHERS[1..] {
            cluster.starts(name);
        }
        wait_for(PATIENCE, "the API server is ready", || {
            api::request("GET", "/readyz", None).0 == 200
        });
        api::wait_for_node(NODE.name);
        // Pods are refused until then.
        wait_for(PATIENCE, "there is a service account", || {
            api::items("serviceaccounts").iter().any(|item| !item["secrets"].is_null())
        });
        cluster
    }

    /// Whether containerd answers, and has the image of the pods then.
    pub(crate) fn import(&self) -> bool {
        self.imports(&tool("image.tar"))
    }

    /// Whether containerd answers, and has what is in this archive then.
    pub(crate) fn imports(&self, archive: &Path) -> bool {
        self.runtime.imports(&self.machine, archive)
    }

    /// Starts a daemon.
    pub(crate) fn starts(&mut self, name: &'static str) {
        self.daemons.insert(name, self.runtime.starts(&self.machine, &NODE, name));
    }

    /// Ends a daemon by its number.
    pub(crate) fn stops(&mut self, name: &'static str) {
        let pid = fs::read_to_string(format!("/run/{name}.pid")).expect("it has said its number");
        self.machine.run("kill", &[pid.trim()]);
        self.daemons
            .remove(name)
            .expect("it was started")
            .wait()
            .expect("a child can be waited for");
    }

    /// kubectl as an operator uses it; it has to succeed.
    pub(crate) fn kubectl(&self, words: &[&str]) -> String {
        let (ok, text) = self.try_kubectl(words);
        assert!(ok, "kubectl {}: {text}", words.join(" "));
        text
    }

    /// The same; it may fail.
    pub(crate) fn try_kubectl(&self, words: &[&str]) -> (bool, String) {
        self.machine.try_run("kubectl", &[&["--kubeconfig=/run/kubeconfig"], words].concat())
    }

    /// Every call of the plugin so far.
    pub(crate) fn calls(&mut self) -> &[Call] {
        self.seen.extend(calls());
        &self.seen
    }

    /// The network namespace of a pod.
    pub(crate) fn inside(&mut self, pod: &str) -> Netns {
        let call = self.calls().iter().rfind(|call| call.is("ADD", pod));
        let path = call.map(|call| call.environment["CNI_NETNS"].clone());
        self.machine.netns(&path.unwrap_or_else(|| panic!("{pod} was never attached")))
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "libtest shows it with the failure it belongs to")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let events = self.try_kubectl(&["get", "events", "--all-namespaces"]).1;
            eprintln!("--- events ---\n{events}");
            for name in CONTROL.iter().chain(&OTHERS) {
                eprintln!("--- {name} ---\n{}", end_of_log(name));
            }
        }
    }
}

/// The last lines of a daemon's log that may tell why a test failed.
pub(crate) fn end_of_log(daemon: &str) -> String {
    let log = fs::read_to_string(format!("/run/{daemon}.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().filter(|line| !line.contains("level=info")).collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A pod whose container answers on these ports.
pub(crate) fn pod(name: &str, ports: &[Value]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": spec(ports, &["8000", "8001"]),
    })
}

/// The specification of a pod. Its sandbox runs the same image, which answers on 80 and 81, so the
/// container listens elsewhere.
pub(crate) fn spec(ports: &[Value], arguments: &[&str]) -> Value {
    let command: Vec<_> = [&["/echo"], arguments].concat();
    json!({
        "terminationGracePeriodSeconds": 1,
        "enableServiceLinks": false,
        "containers": [{
            "name": "echo",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": command,
            "ports": ports,
            "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        }],
    })
}
