use super::*;
use crate::model::{ContainerPort, Grant, NamespaceId, Netns, Pod, Request};

#[test]
fn the_tree_is_as_documented() {
    let node = Node::new();
    save(&node, "4f2a", &[host("0.0.0.0", 8080), host("::", 8080), host("192.0.2.1", 443)]);
    assert_eq!(
        node.tree(),
        [
            "attachments/",
            "attachments/cbr0:4f2a:eth0.json",
            "ports/",
            "ports/tcp/",
            "ports/tcp/443/",
            "ports/tcp/443/192.0.2.1 -> ../../../attachments/cbr0:4f2a:eth0.json",
            "ports/tcp/8080/",
            "ports/tcp/8080/0.0.0.0 -> ../../../attachments/cbr0:4f2a:eth0.json",
            "ports/tcp/8080/:: -> ../../../attachments/cbr0:4f2a:eth0.json",
        ]
    );
    let through_the_index = fs::read_to_string(node.path("ports/tcp/8080/::")).expect("reading");
    assert!(through_the_index.contains("\"containerId\": \"4f2a\""), "{through_the_index}");
}

/// Every field, in its place: the version first, and each as earlier and later versions read it. What was saved
/// is loaded.
#[test]
fn a_record_is_written_as_it_always_was() {
    let node = Node::new();
    let locked = node.lock();
    let mut record = record(&locked, "4f2a", &[host("0.0.0.0", 20_000), host("::1", 8080)]);
    record.mappings[1].target = None;
    record.policy.source_ranges = vec!["2001:db8::/32".parse().expect("a network")];
    record.policy.host_addresses = vec!["192.0.2.1/32".parse().expect("a network")];
    record.owner.pod = Some(Pod { namespace: "shop".into(), name: "web".into(), uid: "u1".into() });
    let id = |device| NamespaceId { device, inode: u64::MAX };
    let path = "/var/run/netns/x".to_owned();
    record.owner.netns = Some(Netns { path, id: id(4), seen_from: id(5) });
    let from = ContainerPort::From(NonZeroU16::MIN);
    let request = Request {
        name: Some("http".into()),
        range: Some("game".into()),
        address: Some([192, 0, 2, 1].into()),
        ..Request::new(vec![Protocol::Tcp, Protocol::Udp], from)
    };
    let same = Request::new(vec![Protocol::Sctp], ContainerPort::Same);
    let grant = |request| Grant { request, port: host("::", 20_000).port };
    record.grants = vec![grant(request), grant(same)];
    record.dialects = [Dialect::KubeWharf, Dialect::Bcs].into();
    locked.save(&record).expect("saving");
    assert_eq!(locked.record(&key_of("4f2a")).expect("loading"), Some(record.clone()));
    assert_eq!(locked.record(&key_of("4f2")).expect("loading"), None);
    assert_eq!(locked.owned(&record).expect("looking"), record.mappings);
    let written = |text: &str| text.replace("BOOT", &record.boot_id);
    let text = fs::read_to_string(node.path("attachments/cbr0:4f2a:eth0.json")).expect("reading");
    assert_eq!(text, written(include_str!("record.json")));

    let mut host_pod = super::record(&locked, "none", &[]);
    host_pod.owner = Owner::bare(HostPod::new("u1").expect("a UID"));
    locked.save(&host_pod).expect("saving");
    let text = fs::read_to_string(node.path("hostpods/u1.json")).expect("reading");
    assert_eq!(text, written(include_str!("hostpod.json")));
    drop(locked);
    let shared = node.read().expect("a store");
    assert_eq!(shared.record(&key_of("4f2a")).expect("loading"), Some(record));
}

#[test]
fn equal_records_have_equal_bytes() {
    let node = Node::new();
    let text = |hosts: &[HostPort]| {
        save(&node, "4f2a", hosts);
        fs::read_to_string(node.path("attachments/cbr0:4f2a:eth0.json")).expect("reading")
    };
    let hosts = [host("0.0.0.0", 8080), host("192.0.2.1", 443)];
    let first = text(&hosts);
    text(&hosts[..1]);
    assert_eq!(text(&hosts), first);
}

#[test]
fn a_container_id_of_any_length_works() {
    let node = Node::new();
    let long = "c".repeat(4000);
    let record = save(&node, &long, &[host("0.0.0.0", 80)]);
    assert!(node.holds(&long));
    assert!(!node.holds(&"c".repeat(3999)));
    let locked = node.lock();
    assert_eq!(locked.record(&key_of(&long)).expect("loading"), Some(record.clone()));
    assert_eq!(locked.owned(&record).expect("looking").len(), 1);
    locked.remove(&record).expect("removing");
    assert_eq!(node.tree(), ["attachments/", "ports/", "ports/tcp/"]);
}

#[test]
fn a_lookup_makes_nothing() {
    let node = Node::new();
    assert!(!node.holds("4f2a"));
    assert!(node.read().is_none());
    assert!(!node.dir.exists());
    fs::create_dir(&node.dir).expect("making a directory");
    assert!(node.read().is_none(), "made by a package, say");
    assert_eq!(fs::read_dir(&node.dir).expect("listing").count(), 0);
    fs::remove_dir(&node.dir).expect("removing the directory");
    fs::write(&node.dir, "").expect("writing a file");
    assert!(!node.holds("4f2a"));
}

#[test]
fn an_instance_is_made_once() {
    let node = Node::new();
    let first = node.lock().instance().clone();
    assert_eq!(first.id.len(), 32);
    assert!(first.id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", first.id);
    assert_eq!(*node.lock().instance(), first);
    assert_eq!(*node.read().expect("a store").instance(), first);
    assert_ne!(Node::new().lock().instance().id, first.id);
    node.lock().belongs_here().expect("made here");
}

#[test]
fn a_store_ends_with_its_last_record_and_begins_anew() {
    let node = Node::new();
    let record = save(&node, "4f2a", &[host("0.0.0.0", 80)]);
    let first = node.lock().instance().id.clone();
    let bridge = Inlet { interface: "cni0".into(), switched_on: true, guarded: true };
    node.lock().note_loopback(&bridge).expect("noting");
    node.lock().note_loopback(&bridge).expect("noting it again");
    assert_eq!(node.lock().loopback().expect("listing"), [bridge]);
    assert!(!node.lock().end().expect("looking"), "somebody has a port");
    node.lock().remove(&record).expect("removing");
    node.lock().forget_loopback("cni0").expect("forgetting");
    node.lock().forget_loopback("cni0").expect("forgetting it again");
    assert_eq!(node.lock().loopback().expect("listing"), []);
    assert!(node.lock().end().expect("ending"));
    assert!(node.read().is_none(), "nothing is recorded");
    assert_ne!(node.lock().instance().id, first);
}

#[test]
fn the_files_of_the_agents_end_with_the_store() {
    let node = Node::new();
    let files = [AGENT_LOCK, AGENT_HEARTBEAT, AGENT_NEXT, "requests/u1.json", "requests"];
    let left = || files.iter().filter(|file| node.dir.join(file).exists()).count();
    let record = save(&node, "4f2a", &[host("0.0.0.0", 80)]);
    fs::create_dir(node.dir.join("requests")).expect("a directory");
    for file in &files[..4] {
        fs::write(node.dir.join(file), "").expect("a file");
    }
    assert!(!node.lock().end().expect("looking") && left() == 5, "a pod has a port");
    node.lock().remove(&record).expect("removing");
    assert!(node.lock().end().expect("ending") && left() == 0);
}

/// An interface of a pod goes with the pod, without a word to us.
#[test]
fn notes_of_interfaces_that_are_gone_do_not_pile_up() {
    let node = Node::new();
    let inlet = |interface: &str, switched_on, guarded| Inlet {
        interface: interface.to_owned(),
        switched_on,
        guarded,
    };
    // The only interface that there is everywhere.
    let lasting = inlet("lo", false, false);
    node.lock().note_loopback(&lasting).expect("noting");
    let mut forgotten = Vec::new();
    for number in 0..100 {
        let gone = inlet(&format!("cali{number}"), true, true);
        forgotten.extend(node.lock().note_loopback(&gone).expect("noting"));
        let noted = node.lock().loopback().expect("listing");
        assert!(noted.len() <= 16 && noted.contains(&gone) && noted.contains(&lasting));
    }
    assert!(forgotten.len() > 80, "{forgotten:?}");
    node.lock().tidy().expect("tidying");
    assert_eq!(node.lock().loopback().expect("listing"), std::slice::from_ref(&lasting));
    assert_eq!(node.lock().inlet("lo").expect("reading"), Some(lasting));
    assert_eq!(node.lock().inlet("cali1").expect("reading"), None);
}

#[test]
fn ten_thousand_mappings_are_no_trouble() {
    for node in [Node::new(), Node::on_disk()] {
        ten_thousand_mappings(&node);
    }
}

fn ten_thousand_mappings(node: &Node) {
    let hosts: Vec<HostPort> = (20_000..30_000).map(|port| host("0.0.0.0", port)).collect();
    let begun = std::time::Instant::now();
    let lap = |what: &str| tell(what, begun.elapsed());
    let saved = save(node, "4f2a", &hosts);
    lap("saved");
    let locked = node.lock();
    assert_eq!(holders(&locked, &hosts), [("4f2a".to_owned(), hosts.clone())]);
    lap("found who holds them");
    assert_eq!(locked.owned(&saved).expect("looking").len(), hosts.len());
    lap("checked the ownership");
    locked.save(&saved).expect("saving");
    lap("saved again");
    locked.save(&record(&locked, "4f2a", &hosts[..1])).expect("saving");
    lap("trimmed to one");
    assert_eq!(node.tree().len(), 6);
}

#[expect(clippy::print_stderr, reason = "shown by --nocapture only; a limit would be a flaky test")]
fn tell(what: &str, since: Duration) {
    eprintln!("{:6.1} ms: {what}", since.as_secs_f64() * 1000.0);
}
