//! Annotations that a document shows can be used.

use std::ffi::OsString;

use autoport::cni::{Call, Env, Error, NodeFiles};
use serde_json::json;

use super::*;

/// How many ports the node would choose for a Pod with this annotation.
fn requests(annotation: &str) -> usize {
    let env: Env = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/pod"),
        ("CNI_PATH", "/opt/cni/bin"),
    ]
    .iter()
    .map(|(name, value)| (OsString::from(name), OsString::from(value)))
    .collect();
    let stdin = json!({
        "type": "autoport", "name": "pods", "cniVersion": "1.0.0",
        "runtimeConfig": {
            "io.kubernetes.cri.pod-annotations": { "autoport.cni/ports": annotation }
        },
        "prevResult": { "cniVersion": "1.0.0", "ips": [{ "address": "10.200.0.2/24" }] },
    });
    let declared = |_: &_, _: &_, _| Ok::<_, Error>("http=8080, metrics=9090".to_owned());
    let parsed = Call::parse(&env, stdin.to_string().as_bytes(), NodeFiles::default, declared)
        .unwrap_or_else(|error| panic!("{annotation}: {error}"));
    let Call::Add(claim) = parsed.call else { panic!("ADD was asked for") };
    claim.ask.requested.len()
}

/// Every annotation that a document shows can be used as it is.
#[test]
fn what_is_shown_is_accepted() {
    let mut seen = 0;
    for path in ["README.md", "docs/annotations.md", "conflist-examples/pod.yaml"] {
        for line in read(path).lines() {
            let Some(value) = line.trim().strip_prefix("autoport.cni/ports: \"") else {
                continue;
            };
            let value = value.strip_suffix('"').expect(line);
            assert_eq!(requests(value), value.split(',').count(), "{path}: {line}");
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} annotations");
    let document = read("docs/annotations.md");
    let table = document.split("| item | asks for |").nth(1).expect("the table of items");
    let items: Vec<_> = table
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert!(items.len() >= 5, "{items:?}");
    for item in items {
        assert_eq!(requests(item), 1, "{item}");
    }
}
