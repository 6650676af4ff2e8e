//! The journal on real directories: what is appended is read once, and nothing that is in its place disturbs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use nix::sys::stat::Mode as Bits;

use super::*;
use crate::event::Silent;

/// A state directory.
struct Node {
    _parent: tempfile::TempDir,
    dir: PathBuf,
    store: Store,
}

impl Node {
    fn new() -> Self {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = parent.path().join("state");
        let store = Store::at(&dir);
        drop(store.lock(&mut Silent).expect("it is made"));
        Self { dir, store, _parent: parent }
    }

    fn note(&self, code: u32) {
        let text = format!("ADD of c{code}: host port 0.0.0.0:8080/tcp is held by pod shop/web");
        self.store.note(vec![Entry { time: 1, kind: Deed::Rejected, code, text }]);
    }

    /// How long both files are.
    fn lengths(&self) -> [u64; 2] {
        FILES.map(|name| fs::metadata(self.dir.join(name)).map_or(0, |found| found.len()))
    }
}

fn codes(entries: &[Entry]) -> Vec<u32> {
    entries.iter().map(|entry| entry.code).collect()
}

#[test]
fn what_is_appended_is_read_once_and_nothing_from_before() {
    let node = Node::new();
    let mut from_the_start = Reader::default();
    // There is no directory yet.
    assert!(from_the_start.read(&Store::at("/nowhere".as_ref())).is_empty());
    node.note(100);
    let mut later = Reader::default();
    assert!(later.read(&node.store).is_empty());
    node.note(101);
    assert_eq!(codes(&from_the_start.read(&node.store)), [100, 101]);
    assert_eq!(codes(&later.read(&node.store)), [101]);
    assert!(later.read(&node.store).is_empty());
    let found = fs::metadata(node.dir.join(CURRENT)).expect("a file");
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
}

#[test]
fn ten_thousand_rejections_stay_within_the_bound_and_are_all_read() {
    let node = Node::new();
    let (mut reader, mut read) = (Reader::default(), Vec::new());
    reader.read(&node.store);
    for code in 0..10_000 {
        node.note(code);
        assert!(node.lengths().into_iter().all(|length| length <= FILE_MAX), "{code}");
        // As often as a file is filled, and not at the same times.
        if code % 61 == 0 {
            read.extend(codes(&reader.read(&node.store)));
        }
    }
    read.extend(codes(&reader.read(&node.store)));
    assert_eq!(read, (0..10_000).collect::<Vec<u32>>());
    assert!(node.lengths()[0] > FULL, "it was turned over");
}

#[test]
fn a_reader_that_comes_too_late_goes_on_with_what_is_left() {
    let node = Node::new();
    let mut reader = Reader::default();
    reader.read(&node.store);
    (0..1_000).for_each(|code| node.note(code));
    let read = codes(&reader.read(&node.store));
    let last: Vec<u32> = (1_000 - read.len() as u32..1_000).collect();
    assert_eq!(read, last);
    fs::write(node.dir.join(CURRENT), "").expect("it is emptied");
    node.note(7);
    assert_eq!(codes(&reader.read(&node.store)), [7]);
    // The directory is deleted, and made again.
    fs::remove_dir_all(&node.dir).expect("it is there");
    node.note(8);
    assert!(reader.read(&node.store).is_empty() && !node.dir.exists(), "nothing is made for it");
    drop(node.store.lock(&mut Silent).expect("it is made"));
    node.note(9);
    assert_eq!(codes(&reader.read(&node.store)), [9]);
}

#[test]
fn what_is_damaged_is_passed_over() {
    let node = Node::new();
    let mut reader = Reader::default();
    reader.read(&node.store);
    node.note(1);
    let path = node.dir.join(CURRENT);
    let good = fs::read(&path).expect("a file");
    let line = String::from_utf8(good.clone()).expect("a line");
    let wrong = line.replace("rejected", "praised");
    let torn = &line[..line.len() / 2];
    fs::write(
        &path,
        [&good[..], b"\xff\0\n", wrong.as_bytes(), b"[]\n\n", torn.as_bytes()].concat(),
    )
    .expect("it can be written");
    assert_eq!(codes(&reader.read(&node.store)), [1]);
    // What follows a line that was not finished is lost with it.
    node.note(2);
    node.note(3);
    assert_eq!(codes(&reader.read(&node.store)), [3]);
}

#[test]
fn what_is_in_its_place_is_neither_followed_nor_waited_for() {
    let node = Node::new();
    let (path, other) = (node.dir.join(CURRENT), node.dir.join("other"));
    fs::write(&other, "its own\n").expect("a file");
    let mut reader = Reader::default();
    reader.read(&node.store);
    symlink(&other, &path).expect("a link");
    node.note(1);
    assert_eq!(fs::read_to_string(&other).expect("a file"), "its own\n");
    fs::remove_file(&path).expect("it is there");
    nix::unistd::mkfifo(&path, Bits::S_IRWXU).expect("a pipe");
    node.note(1);
    assert!(reader.read(&node.store).is_empty());
    fs::remove_file(&path).expect("it is there");
    fs::create_dir(&path).expect("a directory");
    node.note(1);
    assert!(reader.read(&node.store).is_empty());
    fs::remove_dir(&path).expect("it is there");
    fs::set_permissions(&node.dir, Permissions::from_mode(0o777)).expect("it is ours");
    node.note(1);
    assert!(!path.exists(), "others may write there");
}

#[test]
fn a_full_journal_is_left_alone_while_the_lock_is_taken() {
    let node = Node::new();
    let locked = node.store.lock(&mut Silent).expect("it is free");
    (0..1_000).for_each(|code| node.note(code));
    let [old, current] = node.lengths();
    assert!(old == 0 && (FULL..FILE_MAX).contains(&current), "{current}");
    drop(locked);
    node.note(1_000);
    let [old, current] = node.lengths();
    assert!((FULL..FILE_MAX).contains(&old) && current < 200, "{old} {current}");
}

#[test]
fn a_long_text_and_many_entries_of_one_command_are_cut() {
    let node = Node::new();
    let mut reader = Reader::default();
    reader.read(&node.store);
    let entry = |code| Entry { time: 1, kind: Deed::Mended, code, text: "\u{1}ß".repeat(1_000) };
    node.store.note((0..10).map(entry).collect());
    assert!(node.lengths()[1] <= FILE_MAX - FULL, "{:?}", node.lengths());
    let read = reader.read(&node.store);
    assert_eq!(codes(&read), [6, 7, 8, 9], "the last");
    assert!(read[0].text.len() <= TEXT_MAX && read[0].text.ends_with(['\u{1}', 'ß']));
}
