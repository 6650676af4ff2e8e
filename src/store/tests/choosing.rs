//! What helps to choose a number: cheap look-ups, cursors, and the memory of what was released.

use super::*;
use crate::model::{ContainerPort, Grant, Pod, Request};

const NOW: u64 = 1_700_000_000;

fn port(number: u16) -> NonZeroU16 {
    number.try_into().expect("a port")
}

#[test]
fn a_look_at_one_number_takes_any_entry_for_a_holder() {
    let node = Node::new();
    save(&node, "4f2a", &[host("192.0.2.1", 80), host("::", 81)]);
    fs::create_dir(node.path("ports/tcp/82")).expect("making a directory");
    let shared = node.read().expect("a store");
    let held = |number| shared.entered_at(Protocol::Tcp, port(number)).expect("looking");
    assert_eq!([79, 80, 81, 82, 83].map(held), [false, true, true, true, false]);
    assert!(!shared.entered_at(Protocol::Udp, port(80)).expect("looking"));
    assert_eq!(holders(&shared, &[host("192.0.2.1", 82)]), [], "one that leads nowhere");
}

#[test]
fn each_range_has_its_own_cursor() {
    let node = Node::new();
    let locked = node.lock();
    let long = "n".repeat(4000);
    let names = [None, Some("default"), Some("game"), Some(long.as_str()), Some("../x"), Some("")];
    for name in names {
        assert_eq!(locked.cursor(name).expect("reading"), None);
    }
    for (name, number) in names.into_iter().zip(20000..) {
        locked.set_cursor(name, port(1)).expect("writing");
        locked.set_cursor(name, port(number)).expect("writing again");
    }
    for (name, number) in names.into_iter().zip(20000..) {
        assert_eq!(locked.cursor(name).expect("reading"), Some(port(number)), "{name:?}");
    }
    let tree = node.tree();
    assert!(tree.contains(&"cursors/=default -> 20000".to_owned()), "{tree:?}");
    assert!(tree.contains(&"cursors/default -> 20001".to_owned()), "{tree:?}");
}

#[test]
fn a_damaged_cursor_is_none_and_can_be_set() {
    for (text, link) in [("20000", false), ("0", true), ("65536", true), ("x", true)] {
        let node = Node::new();
        let locked = node.lock();
        fs::create_dir(node.path("cursors")).expect("making a directory");
        let path = node.path("cursors/=default");
        if link {
            std::os::unix::fs::symlink(text, &path).expect("linking");
        } else {
            fs::write(&path, text).expect("writing");
        }
        assert_eq!(locked.cursor(None).expect("reading"), None, "{text}");
        locked.set_cursor(None, port(7)).expect("writing");
        assert_eq!(locked.cursor(None).expect("reading"), Some(port(7)));
    }
}

/// A record that holds 80 by its own request and two numbers in a row by the node's choice.
fn granted(locked: &Shared, container_id: &str, uid: &str) -> Record {
    let hosts = [host("0.0.0.0", 80), host("0.0.0.0", 20000), host("0.0.0.0", 20001)];
    let mut record = record(locked, container_id, &hosts);
    record.owner.pod =
        Some(Pod { namespace: "shop".into(), name: "web".into(), uid: uid.to_owned() });
    record.grants = vec![Grant {
        request: Request {
            name: None,
            protocols: vec![Protocol::Tcp],
            container_port: ContainerPort::Same,
            count: port(2),
            address: None,
            range: None,
        },
        port: port(20000),
    }];
    record
}

fn released(locked: &Locked, record: &Record, now: u64) {
    locked.save(record).expect("saving");
    locked.remember(record, now).expect("remembering");
    locked.remove(record).expect("removing");
}

fn time_of(shared: &Shared, protocol: Protocol, number: u16, now: u64) -> Option<u64> {
    Times::default().of(shared, protocol, port(number), now)
}

#[test]
fn what_was_released_is_remembered_for_ten_minutes() {
    let node = Node::new();
    let locked = node.lock();
    let record = granted(&locked, "old", "u1");
    released(&locked, &record, NOW);
    let at = |number, now| time_of(&locked, Protocol::Tcp, number, now);
    for now in [NOW, NOW + 1, NOW + REMEMBERED - 1, NOW - 1] {
        let memory = locked.memory(&record.owner, now);
        assert_eq!(memory.grants(&record.owner.holder), record.grants, "{now}");
        for number in [80, 20000, 20001] {
            assert_eq!(at(number, now), Some(NOW), "{now}");
            assert!(memory.has(Protocol::Tcp, port(number), NOW));
            assert!(!memory.has(Protocol::Udp, port(number), NOW));
            assert!(!memory.has(Protocol::Tcp, port(number), NOW + 1), "another had it since");
        }
    }
    for now in [NOW + REMEMBERED, NOW + 10 * REMEMBERED, 0] {
        assert_eq!(at(20001, now), None, "{now}");
        assert_eq!(locked.memory(&record.owner, now), Memory::default());
    }
    assert_eq!(at(20002, NOW), None);
    assert_eq!(at(65535, NOW), None);
    assert_eq!(time_of(&locked, Protocol::Udp, 20001, NOW), None);
}

#[test]
fn a_pod_finds_its_numbers_at_the_same_interface_of_any_sandbox() {
    let node = Node::new();
    let locked = node.lock();
    let old = granted(&locked, "old", "u1");
    released(&locked, &old, NOW);
    let finds = |record: &Record| {
        let grants = locked.memory(&record.owner, NOW).grants(&record.owner.holder);
        !grants.is_empty()
    };
    assert!(finds(&old) && finds(&granted(&locked, "new", "u1")));
    assert!(!finds(&granted(&locked, "old", "u2")), "another pod");
    assert!(!finds(&granted(&locked, "old", "")), "a container without pod");
    let mut elsewhere = old.clone();
    elsewhere.owner.holder = Attachment::new("net2", "old", "eth1").expect("valid").into();
    assert!(!finds(&elsewhere), "another network");
    assert!(locked.memory(&elsewhere.owner, NOW).has(Protocol::Tcp, port(20000), NOW), "same pod");
    let nameless = granted(&locked, "alone", "");
    released(&locked, &nameless, NOW);
    let podman = Record { owner: Owner { pod: None, ..nameless.owner.clone() }, ..nameless };
    assert!(finds(&podman), "by the container");
    assert!(!finds(&granted(&locked, "x", "alone")), "a UID is no container");
    for uid in ["../../x", "a:b", "\n", &"u".repeat(4000)] {
        let odd = granted(&locked, "old", uid);
        released(&locked, &odd, NOW);
        assert!(finds(&odd), "{uid:?}");
    }
    assert!(node.tree().iter().all(|name| !name.contains("..")), "{:?}", node.tree());
}

/// `podman network reload`: the runtime listens for the container between DEL and ADD.
#[test]
fn a_container_is_reloading_for_a_minute() {
    let node = Node::new();
    let locked = node.lock();
    let record = granted(&locked, "c1", "");
    released(&locked, &record, NOW);
    let memory = locked.memory(&record.owner, NOW);
    let listens = |network: &str, container: &str, number, now| {
        let holder = Attachment::new(network, container, "eth0").expect("valid").into();
        memory.is_reloading(&holder, &host("0.0.0.0", number), now)
    };
    assert!(listens("net", "c1", 20000, NOW) && listens("net", "c1", 80, NOW + 59));
    assert!(listens("net2", "c1", 80, NOW), "in the container's other network");
    assert!(!listens("net", "c1", 81, NOW), "never held");
    assert!(!listens("net", "c2", 80, NOW), "another container");
    assert!(!listens("net", "c1", 80, NOW + 60), "a daemon has taken the port since");
    // The new sandbox of a pod has no listener of the old one's.
    let pod = granted(&locked, "old", "u1");
    released(&locked, &pod, NOW);
    let memory = locked.memory(&pod.owner, NOW);
    let new = granted(&locked, "new", "u1").owner.holder;
    assert!(!memory.is_reloading(&new, &host("0.0.0.0", 80), NOW));
}

/// The late DEL of a sandbox that was superseded.
#[test]
fn what_was_taken_over_is_not_released() {
    let node = Node::new();
    let locked = node.lock();
    let old = granted(&locked, "old", "u1");
    locked.save(&old).expect("saving");
    locked.save(&granted(&locked, "new", "u1")).expect("saving");
    locked.remember(&old, NOW).expect("remembering");
    locked.remove(&old).expect("removing");
    assert_eq!(locked.memory(&old.owner, NOW), Memory::default());

    let part = granted(&locked, "part", "u3");
    locked.save(&part).expect("saving");
    locked.save(&record(&locked, "other", &[host("0.0.0.0", 20001)])).expect("saving");
    let part = Record { mappings: part.mappings[..1].to_vec(), ..part };
    released(&locked, &part, NOW);
    let memory = locked.memory(&part.owner, NOW);
    assert_eq!(memory.grants(&part.owner.holder), [], "half of a run is not what was granted");
    assert!(memory.has(Protocol::Tcp, port(80), NOW));
    assert!(!memory.has(Protocol::Tcp, port(20001), NOW));
}

/// However many pods come and go, what is kept is bounded, and no release has much to delete.
#[test]
fn the_memory_does_not_grow_and_the_latest_counts() {
    let node = Node::new();
    let locked = node.lock();
    let files = || {
        let periods = fs::read_dir(node.path("released")).expect("listing");
        let dirs =
            periods.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir());
        dirs.map(|dir| fs::read_dir(dir).expect("listing").count()).sum::<usize>()
    };
    let mut most = 0;
    for step in 0..400 {
        let now = NOW + step * REMEMBERED / 100;
        released(&locked, &granted(&locked, "c", &format!("u{step}")), now);
        assert_eq!(time_of(&locked, Protocol::Tcp, 20000, now), Some(now));
        most = most.max(files());
    }
    assert!((200..=220).contains(&most), "two periods and what a few releases left: {most}");
    let before = files();
    released(&locked, &granted(&locked, "c", "last"), NOW + 100 * REMEMBERED);
    assert!(before - files() <= 2 * 8, "few at a time");
}

#[test]
fn a_damaged_memory_is_none() {
    let node = Node::new();
    let locked = node.lock();
    let record = granted(&locked, "old", "u1");
    released(&locked, &record, NOW);
    let (times, number) = (node.path("released/tcp"), NOW / REMEMBERED);
    let memory = node.path("released").join(format!("{number}/pod:u1.json"));
    for damage in ["{", "", "{\"version\": 99, \"releases\": []}"] {
        fs::write(&memory, damage).expect("writing");
        assert_eq!(locked.memory(&record.owner, NOW), Memory::default(), "{damage}");
    }
    fs::write(&times, "x").expect("writing");
    assert_eq!(time_of(&locked, Protocol::Tcp, 20000, NOW), None);
    fs::remove_file(&times).expect("removing");
    fs::create_dir_all(times.join("20000")).expect("making a directory");
    assert_eq!(time_of(&locked, Protocol::Tcp, 20000, NOW), None);
    released(&locked, &record, NOW);
    assert_eq!(time_of(&locked, Protocol::Tcp, 20000, NOW), Some(NOW), "it is made again");
    assert_eq!(locked.memory(&record.owner, NOW).grants(&record.owner.holder), record.grants);
}

#[test]
fn a_listing_says_what_looks_say() {
    let node = Node::new();
    let locked = node.lock();
    for number in [80, 9, 20000, 65535] {
        let container = format!("c{number}");
        locked.save(&record(&locked, &container, &[host("::", number)])).expect("saving");
    }
    // No port is spelt so.
    for name in ["080", "+81", "82x", "65536", "0"] {
        fs::create_dir_all(node.path("ports/tcp").join(name)).expect("making a directory");
    }
    let all = locked.entered_ports(Protocol::Tcp).expect("listing");
    assert_eq!(all, [9, 80, 20000, 65535].map(port));
    for number in (1..=65535).map(port) {
        let entered = locked.entered_at(Protocol::Tcp, number).expect("looking");
        assert_eq!(all.contains(&number), entered, "{number}");
    }
    assert_eq!(locked.entered_ports(Protocol::Udp).expect("listing"), []);
}

/// For the report: `cargo test --release --lib choosing::figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn figures() {
    let node = Node::new();
    let locked = node.lock();
    for number in 20000..29900 {
        locked.save(&record(&locked, &format!("c{number}"), &[host("0.0.0.0", number)])).expect("");
    }
    let timed = |what: &str, work: &dyn Fn()| {
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let begun = std::time::Instant::now();
            work();
            best = best.min(begun.elapsed());
        }
        println!("{what}: {best:?}");
    };
    timed("entered_at, 10000 numbers, 9900 held", &|| {
        let held = (20000..30000).filter(|n| locked.entered_at(Protocol::Tcp, port(*n)).expect(""));
        assert_eq!(held.count(), 9900);
    });
    timed("entered_ports, 9900 held", &|| {
        assert_eq!(locked.entered_ports(Protocol::Tcp).expect("").len(), 9900);
    });
    timed("times, nothing there", &|| {
        assert_eq!(time_of(&locked, Protocol::Tcp, 1, NOW), None);
    });
    timed("cursor", &|| drop(locked.cursor(None)));
    timed("set_cursor", &|| locked.set_cursor(None, port(1)).expect(""));
    let one = granted(&locked, "old", "u1");
    locked.save(&one).expect("saving");
    timed("remember, 3 ports", &|| locked.remember(&one, NOW).expect(""));
    timed("memory", &|| drop(locked.memory(&one.owner, NOW)));
    timed("save, 3 ports", &|| locked.save(&one).expect(""));
}
