//! The states that a killed command leaves, made by hand.

use crate::event::Silent;
use std::os::unix::fs::symlink;

use super::*;

const HERS: &str = "../../../attachments/cbr0:hers:eth0.json";

fn kept(node: &Node) -> Vec<String> {
    node.tree().into_iter().filter(|name| name.contains(" -> ") || name.contains(".json")).collect()
}

/// Killed in `save` after the entries, before the record.
#[test]
fn entries_without_a_record_are_nothing() {
    let node = Node::new();
    drop(node.lock());
    for port in ["80", "81"] {
        fs::create_dir_all(node.path("ports/tcp").join(port)).expect("making a directory");
        symlink(HERS, node.path("ports/tcp").join(port).join("0.0.0.0")).expect("linking");
    }
    let wanted = [host("0.0.0.0", 80), host("0.0.0.0", 81)];
    assert_eq!(holders(&node.read().expect("a store"), &wanted), []);
    assert!(!node.holds("hers"));

    let mine = save(&node, "mine", &wanted[..1]);
    assert_eq!(node.lock().owned(&mine).expect("looking"), mine.mappings, "taken at once");
    node.lock().tidy().expect("tidying");
    assert_eq!(
        kept(&node),
        [
            "attachments/cbr0:mine:eth0.json",
            "ports/tcp/80/0.0.0.0 -> ../../../attachments/cbr0:mine:eth0.json"
        ]
    );
    assert!(!node.path("ports/tcp/81").exists());
}

/// Killed in a `save` that grows a record, after the entries; or in one that shrinks it, before the
/// entries went; or in `remove` of another record with the same container. All leave an entry that
/// the record does not list.
#[test]
fn an_entry_that_the_record_does_not_list_is_nothing() {
    let node = Node::new();
    let hers = save(&node, "hers", &[host("0.0.0.0", 80)]);
    fs::create_dir(node.path("ports/tcp/81")).expect("making a directory");
    symlink(HERS, node.path("ports/tcp/81/0.0.0.0")).expect("linking");
    let wanted = [host("0.0.0.0", 80), host("0.0.0.0", 81)];
    let shared = node.read().expect("a store");
    assert_eq!(holders(&shared, &wanted), [("hers".to_owned(), wanted[..1].to_vec())]);
    assert_eq!(shared.owned(&hers).expect("looking"), hers.mappings);
    drop(shared);

    save(&node, "mine", &wanted[1..]);
    let shared = node.read().expect("a store");
    assert_eq!(holders(&shared, &wanted[1..]), [("mine".to_owned(), wanted[1..].to_vec())]);
}

/// Killed in the `save` that grows a record, repeated by the runtime.
#[test]
fn the_same_save_again_completes_it() {
    let node = Node::new();
    drop(node.lock());
    fs::create_dir_all(node.path("ports/tcp/80")).expect("making a directory");
    symlink(HERS, node.path("ports/tcp/80/0.0.0.0")).expect("linking");
    fs::write(node.path(".new"), "{\"half\":").expect("writing");
    let hers = save(&node, "hers", &[host("0.0.0.0", 80), host("0.0.0.0", 81)]);
    assert_eq!(node.lock().owned(&hers).expect("looking"), hers.mappings);
    assert!(!node.path(".new").exists(), "the temporary file was used up");
}

/// Killed between the symbolic link and its renaming over the entry of a superseded holder.
#[test]
fn a_temporary_link_is_cleared_away_by_the_next_write() {
    let node = Node::new();
    save(&node, "hers", &[host("0.0.0.0", 80)]);
    symlink("../../../attachments/cbr0:mine:eth0.json", node.path(".new")).expect("linking");
    let wanted = [host("0.0.0.0", 80)];
    assert_eq!(holders(&node.read().expect("a store"), &wanted)[0].0, "hers");
    save(&node, "mine", &wanted);
    assert_eq!(holders(&node.read().expect("a store"), &wanted)[0].0, "mine");
    assert!(fs::symlink_metadata(node.path(".new")).is_err());
}

/// Killed in `remove` after the record, before its entries.
#[test]
fn a_removal_that_was_cut_short_frees_the_ports() {
    let node = Node::new();
    let hers = save(&node, "hers", &[host("0.0.0.0", 80), host("::", 80)]);
    fs::remove_file(node.path("attachments/cbr0:hers:eth0.json")).expect("removing");
    let locked = node.lock();
    assert_eq!(holders(&locked, &[host("0.0.0.0", 80), host("::", 80)]), []);
    locked.remove(&hers).expect("removing the rest");
    assert_eq!(kept(&node), Vec::<String>::new());
}

/// Killed before the instance was written, or somebody deleted it.
#[test]
fn a_missing_or_damaged_instance_is_made_anew() {
    let node = Node::new();
    let saved = save(&node, "hers", &[host("0.0.0.0", 80)]);
    let before = node.lock().instance().id.clone();
    for damage in [None, Some(""), Some("{\"version\":1}"), Some("\0\0\0\0")] {
        match damage {
            None => fs::remove_file(node.path("instance")).expect("removing"),
            Some(bytes) => fs::write(node.path("instance"), bytes).expect("writing"),
        }
        assert!(node.read().is_none(), "{damage:?}: no reader makes one");
        let locked = node.lock();
        assert_ne!(locked.instance().id, before);
        assert_eq!(locked.record(&key_of("hers")).expect("loading"), Some(saved.clone()));
    }
}

#[test]
fn a_newer_layout_is_left_alone() {
    let node = Node::new();
    save(&node, "hers", &[host("0.0.0.0", 80)]);
    let text = "{\"version\":3,\"who\":\"knows\"}";
    fs::write(node.path("instance"), text).expect("writing");
    let tree = node.tree();
    let quiet = &mut Silent;
    let error = node.store.lock(quiet).expect_err("a newer layout");
    assert!(matches!(error, Error::NewerLayout { found: 3, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("/state/instance has layout version 3"), "{error}");
    let error = node.store.read(quiet).expect_err("a newer layout");
    assert!(matches!(error, Error::NewerLayout { .. }), "{error}");
    assert_eq!(node.tree(), tree);
    assert_eq!(fs::read_to_string(node.path("instance")).expect("reading"), text);
}

fn reboot(node: &Node) {
    let locked = node.lock();
    let text = fs::read_to_string(node.path("instance")).expect("reading");
    let earlier = text.replace(&locked.instance().boot_id, "an-earlier-boot");
    assert_ne!(earlier, text);
    fs::write(node.path("instance"), earlier).expect("writing");
}

#[test]
fn a_reboot_voids_what_is_on_a_disk() {
    let node = Node::on_disk();
    save(&node, "hers", &[host("0.0.0.0", 80)]);
    let before = node.lock().instance().clone();
    reboot(&node);
    assert!(node.read().is_none(), "a reader sees nothing of it");
    let after = node.lock().instance().clone();
    assert_ne!(after.id, before.id);
    assert_eq!(after.boot_id, before.boot_id);
    assert_eq!(node.tree(), Vec::<String>::new());
    let again = save(&node, "hers", &[host("0.0.0.0", 80)]);
    assert_eq!(node.lock().owned(&again).expect("looking"), again.mappings);
}

/// Killed while the records of an earlier boot were deleted.
#[test]
fn a_wipe_that_was_cut_short_is_done_again() {
    let node = Node::on_disk();
    save(&node, "hers", &[host("0.0.0.0", 80)]);
    reboot(&node);
    fs::remove_dir_all(node.path("attachments")).expect("removing");
    drop(node.lock());
    assert_eq!(node.tree(), Vec::<String>::new());
}

#[test]
fn a_tmpfs_is_not_asked_for_its_boot() {
    let node = Node::new();
    save(&node, "hers", &[host("0.0.0.0", 80)]);
    let tree = node.tree();
    reboot(&node);
    assert_eq!(node.lock().instance().boot_id, "an-earlier-boot");
    assert_eq!(node.tree(), tree);
}

#[test]
fn a_record_of_another_boot_is_void() {
    let node = Node::on_disk();
    let saved = save(&node, "hers", &[host("0.0.0.0", 80)]);
    let path = node.path("attachments/cbr0:hers:eth0.json");
    let text = fs::read_to_string(&path).expect("reading");
    fs::write(&path, text.replace(&saved.boot_id, "an-earlier-boot")).expect("writing");
    let locked = node.lock();
    assert_eq!(locked.record(&key_of("hers")).expect("loading"), None);
    assert_eq!(holders(&locked, &[host("0.0.0.0", 80)]), []);
    assert!(locked.records().expect("listing").is_empty());
    locked.tidy().expect("tidying");
    assert_eq!(kept(&node), Vec::<String>::new());
}
