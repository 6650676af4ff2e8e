//! A store of an earlier version, and one in which a later version has been.

use std::os::unix::fs::symlink;

use nix::errno::Errno;

use super::*;
use crate::model::Pod;

const RECORD: &str = "attachments/cbr0:hers:eth0.json";

/// Makes the store what layout 1 had.
fn downgrade(node: &Node) {
    for directory in ["owners", "containers", "namespaces"] {
        let _ = fs::remove_dir_all(node.path(directory));
    }
    let text = fs::read_to_string(node.path("instance")).expect("reading");
    assert!(text.contains("\"version\":2"), "{text}");
    fs::write(node.path("instance"), text.replace("\"version\":2", "\"version\":1"))
        .expect("writing");
}

fn with_pod(node: &Node) -> Record {
    let locked = node.lock();
    let mut record = record(&locked, "hers", &[host("0.0.0.0", 80)]);
    record.owner.pod = Some(Pod { namespace: "shop".into(), name: "web".into(), uid: "u1".into() });
    locked.save(&record).expect("saving");
    record
}

#[test]
fn the_version_comes_first() {
    let node = Node::new();
    save(&node, "hers", &[host("0.0.0.0", 80)]);
    for (file, start) in [("instance", "{\"version\":2,"), (RECORD, "{\n  \"version\": 1,\n")] {
        let text = fs::read_to_string(node.path(file)).expect("reading");
        assert!(text.starts_with(start), "{text}");
    }
}

#[test]
fn a_writer_brings_an_earlier_layout_up_to_date() {
    let node = Node::new();
    let record = with_pod(&node);
    save(&node, "damaged", &[host("0.0.0.0", 81)]);
    fs::write(node.path("attachments/cbr0:damaged:eth0.json"), "{").expect("writing");
    let (before, instance) = (node.whole_tree(), node.lock().instance().clone());
    downgrade(&node);

    // A reader changes nothing and finds everything all the same.
    let shared = node.read().expect("a store");
    let found = shared.records_of_pod("u1").expect("looking");
    assert!(matches!(&found[..], [Err(_), Ok(found)] if *found == record), "{found:?}");
    drop(shared);
    assert_eq!(node.lookups(), [""; 0]);
    assert_eq!(node.store.look_for("hers").expect("looking"), Presence::Recorded);

    // Killed before the instance was written: the next writer does it again.
    fs::create_dir_all(node.path("containers/hers")).expect("making a directory");
    assert_eq!(*node.lock().instance(), instance, "its name and all else stays");
    assert_eq!(node.whole_tree(), before, "nothing is lost");
    assert_eq!(node.store.look_for("damaged").expect("looking"), Presence::Recorded);
    assert_eq!(node.store.look_for("other").expect("looking"), Presence::Absent);
}

#[test]
fn records_that_outlived_their_instance_are_entered() {
    let node = Node::new();
    with_pod(&node);
    let before = node.lookups();
    downgrade(&node);
    fs::remove_file(node.path("instance")).expect("removing");
    drop(node.lock());
    assert_eq!(node.lookups(), before);
}

/// Entries that only a later version can have made, in every place where one can be.
#[test]
fn what_a_later_version_entered_is_held_and_stays() {
    let port = "ports/tcp/80/";
    for (name, target) in [
        ("0.0.0.0", "../../../jobs/x.json"),
        ("0.0.0.0", "../../../attachments/deeper/cbr0:hers:eth0.json"),
        ("0.0.0.0", "x"),
        ("192.0.2.1", "../../../jobs/x.json"),
        ("192.0.2.0-24", "../../../attachments/cbr0:hers:eth0.json"),
        ("0.0.0.0", ""),
    ] {
        let node = Node::new();
        let locked = node.lock();
        fs::create_dir_all(node.path(port)).expect("making a directory");
        let path = node.path(port).join(name);
        if target.is_empty() {
            fs::write(&path, "a file").expect("writing");
        } else {
            symlink(target, &path).expect("linking");
        }
        let tree = node.tree();
        let held = locked.holders(&[host("0.0.0.0", 80)]).expect("looking");
        let Some(Held { who: Who::Unreadable(unreadable), .. }) = held.first() else {
            panic!("{name} -> {target}: {held:?}")
        };
        assert!(matches!(unreadable.source, Damage::UnknownKind), "{unreadable}");
        assert!(!unreadable.is_discardable(), "{unreadable}");
        let text = unreadable.to_string();
        assert!(
            text.ends_with("held until the later autoport that wrote it releases them"),
            "{text}"
        );
        locked.tidy().expect("tidying");
        assert_eq!(node.tree(), tree, "{name} -> {target}");

        // It is never replaced, even by a command that did not ask who holds the port.
        if name.parse::<IpAddr>().is_ok() {
            let record = record(&locked, "mine", &[host(name, 80)]);
            let error = locked.save(&record).expect_err("it is held");
            assert!(matches!(error, Error::Unreadable(_)), "{error}");
            locked.take_back(&record, None).expect("taking back");
            assert_eq!(node.tree(), tree, "{name} -> {target}");
        }
    }
}

#[test]
fn what_a_later_version_entered_for_a_pod_stays() {
    let node = Node::new();
    let record = with_pod(&node);
    symlink("../../jobs/x.json", node.path("owners/u1/job:x")).expect("linking");
    symlink("../../jobs/x.json", node.path("containers/hers/job:x")).expect("linking");
    let locked = node.lock();
    locked.tidy().expect("tidying");
    let found = locked.records_of_pod("u1").expect("looking");
    let unknown = |one: &Unreadable| matches!(one.source, Damage::UnknownKind);
    assert!(
        matches!(&found[..], [Ok(own), Err(one)] if *own == record && unknown(one)),
        "{found:?}"
    );
    locked.remove(&record).expect("removing");
    assert_eq!(node.lookups().len(), 2, "{:?}", node.lookups());
}

/// What nobody may take for damage: the next version, or the next minute, reads it.
#[test]
fn only_what_is_no_record_can_be_discarded() {
    let node = Node::new();
    let good = with_pod(&node);
    let text = fs::read_to_string(node.path(RECORD)).expect("reading");
    let read = |text: &str| {
        fs::write(node.path(RECORD), text).expect("writing");
        node.lock().record(&Key::of(&good.owner.holder)).expect_err("unreadable")
    };
    assert!(read("{").is_discardable());
    assert!(read(&text.replace("\"hers\"", "\"his\"")).is_discardable());
    let later = read(&text.replace("\"version\": 1", "\"version\": 3"));
    assert!(!later.is_discardable(), "{later}");
    let later = read("{\"version\":3,\"all\":\"different\"}");
    assert!(!later.is_discardable(), "{later}");
    for errno in [Errno::EIO, Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EACCES] {
        let source = Damage::of(errno.into());
        let unreadable = Unreadable { key: later.key.clone(), path: PathBuf::new(), source };
        assert!(!unreadable.is_discardable(), "{errno}");
    }
}

/// Layout 1 had the dialects in `ports.json` only. Whatever a container put there instead is none.
#[test]
fn dialects_are_taken_over_from_what_was_published() {
    type Put = fn(&Path);
    let json = r#"{"version":1,"ports":[{"hostPort":1},{"hostPort":2,"dialects":["kubewharf"]}]}"#;
    let ways: [(Option<&str>, Put, usize); 5] = [
        (Some(json), |_| {}, 1),
        (Some("{\"ports\":[{\"dialects\":[\"other\"]}]}"), |_| {}, 0),
        (Some("[[[["), |_| {}, 0),
        (None, |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("making"), 0),
        (None, |path| symlink("/dev/zero", path).expect("linking"), 0),
    ];
    for (text, put, expected) in ways {
        let node = Node::new();
        let locked = node.lock();
        let record = super::looking_up::of_pod(&locked, "hers", "u1", 20_000, 1);
        locked.save(&record).expect("saving");
        drop(locked);
        downgrade(&node);
        fs::create_dir_all(node.path("pods/u1")).expect("making a directory");
        let path = node.path("pods/u1/ports.json");
        if let Some(text) = text {
            fs::write(&path, text).expect("writing");
        }
        put(&path);
        let found = node.lock().record(&Key::of(&record.owner.holder)).expect("reading");
        assert_eq!(found.expect("a record").dialects.len(), expected, "{text:?}");
    }
}
