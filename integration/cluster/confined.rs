//! The component `agent-policy` of `deploy/kubernetes`: what an agent may change, asked with the token that the Pod of
//! an agent has.

use std::path::Path;

use serde_json::{Value, json};

use crate::api::{self, PATIENCE};
use crate::cluster::{Cluster, pod};
use crate::configuration::Api;
use crate::machine::wait_for;

const STATUS: &str = "/api/v1/namespaces/default/pods/own/status";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn file(path: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes");
    deploy.join(path).to_string_lossy().into_owned()
}

/// A program that has a token.
pub(crate) struct Client<'a> {
    cluster: &'a Cluster,
    token: String,
}

impl<'a> Client<'a> {
    /// With the token of the agent on this node, bound to its Pod; without a Pod, to no node.
    fn of(cluster: &'a Cluster, node: Option<&str>) -> Self {
        let mut spec = json!({"audiences": ["https://kubernetes.default.svc"]});
        if let Some(node) = node {
            let mut agent = pod(&format!("agent-{node}"), &[]);
            agent["spec"]["nodeName"] = json!(node);
            agent["spec"]["serviceAccountName"] = json!("autoport-agent");
            let made = api::does("POST", "/api/v1/namespaces/kube-system/pods", Some(&agent));
            let (name, uid) = (&made["metadata"]["name"], &made["metadata"]["uid"]);
            spec["boundObjectRef"] =
                json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        }
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
        });
        let path = "/api/v1/namespaces/kube-system/serviceaccounts/autoport-agent/token";
        let told = api::does("POST", path, Some(&request));
        let token = told["status"]["token"].as_str().expect("a token");
        Self::with(cluster, token)
    }

    /// With this token.
    pub(crate) fn with(cluster: &'a Cluster, token: &str) -> Self {
        Self { cluster, token: token.to_owned() }
    }

    /// The status of the answer, and its text.
    fn asks(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let kind = match method {
            "PATCH" => "application/strategic-merge-patch+json",
            _ => "application/json",
        };
        let said = self.cluster.machine.run(
            "curl",
            &[
                "--silent",
                "--cacert",
                "/run/ca.crt",
                // To curl the API server answers with indented JSON, and that of 1.20 crashes over it.
                "--user-agent",
                "autoport-test",
                "--request",
                method,
                "--header",
                &format!("Authorization: Bearer {}", self.token),
                "--header",
                &format!("Content-Type: {kind}"),
                "--data",
                &body.to_string(),
                "--write-out",
                "\n%{http_code}",
                &format!("https://127.0.0.1:6443{path}"),
            ],
        );
        let (text, status) = said.rsplit_once('\n').expect("the status is last");
        (status.parse().expect("a number"), text.to_owned())
    }

    pub(crate) fn is_permitted(&self, method: &str, path: &str, body: &Value) {
        let (status, said) = self.asks(method, path, body);
        assert!((200..300).contains(&status), "{method} {path} {body}: {status} {said}");
    }

    pub(crate) fn is_forbidden(&self, method: &str, path: &str, body: &Value, reason: &str) {
        let (status, said) = self.asks(method, path, body);
        assert!(status == 403 && said.contains(reason), "{method} {path} {body}: {status} {said}");
    }
}

/// Kubernetes 1.20 has no policies.
#[test]
fn the_policies_keep_an_agent_to_its_own_node_and_to_what_is_of_autoport() {
    let cluster = Cluster::new();
    cluster.kubectl(&["apply", "--filename", &file("access.yaml")]);
    let (ok, said) =
        cluster.try_kubectl(&["apply", "--filename", &file("agent-policy/policy.yaml")]);
    if Api::of_this_run() == Api::Kubernetes {
        assert!(!ok && said.contains("ValidatingAdmissionPolicy"), "{said}");
        return;
    }
    assert!(ok, "{said}");
    for node in ["n1", "n2", "n3"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
        api::does("POST", "/api/v1/nodes", Some(&node));
    }
    for (name, node) in [("own", "n1"), ("other", "n2")] {
        let mut pod = pod(name, &[]);
        pod["spec"]["nodeName"] = json!(node);
        pod["metadata"]["annotations"] = json!({"autoport.cni/ports": "http=8000", "a": "b"});
        api::create("pods", &pod);
    }
    let agent = Client::of(&cluster, Some("n1"));
    // Nothing is changed by what is permitted until then.
    let [status, slices] = [STATUS, SLICES].map(|path| format!("{path}?dryRun=All"));
    let (labels, foreign) = (json!({"metadata": {"labels": {"a": "b"}}}), slice("foreign", "n2"));
    wait_for(PATIENCE, "the policies are in force", || {
        let statuses =
            [agent.asks("PATCH", &status, &labels), agent.asks("POST", &slices, &foreign)];
        statuses.iter().all(|(status, _)| *status == 403)
    });
    keeps_to_its_part_of_the_status(&agent);
    keeps_to_its_node(&cluster, &agent);
    keeps_to_its_slices(&cluster, &agent);
}

fn keeps_to_its_part_of_the_status(agent: &Client<'_>) {
    let uid = api::get("/api/v1/namespaces/default/pods/own")["metadata"]["uid"].clone();
    let listening = |status: &str| {
        let condition = json!({"type": "autoport.cni/Listening", "status": status});
        json!({"conditions": [condition]})
    };
    // What the design of the agent's status is: one patch with the UID.
    for (annotations, status) in [
        (json!({"autoport.cni/status": "{\"version\":1}"}), listening("False")),
        (json!({"autoport.cni/status": "{\"version\":2}"}), listening("True")),
        (
            json!({
                "autoport.cni/host-port.http": "20000",
                "randhostport.webhook.bkbcs.tencent.com.8000": "20000",
            }),
            json!({}),
        ),
        (
            json!({
                "autoport.cni/host-port.http": null,
                "randhostport.webhook.bkbcs.tencent.com.8000": null,
            }),
            json!({}),
        ),
    ] {
        let patch = json!({"metadata": {"uid": uid, "annotations": annotations}, "status": status});
        agent.is_permitted("PATCH", STATUS, &patch);
    }
    let own = api::get("/api/v1/namespaces/default/pods/own");
    assert_eq!(own["metadata"]["annotations"]["autoport.cni/status"], "{\"version\":2}");
    assert!(api::is_true(&own, "autoport.cni/Listening"), "{own}");
    let annotations = |all: Value| json!({"metadata": {"annotations": all}});
    let only = "may change the annotations autoport.cni/status, ";
    for (patch, reason) in [
        (annotations(json!({"autoport.cni/ports": "http=1"})), only),
        (annotations(json!({"autoport.cni/ports": null})), only),
        (annotations(json!({"a": "c"})), only),
        (annotations(json!({"c": "d"})), only),
        (annotations(json!({"randhostport.webhook.bkbcs.tencent.com": "true"})), only),
        (json!({"metadata": {"labels": {"app": "web"}}}), "may not change labels, finalizers or"),
        (json!({"metadata": {"finalizers": ["example.org/a"]}}), "may not change labels, final"),
        (
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            "may change the condition autoport.cni/Listening only",
        ),
        (json!({"status": {"phase": "Failed"}}), "may change nothing of the status"),
        (json!({"status": {"podIP": "192.0.2.9"}}), "may change nothing of the status"),
    ] {
        agent.is_forbidden("PATCH", STATUS, &patch, reason);
    }
}

fn keeps_to_its_node(cluster: &Cluster, agent: &Client<'_>) {
    let status = json!({"metadata": {"annotations": {"autoport.cni/status": "{}"}}});
    let pod = STATUS.trim_end_matches("/status");
    let other = STATUS.replace("own", "other");
    agent.is_forbidden("PATCH", &other, &status, "may change Pods of its own node only, not of n2");
    // What its role does not permit either.
    let nothing = "may change nothing of a Pod but its status";
    agent.is_forbidden("PATCH", pod, &status, nothing);
    agent.is_forbidden("DELETE", pod, &json!({}), nothing);
    let made = api::get(pod);
    let new = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "new"}, "spec": made["spec"],
    });
    agent.is_forbidden("POST", "/api/v1/namespaces/default/pods", &new, nothing);
    // A token that names no node.
    let unbound = Client::of(cluster, None);
    unbound.is_forbidden("PATCH", STATUS, &status, "may change Pods of its own node only");
    Client::of(cluster, Some("n2")).is_permitted("PATCH", &other, &status);
}

/// An `EndpointSlice` as the agents write it, of the Pod `own`: one without owner would be collected.
fn slice(name: &str, node: &str) -> Value {
    let uid = api::get("/api/v1/namespaces/default/pods/own")["metadata"]["uid"].clone();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/service-name": "game",
                "endpointslice.kubernetes.io/managed-by": "autoport.cni",
            },
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "own", "uid": uid}],
        },
        "addressType": "IPv4",
        "ports": [{"name": "game", "protocol": "UDP", "port": 20000}],
        "endpoints": [{"addresses": ["192.0.2.1"], "nodeName": node}],
    })
}

fn keeps_to_its_slices(cluster: &Cluster, agent: &Client<'_>) {
    let (own, label) = (slice("own", "n1"), "with the label endpointslice.kubernetes.io");
    agent.is_permitted("POST", SLICES, &own);
    let there = format!("{SLICES}/own");
    let ready = json!({"endpoints": [{
        "addresses": ["192.0.2.1"], "nodeName": "n1", "conditions": {"ready": true},
    }]});
    agent.is_permitted("PATCH", &there, &ready);
    let mut foreign = slice("foreign", "n1");
    foreign["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] = json!("other");
    let mut free = slice("free", "n1");
    free["metadata"]["ownerReferences"] = json!([]);
    let mut empty = slice("empty", "n1");
    empty["endpoints"] = json!([]);
    let node = "whose endpoints are on its own node only";
    for (slice, reason) in [
        (slice("other", "n2"), node),
        (empty, node),
        (foreign.clone(), label),
        (free, "that belong to a Pod only"),
    ] {
        agent.is_forbidden("POST", SLICES, &slice, reason);
    }
    let moved = json!({"endpoints": [{"addresses": ["192.0.2.1"], "nodeName": "n2"}]});
    agent.is_forbidden("PATCH", &there, &moved, node);
    // Slices of others, and those of the agent of another node.
    api::does("POST", SLICES, Some(&foreign));
    let labels =
        json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "autoport.cni"}}});
    agent.is_forbidden("PATCH", &format!("{SLICES}/foreign"), &labels, label);
    agent.is_forbidden("DELETE", &format!("{SLICES}/foreign"), &json!({}), label);
    Client::of(cluster, Some("n3")).is_forbidden("DELETE", &there, &json!({}), node);
    agent.is_permitted("DELETE", &there, &json!({}));
}
