//! The components `admission` and `admission/requests` of `deploy/kubernetes` on a real API server, which judges the
//! annotations that the plugin judges in `the_plugin_judges_annotations_as_the_admission_policies_do` of the agent.

use std::path::Path;

use serde_json::{Value, json};

use crate::api::{self, PATIENCE};
use crate::cluster::Cluster;
use crate::configuration::Api;
use crate::machine::wait_for;

const PORTS: &str = "autoport.cni/ports";

/// Creates nothing, but all policies are asked.
const DRY_RUN: &str = "/api/v1/namespaces/default/pods?dryRun=All";

fn file(path: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes");
    deploy.join(path).to_string_lossy().into_owned()
}

/// A Pod with these annotations, whose only container declares these ports.
fn pod(annotations: &Value, ports: &[Value], is_on_host: bool) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "game", "annotations": annotations},
        "spec": {
            "hostNetwork": is_on_host,
            "containers": [{"name": "main", "image": "example.org/game:1", "ports": ports}],
        },
    })
}

/// The status, and the Pod that would be created, or the reason.
fn tries(pod: &Value) -> (u16, Value) {
    let (status, said) = api::request("POST", DRY_RUN, Some(pod));
    (status, serde_json::from_str(&said).unwrap_or_default())
}

fn resources(pod: &Value) -> &Value {
    &pod["spec"]["containers"][0]["resources"]
}

/// What a case of the list declares: name, number, protocol, host port.
fn ports(case: &Value) -> Vec<Value> {
    let ports = case["ports"].as_array().into_iter().flatten();
    let port = |port: &Value| {
        let mut one = json!({"containerPort": port[1], "protocol": port[2]});
        if port[0] != "" {
            one["name"] = port[0].clone();
        }
        if port[3] != 0 {
            one["hostPort"] = port[3].clone();
        }
        one
    };
    ports.map(port).collect()
}

/// Installs the component. False on Kubernetes 1.20, which has no policies.
fn is_installed(cluster: &Cluster) -> bool {
    cluster.kubectl(&["apply", "--filename", &file("configmap.yaml")]);
    let files = ["admission/policy.yaml", "admission/requests/policy.yaml"].map(file);
    let (ok, said) = cluster.try_kubectl(&["apply", "-f", &files[0], "-f", &files[1]]);
    if Api::of_this_run() == Api::Kubernetes {
        assert!(!ok && said.contains("MutatingAdmissionPolicy"), "{said}");
        return false;
    }
    assert!(ok, "{said}");
    wait_for(PATIENCE, "both policies are in force", || {
        let wrong = tries(&pod(&json!({PORTS: "http"}), &[], false)).0;
        let right = tries(&pod(&json!({PORTS: "http=8080"}), &[], false)).1;
        wrong == 422 && resources(&right)["limits"][PORTS] == "1"
    });
    true
}

#[test]
fn the_policies_judge_and_count_annotations_as_the_plugin_does() {
    let cluster = Cluster::new();
    if is_installed(&cluster) {
        judges_and_counts();
        leaves_others_alone();
        permits_the_namespaces_of_the_configuration(&cluster);
    }
}

fn judges_and_counts() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("annotations.json")).expect("JSON");
    assert!(cases.len() > 100, "{}", cases.len());
    for case in cases {
        let pod = pod(&case["annotations"], &ports(&case), case["hostNetwork"] == true);
        let (status, said) = tries(&pod);
        if let Some(part) = case["rejected"].as_str() {
            let message = said["message"].as_str().unwrap_or_default();
            assert!(status == 422 && message.contains(part), "{case}: {status} {message}");
            // No expression of CEL.
            assert!(!message.contains("variables."), "{case}: {message}");
            continue;
        }
        assert_eq!(status, 201, "{case}: {said}");
        let count = case["count"].as_u64().expect("a number");
        let expected = if count == 0 { Value::Null } else { json!({PORTS: count.to_string()}) };
        for kind in ["limits", "requests"] {
            assert_eq!(resources(&said)[kind], expected, "{case}");
        }
    }
    let wrong = json!({PORTS: "8080", "autoport.cni/mount": "no"});
    let (status, said) = tries(&pod(&wrong, &[], false));
    assert!(status == 422 && said.to_string().contains("autoport.cni/mount must be"), "{said}");
}

fn leaves_others_alone() {
    let list = json!({PORTS: "http=8080, rtp=10000-10009/udp"});
    let asks = pod(&list, &[], false);
    // What the author has written, and other resources, stay.
    for (limits, expected) in [
        (json!({PORTS: "3"}), json!({PORTS: "3"})),
        (json!({"autoport.cni/ports-game": "3"}), json!({"autoport.cni/ports-game": "3"})),
        (json!({"memory": "1Gi"}), json!({"memory": "1Gi", PORTS: "11"})),
    ] {
        let mut pod = asks.clone();
        pod["spec"]["containers"][0]["resources"] = json!({"limits": limits});
        let (status, said) = tries(&pod);
        assert_eq!(status, 201, "{said}");
        assert_eq!(resources(&said)["limits"], expected);
    }
    // In the second container, or an init container.
    for kind in ["containers", "initContainers"] {
        let mut pod = asks.clone();
        let other = json!({"name": "b", "image": "b", "resources": {"limits": {PORTS: "11"}}});
        let all = pod["spec"][kind].as_array().cloned().unwrap_or_default();
        pod["spec"][kind] = all.into_iter().chain([other]).collect();
        let (status, said) = tries(&pod);
        assert_eq!(status, 201, "{said}");
        assert!(resources(&said)["limits"].is_null(), "{said}");
    }
    let ranged = json!({PORTS: "http=8080", "autoport.cni/range": "game"});
    let (_, said) = tries(&pod(&ranged, &[], false));
    assert_eq!(resources(&said)["limits"], json!({"autoport.cni/ports-game": "1"}));
    // No resource can have this name.
    let odd = json!({PORTS: "http=8080", "autoport.cni/range": "a b"});
    let (status, said) = tries(&pod(&odd, &[], false));
    assert!(status == 201 && resources(&said)["limits"].is_null(), "{said}");
    let (status, said) = tries(&pod(&json!({"example.org/ports": "nonsense"}), &[], false));
    assert!(status == 201 && resources(&said)["limits"].is_null(), "{said}");
}

/// One list for the policy and the plugin: that of the `ConfigMap`.
fn permits_the_namespaces_of_the_configuration(cluster: &Cluster) {
    let configures = |configuration: &Value| {
        let data = json!({"data": {"autoport.json": format!("{configuration:#}")}});
        cluster.in_system(&["patch", "configmap", "autoport", "--patch", &data.to_string()]);
    };
    let asks = pod(&json!({PORTS: "http=8080"}), &[], false);
    for (configuration, is_permitted) in [
        (json!({"allowedNamespaces": ["games", "media"]}), false),
        (json!({"allowedNamespaces": ["games", "default"], "minPort": 1024}), true),
        (json!({"allowedNamespaces": []}), false),
        (json!({"allowedNamespaces": null}), true),
        (json!({"allowedNamespaces": ["default-2"]}), false),
        (json!({"agent": "required"}), true),
    ] {
        configures(&configuration);
        wait_for(PATIENCE, &format!("it is in force: {configuration}"), || {
            (tries(&asks).0 == 201) == is_permitted
        });
        let (status, said) = tries(&asks);
        if !is_permitted {
            let told = "Pods in namespace default may not ask for host ports by annotation";
            assert!(status == 403 && said.to_string().contains(told), "{said}");
        }
        let fixed = [json!({"containerPort": 80, "hostPort": 8080})];
        let (status, said) = tries(&pod(&json!({}), &fixed, false));
        assert_eq!(status, 201, "a hostPort of the spec is not concerned: {said}");
    }
    configures(&json!({"aliases": ["bcs"]}));
    let annotations = json!({"pod.kubewharf.kubernetes.io/autoport": "nonsense"});
    wait_for(PATIENCE, "an annotation of a system that is not read does not count", || {
        tries(&pod(&annotations, &[], false)).0 == 201
    });
}
