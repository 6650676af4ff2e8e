use super::*;

#[test]
fn holders_are_those_who_overlap() {
    let node = Node::new();
    save(&node, "any4", &[host("0.0.0.0", 80)]);
    save(&node, "one4", &[host("192.0.2.1", 81), host("192.0.2.1", 82)]);
    save(&node, "other4", &[host("192.0.2.2", 81)]);
    save(&node, "any6", &[host("::", 80)]);
    let shared = node.read().expect("a store");
    let held = |wanted: &[HostPort]| -> Vec<String> {
        holders(&shared, wanted).into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(held(&[host("0.0.0.0", 80)]), ["any4"]);
    assert_eq!(held(&[host("192.0.2.9", 80)]), ["any4"]);
    assert_eq!(held(&[host("2001:db8::1", 80)]), ["any6"]);
    assert_eq!(held(&[host("0.0.0.0", 80), host("::", 80)]), ["any4", "any6"]);
    assert_eq!(held(&[host("0.0.0.0", 81)]), ["one4", "other4"]);
    assert_eq!(held(&[host("192.0.2.2", 81)]), ["other4"]);
    assert_eq!(held(&[host("192.0.2.3", 81), host("0.0.0.0", 83)]), Vec::<String>::new());
    let udp = HostPort { protocol: Protocol::Udp, ..host("0.0.0.0", 80) };
    assert_eq!(held(&[udp]), Vec::<String>::new());
    assert_eq!(
        holders(&shared, &[host("0.0.0.0", 81), host("0.0.0.0", 82), host("0.0.0.0", 83)]),
        [
            ("one4".to_owned(), vec![host("192.0.2.1", 81), host("192.0.2.1", 82)]),
            ("other4".to_owned(), vec![host("192.0.2.2", 81)]),
        ],
        "each once, with all it holds of them"
    );
}

#[test]
fn a_superseded_record_owns_nothing_and_its_removal_takes_nothing() {
    let node = Node::new();
    let old = save(&node, "old", &[host("0.0.0.0", 80), host("0.0.0.0", 81)]);
    let new = save(&node, "new", &[host("0.0.0.0", 80)]);
    let locked = node.lock();
    let owned = locked.owned(&old).expect("looking");
    assert_eq!(owned.iter().map(|mapping| mapping.host).collect::<Vec<_>>(), [host("0.0.0.0", 81)]);
    assert_eq!(holders(&locked, &[host("0.0.0.0", 80)])[0].0, "new");
    locked.remove(&old).expect("removing");
    assert_eq!(locked.owned(&new).expect("looking"), new.mappings);
    assert_eq!(
        node.tree(),
        [
            "attachments/",
            "attachments/cbr0:new:eth0.json",
            "ports/",
            "ports/tcp/",
            "ports/tcp/80/",
            "ports/tcp/80/0.0.0.0 -> ../../../attachments/cbr0:new:eth0.json",
        ]
    );
}

#[test]
fn saving_again_trims_what_is_no_longer_held() {
    let node = Node::new();
    save(&node, "4f2a", &[host("0.0.0.0", 80), host("::", 80), host("0.0.0.0", 81)]);
    save(&node, "4f2a", &[host("0.0.0.0", 80), host("0.0.0.0", 82)]);
    let ports: Vec<String> = node.tree().into_iter().filter(|name| name.contains(" -> ")).collect();
    assert_eq!(
        ports,
        [
            "ports/tcp/80/0.0.0.0 -> ../../../attachments/cbr0:4f2a:eth0.json",
            "ports/tcp/82/0.0.0.0 -> ../../../attachments/cbr0:4f2a:eth0.json",
        ]
    );
    assert!(!node.path("ports/tcp/81").exists());
}

#[test]
fn a_record_that_holds_nothing_leaves_no_entry() {
    let node = Node::new();
    let saved = save(&node, "4f2a", &[]);
    assert_eq!(node.tree(), ["attachments/", "attachments/cbr0:4f2a:eth0.json"]);
    let locked = node.lock();
    assert_eq!(locked.record(&key_of("4f2a")).expect("loading"), Some(saved.clone()));
    locked.remove(&saved).expect("removing");
    locked.remove(&saved).expect("removing again");
    assert_eq!(node.tree(), ["attachments/"]);
}

#[test]
fn records_lists_everybody_once() {
    let node = Node::new();
    save(&node, "b", &[host("0.0.0.0", 80), host("::", 80)]);
    save(&node, "a", &[host("0.0.0.0", 81)]);
    fs::write(node.path("attachments/.cbr0:x:eth0.json"), "half").expect("writing");
    fs::write(node.path("attachments/README"), "").expect("writing");
    fs::write(node.path("attachments/cbr0:c:eth0.json"), "half").expect("writing");
    let found = node.read().expect("a store").records().expect("listing");
    let names: Vec<String> = found
        .iter()
        .map(|found| match found {
            Ok(record) => record.owner.container_id().unwrap_or("-").to_owned(),
            Err(unreadable) => unreadable.key.to_string(),
        })
        .collect();
    assert_eq!(names, ["a", "b", "cbr0:c:eth0"]);
}

#[test]
fn another_namespace_is_told_and_can_take_over() {
    let node = Node::new();
    let saved = save(&node, "4f2a", &[host("0.0.0.0", 80)]);
    let text = fs::read_to_string(node.path("instance")).expect("reading");
    let inode = node.lock().instance().netns.inode;
    let moved = text.replace(&format!("\"inode\":{inode}"), "\"inode\":4026500000");
    assert_ne!(moved, text);
    fs::write(node.path("instance"), moved).expect("writing");

    let mut locked = node.lock();
    let error = locked.belongs_here().expect_err("it does not");
    assert!(error.to_string().contains("belongs to network namespace 4026500000"), "{error}");
    assert!(error.to_string().contains("own stateDir"), "{error}");
    assert_eq!(locked.record(&key_of("4f2a")).expect("a DEL still sees it"), Some(saved.clone()));

    let id = locked.instance().id.clone();
    locked.adopt().expect("adopting");
    locked.belongs_here().expect("adopted");
    drop(locked);
    let shared = node.read().expect("a store");
    shared.belongs_here().expect("adopted for good");
    assert_eq!(shared.instance().id, id);
    assert_eq!(shared.record(&key_of("4f2a")).expect("loading"), Some(saved));
}

#[test]
fn a_host_network_pod_holds_like_an_attachment() {
    let node = Node::new();
    let locked = node.lock();
    let pod = HostPod::new("0b1c-uid").expect("a UID");
    let mut record = record(&locked, "any", &[host("0.0.0.0", 80)]);
    record.owner = Owner::bare(pod.clone());
    record.mappings[0].target = None;
    record.dialects = [Dialect::KubeWharf].into();
    locked.save(&record).expect("saving");
    let key = Key::of(&pod.into());
    assert_eq!(locked.record(&key).expect("reading"), Some(record.clone()));
    assert_eq!(
        node.tree()[..],
        [
            "hostpods/",
            "hostpods/0b1c-uid.json",
            "ports/",
            "ports/tcp/",
            "ports/tcp/80/",
            "ports/tcp/80/0.0.0.0 -> ../../../hostpods/0b1c-uid.json",
        ]
    );
    let held = locked.holders(&[host("192.0.2.1", 80)]).expect("looking");
    assert!(matches!(&held[0].who, Who::Record(found) if **found == record));
    let all = locked.records().expect("listing");
    assert!(matches!(&all[..], [Ok(found)] if *found == record));
    locked.tidy().expect("tidying");
    locked.remove(&record).expect("removing");
    assert_eq!(holders(&locked, &[host("0.0.0.0", 80)]), []);
}

#[test]
fn a_holder_is_an_attachment_or_a_host_network_pod() {
    let read = |text: &str| serde_json::from_str::<Holder>(text);
    let attachment: Holder = attachment("4f2a").into();
    let pod: Holder = HostPod::new("u1").expect("a UID").into();
    for holder in [attachment, pod] {
        let text = serde_json::to_string(&holder).expect("encoding");
        assert_eq!(read(&text).expect(&text), holder);
    }
    for bad in [
        "{}",
        r#"{"network":"cbr0","containerId":"4f2a"}"#,
        r#"{"network":"../cbr0","containerId":"4f2a","ifname":"eth0"}"#,
        r#"{"network":"cbr0","containerId":"4f2a","ifname":"eth0","hostPod":"u1"}"#,
        r#"{"hostPod":"../u1"}"#,
        r#"{"hostPod":""}"#,
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}
