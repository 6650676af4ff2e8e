//! What containers read.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::geteuid;

use super::protection::with_umask;
use super::public::{AT_ONCE, delete};
use super::*;
use crate::model::Pod;
use crate::publication::{Entry, Origin, Publication};

const DIR: &str = "pods/u1";
const FILES: [&str; 2] = ["pods/u1/ports.json", "pods/u1/ports.env"];

fn pod(uid: &str) -> Pod {
    Pod { namespace: "shop".into(), name: "web".into(), uid: uid.to_owned() }
}

fn on(network: &str, container_id: &str) -> Attachment {
    Attachment::new(network, container_id, "eth0").expect("a valid attachment")
}

fn entries(attachment: &Attachment, numbers: &[u16]) -> Vec<Entry> {
    let entry = |number: &u16| Entry {
        attachment: Some(attachment.clone()),
        name: Some(format!("p{number}")),
        protocols: vec![Protocol::Tcp],
        host_port: (*number).try_into().expect("a port"),
        container_port: (*number).try_into().expect("a port"),
        count: NonZeroU16::MIN,
        host_ips: Vec::new(),
        origin: Origin::Chosen,
        dialects: [].into(),
    };
    numbers.iter().map(entry).collect()
}

fn publish(locked: &Locked, attachment: &Attachment, numbers: &[u16]) {
    locked.publish(&pod("u1"), attachment, entries(attachment, numbers)).expect("publishing");
}

fn numbers(publication: &Publication) -> Vec<u16> {
    publication.entries.iter().map(|entry| entry.host_port.get()).collect()
}

fn published(node: &Node) -> Vec<u16> {
    let locked = node.lock();
    let publication = locked.published("u1").expect("something is published");
    let env = fs::read_to_string(node.path(FILES[1])).expect("reading");
    assert_eq!(env, publication.to_env());
    numbers(&publication)
}

#[test]
fn an_ordinary_user_can_read_it_whatever_the_umask() {
    let strictest = if geteuid().is_root() { 0o777 } else { 0o377 };
    for mask in [0, 0o022, strictest] {
        let node = Node::new();
        with_umask(mask, || {
            publish(&node.lock(), &on("cbr0", "4f2a"), &[1]);
            publish(&node.lock(), &on("cbr0", "4f2a"), &[2]);
        });
        assert_eq!(mode(&node.path(DIR)), 0o755, "{mask:o}");
        assert_eq!(FILES.map(|file| mode(&node.path(file))), [0o644; 2], "{mask:o}");
        assert_eq!(["", "pods"].map(|dir| mode(&node.path(dir))), [0o700; 2], "{mask:o}");
    }
    // Kubelet makes the directory of a subPath itself.
    let node = Node::new();
    drop(node.lock());
    fs::create_dir_all(node.path(DIR)).expect("making a directory");
    fs::set_permissions(node.path(DIR), fs::Permissions::from_mode(0o750)).expect("protecting");
    publish(&node.lock(), &on("cbr0", "4f2a"), &[1]);
    assert_eq!(mode(&node.path(DIR)), 0o755);
}

#[test]
fn attachments_are_merged_and_each_withdraws_its_own() {
    let node = Node::new();
    let (first, second) = (on("cbr0", "4f2a"), on("net2", "4f2a"));
    publish(&node.lock(), &first, &[1, 2]);
    publish(&node.lock(), &second, &[3]);
    publish(&node.lock(), &first, &[4]);
    assert_eq!(published(&node), [4, 3]);
    node.lock().unpublish("u1", &first).expect("withdrawing");
    assert_eq!(published(&node), [3]);
    node.lock().unpublish("u1", &first).expect("withdrawing again");
    assert_eq!(published(&node), [3]);
    node.lock().unpublish("u1", &second).expect("withdrawing");
    assert!(!node.path(DIR).exists());
    node.lock().unpublish("u1", &second).expect("withdrawing again");
    publish(&node.lock(), &first, &[1]);
    publish(&node.lock(), &first, &[]);
    assert!(!node.path(DIR).exists(), "nothing is nothing to publish");
}

#[test]
fn the_late_del_of_an_old_sandbox_takes_nothing_of_the_new_one() {
    let node = Node::new();
    let (old, new) = (on("cbr0", "old"), on("cbr0", "new"));
    publish(&node.lock(), &old, &[1]);
    publish(&node.lock(), &new, &[2]);
    node.lock().unpublish("u1", &old).expect("withdrawing");
    assert_eq!(published(&node), [2]);
}

#[test]
fn no_uid_leaves_the_directory() {
    let node = Node::new();
    let (locked, attachment) = (node.lock(), on("cbr0", "4f2a"));
    for uid in ["", "..", "../attachments", "a/b", ".x", "a b"] {
        let refused = locked.publish(&pod(uid), &attachment, entries(&attachment, &[1]));
        assert!(matches!(refused, Err(Error::Name(_))), "{uid}");
        locked.unpublish(uid, &attachment).expect("there is nothing to withdraw");
        assert_eq!(locked.published(uid), None);
    }
    assert_eq!(node.tree(), [""; 0]);
}

/// A root container that mounts the directory writable.
#[test]
fn what_a_container_puts_there_does_no_harm() {
    let node = Node::new();
    let (attachment, outside) = (on("cbr0", "4f2a"), node.dir.with_file_name("outside"));
    fs::write(&outside, "precious").expect("writing");
    for damage in ["", "{", "[]", "{\"version\":2,\"ports\":[]}"] {
        publish(&node.lock(), &attachment, &[1]);
        fs::write(node.path(FILES[0]), damage).expect("writing");
        publish(&node.lock(), &attachment, &[2]);
        assert_eq!(published(&node), [2], "{damage}");
    }
    for file in FILES {
        fs::remove_file(node.path(file)).expect("deleting");
        symlink(&outside, node.path(file)).expect("linking");
    }
    symlink(node.dir.parent().expect("a parent"), node.path("pods/u1/up")).expect("linking");
    publish(&node.lock(), &attachment, &[3]);
    assert_eq!(published(&node), [3]);
    fs::write(node.path(FILES[0]), "{").expect("writing");
    node.lock().unpublish("u1", &attachment).expect("withdrawing");
    assert!(!node.path(DIR).exists(), "with all that is in it");
    assert_eq!(fs::read_to_string(&outside).expect("reading"), "precious");
}

/// A root container that mounts `pods` as a whole, and writable, makes its own way to elsewhere.
#[test]
fn a_link_in_the_place_of_a_pods_directory_is_not_followed() {
    let node = Node::new();
    let (attachment, outside) = (on("cbr0", "4f2a"), node.dir.with_file_name("outside"));
    let mut told = Publication::default();
    told.put(&attachment, entries(&attachment, &[9]));
    let private = fs::Permissions::from_mode(0o700);
    fs::create_dir(&outside).expect("making a directory");
    fs::set_permissions(&outside, private).expect("protecting");
    fs::write(outside.join("ports.json"), told.to_json().expect("JSON")).expect("writing");
    drop(node.lock());
    fs::create_dir(node.path("pods")).expect("making a directory");
    let plant = || symlink(&outside, node.path(DIR)).expect("linking");
    plant();
    assert_eq!(node.lock().published("u1"), None, "read through the link");
    publish(&node.lock(), &attachment, &[1]);
    assert_eq!(published(&node), [1]);
    assert!(node.path(DIR).symlink_metadata().expect("examining").is_dir());
    fs::remove_dir_all(node.path(DIR)).expect("deleting");
    plant();
    node.lock().unpublish("u1", &attachment).expect("withdrawing");
    assert!(node.path(DIR).symlink_metadata().is_err(), "the link is gone");
    assert_eq!(mode(&outside), 0o700);
    let left = fs::read_dir(&outside).expect("listing").count();
    assert_eq!((left, outside.join("ports.json").exists()), (1, true), "what it led to is not");
}

/// The files of a killed pod are deleted by whoever comes next, so it must not be able to spoil that.
#[test]
fn a_nest_of_directories_can_be_deleted() {
    const DEPTH: usize = 20_000;
    let node = Node::new();
    let attachment = on("cbr0", "4f2a");
    publish(&node.lock(), &attachment, &[1]);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = open(&node.path(DIR), flags, Mode::empty()).expect("opening");
    for _ in 0..DEPTH {
        mkdirat(&at, "1", Mode::S_IRWXU).expect("making a directory");
        drop(openat(&at, "file", flags_of_a_file(), Mode::S_IRWXU).expect("making a file"));
        at = openat(&at, "1", flags, Mode::empty()).expect("opening");
    }
    // On a busy machine that is more than one go.
    let goes = (0..100).find(|_| node.lock().unpublish("u1", &attachment).is_ok());
    assert!(goes.is_some() && !node.path(DIR).exists(), "{goes:?}");
}

/// Whoever keeps a command busy with deleting would keep the whole node from the lock.
#[test]
fn deleting_ends_in_time_however_much_there_is() {
    let node = Node::new();
    drop(node.lock());
    fs::create_dir_all(node.path(&format!("{DIR}/inner"))).expect("making directories");
    for number in 0..2 * AT_ONCE {
        symlink("x", node.path(&format!("{DIR}/{number}"))).expect("linking");
        symlink("x", node.path(&format!("{DIR}/inner/{number}"))).expect("linking");
    }
    let pods = fs::File::open(node.path("pods")).expect("opening");
    let count = |dir: &str| fs::read_dir(node.path(dir)).map_or(0, Iterator::count);
    let mut before = count(DIR) + count(&format!("{DIR}/inner"));
    while delete(&pods, "u1", Some(Instant::now())).is_err() {
        let left = count(DIR) + count(&format!("{DIR}/inner"));
        assert!(left < before, "what was deleted stays deleted");
        before = left;
    }
    assert!(!node.path(DIR).exists());
    assert!(before <= AT_ONCE, "all at once: {before}");
}

fn flags_of_a_file() -> OFlag {
    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC
}

/// What stands in the way of a file is a directory.
#[test]
fn a_directory_in_the_place_of_a_file_makes_way() {
    let node = Node::new();
    let attachment = on("cbr0", "4f2a");
    publish(&node.lock(), &attachment, &[1]);
    for file in FILES {
        fs::remove_file(node.path(file)).expect("deleting");
        fs::create_dir_all(node.path(file).join("a/b")).expect("making directories");
    }
    publish(&node.lock(), &attachment, &[2]);
    assert_eq!(published(&node), [2]);
}

#[test]
fn tidying_withdraws_what_no_record_stands_for() {
    let node = Node::new();
    save(&node, "4f2a", &[host("0.0.0.0", 1)]);
    publish(&node.lock(), &on("cbr0", "4f2a"), &[1]);
    publish(&node.lock(), &on("net2", "4f2a"), &[2]);
    let other = on("cbr0", "gone");
    node.lock().publish(&pod("u2"), &other, entries(&other, &[3])).expect("publishing");
    node.lock().tidy().expect("tidying");
    assert_eq!(published(&node), [1]);
    assert!(!node.path("pods/u2").exists());
}

/// A reader in a container takes no lock.
#[test]
fn a_reader_sees_a_whole_file_at_any_time() {
    let node = Node::new();
    let attachment = on("cbr0", "4f2a");
    let many: Vec<u16> = (1..2000).collect();
    publish(&node.lock(), &attachment, &many);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..40 {
                let count = if round % 2 == 0 { 1 } else { many.len() };
                publish(&node.lock(), &attachment, &many[..count]);
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let bytes = fs::read(node.path(FILES[0])).expect("it is always there");
            let seen = numbers(&Publication::from_json(&bytes).expect("it is always whole"));
            assert!(seen.len() == 1 || seen == many, "{}", seen.len());
            let env = fs::read_to_string(node.path(FILES[1])).expect("it is always there");
            assert!(env.ends_with("'\n"), "{env}");
        }
    });
}
