//! autoport comes to a node by the `DaemonSet` of `deploy/kubernetes` and goes by the other one, as
//! docs/install.md says: from portmap and back, under pods that run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::api::{self, PATIENCE, is_true};
use crate::cluster::{Cluster, Runtime, pod};
use crate::deployed::{
    ITS_PLUGINS, LIST, MADE, NETWORKS, image, main_plugin_writes, manifests, network, node,
};
use crate::images::archive;
use crate::machine::{published, wait_for};
use crate::pods::port;
use crate::stage::netns::ruleset;
use crate::stage::probe::Transport;
use crate::stage::view::states;

const BACKUP: &str = "/etc/cni/net.d/10-blue.conflist.before-autoport";

/// The program there.
const INSTALLED: &str = "/run/opt/cni/bin/autoport";

fn list() -> String {
    fs::read_to_string(LIST).expect("the configuration is there")
}

/// The plugins of the network.
fn types() -> Vec<String> {
    let list: Value = serde_json::from_str(&list()).expect("JSON");
    let plugins = list["plugins"].as_array().into_iter().flatten();
    plugins.map(|one| one["type"].as_str().expect("a type").to_owned()).collect()
}

/// A node whose pods have their host ports from portmap, in a network that autoport cannot take over.
fn node_of_portmap() -> Cluster {
    let network = network().with("conditionsV4", vec!["-i", "uplink"]);
    node(Runtime::Containerd2, &network)
}

/// Who answers where.
type Reached<'a> = &'a [(&'a str, Transport, u16)];

impl Cluster {
    fn assert_all_reached(&self, ports: Reached<'_>) {
        for (name, transport, port) in ports {
            self.machine.assert_reached(name, *transport, *port);
        }
    }

    /// A network that is not understood is left alone, and the rollout does not pretend.
    fn assert_refused_first(&self) {
        let refused = list();
        self.kubectl(&["apply", "-k", &manifests("kubernetes")]);
        let unhealthy = ["get", "events", "--field-selector=reason=Unhealthy", "--output=json"];
        wait_for(PATIENCE, "an event says why it is not ready", || {
            self.in_system(&unhealthy).contains("conditionsV4")
        });
        self.wait_for_log("install", &["conditionsV4", "sourceRanges"]);
        assert!(!installers().iter().any(|pod| is_true(pod, "Ready")));
        assert_eq!(list(), refused);
    }

    /// Once it is understood, the pod becomes ready, and not before autoport is in the network.
    fn assert_installed(&self, before: &str) {
        self.in_system(&["rollout", "status", "daemonset/autoport", "--timeout=180s"]);
        assert_eq!(types(), ["bridge", "autoport"]);
        assert_eq!(fs::read_to_string(BACKUP).expect("the text before"), before);
        let [there, ours] = [INSTALLED, MADE].map(|path| fs::read(path).expect("it is there"));
        assert!(there == ours, "it is not the program of the image");
        let mode = fs::metadata(INSTALLED).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    /// Another pod of the `DaemonSet` finds nothing to do.
    fn assert_done_once(&self) {
        let written = written();
        let uid = |pod: &Value| pod["metadata"]["uid"].to_string();
        let first: Vec<_> = installers().iter().map(uid).collect();
        self.in_system(&["delete", "pod", "-l", "app.kubernetes.io/component=install"]);
        wait_for(PATIENCE, "another one is ready", || {
            installers().iter().any(|pod| !first.contains(&uid(pod)) && is_true(pod, "Ready"))
        });
        assert_eq!(self::written(), written);
    }
}

/// The node's two folders. A lock is there while a pod that stays looks at them.
fn written() -> Vec<(String, u64, i64, Vec<u8>)> {
    let all = [states(ITS_PLUGINS), states(NETWORKS)].concat();
    all.into_iter().filter(|(name, ..)| name != ".autoport-lock").collect()
}

/// The pods that install: while one is replaced there may be two.
pub(crate) fn installers() -> Vec<Value> {
    let label = "app.kubernetes.io/component%3Dinstall";
    let found = api::get(&format!("/api/v1/namespaces/kube-system/pods?labelSelector={label}"));
    found["items"].as_array().cloned().unwrap_or_default()
}

/// Runs a pod that has a port chosen; gives the port.
fn chosen(name: &str) -> u16 {
    let mut asking = pod(name, &[]);
    asking["metadata"]["annotations"] = json!({"autoport.cni/ports": "game=8001/tcp+udp"});
    api::runs(&asking);
    let pod = api::get(&format!("{}/{name}", api::folder("pods")));
    let told = published(pod["metadata"]["uid"].as_str().expect("it has one"));
    let port = told["ports"][0]["hostPort"].as_u64().expect("a number");
    u16::try_from(port).expect("a port")
}

#[test]
fn from_portmap_to_autoport_and_back() {
    use Transport::{Tcp, Udp};
    let mut cluster = node_of_portmap();
    for archive in [image(), archive()] {
        wait_for(PATIENCE, "containerd has the images", || cluster.imports(&archive));
    }
    api::runs(&pod("old", &[port(8000, 8079, "TCP", "")]));
    cluster.machine.assert_reached("old", Tcp, 8079);
    cluster.assert_refused_first();
    let before = main_plugin_writes(&network());
    cluster.assert_installed(&before);

    // Pods that name a port, and that have one chosen. Those of portmap go on.
    api::runs(&pod("web", &[port(8000, 8080, "TCP", ""), port(8000, 8080, "UDP", "")]));
    let game = chosen("games");
    let ports =
        [("web", Tcp, 8080), ("web", Udp, 8080), ("games", Tcp, game), ("games", Udp, game)];
    cluster.assert_all_reached(&ports);
    cluster.machine.assert_reached("old", Tcp, 8079);
    let held = cluster.machine.held();
    assert_eq!(held.len(), ports.len(), "{held:?}");

    // libcni remembers that autoport was in its list.
    api::runs(&pod("plain", &[]));

    // The main plugin starts again, and writes what it always writes.
    assert_eq!(main_plugin_writes(&network()), before);
    wait_for(PATIENCE, "autoport is back in the network", || types() == ["bridge", "autoport"]);
    cluster.assert_done_once();
    cluster.assert_all_reached(&ports);

    // And back. Who has host ports keeps them, and portmap has the new pods.
    cluster.kubectl(&["delete", "-k", &manifests("kubernetes"), "--cascade=foreground"]);
    assert_eq!(types(), ["bridge", "autoport"], "its end changes nothing");
    cluster.kubectl(&["apply", "-k", &manifests("kubernetes/uninstall")]);
    cluster.wait_for_log("uninstall", &["has host ports", "2 attachments"]);
    assert_eq!(list(), before);
    assert!(!Path::new(BACKUP).exists() && Path::new(INSTALLED).exists());
    api::runs(&pod("new", &[port(8000, 8082, "TCP", "")]));
    let portmaps = [("old", Tcp, 8079), ("new", Tcp, 8082)];
    cluster.assert_all_reached(&portmaps);
    cluster.assert_all_reached(&ports);
    assert_eq!(cluster.machine.held(), held);

    // No DEL of theirs comes to autoport any more: it misses them.
    for name in ["web", "games"] {
        api::ends(name);
    }
    cluster.wait_for_log("uninstall", &["table inet autoport deleted", "autoport kept"]);
    assert!(!ruleset().contains("inet autoport"), "{}", ruleset());
    assert_eq!(list(), before);
    assert!(Path::new(INSTALLED).exists());
    api::ends("plain");
    cluster.wait_for_log("uninstall", &["autoport removed"]);
    assert!(!Path::new(INSTALLED).exists());
    for (_, _, port) in ports {
        cluster.machine.assert_refused(port);
    }
    cluster.assert_all_reached(&portmaps);
    cluster.kubectl(&["delete", "-k", &manifests("kubernetes/uninstall"), "--cascade=foreground"]);
    cluster.ends(&["old", "new"]);
}
