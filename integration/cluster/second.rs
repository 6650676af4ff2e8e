//! A second node of a cluster: network and mount namespaces, a PID namespace, a cgroup, containerd, kubelet and
//! kube-proxy of its own, and a link to the first node, over which each routes to the other's addresses and pods.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{panic, thread};

use nix::sched::{CloneFlags, setns, unshare};

use crate::agents::wait_until_released;
use crate::api::{self, PATIENCE};
use crate::cluster::{self, Cluster, Runtime, end_of_log};
use crate::configuration::{NODE, Place, private_folders, write_configurations};
use crate::deployed::{self, NETWORKS, PLUGINS, image, network, network_of};
use crate::images::archive;
use crate::machine::{Machine, wait_for};
use crate::remains::assert_nothing_left_on;
use crate::stage::netns::{ip, ruleset};
use crate::stage::plugin::tool;
use crate::stage::view::{STATE, tree};

pub(crate) const SECOND_NODE: Place = Place {
    name: "second",
    addresses: [
        ["198.51.100.1", "2001:db8:0:2::1"],
        ["198.51.100.2", "2001:db8:0:2::2"],
        ["198.51.100.100", "2001:db8:0:2::100"],
    ],
    subnet: 2,
};

/// The interface towards the other node.
const LINK: &str = "between";

const DAEMONS: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];

/// What its daemons need of the control plane.
const CERTIFICATES: [&str; 3] = ["/run/ca.crt", "/run/pki.crt", "/run/pki.key"];

/// The node. Everything on it ends with it.
pub(crate) struct Second {
    pub(crate) machine: Machine,
    mounts: File,
}

impl Second {
    /// A node that joins the cluster, with the usual folders and the plugins of its network, without autoport.
    fn joins(cluster: &Cluster) -> Self {
        // The thread makes the namespaces; they outlive it.
        let isolated = thread::spawn(|| {
            let machine = cluster::machine(&SECOND_NODE);
            (machine, File::open("/proc/thread-self/ns/mnt").expect("its mounts"))
        });
        let (machine, mounts) =
            isolated.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked));
        let second = Self { machine, mounts };
        let pid = second.machine.first();
        ip(&format!("link add {LINK} type veth peer name {LINK} netns {pid}"));
        routes(&NODE, "fe80::1", &SECOND_NODE, "fe80::2");
        second.run(|_| routes(&SECOND_NODE, "fe80::2", &NODE, "fe80::1"));
        let runtime = cluster.runtime;
        let certificates = CERTIFICATES.map(|path| (path, fs::read(path).expect("it is there")));
        second.run(|machine| {
            deployed::furnish(&network_of(&SECOND_NODE).speaking("1.1.0"));
            private_folders(machine);
            for (path, content) in certificates {
                fs::write(path, content).expect("/run is ours");
            }
            write_configurations(machine, &SECOND_NODE, [PLUGINS, NETWORKS], runtime.sandboxes());
            // They end with the PID namespace.
            for name in DAEMONS {
                drop(runtime.starts(machine, &SECOND_NODE, name));
            }
        });
        second.imports(runtime, &tool("image.tar"));
        api::wait_for_node(SECOND_NODE.name);
        second
    }

    /// Runs `work` in the network and mount namespaces of this node.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce(&Machine) -> T + Send) -> T {
        let inside = || {
            unshare(CloneFlags::CLONE_FS).expect("a thread can have a root of its own");
            setns(&self.mounts, CloneFlags::CLONE_NEWNS).expect("mounts of our own");
            self.machine.node.here.run(|| work(&self.machine))
        };
        let outcome = thread::scope(|scope| scope.spawn(inside).join());
        outcome.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }

    fn imports(&self, runtime: Runtime, archive: &Path) {
        let content = fs::read(archive).expect("it was made");
        self.run(|machine| {
            let copy = PathBuf::from("/run/image.tar");
            fs::write(&copy, content).expect("/run is ours");
            wait_for(PATIENCE, "containerd has the images", || runtime.imports(machine, &copy));
        });
    }

    /// Ends a cluster in which no pods are left but the agents', and insists that nothing of them is left on either
    /// node.
    pub(crate) fn ends_with(self, cluster: &mut Cluster) {
        self.run(|_| wait_until_released());
        cluster.ends_with_agents("autoport");
        self.run(|machine| assert_nothing_left_on(machine, &SECOND_NODE));
    }
}

/// Sets up this node's end of the link, and what is behind the other end.
fn routes(here: &Place, own: &str, there: &Place, next: &str) {
    let ([[own_v4, own_v6], ..], [[v4, v6], ..]) = (here.addresses, there.addresses);
    let [network_v4, network_v6] = [v4, v6].map(|it| it.strip_suffix('1').expect("the first"));
    let subnet = there.subnet;
    ip(&format!(
        "link set {LINK} up
         addr add {own}/64 dev {LINK} nodad
         route add {network_v4}0/24 via {v4} dev {LINK} onlink src {own_v4}
         route add 10.{subnet}.0.0/24 via {v4} dev {LINK} onlink src {own_v4}
         route add {network_v6}/64 via {next} dev {LINK} src {own_v6}
         route add fd00:{subnet}::/64 via {next} dev {LINK} src {own_v6}"
    ));
}

/// Two nodes whose containerd has the images. `prepare` is called before the agents come.
pub(crate) fn two_nodes_with_agents(prepare: impl FnOnce(&Cluster)) -> (Cluster, Second) {
    let cluster = deployed::node(Runtime::Containerd2, &network().speaking("1.1.0"));
    let second = Second::joins(&cluster);
    for archive in [image(), archive()] {
        wait_for(PATIENCE, "containerd has the images", || cluster.imports(&archive));
        second.imports(cluster.runtime, &archive);
    }
    prepare(&cluster);
    cluster.brings_agents();
    (cluster, second)
}

impl Drop for Second {
    #[expect(clippy::print_stderr, reason = "libtest shows it with the failure it belongs to")]
    fn drop(&mut self) {
        if thread::panicking() {
            self.run(|_| {
                for name in DAEMONS {
                    eprintln!("--- {name} of the second node ---\n{}", end_of_log(name));
                }
                eprintln!("--- its store ---\n{}", tree(Path::new(STATE)));
                eprintln!("--- its ruleset ---\n{}", ruleset());
            });
        }
    }
}
