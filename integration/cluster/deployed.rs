//! What `deploy/kubernetes` needs to come to a node: its image, its manifests, and a node with the usual
//! folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::api::PATIENCE;
use crate::cluster::{Cluster, Runtime};
use crate::configuration::{NODE, Place};
use crate::machine::wait_for;
use crate::stage::chain::{Main, Network};
use crate::stage::netns::run;
use crate::stage::plugin::Plugin;

/// Where every node has its plugins and networks.
pub(crate) const PLUGINS: &str = "/opt/cni/bin";
pub(crate) const NETWORKS: &str = "/etc/cni/net.d";

/// The node's plugins, seen from outside of its mount namespace.
pub(crate) const ITS_PLUGINS: &str = "/run/opt/cni/bin";

pub(crate) const LIST: &str = "/etc/cni/net.d/10-blue.conflist";

/// Where the image is made, and the program in it.
const DIST: &str = "/run/dist";
pub(crate) const MADE: &str = "/run/dist/autoport";

/// A network as main plugins bring it.
pub(crate) fn network() -> Network {
    network_of(&NODE)
}

/// That of another node.
pub(crate) fn network_of(place: &Place) -> Network {
    Network::new("blue", Main::Bridge, place.subnet, Plugin::PortmapIptables)
}

/// Does what a main plugin does at its start; gives the text of the network.
pub(crate) fn main_plugin_writes(network: &Network) -> String {
    let text = serde_json::to_string_pretty(&network.conflist()).expect("JSON");
    let new = format!("{NETWORKS}/.new");
    fs::write(&new, &text).expect("the folder is covered");
    fs::rename(new, LIST).expect("the folder is covered");
    text
}

/// Makes the image of `make image`, with the executable under test in it.
pub(crate) fn image() -> PathBuf {
    image_of(&Plugin::Autoport.path())
}

/// The same with this plugin. Without its symbols: the node's disk is memory here, and what the container writes
/// there counts as its own.
pub(crate) fn image_of(plugin: &Path) -> PathBuf {
    let _ = fs::remove_dir_all(DIST);
    fs::create_dir_all(DIST).expect("/run is ours");
    let strip = |from: &Path, to: &str| {
        let mut strip = Command::new("objcopy");
        strip.arg("--strip-all").arg(from).arg(to);
        strip
    };
    let agent = Plugin::Autoport.path().with_file_name("autoport-agent");
    let mut strips = [strip(plugin, MADE), strip(&agent, "/run/dist/autoport-agent")];
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let licences = Path::new(DIST).join("licenses");
    fs::create_dir_all(&licences).expect("/run is ours");
    fs::copy(project.join("NOTICE"), licences.join("NOTICE")).expect("/run is ours");
    let mut make = Command::new(project.join("scripts/image.sh"));
    make.args([DIST, MADE]).env("TMPDIR", DIST);
    for command in strips.iter_mut().chain([&mut make]) {
        let (ok, text) = run(command, "");
        assert!(ok, "{command:?}: {text}");
    }
    let files = fs::read_dir(DIST).expect("/run is ours").flatten().map(|entry| entry.path());
    let mut archives = files.filter(|path| path.extension().is_some_and(|kind| kind == "tar"));
    archives.next().expect("it has made one")
}

/// A folder of `deploy`, as kubectl is told of it.
pub(crate) fn manifests(folder: &str) -> String {
    kustomized(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder))
}

/// The folder that `kubectl -k` is given for `folder`. `DaemonSets` of Kubernetes 1.20 have no `maxSurge`, so an
/// overlay replaces the update strategy.
pub(crate) fn kustomized(folder: &Path) -> String {
    if !folder.ends_with("deploy/kubernetes") {
        return folder.to_string_lossy().into_owned();
    }
    let overlay = "/run/overlay";
    fs::create_dir_all(overlay).expect("/run is ours");
    let kustomization = json!({
        "bases": [format!("../..{}", folder.display())],
        "patchesJson6902": [{
            "target": {"group": "apps", "version": "v1", "kind": "DaemonSet", "name": "autoport"},
            "path": "patch.yaml",
        }],
    });
    let strategy = json!({"rollingUpdate": {"maxUnavailable": "10%"}});
    let patch = json!([{"op": "replace", "path": "/spec/updateStrategy", "value": strategy}]);
    for (name, value) in [("kustomization.yaml", kustomization), ("patch.yaml", patch)] {
        fs::write(format!("{overlay}/{name}"), value.to_string()).expect("/run is ours");
    }
    overlay.to_owned()
}

/// A node with the plugins of this network, without autoport.
pub(crate) fn node(runtime: Runtime, network: &Network) -> Cluster {
    Cluster::with(runtime, [PLUGINS, NETWORKS], || furnish(network))
}

/// Puts the plugins of this network, and the network, where every node has them.
pub(crate) fn furnish(network: &Network) {
    for folder in [ITS_PLUGINS, NETWORKS] {
        fs::create_dir_all(folder).expect("the folder is ours");
    }
    for name in ["bridge", "host-local", "loopback", "portmap"] {
        let plugin = network.folder().join(name);
        fs::copy(plugin, Path::new(ITS_PLUGINS).join(name)).expect("/run is ours");
    }
    main_plugin_writes(network);
}

impl Cluster {
    pub(crate) fn in_system(&self, words: &[&str]) -> String {
        self.kubectl(&[&["--namespace=kube-system"], words].concat())
    }

    /// Waits until the log of this `DaemonSet`, `install` or `uninstall`, says all of that.
    pub(crate) fn wait_for_log(&self, component: &str, parts: &[&str]) {
        let label = format!("app.kubernetes.io/component={component}");
        let logs = ["--namespace=kube-system", "logs", "--prefix", "--tail=-1"];
        let words = [&logs[..], &["-l", &label, "--container", component]].concat();
        wait_for(PATIENCE, &format!("the log of {component} says {parts:?}"), || {
            // While its container is made there is none.
            let (ok, said) = self.try_kubectl(&words);
            ok && parts.iter().all(|part| said.contains(part))
        });
    }
}
