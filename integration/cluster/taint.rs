//! The component `startup-taint` of `deploy/kubernetes`.

use std::path::Path;

use crate::agents::node_with_agents;
use crate::api::{self, PATIENCE};
use crate::cluster::Cluster;
use crate::configuration::Api;
use crate::machine::wait_for;
use serde_json::{Value, json};

const TAINT: &str = "autoport.cni/agent-not-ready";

fn access() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/startup-taint");
    folder.join("access.yaml").to_string_lossy().into_owned()
}

/// The keys of the node's taints.
fn taints(node: &str) -> Vec<Value> {
    let node = api::get(&format!("/api/v1/nodes/{node}"));
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints.into_iter().map(|mut taint| taint["key"].take()).collect()
}

/// The part of the component that Kubernetes 1.20 has no kustomize for.
fn is_added_to_the_standby(cluster: &Cluster) {
    let patch = json!([{"op": "add", "path": "/spec/template/spec/containers/2/command/-", "value": "--startup-taint"}]);
    cluster.in_system(&[
        "patch",
        "daemonset",
        "autoport",
        "--type=json",
        "--patch",
        &patch.to_string(),
    ]);
}

#[test]
fn a_node_gets_pods_when_both_agents_serve_its_runtime() {
    let mut cluster = node_with_agents();
    let (_, said) = cluster.try_kubectl(&["apply", "--filename", &access()]);
    assert!(
        said.contains("clusterrolebinding.rbac.authorization.k8s.io/autoport-agent-startup-taint"),
        "{said}"
    );
    cluster.kubectl(&[
        "taint",
        "node",
        "node",
        &format!("{TAINT}=:NoSchedule"),
        "other=:PreferNoSchedule",
    ]);
    is_added_to_the_standby(&cluster);
    wait_for(PATIENCE, "the taint is removed", || taints("node") == ["other"]);
    cluster.kubectl(&["taint", "node", "node", "other-"]);
    cluster.ends_with_agents("autoport");
}

/// With the identity that the token of an agent's Pod has since Kubernetes 1.30. Kubernetes 1.20 has no policies.
#[test]
fn the_policy_keeps_an_agent_to_its_own_node_and_to_the_taint() {
    let cluster = Cluster::new();
    let (ok, said) = cluster.try_kubectl(&["apply", "--filename", &access()]);
    match Api::of_this_run() {
        Api::Kubernetes => assert!(!ok && said.contains("ValidatingAdmissionPolicy"), "{said}"),
        Api::Libraries => {
            assert!(ok, "{said}");
            is_kept();
        }
    }
}

/// Who asks, as headers of user impersonation.
fn agent(node: &str) -> Vec<String> {
    let user = "Impersonate-User: system:serviceaccount:kube-system:autoport-agent".to_owned();
    let extra = "Impersonate-Extra-authentication.kubernetes.io%2Fnode-name";
    let extra = (!node.is_empty()).then(|| format!("{extra}: {node}"));
    [user].into_iter().chain(extra).collect()
}

fn is_kept() {
    let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
    for name in ["n1", "n2"] {
        let spec = json!({"taints": [taint(TAINT), taint("other")]});
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec,
        });
        api::does("POST", "/api/v1/nodes", Some(&node));
    }
    let patches = |headers: &[String], node: &str, patch: &Value| {
        api::request_as(headers, "PATCH", &format!("/api/v1/nodes/{node}"), Some(patch))
    };
    let rest = json!({"spec": {"taints": [taint("other")]}});
    // A policy takes a moment to be in force; of a node that does not exist it says nothing.
    wait_for(PATIENCE, "the policy is in force", || {
        patches(&agent("n1"), "n2", &json!({"metadata": {"labels": {"a": "b"}}})).0 == 403
    });
    let (own, only) = ("may change its own node only", "may only remove the taint");
    let labels = json!({"metadata": {"labels": {"a": "b"}}, "spec": rest["spec"]});
    for (of, node, patch, reason) in [
        ("n1", "n2", &rest, own),
        ("", "n1", &rest, own),
        ("n1", "n1", &json!({"spec": {"taints": []}}), only),
        ("n1", "n1", &json!({"spec": {"unschedulable": true}}), only),
        ("n1", "n1", &labels, "may change nothing of a node but its taints"),
    ] {
        let (status, said) = patches(&agent(of), node, patch);
        assert!(status == 403 && said.contains(reason), "{of} {node} {patch}: {status} {said}");
    }
    assert_eq!(taints("n1"), [TAINT, "other"]);
    let (status, said) = patches(&agent("n1"), "n1", &rest);
    assert_eq!(status, 200, "{said}");
    assert_eq!(taints("n1"), ["other"]);
    // Others are not concerned.
    let (status, said) = patches(&[], "n2", &rest);
    assert_eq!(status, 200, "{said}");
}
