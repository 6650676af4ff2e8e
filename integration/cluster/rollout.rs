//! From the version without node agents to this one, back, again, and away, by the commands of docs/install.md.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::agents::{PORTS, number};
use crate::api::{self, PATIENCE};
use crate::cluster::{Cluster, Runtime, pod};
use crate::configuration::Api;
use crate::deployed::{ITS_PLUGINS, LIST, NETWORKS, image, image_of, manifests, network, node};
use crate::images::archive;
use crate::machine::{published, wait_for, wait_until};
use crate::pods::port;
use crate::stage::netns::{ruleset, run};
use crate::stage::plugin::tool;
use crate::stage::probe::Transport::Tcp;

/// Where the manifests of the version before are put.
const BEFORE: &str = "/run/before.yaml";

const DAEMONSET: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/autoport";

/// Writes the `DaemonSet` of the version without agents, which has the container `install` only.
fn write_the_manifests_before() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let setup = fs::read_to_string(project.join("integration/setup.sh")).expect("it is there");
    let commit = setup.lines().find_map(|line| line.strip_prefix("previous="));
    let object = format!("{}:deploy/kubernetes/daemonset.yaml", commit.expect("a commit"));
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-C"]).arg(project).args(["show", &object]);
    let (ok, text) = run(&mut git, "");
    assert!(ok, "{text}");
    fs::write(BEFORE, text).expect("/run is ours");
}

/// The names of the containers of its Pods that are ready, and whether all are of the newest template.
fn containers(cluster: &Cluster) -> Vec<String> {
    cluster.in_system(&["rollout", "status", "daemonset/autoport", "--timeout=180s"]);
    let template = api::get(DAEMONSET)["spec"]["template"]["spec"]["containers"].clone();
    let names = template.as_array().expect("containers").iter();
    names.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

/// Runs a pod that has a port chosen; gives the port, as it is published.
fn chosen(name: &str) -> u16 {
    let mut asking = pod(name, &[]);
    asking["metadata"]["annotations"] = json!({PORTS: "http=8000"});
    api::runs(&asking);
    let pod = api::get(&format!("{}/{name}", api::folder("pods")));
    let told = published(pod["metadata"]["uid"].as_str().expect("it has one"));
    u16::try_from(told["ports"][0]["hostPort"].as_u64().expect("a number")).expect("a port")
}

impl Cluster {
    fn has_image(&self, archive: &Path) {
        wait_for(PATIENCE, "containerd has the image", || self.imports(archive));
    }

    fn applies_the_version_before(&self) {
        self.kubectl(&["apply", "--filename", BEFORE]);
        assert_eq!(containers(self), ["install"]);
    }

    fn applies_this_version(&self) {
        self.kubectl(&["apply", "-k", &manifests("kubernetes")]);
        for policy in policies() {
            self.kubectl(&["apply", "--filename", &policy]);
        }
        assert_eq!(containers(self), ["install", "agent", "agent-standby"]);
        for container in ["agent", "agent-standby"] {
            wait_for(PATIENCE, &format!("{container} is connected to the runtime"), || {
                let logs = ["logs", "daemonset/autoport", "--container", container];
                self.in_system(&logs).contains("connected")
            });
        }
    }
}

#[test]
fn from_the_version_without_agents_and_back_and_away() {
    let network = network().speaking("1.0.0");
    let mut cluster = node(Runtime::Containerd2, &network);
    write_the_manifests_before();
    let before = fs::read_to_string(LIST).expect("the network of the main plugin");
    let old = Path::new("/run/old.tar");
    fs::rename(image_of(&tool("previous/autoport")), old).expect("/run is ours");
    let new = image();
    cluster.has_image(&archive());
    cluster.has_image(old);
    cluster.applies_the_version_before();
    api::runs(&pod("web", &[port(8000, 8080, "TCP", "")]));
    let game = chosen("game");
    let reached = [("web", 8080), ("game", game)];
    let all_are_reached = |cluster: &Cluster| {
        for (name, port) in reached {
            cluster.machine.assert_reached(name, Tcp, port);
        }
    };
    all_are_reached(&cluster);

    cluster.has_image(&new);
    cluster.applies_this_version();
    all_are_reached(&cluster);
    let late = chosen("late");
    let pod = api::get("/api/v1/namespaces/default/pods/late");
    assert_eq!(number(&cluster.environment(&pod, "echo"), "AUTOPORT_HOST_PORT_HTTP"), late);
    all_are_reached(&cluster);
    cluster.is_removed(&before, &["web", "game", "late"]);
    cluster.has_image(old);
    cluster.applies_the_version_before();
    assert!(chosen("back") >= 20_000);
    api::ends("back");
}

/// The names in a folder of the node.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is there").flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().into_string().expect("a name of ours")).collect();
    names.sort();
    names
}

/// The policies, which are for later versions of Kubernetes than 1.20.
fn policies() -> Vec<String> {
    let all: &[&str] = match Api::of_this_run() {
        Api::Kubernetes => &[],
        Api::Libraries => &["admission", "admission/requests", "agent-policy"],
    };
    let path = |name: &&str| manifests(&format!("kubernetes/{name}/policy.yaml"));
    all.iter().map(path).collect()
}

impl Cluster {
    /// Removes autoport while these pods have host ports, and then the pods.
    fn is_removed(&mut self, before: &str, pods: &[&str]) {
        for policy in policies() {
            self.kubectl(&["delete", "--filename", &policy]);
        }
        self.kubectl(&["delete", "-k", &manifests("kubernetes"), "--cascade=foreground"]);
        self.kubectl(&["apply", "-k", &manifests("kubernetes/uninstall")]);
        self.wait_for_log("uninstall", &["has host ports"]);
        self.machine.assert_reached("web", Tcp, 8080);
        for pod in pods {
            api::ends(pod);
        }
        self.wait_for_log("uninstall", &["autoport removed"]);
        self.kubectl(&["delete", "-k", &manifests("kubernetes/uninstall"), "--cascade=foreground"]);
        self.assert_removed(before);
    }

    /// Insists that nothing of autoport is left but empty folders and the memory of released ports, which the next
    /// boot forgets.
    fn assert_removed(&self, before: &str) {
        assert_eq!(fs::read_to_string(LIST).expect("the network"), before);
        assert_eq!(names(NETWORKS), ["10-blue.conflist"]);
        assert_eq!(names("/etc/cni"), ["net.d"]);
        assert_eq!(names(ITS_PLUGINS), ["bridge", "host-local", "loopback", "portmap"]);
        assert!(!ruleset().contains("inet autoport"), "{}", ruleset());
        let state = names("/run/autoport");
        let is_left = |name: &&String| {
            ["agent", "instance", "requests"].iter().any(|part| name.starts_with(part))
        };
        assert_eq!(state.iter().find(is_left), None, "{state:?}");
        let offered = names("/run/var/lib/kubelet/device-plugins");
        assert!(!offered.iter().any(|name| name.contains("autoport")), "{offered:?}");
        let processes = self.machine.run("ps", &["-e", "-o", "args="]);
        let ours = |line: &&str| line.starts_with("/autoport") || line.contains("bin/autoport");
        assert_eq!(processes.lines().find(ours), None, "{processes}");
        let kinds = "clusterroles,clusterrolebindings,serviceaccounts,configmaps,secrets,daemonsets,\
                     controllerrevisions,pods";
        let policies = match Api::of_this_run() {
            Api::Kubernetes => "",
            Api::Libraries => {
                ",validatingadmissionpolicies,validatingadmissionpolicybindings,\
                 mutatingadmissionpolicies,mutatingadmissionpolicybindings"
            }
        };
        wait_until("nothing of autoport is left in the API", || {
            let all = ["get", "--all-namespaces", "--output=name", &format!("{kinds}{policies}")];
            !self.kubectl(&all).contains("autoport")
        });
    }
}
