//! What an ADD learns of its Pod's spec, and what it is told where that fails.

use std::fs::File;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};
use nix::time::{ClockId, clock_gettime};

use super::super::{AGENT_HEARTBEAT, AGENT_LOCK};
use super::*;
use crate::event::Silent;

fn pod() -> Pod {
    Pod { namespace: "games".to_owned(), name: "game-0".to_owned(), uid: "u1".to_owned() }
}

fn eighty() -> Ports {
    Ports::Declared("8080/tcp".to_owned())
}

/// A state directory, and the lock of an agent that is connected.
struct Node {
    _parent: tempfile::TempDir,
    dir: PathBuf,
    store: Store,
}

impl Node {
    fn new() -> Self {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = parent.path().join("state");
        Self { store: Store::at(&dir), dir, _parent: parent }
    }

    fn locked(&self) -> Locked {
        self.store.lock(&mut Silent).expect("it is free")
    }

    /// Has an agent be connected while the result lives.
    fn connect(&self) -> Flock<File> {
        self.locked().declaring().expect("the directory can be made");
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a time"));
        let beat = format!(r#"{{"connected":true,"heartbeat":{}}}"#, now.as_nanos());
        fs::write(self.dir.join(AGENT_HEARTBEAT), beat).expect("a file");
        let lock = File::create(self.dir.join(AGENT_LOCK)).expect("a file");
        Flock::lock(lock, FlockArg::LockExclusiveNonblock).expect("it is free")
    }

    fn path(&self) -> PathBuf {
        self.dir.join("requests/u1.json")
    }

    fn refusal(&self) -> String {
        let error = self.store.declared(&pod(), true).expect_err("it cannot be known");
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", cause.unwrap_or_default())
    }
}

#[test]
fn what_an_agent_wrote_is_read_until_it_is_forgotten() {
    let node = Node::new();
    let _agent = node.connect();
    let list = "http=8080/tcp, 53/udp".to_owned();
    node.locked().declare(&pod(), Some(Ports::Declared(list.clone()))).expect("it can be written");
    assert_eq!(node.store.declared(&pod(), true).expect("it is there"), list);
    assert_eq!(node.locked().declaring().expect("a list"), ["u1.json"]);
    let text = fs::read_to_string(node.path()).expect("a file");
    assert!(text.starts_with("{\n  \"version\": 1,\n"), "{text}");
    node.locked().declare(&pod(), None).expect("it can be deleted");
    assert!(node.locked().declaring().expect("a list").is_empty());
    let unnamed = Pod { uid: String::new(), ..pod() };
    assert!(node.store.declared(&unnamed, true).is_err(), "an old runtime does not tell the UID");
}

#[test]
fn a_file_that_comes_late_is_waited_for() {
    let node = Node::new();
    let _agent = node.connect();
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            node.locked().declare(&pod(), Some(eighty())).expect("it is written");
        });
        let found = node.store.declared(&pod(), false).expect("it comes");
        assert_eq!(found, "8080/tcp");
    });
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn a_file_that_never_comes_is_named() {
    let node = Node::new();
    let agent = node.connect();
    let begun = Instant::now();
    for needed in [true, false] {
        let error = node.store.declared(&pod(), needed).expect_err("it does not come");
        let told = error.to_string();
        assert!(told.contains("requests/u1.json: it did not come within 2 s; look at"), "{told}");
    }
    assert!(begun.elapsed() >= 2 * PATIENCE);
    drop(agent);
    let begun = Instant::now();
    assert!(node.refusal().contains("no agent that reaches Kubernetes"));
    assert_eq!(node.store.declared(&pod(), false).expect("as without an agent"), "");
    let _agent = node.connect();
    fs::remove_dir(node.dir.join(DIRECTORY)).expect("it is empty");
    assert!(node.refusal().contains("no agent that reaches Kubernetes"), "no directory");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn a_reason_in_place_of_the_ports_is_the_error() {
    let node = Node::new();
    let reason = "Pod games/game-0 declares too much".to_owned();
    node.locked().declare(&pod(), Some(Ports::Rejected(reason.clone()))).expect("it is written");
    let rejected = node.store.declared(&pod(), false).expect_err("it is rejected");
    assert!(rejected.to_string().starts_with(&reason), "{rejected}");
    // For an earlier version, which knows no reasons, the file is damaged.
    let text = fs::read_to_string(node.path()).expect("a file");
    assert!(text.contains("\"rejected\": ") && !text.contains("\"ports\""), "{text}");
}

#[test]
fn a_file_that_cannot_be_used_is_never_believed() {
    let node = Node::new();
    node.locked().declare(&pod(), Some(eighty())).expect("it can be written");
    let good = fs::read_to_string(node.path()).expect("a file");
    for (from, to, shown) in [
        ("\"version\": 1", "\"version\": 9", "layout version 9"),
        ("u1", "u2", "it is of Pod games/game-0 (u2)"),
        ("games", "other", "it is of Pod other/game-0 (u1)"),
        ("8080/tcp\"", "8080/tcp", "does not hold a record"),
        ("\"ports\"", "\"prots\"", "does not hold a record"),
    ] {
        fs::write(node.path(), good.replace(from, to)).expect("it can be written");
        let told = node.refusal();
        assert!(told.contains("it cannot be used") && told.contains(shown), "{told}");
    }
    fs::write(node.path(), &good[..good.len() / 2]).expect("it can be written");
    assert!(node.refusal().contains("does not hold a record"));
    fs::remove_file(node.path()).expect("it is there");
    fs::create_dir(node.path()).expect("it is free");
    assert!(node.refusal().contains("it is no regular file"));
}

#[test]
fn a_file_of_an_earlier_boot_is_void() {
    let node = Node::new();
    node.locked().declare(&pod(), Some(eighty())).expect("it can be written");
    let own = boot_id().expect("a boot");
    let text = fs::read_to_string(node.path()).expect("a file");
    fs::write(node.path(), text.replace(&own, "earlier")).expect("it can be written");
    assert!(node.refusal().contains("no agent"));
    let instance = node.dir.join("instance");
    let text = fs::read_to_string(&instance).expect("a file").replace(&own, "earlier");
    fs::write(&instance, text).expect("it can be written");
    if !node.locked().disk.is_volatile {
        assert!(!node.path().exists(), "the first command of a boot removes it");
    }
}
