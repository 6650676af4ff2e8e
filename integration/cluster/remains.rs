//! What may be left of pods: nothing.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::{self, PATIENCE};
use crate::cluster::Cluster;
use crate::configuration::{NODE, Place};
use crate::machine::{Machine, wait_for};
use crate::stage::netns::run;
use crate::stage::plugin::tool;
use crate::stage::view::assert_nothing_held;

impl Cluster {
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
        assert_nothing_left_on(&self.machine, &NODE);
        self.calls();
    }

    /// The sandboxes that containerd knows, dead or alive.
    pub(crate) fn sandboxes(&self) -> Vec<String> {
        sandboxes(&self.machine)
    }
}

/// Insists that nothing is left of pods on the node of this thread.
pub(crate) fn assert_nothing_left_on(machine: &Machine, place: &Place) {
    // kubelet comes for sandboxes, volumes and cgroups once a minute or two.
    let end = Instant::now() + PATIENCE;
    let mut left = left_on(machine, place);
    while !left.is_empty() && Instant::now() < end {
        thread::sleep(Duration::from_millis(200));
        left = left_on(machine, place);
    }
    assert_eq!(left, [""; 0], "this is left of pods");
    assert_nothing_held();
    assert_eq!(machine.held(), [""; 0]);
    let published = fs::read_dir("/run/autoport/pods").into_iter().flatten().flatten();
    assert_eq!(published.count(), 0, "published files are left");
}

fn sandboxes(machine: &Machine) -> Vec<String> {
    let client = tool("bin/cri").to_string_lossy().into_owned();
    let list: Value =
        serde_json::from_str(&machine.run(&client, &["list", ""])).unwrap_or_default();
    let sandboxes = list["items"].as_array().into_iter().flatten();
    sandboxes.filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
}

/// Whatever a pod leaves behind that is not ours: sandboxes, network namespaces, addresses,
/// mounts, cgroups, processes, connections.
fn left_on(machine: &Machine, place: &Place) -> Vec<String> {
    let mut left: Vec<String> =
        sandboxes(machine).iter().map(|id| format!("sandbox {id}")).collect();
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
    let mounts = machine.run("cat", &["/proc/self/mountinfo"]);
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains("/kubelet/pods/") || line.contains("/run/containerd/io."))
            .map(str::to_owned),
    );
    let processes = machine.run("ps", &["-e", "-o", "args="]);
    left.extend(
        processes
            .lines()
            .filter(|line| line.contains("/echo") || line.contains("shim") || line.contains("runc"))
            .map(str::to_owned),
    );
    let cgroup = &machine.cgroup;
    // runc makes one in the unified hierarchy too, which kubelet 1.20 does not know.
    for top in names("/sys/fs/cgroup").iter().filter(|top| !top.ends_with("/unified")) {
        let below =
            run(Command::new("find").arg(format!("{top}{cgroup}")).args(["-type", "d"]), "");
        left.extend(below.1.lines().filter(|line| line.contains("/pod")).map(str::to_owned));
    }
    // TCP's stay for two minutes after their end, also those of other clients.
    let flows = machine.run("conntrack", &["-L", "-p", "udp"]);
    let of_pods = ["src", "dst"].map(|end| format!("{end}=10.{}.0.", place.subnet));
    left.extend(
        flows
            .lines()
            .filter(|line| of_pods.iter().any(|part| line.contains(part.as_str())))
            .map(str::to_owned),
    );
    left
}
