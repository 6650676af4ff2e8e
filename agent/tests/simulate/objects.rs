//! The objects of a cluster, as large as such objects are, and what a kubelet writes.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use futures_util::stream;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// How many requests of kubelets and controllers are on their way at once.
const AT_ONCE: usize = 32;

const NAMESPACE: &str = "games";

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("it is right")
}

/// The annotations of a Pod with two ports.
pub(crate) fn annotations(discovers: bool) -> BTreeMap<String, String> {
    let mut all =
        BTreeMap::from([("autoport.cni/ports".to_owned(), "game=auto/udp, http=auto".to_owned())]);
    if discovers {
        all.insert("autoport.cni/service".to_owned(), "game".to_owned());
    }
    all
}

/// A namespace, and a Service that permits slices.
pub(crate) async fn prepare(client: &Client) {
    let namespace: Namespace = object(json!({"metadata": {"name": NAMESPACE}}));
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace");
    let service: Service = object(json!({
        "metadata": {"name": "game", "annotations": {"autoport.cni/endpoints": "true"}},
        "spec": {"clusterIP": "None", "ports": [{"name": "game", "port": 7777, "protocol": "UDP"}]},
    }));
    let services = Api::namespaced(client.clone(), NAMESPACE);
    services.create(&PostParams::default(), &service).await.expect("a Service");
}

/// About 4 KB, as Pods of a Deployment with a sidecar have.
fn pod(name: &str, node: &str, annotations: &BTreeMap<String, String>) -> Pod {
    let variables: Vec<_> = (0..12).map(|it| json!({"name": format!("GAME_SETTING_{it}"), "value": format!("a value of setting number {it}")})).collect();
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example.com/games/{name}:1.27.3"), "env": variables,
            "imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log",
            "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
            "readinessProbe": {"exec": {"command": ["/probe", "--port", "$(AUTOPORT_PORT_HTTP)"]}, "periodSeconds": 5},
            "volumeMounts": [
                {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
                {"name": "maps", "mountPath": "/maps"},
            ],
        })
    };
    let taint = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    object(json!({
        "metadata": {"name": name, "annotations": annotations, "generateName": "game-7d9c5b8f6d-",
                     "labels": {"app": "game", "pod-template-hash": "7d9c5b8f6d", "app.kubernetes.io/part-of": "games"}},
        "spec": {
            "nodeName": node, "hostNetwork": true, "serviceAccountName": "default", "restartPolicy": "Always",
            "containers": [container("main"), container("sidecar")],
            "tolerations": [taint("node.kubernetes.io/not-ready"), taint("node.kubernetes.io/unreachable")],
            "volumes": [
                {"name": "maps", "emptyDir": {}},
                {"name": "token", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                ]}},
            ],
        },
    }))
}

/// Creates these Pods, each a name and a node, and gives their UIDs.
pub(crate) async fn create(
    client: &Client,
    pods: &[(String, String)],
    annotations: &BTreeMap<String, String>,
) -> Vec<String> {
    let api = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let created = stream::iter(pods).map(|(name, node)| {
        let (api, pod) = (api.clone(), pod(name, node, annotations));
        async move {
            api.create(&PostParams::default(), &pod).await.expect("it is created").metadata.uid
        }
    });
    created.buffered(AT_ONCE).map(|uid| uid.expect("it has one")).collect().await
}

/// Has kubelet say that these Pods run and are ready; gives how many bytes the first of them has.
pub(crate) async fn ready(client: &Client, pods: &[(String, String)]) -> usize {
    let api = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-12-01T00:00:00Z"});
    let conditions =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
            .map(condition);
    let container = |name: &str| {
        json!({
            "name": name, "ready": true, "started": true, "restartCount": 0, "image": format!("registry.example.com/games/{name}:1.27.3"),
            "imageID": format!("registry.example.com/games/{name}@sha256:{}", "0123456789abcdef".repeat(4)),
            "containerID": format!("containerd://{}", "0123456789abcdef".repeat(4)),
            "state": {"running": {"startedAt": "2026-12-01T00:00:00Z"}},
        })
    };
    let status = json!({"status": {
        "phase": "Running", "qosClass": "Burstable", "hostIP": "10.0.0.1", "podIP": "10.0.0.1", "startTime": "2026-12-01T00:00:00Z",
        "conditions": conditions, "containerStatuses": [container("main"), container("sidecar")],
    }});
    let patched = stream::iter(pods).map(|(name, _)| {
        let (api, patch) = (api.clone(), Patch::Merge(status.clone()));
        async move {
            api.patch_status(name, &PatchParams::default(), &patch).await.expect("it is patched")
        }
    });
    let sizes = patched.buffered(AT_ONCE).map(|pod| serde_json::to_vec(&pod).expect("JSON").len());
    sizes.collect::<Vec<_>>().await.first().copied().unwrap_or_default()
}

/// Deletes these Pods.
pub(crate) async fn delete(client: &Client, pods: &[(String, String)]) {
    let api = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let deleted = stream::iter(pods).map(|(name, _)| {
        let (api, now) = (api.clone(), now.clone());
        async move { drop(api.delete(name, &now).await.expect("it is deleted")) }
    });
    deleted.buffered(AT_ONCE).collect::<Vec<_>>().await;
}
