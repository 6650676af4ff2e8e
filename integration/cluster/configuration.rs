//! What the daemons of a cluster are told, and the folders and settings they get to see.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::machine::{IMAGE, Machine, containerd_configuration};
use crate::stage::node::{CLIENT, FIRST, SECOND};
use crate::stage::plugin::tool;

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

/// Which API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// That of Kubernetes 1.20.
    Kubernetes,
    /// The one of `integration/cluster/apiserver`, on the libraries of 1.36. It does not validate.
    Libraries,
}

impl Api {
    /// The one that `AUTOPORT_API` names.
    pub(crate) fn of_this_run() -> Self {
        match env::var("AUTOPORT_API").as_deref() {
            Err(_) | Ok("" | "1.20") => Self::Kubernetes,
            Ok("1.36") => Self::Libraries,
            Ok(other) => panic!("AUTOPORT_API is {other:?}: it can be 1.20 or 1.36"),
        }
    }

    /// Where its program and its etcd are, if not with Kubernetes'.
    pub(crate) fn program(self, daemon: &str) -> Option<String> {
        let is_its = self == Self::Libraries && ["kube-apiserver", "etcd"].contains(&daemon);
        is_its.then(|| tool("api").join("usr/bin").join(daemon).to_string_lossy().into_owned())
    }
}

/// What tells a node from another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The name of its Node.
    pub(crate) name: &'static str,
    /// Its own two addresses and that of the client outside it, IPv4 and IPv6 each.
    pub(crate) addresses: [[&'static str; 2]; 3],
    /// Its pods are in `10.subnet.0.0/24` and `fd00:subnet::/64`.
    pub(crate) subnet: u8,
}

/// The node that every cluster has, with the control plane.
pub(crate) const NODE: Place =
    Place { name: "node", addresses: [FIRST, SECOND, CLIENT], subnet: 1 };

/// What a daemon is started with.
pub(crate) fn arguments(name: &str, place: &Place) -> Vec<String> {
    let [[address, _], ..] = place.addresses;
    let hostname = format!("--hostname-override={}", place.name);
    let [node_ip, pods] =
        [format!("--node-ip={address}"), format!("--cluster-cidr=10.{}.0.0/24", place.subnet)];
    let words: &[&str] = match name {
        "etcd" => &[
            "--data-dir=/run/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ],
        "containerd" => &["--config=/run/containerd.toml"],
        "kube-apiserver" if Api::of_this_run() == Api::Libraries => &[
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
            "--secure-port=6443",
            "--advertise-address=192.0.2.1",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--tls-cert-file=/run/pki.crt",
            "--tls-private-key-file=/run/pki.key",
            "--client-ca-file=/run/ca.crt",
            "--service-account-signing-key-file=/run/accounts.key",
        ],
        "kube-apiserver" => &[
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
            "--secure-port=6443",
            "--advertise-address=192.0.2.1",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--authorization-mode=RBAC",
            "--allow-privileged",
            "--tls-cert-file=/run/pki.crt",
            "--tls-private-key-file=/run/pki.key",
            "--client-ca-file=/run/ca.crt",
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
            &hostname,
            &node_ip,
        ],
        "kubectl" => &["--kubeconfig=/run/kubeconfig", "proxy", "--unix-socket=/run/api.sock"],
        "kube-controller-manager" => &[
            "--kubeconfig=/run/kubeconfig",
            "--leader-elect=false",
            "--service-account-private-key-file=/run/accounts.key",
            "--root-ca-file=/run/ca.crt",
            "--port=0",
            "--secure-port=0",
        ],
        "kube-scheduler" => {
            &["--kubeconfig=/run/kubeconfig", "--leader-elect=false", "--port=0", "--secure-port=0"]
        }
        // The four limits of connection tracking are the machine's.
        "kube-proxy" => &[
            "--kubeconfig=/run/kubeconfig",
            &hostname,
            "--proxy-mode=iptables",
            &pods,
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

/// Gives the daemons folders and settings of their own at the places that are built into them.
pub(crate) fn private_folders(machine: &Machine) {
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
    symlink("../run", "/run/var/run").expect("the folder is ours");
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

/// Makes the key of the service accounts, and a certificate authority with one certificate, which every daemon has: of a server by each of the
/// addresses under which the API server is asked, and of a client that may do everything.
pub(crate) fn write_certificates(machine: &Machine) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for words in [
        format!("req -x509 {key} -days 2 -subj /CN=ca -keyout /run/ca.key -out /run/ca.crt"),
        format!(
            "req {key} -subj /O=system:masters/CN=admin -keyout /run/pki.key -out /run/pki.csr \
             -addext subjectAltName=IP:127.0.0.1,IP:{},IP:10.96.0.1",
            FIRST[0]
        ),
        "x509 -req -in /run/pki.csr -CA /run/ca.crt -CAkey /run/ca.key -CAcreateserial \
         -copy_extensions copy -days 2 -out /run/pki.crt"
            .to_owned(),
    ] {
        machine.run("openssl", &words.split_whitespace().collect::<Vec<_>>());
    }
    machine.run("openssl", &["genrsa", "-traditional", "-out", "/run/accounts.key", "2048"]);
}

/// Writes what the daemons read at their start, except the certificates. containerd is told where plugins and networks are, and of
/// which image sandboxes are.
pub(crate) fn write_configurations(
    machine: &Machine,
    place: &Place,
    [plugins, networks]: [&str; 2],
    sandboxes: &str,
) {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}:6443", FIRST[0]), "certificate-authority": "/run/ca.crt",
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
        "address": place.addresses[0][0],
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
    let containerd = containerd_configuration(plugins, networks);
    let sandbox_image = |image| format!("sandbox_image = \"{image}\"");
    let containerd = containerd.replace(&sandbox_image(IMAGE), &sandbox_image(sandboxes));
    for (path, text) in [
        ("/run/kubeconfig", kubeconfig.to_string()),
        ("/run/kubelet.yaml", kubelet.to_string()),
        ("/run/containerd.toml", containerd),
    ] {
        fs::write(Path::new(path), text).expect("/run is ours");
    }
}
