//! What helps to choose a number: cheap look-ups, cursors, and the memory of what was released.

use super::*;
use crate::model::{ContainerPort, Grant, Pod, Wish};

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

/// A record that holds 80 by its own wish and two numbers in a row by the node's choice.
fn granted(locked: &Shared, container_id: &str, uid: &str) -> Record {
    let hosts = [host("0.0.0.0", 80), host("0.0.0.0", 20000), host("0.0.0.0", 20001)];
    let mut record = record(locked, container_id, &hosts);
    record.owner.pod =
        Some(Pod { namespace: "shop".into(), name: "web".into(), uid: uid.to_owned() });
    record.grants = vec![Grant {
        wish: Wish {
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

fn released(locked: &Locked, record: &Record, now: u64) -> Releaser {
    locked.save(record).expect("saving");
    locked.remember(record, now).expect("remembering");
    locked.remove(record).expect("removing");
    Releaser::of(&record.owner)
}

#[test]
fn what_was_released_is_remembered_for_ten_minutes() {
    let node = Node::new();
    let locked = node.lock();
    let record = granted(&locked, "old", "u1");
    let releaser = released(&locked, &record, NOW);
    let at = |number, now| locked.released_at(Protocol::Tcp, port(number), now).expect("looking");
    let mark = Mark { by: releaser.clone(), at: NOW };
    for now in [NOW, NOW + 1, NOW + REMEMBERED - 1, NOW - 1] {
        assert_eq!(at(20001, now), Some(mark.clone()), "{now}");
        let told = locked.released_to(&releaser, now).expect("a memory");
        assert_eq!((told.at, told.grants), (NOW, record.grants.clone()));
        assert!(told.hosts.iter().eq(record.mappings.iter().map(|m| &m.host)));
    }
    for now in [NOW + REMEMBERED, NOW + 10 * REMEMBERED, 0] {
        assert_eq!(at(20001, now), None, "{now}");
        assert_eq!(locked.released_to(&releaser, now), None);
    }
    assert_eq!(at(20002, NOW), None);
    assert_eq!(locked.released_at(Protocol::Udp, port(20001), NOW).expect("looking"), None);
}

#[test]
fn the_new_sandbox_of_a_pod_is_the_same_releaser_and_nobody_else_is() {
    let node = Node::new();
    let locked = node.lock();
    let releaser = |record: &Record| Releaser::of(&record.owner);
    let old = granted(&locked, "old", "u1");
    assert_eq!(releaser(&old), releaser(&granted(&locked, "new", "u1")));
    assert_ne!(releaser(&old), releaser(&granted(&locked, "old", "u2")));
    let nameless = granted(&locked, "old", "");
    let podman = Record { owner: Owner { pod: None, ..old.owner.clone() }, ..old.clone() };
    assert_eq!(releaser(&nameless), releaser(&podman), "by the container");
    assert_ne!(releaser(&nameless), releaser(&granted(&locked, "old2", "")));
    assert_ne!(releaser(&granted(&locked, "x", "old")), releaser(&podman), "a UID is no container");
    let mut other_network = old.clone();
    other_network.owner.holder = Attachment::new("net2", "old", "eth1").expect("valid").into();
    assert_ne!(releaser(&old), releaser(&other_network));
    assert!(releaser(&old).is_beside(&releaser(&other_network)), "it is the same pod");
    assert!(!releaser(&old).is_beside(&releaser(&granted(&locked, "old", "u2"))));
    assert!(!releaser(&granted(&locked, "x", "old")).is_beside(&releaser(&podman)));
    for uid in ["../../x", "a:b", "\n", &"u".repeat(4000)] {
        let odd = granted(&locked, "old", uid);
        let releaser = released(&locked, &odd, NOW);
        assert!(locked.released_to(&releaser, NOW).is_some(), "{uid:?}");
    }
    assert!(node.tree().iter().all(|name| !name.contains("..")), "{:?}", node.tree());
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
    assert_eq!(locked.released_to(&Releaser::of(&old.owner), NOW), None);

    let part = granted(&locked, "part", "u3");
    locked.save(&part).expect("saving");
    locked.save(&record(&locked, "other", &[host("0.0.0.0", 20001)])).expect("saving");
    let memory = released(&locked, &Record { mappings: part.mappings[..1].to_vec(), ..part }, NOW);
    let memory = locked.released_to(&memory, NOW).expect("a memory");
    assert_eq!(memory.grants, [], "half of a run is not what was granted");
    assert!(memory.hosts.iter().eq([&host("0.0.0.0", 80)]), "{:?}", memory.hosts);
}

#[test]
fn the_memory_does_not_grow_and_the_latest_counts() {
    let node = Node::new();
    let locked = node.lock();
    for step in 0..20 {
        let now = NOW + step * REMEMBERED / 2;
        let releaser = released(&locked, &granted(&locked, "c", &format!("u{step}")), now);
        let mark = locked.released_at(Protocol::Tcp, port(20000), now).expect("looking");
        assert_eq!(mark, Some(Mark { by: releaser, at: now }));
        let periods = fs::read_dir(node.path("released")).expect("listing").count();
        assert!(periods <= 2, "{periods}");
    }
}

#[test]
fn a_damaged_memory_is_none() {
    let node = Node::new();
    let locked = node.lock();
    let releaser = released(&locked, &granted(&locked, "old", "u1"), NOW);
    let period = node.path("released").join((NOW / REMEMBERED).to_string());
    fs::write(period.join(format!("{releaser}.json")), "{").expect("writing");
    fs::remove_file(period.join("tcp/20000")).expect("removing");
    fs::create_dir(period.join("tcp/20000")).expect("making a directory");
    assert_eq!(locked.released_to(&releaser, NOW), None);
    assert_eq!(locked.released_at(Protocol::Tcp, port(20000), NOW).expect("looking"), None);
    // Where it is not read it is there: the number is deferred.
    let other = Releaser::of(&granted(&locked, "other", "u2").owner);
    for (releaser, deferred) in [(&other, true), (&releaser, false)] {
        let listing = locked.listing(Protocol::Tcp, releaser, NOW).expect("listing");
        assert_eq!(listing.is_released(port(20000)).expect("looking"), deferred);
    }
}

/// Insists that a listing says of every port in question what a look at it says, to each of `releasers`.
fn assert_listed(shared: &Shared, releasers: &[Releaser], now: u64) -> usize {
    let mut released = 0;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for releaser in releasers {
            let listing = shared.listing(protocol, releaser, now).expect("listing");
            for number in (80..83).chain(20000..20060).map(port) {
                let entered = shared.entered_at(protocol, number).expect("looking");
                assert_eq!(listing.is_entered(number), entered, "{protocol} {number}");
                let mark = shared.released_at(protocol, number, now).expect("looking");
                let expected = mark.as_ref().is_some_and(|mark| mark.by != *releaser);
                let listed = listing.is_released(number).expect("looking");
                assert_eq!(
                    listed, expected,
                    "{protocol} {number} at {now}: {mark:?} for {releaser}"
                );
                released += usize::from(listed);
            }
        }
    }
    released
}

#[test]
fn a_listing_says_what_looks_say() {
    let mut released = 0;
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let node = Node::new();
        let locked = node.lock();
        let mut now = NOW + random.u64(..REMEMBERED);
        let mut releasers = Vec::new();
        for step in 0..100 {
            now += random.u64(..30);
            let mut hosts: Vec<HostPort> =
                (0..4).map(|_| host("::", random.u16(20000..20060))).collect();
            hosts.sort();
            hosts.dedup();
            let mut record = record(&locked, &format!("c{step}"), &hosts);
            let uid = format!("u{}", random.u8(..8));
            record.owner.pod = Some(Pod { namespace: "a".into(), name: "b".into(), uid });
            releasers.push(Releaser::of(&record.owner));
            locked.save(&record).expect("saving");
            if random.u8(..8) > 0 {
                locked.remember(&record, now).expect("remembering");
                locked.remove(&record).expect("removing");
            }
        }
        // Nobody of us spells a port so, and a mark that is damaged is none.
        let before = node.path("released").join((now / REMEMBERED - 1).to_string()).join("tcp");
        fs::create_dir_all(&before).expect("making a directory");
        for name in ["080", "+81", "82x", "65536", "20000"] {
            fs::create_dir_all(node.path("ports/tcp").join(name)).expect("making a directory");
            let _ = fs::remove_file(before.join(name));
            std::os::unix::fs::symlink("x", before.join(name)).expect("linking");
        }
        releasers.sort_by_key(Releaser::to_string);
        releasers.dedup();
        for later in [0, 1, 300, REMEMBERED - 1, REMEMBERED, 2 * REMEMBERED] {
            released += assert_listed(&locked, &releasers, now + later);
            assert_listed(&locked, &releasers, now - later);
        }
    }
    assert!(released > 10_000, "{released}");
}

#[test]
fn a_mark_counts_to_the_second_in_a_listing_too() {
    let node = Node::new();
    let locked = node.lock();
    let record = granted(&locked, "old", "u1");
    let own = released(&locked, &record, NOW);
    let other = Releaser::of(&granted(&locked, "other", "u2").owner);
    let is_released = |releaser: &Releaser, now| {
        let listing = locked.listing(Protocol::Tcp, releaser, now).expect("listing");
        listing.is_released(port(20001)).expect("looking")
    };
    for (later, expected) in [(0, true), (REMEMBERED - 1, true), (REMEMBERED, false)] {
        assert_eq!(is_released(&other, NOW + later), expected, "{later}");
        assert!(!is_released(&own, NOW + later), "its own, {later}");
    }
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
    let somebody = Releaser::of(&record(&locked, "somebody", &[]).owner);
    timed("listing, 9900 held", &|| {
        let listing = locked.listing(Protocol::Tcp, &somebody, NOW).expect("");
        assert_eq!((20000..30000).filter(|n| listing.is_entered(port(*n))).count(), 9900);
    });
    timed("released_at, nothing there", &|| {
        assert_eq!(locked.released_at(Protocol::Tcp, port(1), NOW).expect(""), None);
    });
    timed("cursor", &|| drop(locked.cursor(None)));
    timed("set_cursor", &|| locked.set_cursor(None, port(1)).expect(""));
    let one = granted(&locked, "old", "u1");
    locked.save(&one).expect("saving");
    timed("remember, 3 ports", &|| locked.remember(&one, NOW).expect(""));
    let releaser = Releaser::of(&one.owner);
    timed("released_to", &|| drop(locked.released_to(&releaser, NOW)));
    timed("save, 3 ports", &|| locked.save(&one).expect(""));
}
