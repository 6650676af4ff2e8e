//! From pods, containers and namespaces to records.

use super::*;
use crate::model::{ContainerPort, Grant, Pod, Request};

/// A record of a pod in the namespace `shop` for which the node chose `count` numbers from `first` on.
pub(super) fn of_pod(
    locked: &Shared,
    container_id: &str,
    uid: &str,
    first: u16,
    count: u16,
) -> Record {
    let hosts: Vec<HostPort> =
        (first..first + count.max(1)).map(|port| host("0.0.0.0", port)).collect();
    let mut record = record(locked, container_id, &hosts);
    record.owner.pod =
        Some(Pod { namespace: "shop".into(), name: "web".into(), uid: uid.to_owned() });
    record.grants = NonZeroU16::new(count).map_or(Vec::new(), |count| {
        let request = Request {
            name: None,
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            container_port: ContainerPort::Same,
            count,
            address: None,
            range: None,
        };
        vec![Grant { request, port: first.try_into().expect("a port") }]
    });
    record
}

fn containers(found: Vec<Result<Record, Unreadable>>) -> Vec<String> {
    let name = |read: Result<Record, Unreadable>| match read {
        Ok(record) => record.owner.container_id().expect("an attachment").to_owned(),
        Err(unreadable) => unreadable.source.to_string(),
    };
    found.into_iter().map(name).collect()
}

fn pods(shared: &Shared, uid: &str) -> Vec<String> {
    containers(shared.records_of_pod(uid).expect("looking"))
}

fn granted(shared: &Shared) -> Vec<usize> {
    let all = shared.granted_in_namespace("shop").expect("looking");
    all.into_iter().map(|(_, count)| count).collect()
}

#[test]
fn a_record_is_found_by_pod_container_and_namespace() {
    let node = Node::new();
    let locked = node.lock();
    let first = of_pod(&locked, "4f2a", "u1", 20_000, 3);
    let mut second = of_pod(&locked, "4f2a", "u1", 30_000, 0);
    second.owner.holder = Attachment::new("net2", "4f2a", "net1").expect("valid").into();
    for record in [&first, &second] {
        locked.save(record).expect("saving");
    }
    assert_eq!(
        node.lookups(),
        [
            "containers/4f2a/cbr0:4f2a:eth0 -> ../../attachments/cbr0:4f2a:eth0.json",
            "containers/4f2a/net2:4f2a:net1 -> ../../attachments/net2:4f2a:net1.json",
            "namespaces/shop/cbr0:4f2a:eth0 -> 3",
            "owners/u1/cbr0:4f2a:eth0 -> ../../attachments/cbr0:4f2a:eth0.json",
            "owners/u1/net2:4f2a:net1 -> ../../attachments/net2:4f2a:net1.json",
        ]
    );
    assert_eq!(pods(&locked, "u1"), ["4f2a", "4f2a"]);
    assert_eq!(pods(&locked, "u2"), [""; 0]);
    assert_eq!(containers(locked.records_of_container("4f2a").expect("looking")).len(), 2);
    assert_eq!(granted(&locked), [3], "once, however many protocols");
    let look = |id: &str| node.store.look_for(id).expect("looking");
    assert_eq!([look("4f2a"), look("4f2")], [Presence::Recorded, Presence::Absent]);

    locked.remove(&first).expect("removing");
    assert_eq!((pods(&locked, "u1").len(), granted(&locked).len()), (1, 0));
    assert_eq!(look("4f2a"), Presence::Recorded);
    locked.remove(&second).expect("removing");
    assert_eq!(node.lookups(), [""; 0]);
    assert_eq!(look("4f2a"), Presence::Absent);
}

#[test]
fn a_container_is_looked_for_without_a_store() {
    let node = Node::new();
    let look = || node.store.look_for("4f2a").expect("looking");
    assert_eq!(look(), Presence::NoStore);
    fs::create_dir(&node.dir).expect("making a directory");
    assert_eq!(look(), Presence::NoStore, "made by a package, say");
    drop(node.lock());
    assert_eq!(look(), Presence::Absent);
    fs::remove_dir_all(&node.dir).expect("deleting");
    fs::write(&node.dir, "").expect("writing a file");
    assert_eq!(look(), Presence::NoStore);
}

#[test]
fn saving_again_moves_the_entries() {
    let node = Node::new();
    let locked = node.lock();
    let before = of_pod(&locked, "4f2a", "u1", 20_000, 3);
    locked.save(&before).expect("saving");
    let after = of_pod(&locked, "4f2a", "u2", 20_000, 2);
    locked.save(&after).expect("saving");
    assert_eq!((pods(&locked, "u1").len(), pods(&locked, "u2").len()), (0, 1));
    assert_eq!(granted(&locked), [2]);
    locked.take_back(&after, Some(&before)).expect("taking back");
    assert_eq!((pods(&locked, "u1").len(), pods(&locked, "u2").len()), (1, 0));
    assert_eq!(granted(&locked), [3]);
    locked.take_back(&before, None).expect("taking back");
    assert_eq!(node.lookups(), [""; 0]);
}

/// A runtime may send anything for an ID, a UID or a namespace.
#[test]
fn any_text_is_looked_up_within_its_directory() {
    let node = Node::new();
    let locked = node.lock();
    let long = "u".repeat(4000);
    let strange = ["../attachments", "..", ".", "a/b", "a b", "=x", ".new", &long];
    for uid in strange {
        let mut record = of_pod(&locked, "4f2a", uid, 20_000, 1);
        record.owner.pod.as_mut().expect("a pod").namespace = uid.to_owned();
        locked.save(&record).expect("saving");
        assert_eq!(pods(&locked, uid), ["4f2a"], "{uid}");
        let granted = locked.granted_in_namespace(uid).expect("looking");
        assert_eq!(granted.len(), 1, "{uid}");
    }
    assert_eq!(node.lookups().len(), 3, "{:?}", node.lookups());
}

/// Killed between any two entries, before the record; or after the record was removed.
#[test]
fn entries_of_no_record_are_nothing() {
    let node = Node::new();
    let locked = node.lock();
    let record = of_pod(&locked, "4f2a", "u1", 20_000, 3);
    locked.save(&record).expect("saving");
    fs::remove_file(node.path("attachments/cbr0:4f2a:eth0.json")).expect("removing");
    assert_eq!((pods(&locked, "u1").len(), granted(&locked).len()), (0, 0));
    assert!(locked.records_of_container("4f2a").expect("looking").is_empty());
    // A DEL looks closer and finds nothing.
    assert_eq!(node.store.look_for("4f2a").expect("looking"), Presence::Recorded);
    locked.tidy().expect("tidying");
    assert_eq!(node.lookups(), [""; 0]);
    assert_eq!(node.store.look_for("4f2a").expect("looking"), Presence::Absent);
}

/// Killed after the record was written, before the entries of the one before went.
#[test]
fn an_entry_that_is_no_longer_right_leads_nowhere() {
    let node = Node::new();
    let locked = node.lock();
    locked.save(&of_pod(&locked, "4f2a", "u1", 20_000, 3)).expect("saving");
    let left = node.lookups();
    locked.save(&of_pod(&locked, "4f2a", "u2", 20_000, 0)).expect("saving");
    for entry in &left {
        let (name, target) = entry.split_once(" -> ").expect("a link");
        let _ = fs::create_dir_all(node.path(name).parent().expect("a directory"));
        let _ = std::os::unix::fs::symlink(target, node.path(name));
    }
    assert_eq!((pods(&locked, "u1").len(), pods(&locked, "u2").len()), (0, 1));
    locked.tidy().expect("tidying");
    assert_eq!(node.lookups().len(), 2, "{:?}", node.lookups());
}

#[test]
fn lost_entries_are_made_again() {
    let node = Node::new();
    let locked = node.lock();
    locked.save(&of_pod(&locked, "4f2a", "u1", 20_000, 3)).expect("saving");
    let before = node.lookups();
    for directory in ["owners", "containers", "namespaces"] {
        fs::remove_dir_all(node.path(directory)).expect("deleting");
    }
    locked.tidy().expect("tidying");
    assert_eq!(node.lookups(), before);
}

#[test]
fn what_cannot_be_read_is_found_until_it_is_discarded() {
    let node = Node::new();
    let locked = node.lock();
    locked.save(&of_pod(&locked, "4f2a", "u1", 20_000, 3)).expect("saving");
    fs::write(node.path("attachments/cbr0:4f2a:eth0.json"), "{").expect("writing");
    locked.tidy().expect("tidying");
    assert_eq!(pods(&locked, "u1"), ["the file does not hold a record"]);
    assert_eq!(granted(&locked), [3]);
    locked.discard(&Key::of_attachment(&attachment("4f2a"))).expect("discarding");
    assert_eq!(node.lookups(), [""; 0]);
}

fn ports(leaving: &[Leaving]) -> Vec<u16> {
    leaving.iter().flat_map(|one| &one.record.mappings).map(|it| it.host.port.get()).collect()
}

/// What a killed command left leaving stays beside what its container's next record leaves: container engines
/// give an ID twice.
#[test]
fn what_is_leaving_outlives_the_return_of_its_container() {
    let node = Node::new();
    let locked = node.lock();
    let [first, mut second, third] =
        [20_000, 20_000, 40_000].map(|first| of_pod(&locked, "4f2a", "u1", first, 0));
    // The same host port, by another address of the container.
    second.mappings[0].target = Some("10.0.0.3:80".parse().expect("an address"));
    locked.save(&first).expect("saving");
    locked.retire(&first).expect("retiring");
    drop(locked.unlock());

    let locked = node.lock();
    locked.save(&second).expect("saving");
    assert_eq!(containers(locked.records_of_container("4f2a").expect("looking")), ["4f2a"]);
    locked.retire(&second).expect("retiring");
    drop(locked.unlock());
    let locked = node.lock();
    locked.save(&third).expect("saving");
    let found = locked.leaving("4f2a").expect("looking");
    assert_eq!(ports(&found), [20_000, 20_000], "the command has to end their connections");
    assert_eq!(ports(&locked.all_leaving().expect("looking")), [20_000, 20_000]);
    locked.tidy().expect("tidying");
    locked.discard(&key_of("4f2b")).expect("discarding another");
    assert_eq!(ports(&locked.leaving("4f2a").expect("looking")), [20_000, 20_000]);

    let unlocked = locked.unlock();
    for one in &found {
        unlocked.forget(one).expect("forgetting");
        unlocked.forget(one).expect("forgetting twice");
    }
    let shared = node.lock();
    assert_eq!(ports(&shared.leaving("4f2a").expect("looking")), [0; 0]);
    assert_eq!(containers(shared.records_of_container("4f2a").expect("looking")), ["4f2a"]);
    shared.remove(&third).expect("removing");
    assert_eq!(node.lookups(), [""; 0]);
}

/// A command that has ended connections forgets those only: what another has left leaving meanwhile, and was
/// killed, is for the next.
#[test]
fn only_what_was_ended_is_forgotten() {
    let node = Node::new();
    let locked = node.lock();
    let [first, second] = [20_000, 40_000].map(|first| of_pod(&locked, "4f2a", "u1", first, 0));
    locked.save(&first).expect("saving");
    let ended = locked.retire(&first).expect("retiring");
    let slow = locked.unlock();
    let locked = node.lock();
    locked.save(&second).expect("saving");
    locked.retire(&second).expect("retiring");
    drop(locked);
    slow.forget(&ended).expect("forgetting");
    drop(slow);
    assert_eq!(ports(&node.lock().leaving("4f2a").expect("looking")), [40_000]);
}

/// A stray file is nothing that is leaving and keeps no entry from its container; what a later version left
/// there is its own.
#[test]
fn what_is_no_leaving_record_is_nothing() {
    let node = Node::new();
    let locked = node.lock();
    let record = of_pod(&locked, "4f2a", "u1", 20_000, 0);
    let [entry, hidden] = ["cbr0:4f2a:eth0", ".cbr0:4f2a:eth0.0"]
        .map(|name| node.path(&format!("containers/4f2a/{name}")));
    locked.save(&record).expect("saving");
    let file = fs::read(node.store.path_of(&attachment("4f2a").into())).expect("reading");
    let written = |path: &Path, bytes: &[u8]| {
        fs::create_dir_all(path.parent().expect("a parent")).expect("making a directory");
        fs::write(path, bytes).expect("writing");
    };
    locked.leave(record.clone()).expect("leaving");
    let [left] = &locked.leaving("4f2a").expect("looking")[..] else { panic!("one is leaving") };
    assert_eq!(left.record, record);
    drop(locked.unlock().forget(left));

    let locked = node.lock();
    locked.remove(&record).expect("removing");
    assert_eq!(node.lookups(), [""; 0]);
    let hashed = node.path(&format!("containers/4f2a/.sha256-{}.0", "0".repeat(64)));
    for bytes in [&b"{"[..], &file[..file.len() / 2], b""] {
        written(&entry, bytes);
        locked.save(&record).expect("saving");
        assert_eq!(containers(locked.records_of_container("4f2a").expect("looking")), ["4f2a"]);
        assert!(entry.is_symlink(), "{bytes:?}");
        locked.remove(&record).expect("removing");
        for path in [&entry, &hidden, &hashed] {
            written(path, bytes);
        }
        assert_eq!(ports(&locked.all_leaving().expect("looking")), [0; 0]);
        locked.tidy().expect("tidying");
        assert_eq!(node.lookups(), [""; 0], "{bytes:?}");
    }
    let later =
        String::from_utf8(file).expect("text").replacen("\"version\": 1", "\"version\": 9", 1);
    written(&hidden, later.as_bytes());
    fs::write(node.path("containers/stray"), "").expect("writing");
    locked.tidy().expect("tidying");
    assert_eq!(fs::read_to_string(&hidden).expect("reading"), later);
    assert_eq!(ports(&locked.all_leaving().expect("looking")), [0; 0]);
}
