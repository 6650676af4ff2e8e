//! What the daemons of a cluster are told, and the folders and settings they get to see.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::machine::{Machine, containerd_configuration};
use crate::stage::node::FIRST;

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

/// What a daemon is started with.
pub(crate) fn arguments(name: &str) -> Vec<String> {
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
        "kube-scheduler" => {
            &["--kubeconfig=/run/kubeconfig", "--leader-elect=false", "--port=0", "--secure-port=0"]
        }
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

/// Writes what the daemons read at their start. containerd is told where plugins and networks are.
pub(crate) fn write_configurations(machine: &Machine, [plugins, networks]: [&str; 2]) {
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
    let containerd = containerd_configuration(plugins, networks);
    for (path, text) in [
        ("/run/kubeconfig", kubeconfig.to_string()),
        ("/run/kubelet.yaml", kubelet.to_string()),
        ("/run/containerd.toml", containerd),
    ] {
        fs::write(Path::new(path), text).expect("/run is ours");
    }
}
