//! What containers read.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::geteuid;

use super::looking_up::of_pod;
use super::protection::with_umask;
use super::tree::{AT_ONCE, delete};
use super::*;

const DIR: &str = "pods/u1";
const FILES: [&str; 2] = ["pods/u1/ports.json", "pods/u1/ports.env"];
const PATIENCE: Duration = Duration::from_mins(1);

/// A record of the pod u1 for which the node chose `count` numbers from `first` on.
fn chosen(locked: &Shared, container_id: &str, first: u16, count: u16) -> Record {
    of_pod(locked, container_id, "u1", first, count)
}

fn publish(locked: Locked) -> Vec<Error> {
    locked.unlock().publish_rest(PATIENCE, &mut Silent)
}

/// Records what the node chose, and publishes it.
fn attach(node: &Node, container_id: &str, first: u16, count: u16) -> Record {
    let locked = node.lock();
    let record = chosen(&locked, container_id, first, count);
    locked.save(&record).expect("saving");
    assert!(publish(locked).is_empty());
    record
}

fn detach(node: &Node, record: &Record) -> Vec<Error> {
    let locked = node.lock();
    locked.remove(record).expect("removing");
    publish(locked)
}

fn clear(node: &Node) {
    let failures = node.lock().unlock().clear_published(PATIENCE, &mut Silent).expect("listing");
    assert!(failures.is_empty(), "{failures:?}");
}

/// The first number of each entry; empty where nothing is published.
fn published(node: &Node) -> Vec<u16> {
    let Ok(json) = fs::read_to_string(node.path(FILES[0])) else {
        assert!(!node.path(FILES[1]).exists());
        return Vec::new();
    };
    let env = fs::read_to_string(node.path(FILES[1])).expect("reading");
    let numbers: Vec<u16> = json
        .lines()
        .filter_map(|line| {
            line.trim().strip_prefix("\"hostPort\": ")?.trim_end_matches(',').parse().ok()
        })
        .collect();
    let first = env.lines().find_map(|line| line.strip_prefix("AUTOPORT_PORTS='"));
    let first = first.and_then(|list| list.split(['-', ',', '\'']).next()?.parse().ok());
    assert_eq!(numbers.first().copied(), first, "{env}");
    numbers
}

#[test]
fn an_ordinary_user_can_read_it_whatever_the_umask() {
    let strictest = if geteuid().is_root() { 0o777 } else { 0o377 };
    for mask in [0, 0o022, strictest] {
        let node = Node::new();
        with_umask(mask, || {
            attach(&node, "4f2a", 1, 1);
            attach(&node, "4f2a", 2, 1);
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
    attach(&node, "4f2a", 1, 1);
    assert_eq!(mode(&node.path(DIR)), 0o755);
}

#[test]
fn attachments_are_merged_and_each_takes_its_own_away() {
    let node = Node::new();
    let first = attach(&node, "4f2a", 1, 1);
    let locked = node.lock();
    let mut second = chosen(&locked, "4f2a", 3, 1);
    second.owner.holder = Attachment::new("net2", "4f2a", "eth0").expect("valid").into();
    locked.save(&second).expect("saving");
    assert!(publish(locked).is_empty());
    assert_eq!(published(&node), [1, 3]);
    detach(&node, &first);
    assert_eq!(published(&node), [3]);
    detach(&node, &first);
    assert_eq!(published(&node), [3], "again");
    detach(&node, &second);
    assert!(!node.path(DIR).exists());
    assert_eq!(node.lookups(), [""; 0]);
    assert!(!node.path("owners/u1").exists());
}

#[test]
fn what_the_pod_named_itself_is_not_published() {
    let node = Node::new();
    attach(&node, "4f2a", 1, 1);
    attach(&node, "4f2a", 2, 0);
    assert!(!node.path(DIR).exists(), "what was chosen before is true no more");
    // Made for its mount by kubelet.
    fs::create_dir_all(node.path(DIR)).expect("making a directory");
    let record = attach(&node, "4f2a", 3, 0);
    assert!(node.path(DIR).exists());
    detach(&node, &record);
    assert!(!node.path(DIR).exists());
}

#[test]
fn the_late_del_of_an_old_sandbox_takes_nothing_of_the_new_one() {
    let node = Node::new();
    let old = attach(&node, "old", 1, 1);
    let locked = node.lock();
    let mut new = chosen(&locked, "new", 2, 1);
    new.created += 1;
    locked.save(&new).expect("saving");
    assert!(publish(locked).is_empty());
    assert_eq!(published(&node), [2]);
    detach(&node, &old);
    assert_eq!(published(&node), [2]);
}

#[test]
fn no_uid_leaves_the_directory() {
    let node = Node::new();
    for uid in ["..", "../attachments", "a/b", ".x", "a b", "u/"] {
        let locked = node.lock();
        let record = of_pod(&locked, "4f2a", uid, 1, 1);
        locked.save(&record).expect("saving");
        let mut unlocked = locked.unlock();
        let refused = unlocked.publish(uid, PATIENCE, &mut Silent);
        assert!(matches!(refused, Err(Error::Name(_))), "{uid}");
        assert!(detach(&node, &record).is_empty(), "there is nothing to take away");
    }
    assert!(!node.path("pods").exists());
    assert_eq!(node.lookups(), [""; 0]);
}

/// A root container that mounts the directory writable. What it puts there is never read.
#[test]
fn what_a_container_puts_there_does_no_harm() {
    let node = Node::new();
    let outside = node.dir.with_file_name("outside");
    fs::write(&outside, "precious").expect("writing");
    for damage in ["", "{", "{\"version\":1,\"pod\":{},\"ports\":[{\"hostPort\":22}]}"] {
        attach(&node, "4f2a", 1, 1);
        fs::write(node.path(FILES[0]), damage).expect("writing");
        attach(&node, "4f2a", 2, 1);
        assert_eq!(published(&node), [2], "{damage}");
    }
    for file in FILES {
        fs::remove_file(node.path(file)).expect("deleting");
        symlink(&outside, node.path(file)).expect("linking");
    }
    symlink(node.dir.parent().expect("a parent"), node.path("pods/u1/up")).expect("linking");
    let record = attach(&node, "4f2a", 3, 1);
    assert_eq!(published(&node), [3]);
    detach(&node, &record);
    assert!(!node.path(DIR).exists(), "with all that is in it");
    assert_eq!(fs::read_to_string(&outside).expect("reading"), "precious");
}

/// An entry that names a pod that lives keeps nothing: only records count.
#[test]
fn nothing_written_there_keeps_the_directory() {
    let node = Node::new();
    attach(&node, "living", 7, 1);
    let json = fs::read(node.path(FILES[0])).expect("reading");
    let locked = node.lock();
    let record = of_pod(&locked, "dying", "u2", 8, 1);
    locked.save(&record).expect("saving");
    publish(locked);
    fs::write(node.path("pods/u2/ports.json"), json).expect("writing");
    fs::write(node.path("pods/u2/ballast"), [0; 4096]).expect("writing");
    detach(&node, &record);
    assert!(!node.path("pods/u2").exists());
    assert_eq!(published(&node), [7]);
}

/// FIFOs and sockets would block whoever opened them, and a device would act.
#[test]
fn nothing_there_is_opened() {
    let node = Node::new();
    let record = attach(&node, "4f2a", 1, 1);
    for file in FILES {
        fs::remove_file(node.path(file)).expect("deleting");
        nix::unistd::mkfifo(&node.path(file), Mode::S_IRWXU).expect("making a FIFO");
    }
    let _listener = std::os::unix::net::UnixListener::bind(node.path("pods/u1/socket"));
    let begun = Instant::now();
    attach(&node, "4f2a", 2, 1);
    assert_eq!(published(&node), [2]);
    nix::unistd::mkfifo(&node.path("pods/u1/fifo"), Mode::S_IRWXU).expect("making a FIFO");
    detach(&node, &record);
    assert!(!node.path(DIR).exists());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// A root container that mounts `pods` as a whole, and writable, makes its own way to elsewhere.
#[test]
fn a_link_in_the_place_of_a_pods_directory_is_not_followed() {
    let node = Node::new();
    let outside = node.dir.with_file_name("outside");
    let private = fs::Permissions::from_mode(0o700);
    fs::create_dir(&outside).expect("making a directory");
    fs::set_permissions(&outside, private).expect("protecting");
    fs::write(outside.join("ports.json"), "precious").expect("writing");
    drop(node.lock());
    fs::create_dir(node.path("pods")).expect("making a directory");
    let plant = || symlink(&outside, node.path(DIR)).expect("linking");
    plant();
    let record = attach(&node, "4f2a", 1, 1);
    assert_eq!(published(&node), [1]);
    assert!(node.path(DIR).symlink_metadata().expect("examining").is_dir());
    fs::remove_dir_all(node.path(DIR)).expect("deleting");
    plant();
    detach(&node, &record);
    assert!(node.path(DIR).symlink_metadata().is_err(), "the link is gone");
    plant();
    clear(&node);
    assert!(node.path(DIR).symlink_metadata().is_err(), "the link is gone");
    assert_eq!(mode(&outside), 0o700);
    let left = fs::read_to_string(outside.join("ports.json")).expect("reading");
    assert_eq!(left, "precious", "what it led to is not");
}

/// The files of a killed pod are deleted by whoever comes next, so it must not be able to spoil that.
#[test]
fn a_nest_of_directories_can_be_deleted() {
    const DEPTH: usize = 20_000;
    let node = Node::new();
    let record = attach(&node, "4f2a", 1, 1);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = open(&node.path(DIR), flags, Mode::empty()).expect("opening");
    for _ in 0..DEPTH {
        mkdirat(&at, "1", Mode::S_IRWXU).expect("making a directory");
        drop(openat(&at, "file", flags_of_a_file(), Mode::S_IRWXU).expect("making a file"));
        at = openat(&at, "1", flags, Mode::empty()).expect("opening");
    }
    // On a busy machine that is more than one go.
    let goes = (0..100).find(|_| detach(&node, &record).is_empty());
    assert!(goes.is_some() && !node.path(DIR).exists(), "{goes:?}");
}

/// Whoever keeps a command busy with deleting keeps nobody else from the lock.
#[test]
fn the_lock_is_free_while_a_pods_files_are_deleted() {
    let node = Node::new();
    let record = attach(&node, "4f2a", 1, 1);
    let locked = node.lock();
    locked.remove(&record).expect("removing");
    let unlocked = locked.unlock();
    let other = node.store.clone().waiting(Duration::ZERO).lock(&mut Silent).expect("it is free");
    assert_eq!(published(&node), [1], "still");
    drop(other);
    assert!(unlocked.publish_rest(PATIENCE, &mut Silent).is_empty());
    assert!(!node.path(DIR).exists());
}

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
    attach(&node, "4f2a", 1, 1);
    for file in FILES {
        fs::remove_file(node.path(file)).expect("deleting");
        fs::create_dir_all(node.path(file).join("a/b")).expect("making directories");
    }
    attach(&node, "4f2a", 2, 1);
    assert_eq!(published(&node), [2]);
}

/// Killed between the record and the files, or in the middle of them.
#[test]
fn what_a_killed_command_left_is_cleared() {
    let node = Node::new();
    attach(&node, "4f2a", 1, 1);
    let locked = node.lock();
    locked.save(&of_pod(&locked, "5a", "u2", 2, 1)).expect("saving");
    publish(locked);
    // After remove, before its files.
    let locked = node.lock();
    locked.remove(&of_pod(&locked, "5a", "u2", 2, 1)).expect("removing");
    drop(locked);
    fs::write(node.path("owners/u2/.new"), "{\"half").expect("writing");
    // In save, before a record; and a pod that never had one, but mounts the directory.
    fs::create_dir_all(node.path("owners/u3")).expect("making a directory");
    fs::create_dir_all(node.path("pods/u4")).expect("making a directory");
    fs::create_dir_all(node.path("pods/u5/x")).expect("making directories");
    node.lock().tidy().expect("tidying");
    clear(&node);
    assert_eq!(published(&node), [1]);
    let left: Vec<_> = ["pods/u2", "owners/u2", "owners/u3", "pods/u4", "pods/u5"]
        .into_iter()
        .filter(|name| node.path(name).exists())
        .collect();
    assert_eq!(left, ["pods/u4"], "empty, it may be for a pod that lives");
}

/// Whoever writes last writes what is so: two commands that changed a pod's records one after the
/// other publish in any order.
#[test]
fn the_last_to_publish_writes_what_is_so() {
    let node = Node::new();
    let record = attach(&node, "4f2a", 1, 1);
    let locked = node.lock();
    locked.remove(&record).expect("removing");
    let removal = locked.unlock();
    let locked = node.lock();
    let mut next = chosen(&locked, "4f2b", 2, 1);
    next.created += 1;
    locked.save(&next).expect("saving");
    let addition = locked.unlock();
    for unlocked in [addition, removal] {
        assert!(unlocked.publish_rest(PATIENCE, &mut Silent).is_empty());
        assert_eq!(published(&node), [2]);
    }
}

/// Pods come and go in two processes at once: in the end nothing is left, and nothing failed.
#[test]
fn publishing_and_removing_at_once_ends_with_what_is_recorded() {
    let node = Node::new();
    std::thread::scope(|scope| {
        for worker in 0..4u16 {
            let node = &node;
            scope.spawn(move || {
                for _ in 0..50 {
                    let record = attach(node, &format!("c{worker}"), 100 + worker, 1);
                    let failures = detach(node, &record);
                    assert!(failures.is_empty(), "{failures:?}");
                }
            });
        }
    });
    assert!(
        !node.path(DIR).exists() && !node.path("owners/u1").exists(),
        "{:?}",
        node.whole_tree()
    );
}

/// A reader in a container takes no lock.
#[test]
fn a_reader_sees_a_whole_file_at_any_time() {
    let node = Node::new();
    attach(&node, "4f2a", 1, 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..40 {
                attach(&node, "4f2a", 1, if round % 2 == 0 { 1 } else { 100 });
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let json = fs::read_to_string(node.path(FILES[0])).expect("it is always there");
            assert!(json.ends_with("}\n"), "it is always whole: {json}");
            let env = fs::read_to_string(node.path(FILES[1])).expect("it is always there");
            assert!(env.ends_with("'\n"), "{env}");
        }
    });
}
