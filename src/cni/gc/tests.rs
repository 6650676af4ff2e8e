use super::*;

/// The container IDs on the list, and the number of warnings.
fn read(text: &str) -> (Option<Vec<String>>, usize) {
    let object = Object::decode("a test", "", text.as_bytes()).expect("an object");
    let mut judge = Judge::lenient();
    let valid = valid_attachments(&object, "net", &mut judge).expect("GC does not fail");
    let names = |valid: BTreeSet<Attachment>| {
        valid.iter().map(|one| format!("{}/{}", one.container_id(), one.ifname())).collect()
    };
    (valid.map(names), judge.warnings.len())
}

#[test]
fn absent_empty_and_unreadable_are_three_things() {
    assert_eq!(read("{}"), (None, 0));
    for empty in [
        r#"{"cni.dev/valid-attachments":null}"#,
        r#"{"cni.dev/attachments":[]}"#,
        r#"{"cni.dev/valid-attachments":[],"cni.dev/attachments":null}"#,
    ] {
        assert_eq!(read(empty), (Some(vec![]), 0), "{empty}");
    }
    for unreadable in [
        r#"{"cni.dev/valid-attachments":"all"}"#,
        r#"{"cni.dev/valid-attachments":[],"cni.dev/attachments":{}}"#,
        r#"{"cni.dev/valid-attachments":["a"]}"#,
        r#"{"cni.dev/valid-attachments":[{"containerID":5,"ifname":"eth0"}]}"#,
    ] {
        assert_eq!(read(unreadable), (None, 1), "{unreadable}");
    }
}

#[test]
fn both_keys_are_united() {
    let text = r#"{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}],
                   "cni.dev/attachments":[{"ContainerID":"b","IfName":"net1"},
                                          {"containerID":"a","ifname":"eth0"}]}"#;
    assert_eq!(read(text), (Some(vec!["a/eth0".into(), "b/net1".into()]), 0));
}

#[test]
fn names_that_nothing_can_have_are_passed_over() {
    let text = r#"{"cni.dev/valid-attachments":[{"containerID":"../a","ifname":"eth0"},
                   {"containerID":"a"},{"containerID":"b","ifname":"eth0"}]}"#;
    assert_eq!(read(text), (Some(vec!["b/eth0".into()]), 2));
}
