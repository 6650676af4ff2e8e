use autoport::model::{Attachment, HostPod, Pod};
use serde_json::json;

use super::*;

#[test]
fn every_holder_has_a_name() {
    let host_pod = Owner::bare(HostPod::new("uid-1").expect("a UID"));
    assert_eq!(name_of(&host_pod), "host-network pod uid-1");
    let hash = "0123456789abcdef".repeat(4);
    let container = Owner::bare(Attachment::new("blue", &hash, "eth0").expect("a name"));
    assert_eq!(name_of(&container), "container 0123456789ab");
}

/// As podman and crictl do; the whole one is for programs, and for `show`.
#[test]
fn ids_are_short_for_people() {
    let hash = "0123456789abcdef".repeat(4);
    let holder = Attachment::new("blue", &hash, "eth0").expect("a name");
    let mut owner = Owner::bare(holder);
    assert_eq!(owner.to_string(), "container blue/0123456789ab/eth0");
    assert_eq!(format!("{owner:#}"), format!("container blue/{hash}/eth0"));
    let pod = Pod { namespace: "shop".into(), name: "web".into(), uid: String::new() };
    owner.pod = Some(pod);
    assert_eq!(owner.to_string(), "pod shop/web (blue/0123456789ab/eth0)");
    assert_eq!(format!("{owner:#}"), format!("pod shop/web (blue/{hash}/eth0)"));
    // Not the ID of a container as these runtimes make it.
    let other = Attachment::new("blue", &"x".repeat(64), "eth0").expect("a name");
    assert_eq!(other.to_string(), format!("{other:#}"));
}

/// Each command takes the beginning of an ID, and names those that it could mean.
#[test]
fn the_beginning_of_an_id_is_enough() {
    let id = |start: &str| format!("{start}{}", "0".repeat(64 - start.len()));
    let [one, other] = ["abc1", "abd2"].map(id);
    let record = |id: &String| {
        let policy =
            json!({"masquerade": "local", "markBit": 13, "sourceRanges": [], "hostAddresses": []});
        let record = json!({
            "network": "blue", "containerId": id, "ifname": "eth0", "mappings": [], "policy": policy,
            "podAddresses": [], "created": 0, "bootId": "",
        });
        serde_json::from_value::<Record>(record).expect("a record")
    };
    let listing =
        || Listing { attachments: [&one, &other].map(record).into(), ..Listing::default() };
    let mut found = listing();
    found.narrow_to_name("abc").expect("one has it");
    assert_eq!(found.attachments.len(), 1);
    let error = listing().narrow_to_name("ab").expect_err("both have it");
    let told =
        "ab is ambiguous: it matches abc100000000, abd200000000; give more of the name or ID";
    assert_eq!(error.to_string(), told);
}
