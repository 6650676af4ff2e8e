//! A cluster of one node, in namespaces, with a root and a cgroup of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{self, PATIENCE, is_true};
use crate::chain::{Main, Network};
use crate::machine::{CONTAINERD, IMAGE, Machine, configure, containerd_configuration, wait_for};
use crate::netns::{Netns, ip, run};
use crate::node::{CLIENT, FIRST};
use crate::plugin::{Plugin, tool};
use crate::recording::{Call, calls};
use crate::view::assert_nothing_held;

/// What the pods run: `integration/echo/main.go`.
/// The daemons, in the order in which they are started.
const CONTROL: [&str; 3] = ["etcd", "containerd", "kube-apiserver"];
const NODE: [&str; 5] =
    ["kubelet", "kubectl", "kube-controller-manager", "kube-scheduler", "kube-proxy"];

/// A file below `/proc/sys` that kubelet wants to set, and to what. There it is the machine's, not
/// the namespace's, so kubelet gets to see a file of ours in its place.
const SETTINGS: [(&str, &str); 6] = [
    ("kernel/keys/root_maxbytes", "25000000"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];

/// A running cluster. Everything in it ends with it.
pub(crate) struct Cluster {
    pub(crate) machine: Machine,
    daemons: BTreeMap<&'static str, Child>,
    /// The calls of the plugin that were looked at already.
    pub(crate) seen: Vec<Call>,
}

impl Cluster {
    /// A cluster whose network lets `network` say more.
    pub(crate) fn with(network: impl FnOnce(Network) -> Network) -> Self {
        let mut machine = Machine::new("kubernetes");
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
        ip(&format!(
            "route add default via {}
             route add default via {}
             route add unreachable 169.254.0.0/16",
            CLIENT[0], CLIENT[1]
        ));
        let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport).speaking("1.0.0");
        configure(&network(blue));
        private_folders(&machine);
        write_configurations(&machine);
        let mut cluster = Self { machine, daemons: BTreeMap::new(), seen: Vec::new() };
        for name in CONTROL {
            cluster.starts(name);
        }
        cluster.starts("kubelet");
        wait_for(PATIENCE, "containerd has the image", || cluster.import());
        wait_for(PATIENCE, "the API server listens", || {
            cluster.machine.try_run("kubectl", &["--kubeconfig=/run/kubeconfig", "version"]).0
        });
        for name in &NODE[1..] {
            cluster.starts(name);
        }
        wait_for(PATIENCE, "the API server is ready", || {
            api::request("GET", "/readyz", None).0 == 200
        });
        wait_for(PATIENCE, "the node is ready", || {
            let node = api::request("GET", "/api/v1/nodes/node", None).1;
            is_true(&serde_json::from_str(&node).unwrap_or_default(), "Ready")
        });
        // Pods are refused until then.
        wait_for(PATIENCE, "there is a service account", || {
            api::items("serviceaccounts").iter().any(|item| !item["secrets"].is_null())
        });
        cluster
    }

    pub(crate) fn new() -> Self {
        Self::with(|network| network)
    }

    /// Whether containerd answers, and has the image then.
    pub(crate) fn import(&self) -> bool {
        let image = tool("image.tar");
        let words = ["--address", CONTAINERD, "--namespace", "k8s.io", "images", "import"];
        let more = ["--snapshotter", "native", &image.to_string_lossy()];
        self.machine.try_run(&bookworm("usr/bin/ctr"), &[&words[..], &more].concat()).0
    }

    /// Starts a daemon.
    pub(crate) fn starts(&mut self, name: &'static str) {
        let mut daemon = self.machine.command("sh");
        let program =
            if name == "containerd" { bookworm("usr/bin/containerd") } else { name.to_owned() };
        let script =
            format!("echo $$ >/run/{name}.pid; exec {program} \"$@\" >>/run/{name}.log 2>&1");
        daemon.args(["-c", &script, name]).args(Self::arguments(name)).stdin(Stdio::null());
        self.daemons.insert(name, daemon.spawn().expect("nsenter is there"));
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

    fn arguments(name: &str) -> Vec<String> {
        let words: &[&str] = match name {
            "etcd" => &[
                "--data-dir=/run/etcd",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
            "containerd" => &["--config=/run/containerd.toml"],
            "kube-apiserver" => &[
                "--etcd-servers=http://127.0.0.1:2379",
                "--bind-address=127.0.0.1",
                "--secure-port=6443",
                "--advertise-address=192.0.2.1",
                "--service-cluster-ip-range=10.96.0.0/24",
                "--authorization-mode=AlwaysAllow",
                "--allow-privileged",
                "--tls-cert-file=/run/pki.crt",
                "--tls-private-key-file=/run/pki.key",
                "--client-ca-file=/run/pki.crt",
                "--service-account-key-file=/run/accounts.key",
                "--service-account-signing-key-file=/run/accounts.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--kubelet-client-certificate=/run/pki.crt",
                "--kubelet-client-key=/run/pki.key",
                "--kubelet-preferred-address-types=InternalIP",
            ],
            "kubelet" => &[
                "--config=/run/kubelet.yaml",
                "--kubeconfig=/run/kubeconfig",
                "--container-runtime=remote",
                "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
                "--hostname-override=node",
                "--node-ip=192.0.2.1",
            ],
            "kubectl" => &["--kubeconfig=/run/kubeconfig", "proxy", "--unix-socket=/run/api.sock"],
            "kube-controller-manager" => &[
                "--kubeconfig=/run/kubeconfig",
                "--leader-elect=false",
                "--service-account-private-key-file=/run/accounts.key",
                "--root-ca-file=/run/pki.crt",
                "--port=0",
                "--secure-port=0",
            ],
            "kube-scheduler" => &[
                "--kubeconfig=/run/kubeconfig",
                "--leader-elect=false",
                "--port=0",
                "--secure-port=0",
            ],
            // The four limits of connection tracking are the machine's.
            "kube-proxy" => &[
                "--kubeconfig=/run/kubeconfig",
                "--hostname-override=node",
                "--proxy-mode=iptables",
                "--cluster-cidr=10.1.0.0/24",
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
                "--healthz-bind-address=",
                "--metrics-bind-address=",
            ],
            _ => unreachable!("no daemon {name}"),
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// kubectl as an operator uses it; it has to succeed.
    pub(crate) fn kubectl(&self, words: &[&str]) -> String {
        self.machine.run("kubectl", &[&["--kubeconfig=/run/kubeconfig"], words].concat())
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

    /// Deletes pods, waits until containerd and kubelet have nothing of any, and insists that
    /// nothing else is left of them.
    pub(crate) fn ends(&mut self, pods: &[&str]) {
        for pod in pods {
            api::delete("pods", pod);
        }
        self.assert_nothing_left();
    }

    /// Insists on the same when the pods have been deleted already.
    pub(crate) fn assert_nothing_left(&mut self) {
        wait_for(PATIENCE, "all pods are gone", || api::items("pods").is_empty());
        // kubelet comes for sandboxes, volumes and cgroups once a minute or two.
        let end = Instant::now() + PATIENCE;
        let mut left = self.left();
        while !left.is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(200));
            left = self.left();
        }
        assert_eq!(left, [""; 0], "this is left of pods");
        assert_nothing_held();
        assert_eq!(self.machine.held(), [""; 0]);
        let published = fs::read_dir("/run/autoport/pods").into_iter().flatten().flatten();
        assert_eq!(published.count(), 0, "published files are left");
        self.calls();
    }

    /// Whatever a pod leaves behind that is not ours: sandboxes, network namespaces, addresses,
    /// mounts, cgroups, processes, connections.
    fn left(&self) -> Vec<String> {
        let client = tool("bin/cri").to_string_lossy().into_owned();
        let list: Value =
            serde_json::from_str(&self.machine.run(&client, &["list", ""])).unwrap_or_default();
        let mut left: Vec<String> = Vec::new();
        for sandbox in list["items"].as_array().into_iter().flatten() {
            left.push(format!("sandbox {}", sandbox["id"]));
        }
        // The client's has been there before.
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string()).collect()
        };
        left.extend(names("/run/netns").into_iter().filter(|name| name.contains("/cni-")));
        left.extend(
            names("/run/var/lib/cni/networks/blue")
                .into_iter()
                .filter(|name| ["/10.", "/fd"].iter().any(|address| name.contains(address))),
        );
        left.extend(names("/run/var/lib/kubelet/pods"));
        left.extend(names("/run/var/log/pods"));
        let mounts = self.machine.run("cat", &["/proc/self/mountinfo"]);
        left.extend(
            mounts
                .lines()
                .filter(|line| {
                    line.contains("/kubelet/pods/") || line.contains("/run/containerd/io.")
                })
                .map(str::to_owned),
        );
        let processes = self.machine.run("ps", &["-e", "-o", "args="]);
        left.extend(
            processes
                .lines()
                .filter(|line| {
                    line.contains("/echo") || line.contains("shim") || line.contains("runc")
                })
                .map(str::to_owned),
        );
        let cgroup = &self.machine.cgroup;
        // runc makes one in the unified hierarchy too, of which kubelet 1.20 does not know.
        for top in names("/sys/fs/cgroup").iter().filter(|top| !top.ends_with("/unified")) {
            let below = run(
                std::process::Command::new("find")
                    .arg(format!("{top}{cgroup}"))
                    .args(["-type", "d"]),
                "",
            );
            left.extend(below.1.lines().filter(|line| line.contains("/pod")).map(str::to_owned));
        }
        // TCP's stay for two minutes after their end, whoever made them.
        let flows = self.machine.run("conntrack", &["-L", "-p", "udp"]);
        let of_pods = ["src=10.1.0.", "dst=10.1.0."];
        left.extend(
            flows
                .lines()
                .filter(|line| of_pods.iter().any(|part| line.contains(part)))
                .map(str::to_owned),
        );
        left
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "libtest shows it with the failure it belongs to")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in CONTROL.iter().chain(&NODE) {
                let log = fs::read_to_string(format!("/run/{name}.log")).unwrap_or_default();
                let lines: Vec<_> =
                    log.lines().filter(|line| !line.contains("level=info")).collect();
                let last = lines.len().saturating_sub(40);
                eprintln!("--- {name} ---\n{}", lines[last..].join("\n"));
            }
        }
    }
}

fn bookworm(name: &str) -> String {
    tool("bookworm").join(name).to_string_lossy().into_owned()
}

/// Gives the daemons folders and settings of their own at the places that are built into them.
fn private_folders(machine: &Machine) {
    let mut script = vec!["set -e".to_owned(), "mount --make-rshared /".to_owned()];
    for folder in [
        "/run/tmp",
        "/run/var/log",
        "/run/var/lib/kubelet",
        "/run/var/lib/cni",
        "/run/opt",
        "/run/settings",
    ] {
        fs::create_dir_all(folder).expect("/run is ours");
    }
    for folder in ["var", "opt"] {
        script.push(format!("mount --bind /run/{folder} /{folder}"));
    }
    fs::write("/run/resolv.conf", "nameserver 127.0.0.1\n").expect("/run is ours");
    script.push("mount --bind /run/resolv.conf /etc/resolv.conf".to_owned());
    for (name, value) in SETTINGS {
        let file = PathBuf::from("/run/settings").join(name.replace('/', "."));
        fs::write(&file, value).expect("/run is ours");
        script.push(format!("mount --bind {} /proc/sys/{name}", file.display()));
    }
    // kubelet insists that its root is there.
    for folder in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        if folder.path().join("cgroup.procs").exists() {
            script.push(format!("mkdir {}{}", folder.path().display(), machine.cgroup));
        }
    }
    machine.run("sh", &["-c", &script.join("\n")]);
}

fn write_configurations(machine: &Machine) {
    machine.run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/O=system:masters/CN=admin",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            "/run/pki.key",
            "-out",
            "/run/pki.crt",
        ],
    );
    machine.run("openssl", &["genrsa", "-traditional", "-out", "/run/accounts.key", "2048"]);
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {
            "server": "https://127.0.0.1:6443", "certificate-authority": "/run/pki.crt",
        }}],
        "users": [{"name": "u", "user": {
            "client-certificate": "/run/pki.crt", "client-key": "/run/pki.key",
        }}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    let score = fs::read_to_string("/proc/self/oom_score_adj").expect("it has one");
    let score: i64 = score.trim().parse().expect("a number");
    let never =
        json!({"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"});
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": FIRST[0],
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": machine.cgroup,
        "evictionHard": never,
        "failSwapOn": false,
        "healthzPort": 0,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        // Not even root may go below its own, or raise limits, without CAP_SYS_RESOURCE.
        "oomScoreAdj": score,
        "maxOpenFiles": 20000,
        "protectKernelDefaults": true,
        "resolvConf": "/run/resolv.conf",
    });
    let containerd = containerd_configuration();
    for (path, text) in [
        ("/run/kubeconfig", kubeconfig.to_string()),
        ("/run/kubelet.yaml", kubelet.to_string()),
        ("/run/containerd.toml", containerd),
    ] {
        fs::write(Path::new(path), text).expect("/run is ours");
    }
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
