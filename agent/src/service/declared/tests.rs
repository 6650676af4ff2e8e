use std::fs;

use serde_json::json;

use super::*;

const UIDS: [&str; 2] = ["0b1c8a50-0001", "0b1c8a50-0002"];

fn pod(uid: &str, annotation: &str) -> v1::Pod {
    let pod = json!({
        "metadata": {
            "namespace": "games", "name": "game-0", "uid": uid, "annotations": {annotation: "true"},
        },
        "spec": {"containers": [
            {"name": "main", "ports": [{"name": "http", "containerPort": 8080}]},
        ]},
    });
    serde_json::from_value(pod).expect("a Pod")
}

fn asking(uid: &str) -> v1::Pod {
    pod(uid, "pod.kubewharf.kubernetes.io/autoport")
}

fn book(dir: &std::path::Path) -> Book {
    let store = Store::at(&dir.join("state"));
    Book::new(store, Metrics::default(), Arc::default(), Rc::default())
}

struct Node {
    dir: tempfile::TempDir,
    book: Book,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let book = book(dir.path());
        Self { dir, book }
    }

    fn path(&self, uid: &str) -> std::path::PathBuf {
        self.dir.path().join("state/requests").join(format!("{uid}.json"))
    }

    fn is_written(&self) -> [bool; 2] {
        UIDS.map(|uid| self.path(uid).exists())
    }
}

/// Tells of all Pods, as the list does.
fn list(book: &mut Book, pods: &[v1::Pod]) {
    book.begin();
    for pod in pods {
        book.changed(pod).expect("it is written");
    }
}

#[test]
fn pods_that_need_their_spec_are_written_until_they_are_gone() {
    let mut node = Node::new();
    list(&mut node.book, &[asking(UIDS[0]), pod("0b1c8a50-0003", "example.com/other")]);
    assert_eq!(node.is_written(), [true, false]);
    assert!(!node.path("0b1c8a50-0003").exists());
    node.book.changed(&asking(UIDS[1])).expect("it is written");
    assert_eq!(node.is_written(), [true, true]);
    node.book.deleted(&asking(UIDS[0])).expect("it is forgotten");
    assert_eq!(node.is_written(), [false, true]);
    // Its annotation was removed.
    node.book.changed(&pod(UIDS[1], "example.com/other")).expect("it is forgotten");
    assert_eq!(node.is_written(), [false, false]);
    node.book.deleted(&asking("0b1c8a50-0009")).expect("nothing is known of it");
}

#[test]
fn a_change_that_concerns_nobody_writes_nothing() {
    let mut node = Node::new();
    node.book.changed(&asking(UIDS[0])).expect("it is written");
    fs::write(node.path(UIDS[0]), "{}").expect("it is there");
    node.book.changed(&asking(UIDS[0])).expect("its status has changed");
    assert_eq!(fs::read_to_string(node.path(UIDS[0])).expect("a file"), "{}");
}

#[test]
fn what_was_damaged_or_deleted_is_listed_again() {
    let mut node = Node::new();
    list(&mut node.book, &UIDS.map(asking));
    node.book.check().expect("all is well");
    let good = fs::read(node.path(UIDS[0])).expect("a file");
    fs::write(node.path(UIDS[0]), &good[..9]).expect("it is there");
    assert!(node.book.check().expect_err("damaged").contains(UIDS[0]));
    list(&mut node.book, &UIDS.map(asking));
    assert_eq!(fs::read(node.path(UIDS[0])).expect("a file"), good);
    fs::remove_dir_all(node.dir.path().join("state")).expect("it is there");
    node.book.check().expect_err("all is gone");
    list(&mut node.book, &UIDS.map(asking));
    node.book.check().expect("all is well");
    assert_eq!(node.is_written(), [true, true]);
}

/// The list may be older than what the other agent of the node knows.
#[test]
fn a_file_of_an_unknown_pod_is_deleted_at_a_later_look() {
    let mut node = Node::new();
    list(&mut node.book, &UIDS.map(asking));
    list(&mut node.book, &[asking(UIDS[1])]);
    node.book.check().expect("a first look");
    assert_eq!(node.is_written(), [true, true]);
    let early = Instant::now().checked_sub(STRANGE).expect("a minute ago");
    node.book.strange.insert(UIDS[0].to_owned(), early);
    node.book.check().expect("a later look");
    assert_eq!(node.is_written(), [false, true]);
    // It came back before that.
    list(&mut node.book, &[]);
    node.book.check().expect("a first look");
    node.book.changed(&asking(UIDS[1])).expect("it is written");
    node.book.strange.insert(UIDS[1].to_owned(), early);
    node.book.check().expect("a later look");
    assert_eq!(node.is_written(), [false, true]);
}

/// Two agents write the same bytes, so that neither finds that the other has changed anything.
#[test]
fn two_agents_agree() {
    let mut node = Node::new();
    list(&mut node.book, &UIDS.map(asking));
    let mut other = book(node.dir.path());
    list(&mut other, &UIDS.map(asking));
    node.book.check().expect("all is well");
    other.check().expect("all is well");
}
