//! The chart of `deploy/helm`, installed and removed by Helm as docs/install.md says.

use std::path::Path;

use serde_json::json;

use crate::agents::{PORTS, number};
use crate::api::{self, PATIENCE};
use crate::cluster::{Cluster, Runtime, pod};
use crate::configuration::Api;
use crate::deployed::{image, network, node};
use crate::images::archive;
use crate::machine::{wait_for, wait_until};
use crate::stage::plugin::tool;

const SYSTEM: &str = "/api/v1/namespaces/kube-system";

impl Cluster {
    /// A command of Helm in the namespace of the system: whether it succeeded, and what it printed.
    fn try_helm(&self, words: &[&str]) -> (bool, String) {
        let helm = tool("helm/helm").to_string_lossy().into_owned();
        let client = ["--kubeconfig=/run/kubeconfig", "--namespace=kube-system"];
        self.machine.try_run(&helm, &[&client[..], words].concat())
    }

    fn helm(&self, words: &[&str]) {
        let (ok, said) = self.try_helm(words);
        assert!(ok, "helm {words:?}: {said}");
    }

    fn installs(&self, release: &str, values: &[&str]) -> (bool, String) {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/autoport");
        let chart = chart.to_string_lossy();
        let sets = values.iter().map(|value| format!("--set={value}")).collect::<Vec<_>>();
        let sets = sets.iter().map(String::as_str).collect::<Vec<_>>();
        self.try_helm(&[&["install", release, &chart][..], &sets].concat())
    }
}

/// `DaemonSets` of Kubernetes 1.20 have no `maxSurge`, and Helm rejects unknown fields.
#[test]
fn the_chart_is_installed_and_removed() {
    let mut cluster = node(Runtime::Containerd2, &network().speaking("1.1.0"));
    for archive in [image(), archive()] {
        wait_for(PATIENCE, "containerd has the images", || cluster.imports(&archive));
    }
    let values = [
        "agentPolicy=true",
        "admission=true",
        "requests=true",
        "configuration.portRange=21000-21999",
    ];
    let (ok, said) = cluster.installs("autoport", &values);
    if Api::of_this_run() == Api::Kubernetes {
        assert!(!ok && said.contains("maxSurge"), "{said}");
        return;
    }
    assert!(ok, "{said}");
    cluster.in_system(&["rollout", "status", "daemonset/autoport", "--timeout=180s"]);
    let mut web = pod("web", &[]);
    web["metadata"]["annotations"] = json!({PORTS: "http=8000"});
    api::runs(&web);
    let web = api::get("/api/v1/namespaces/default/pods/web");
    let host = number(&cluster.environment(&web, "echo"), "AUTOPORT_HOST_PORT_HTTP");
    assert!((21_000..22_000).contains(&host), "{host} is not of the range in the values");
    assert_eq!(web["spec"]["containers"][0]["resources"]["limits"][PORTS], "1", "{web}");
    api::ends("web");
    cluster.helm(&["uninstall", "autoport", "--cascade=foreground", "--wait"]);
    let (ok, said) = cluster.installs("autoport-uninstall", &["uninstall=true"]);
    assert!(ok, "{said}");
    cluster.wait_for_log("uninstall", &["autoport removed"]);
    cluster.helm(&["uninstall", "autoport-uninstall", "--cascade=foreground", "--wait"]);
    wait_until("nothing of the chart is left", || {
        let all = ["pods", "configmaps", "serviceaccounts", "secrets"];
        let lists = all.map(|kind| api::get(&format!("{SYSTEM}/{kind}"))["items"].to_string());
        !lists.concat().contains("\"name\":\"autoport")
    });
    cluster.assert_nothing_left();
}
