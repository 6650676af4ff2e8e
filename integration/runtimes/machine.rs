//! A node on which a container runtime runs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{self, Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::recording::CALLS;
use crate::stage::chain::Network;
use crate::stage::netns::{self, Netns, settle};
use crate::stage::node::{CLIENT, FIRST, Node, SECOND};
use crate::stage::plugin::{Plugin, tool};
use crate::stage::probe::{Answer, Probe, Transport};

/// Where the plugins are: ours behind the recorder, and the reference plugins.
pub(crate) const PLUGINS: &str = "/run/plugins";

/// Where the network configurations are.
pub(crate) const CONFIGURATIONS: &str = "/run/net.d";

/// Where containerd listens.
pub(crate) const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// What sandboxes and containers are made from.
pub(crate) const IMAGE: &str = "autoport.test/echo:1";

/// How long a runtime may take on a loaded machine for what it does at once otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first process of a PID namespace. It ends when its input does, so with the test however that
/// ends, and everything in the namespace with it. Until then it buries the orphans, as bash does.
/// The cgroups are removed last: the kernel takes a moment to notice that they are empty. As on a node that
/// systemd has started, a container can follow its mounts.
const INIT: &str = r#"mount --make-rshared /
echo ready
while read -r _; do :; done
kill -KILL -1 2>/dev/null
for _ in {1..500}; do
    left=
    for folder in /sys/fs/cgroup/*"$1" /sys/fs/cgroup"$1"; do
        [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || left=1
    done
    [ "$left" ] || break
    sleep 0.02
done"#;

/// A [`Node`] with a PID namespace, in which the runtime and its containers are.
pub(crate) struct Machine {
    pub(crate) node: Node,
    /// The node's first address, IPv4 and IPv6.
    address: [&'static str; 2],
    init: Child,
    alive: Option<ChildStdin>,
    /// Below which cgroup the containers are put.
    pub(crate) cgroup: String,
    /// Where the programs of the runtime are; the libraries they need are bookworm's.
    release: PathBuf,
    /// Variables that its programs get.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Machine {
    /// A node with the programs of this Debian release, as `integration/setup.sh clients` unpacked
    /// them.
    pub(crate) fn new(release: &str) -> Self {
        Self::at(release, [FIRST, SECOND, CLIENT])
    }

    /// The same with these addresses, see [`Node::at`].
    pub(crate) fn at(release: &str, addresses: [[&'static str; 2]; 3]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let node = Node::at(addresses);
        let [address, ..] = addresses;
        let mut init = Command::new("unshare");
        init.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/autoport-test-{}-{number}", process::id());
        init.args(["bash", "-c", INIT, "init", &cgroup]);
        init.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut init = init.env("PATH", netns::PATH).spawn().expect("unshare is there");
        let alive = init.stdin.take();
        let mut line = String::new();
        let stdout = init.stdout.take().expect("it was asked to be a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("the pipe can be read");
        assert_eq!(line, "ready\n", "container runtimes need root, not only a user namespace");
        for folder in [PLUGINS, CONFIGURATIONS, CALLS, "/run/home"] {
            fs::create_dir_all(folder).expect("/run is ours");
        }
        let (release, environment) = (tool(release), Vec::new());
        let machine = Self { node, address, init, alive, cgroup, release, environment };
        install("");
        machine
    }

    /// A program on this machine.
    pub(crate) fn command(&self, program: &str) -> Command {
        let unshare = self.init.id();
        let root = self.release.display();
        let libraries = tool("bookworm");
        let libraries = ["x86_64", "aarch64"].map(|arch| {
            format!("{0}/usr/lib/{arch}-linux-gnu:{0}/lib/{arch}-linux-gnu", libraries.display())
        });
        let path = format!("{root}/usr/bin:{root}/usr/sbin:{}", netns::PATH);
        let mut command = Command::new("/usr/bin/nsenter");
        command
            .arg(format!("--mount=/proc/{unshare}/ns/mnt"))
            .arg(format!("--pid=/proc/{unshare}/ns/pid_for_children"))
            .args(["--", "/usr/bin/env"])
            .arg(format!("PATH={path}"))
            .arg(format!("LD_LIBRARY_PATH={}", libraries.join(":")))
            .args(["HOME=/run/home", program])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a program; says whether it succeeded and what it printed.
    pub(crate) fn try_run(&self, program: &str, words: &[&str]) -> (bool, String) {
        let (ok, text) = netns::run(self.command(program).args(words), "");
        let text = text.trim_end().to_owned();
        self.node.note(format!("{program} {}: {ok}: {text}", words.join(" ")));
        (ok, text)
    }

    /// Runs a program that has to succeed; gives what it printed.
    pub(crate) fn run(&self, program: &str, words: &[&str]) -> String {
        let (ok, text) = self.try_run(program, words);
        assert!(ok, "{program} {}: {text}", words.join(" "));
        text
    }

    /// A network namespace that was made on this machine.
    pub(crate) fn netns(&self, path: &str) -> Netns {
        Netns::open(&format!("/proc/{}/root{path}", self.first()))
    }

    /// The first process of the PID namespace, as it is called outside of it.
    pub(crate) fn first(&self) -> u32 {
        let unshare = self.init.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let children = fs::read_to_string(children).expect("unshare waits for its child");
        children.trim().parse().expect("it has one child")
    }

    /// What `autoport list` shows, each port in a row of its own, a word per column.
    pub(crate) fn list(&self) -> Vec<Vec<String>> {
        let program = Plugin::Autoport.path();
        let text = self.run(&program.to_string_lossy(), &["list", "-o", "wide"]);
        let row = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        let mappings =
            text.lines().filter(|line| line.contains('/') && !line.starts_with("autoport:"));
        mappings.map(row).collect()
    }

    /// The host ports that `autoport list` shows, each once however many addresses it has.
    pub(crate) fn held(&self) -> Vec<String> {
        let mut ports: Vec<String> = self
            .list()
            .iter()
            .filter_map(|row| row[0].rsplit_once(':').map(|(_, port)| port.to_owned()))
            .collect();
        ports.sort();
        ports.dedup();
        ports
    }

    /// The pod that answers on a port of the node's first address, over IPv4 and IPv6.
    pub(crate) fn answers(&self, transport: Transport, port: u16) -> [Answer; 2] {
        settle();
        let probe = |host: &str| Probe { transport, ..Probe::tcp(host, port) };
        self.address.map(|host| self.node.client_asks(&probe(host)))
    }

    /// Insists that `name` and nobody else answers there, over both families, once it has started:
    /// a runtime does not wait until its container listens.
    pub(crate) fn assert_reached(&self, name: &str, transport: Transport, port: u16) {
        wait_until(&format!("{name} answers on {port}/{}", transport.name()), || {
            let answers = self.answers(transport, port);
            let mut others = answers.iter().filter_map(Answer::by).filter(|by| *by != name);
            assert_eq!(others.next(), None, "{port}/{}: {answers:?}", transport.name());
            answers.each_ref().map(Answer::by) == [Some(name); 2]
        });
    }

    /// Insists that no pod answers there.
    pub(crate) fn assert_refused(&self, port: u16) {
        for transport in Transport::BOTH {
            let answers = self.answers(transport, port);
            assert_eq!(answers, [Answer::Refused, Answer::Refused], "{port}/{}", transport.name());
        }
    }
}

/// Puts the recorder where runtimes look for the plugin; `wrapper` runs the plugin.
pub(crate) fn install(wrapper: &str) {
    let real = Plugin::Autoport.path();
    let script = format!(
        "#!/bin/sh\n\
         # Keeps what the runtime sends, then runs the plugin.\n\
         PATH=/usr/bin:/bin\n\
         begin=$(date +%s%N)\n\
         call=$(mktemp -d {CALLS}/.XXXXXX)\n\
         env -0 >\"$call/environment\"\n\
         cat >\"$call/stdin\"\n\
         exec <\"$call/stdin\"\n\
         mv \"$call\" \"{CALLS}/$begin${{call##*/}}\"\n\
         exec {wrapper} {}\n",
        real.display()
    );
    // A file that is being written cannot be executed.
    let new = format!("{PLUGINS}/.new");
    fs::write(&new, script).expect("/run is ours");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    fs::rename(new, format!("{PLUGINS}/autoport")).expect("the folder is ours");
}

/// Writes a network configuration whose plugin sees annotations too, and has these keys more.
pub(crate) fn configure(network: &Network) {
    let mut list = network.conflist();
    list["plugins"][1]["capabilities"]["io.kubernetes.cri.pod-annotations"] = json!(true);
    // Written elsewhere first: containerd reads a file as soon as it is there.
    let new = format!("{CONFIGURATIONS}/.new");
    fs::write(&new, list.to_string()).expect("/run is ours");
    fs::rename(new, format!("{CONFIGURATIONS}/10-{}.conflist", network.name))
        .expect("the folder is ours");
    for name in ["bridge", "host-local", "loopback"] {
        let link = format!("{PLUGINS}/{name}");
        // Another network of another version may have linked it.
        let _ = fs::remove_file(&link);
        symlink(network.folder().join(name), link).expect("the folder is ours");
    }
}

/// What a pod is told of its ports.
pub(crate) fn published(uid: &str) -> Value {
    let path = format!("{}/pods/{uid}/ports.json", crate::stage::view::STATE);
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).expect("the file is JSON")
}

/// Waits until `what` is so.
pub(crate) fn wait_until(what: &str, so: impl FnMut() -> bool) {
    wait_for(PATIENCE, what, so);
}

/// The same with a patience of one's own.
pub(crate) fn wait_for(patience: Duration, what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !so() {
        assert!(Instant::now() < end, "after {patience:?} still not: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.init.wait();
    }
}

/// The configuration of containerd 1.6 and 2, which runs what Debian 12 has of runc.
pub(crate) fn containerd_configuration(plugins: &str, networks: &str) -> String {
    format!(
        r#"version = 2
root = "/run/containerd/root"
state = "/run/containerd/state"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{}"
"#,
        tool("bookworm/usr/sbin/runc").display()
    )
}
