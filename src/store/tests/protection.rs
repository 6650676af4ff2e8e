use crate::event::Silent;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use super::*;

fn refusal(store: &Store) -> Error {
    let quiet = &mut Silent;
    let error = store.lock(quiet).expect_err("it must be refused");
    let reading = store.read(quiet).expect_err("to readers too");
    assert_eq!(reading.to_string(), error.to_string());
    error
}

/// Runs with another umask in a thread that shares none of it: the umask is one per process, but
/// for who has asked for an own copy, which takes no privilege.
pub(super) fn with_umask(mask: u32, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = move || {
            unshare(CloneFlags::CLONE_FS).expect("an own umask");
            umask(Mode::from_bits_truncate(mask));
            work();
        };
        scope.spawn(run).join().expect("no panic");
    });
}

fn modes(node: &Node) -> Vec<(String, u32)> {
    let mut names = node.whole_tree();
    names.extend(["instance", "lock", ""].map(str::to_owned));
    names.retain(|name| !name.contains(" -> "));
    names.into_iter().map(|name| (name.clone(), mode(&node.path(&name)))).collect()
}

/// Under a mask of 0777 even the owner may do nothing, and only root goes on regardless; 0377
/// leaves just enough to open the directory in order to change that.
#[test]
fn everything_is_private_whatever_the_umask() {
    let strictest = if geteuid().is_root() { 0o777 } else { 0o377 };
    for mask in [0, 0o022, strictest] {
        let node = Node::new();
        with_umask(mask, || {
            save(&node, "4f2a", &[host("0.0.0.0", 80), host("::", 80)]);
            save(&node, "4f2b", &[host("0.0.0.0", 80)]);
            let aside = node.lock().discard(&Key::of_attachment(&attachment("4f2a")));
            assert!(matches!(aside, Ok(Aside::Kept(_))), "{aside:?}");
        });
        let found = modes(&node);
        assert_eq!(found.len(), 12, "{found:?}");
        for (name, mode) in found {
            let dir = name.is_empty() || name.ends_with('/');
            assert_eq!(mode, if dir { 0o700 } else { 0o600 }, "{name} with umask {mask:o}");
        }
    }
}

#[test]
fn missing_parents_are_made_readable() {
    let node = Node::new();
    let dir = node.dir.join("a/b/autoport");
    with_umask(0o077, || {
        drop(Store::at(&dir).lock(&mut Silent).expect("locking"));
    });
    assert_eq!(
        ["", "a", "a/b", "a/b/autoport"].map(|name| mode(&node.path(name))),
        [0o755, 0o755, 0o755, 0o700]
    );
}

#[test]
fn a_symbolic_link_is_refused() {
    let node = Node::new();
    drop(node.lock());
    let link = node.dir.with_file_name("link");
    symlink(&node.dir, &link).expect("linking");
    for spelling in [link.clone(), link.join(""), link.join(".")] {
        let error = refusal(&Store::at(&spelling));
        assert!(matches!(error, Error::NotADirectory { found: "a symbolic link", .. }), "{error}");
        assert!(error.to_string().contains("set another stateDir"), "{error}");
    }
    fs::remove_file(&link).expect("removing");
    symlink("nowhere", &link).expect("linking");
    refusal(&Store::at(&link));
    assert!(!node.dir.with_file_name("nowhere").exists(), "nothing was made through the link");
}

#[test]
fn a_file_is_refused() {
    let node = Node::new();
    fs::write(&node.dir, "").expect("writing");
    let error = refusal(&node.store);
    assert!(matches!(error, Error::NotADirectory { found: "a file", .. }), "{error}");
    refusal(&Store::at(&node.dir.join("below")));
}

/// Root gives a directory away. Who cannot takes one that belongs to somebody else already: /sys is
/// root's, and in a user namespace some cache or other is nobody's.
#[test]
fn a_foreign_directory_is_refused() {
    let node = Node::new();
    drop(node.lock());
    let foreign = match chown(&node.dir, Some(65_533), None) {
        Ok(()) => node.dir.clone(),
        Err(_) => directory_of_somebody_else(),
    };
    let uid = fs::metadata(&foreign).expect("examining").uid();
    let me = geteuid().as_raw();
    let error = refusal(&Store::at(&foreign));
    let Error::ForeignOwner { owner, euid, .. } = error else { panic!("{error}") };
    assert_eq!((owner, euid), (uid, me));
}

pub(super) fn directory_of_somebody_else() -> PathBuf {
    let below = ["/var/cache", "/var/lib", "/home", "/run", "/proc"].into_iter();
    let found = below.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let mut candidates = std::iter::once(PathBuf::from("/sys")).chain(found.map(|dir| dir.path()));
    let fits = |dir: &PathBuf| {
        let owner = fs::symlink_metadata(dir).ok().filter(fs::Metadata::is_dir);
        owner.is_some_and(|found| found.uid() != geteuid().as_raw()) && fs::read_dir(dir).is_ok()
    };
    candidates.find(fits).expect("the test needs a readable directory of somebody else")
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let node = Node::new();
    drop(node.lock());
    for open in [0o720, 0o702, 0o1777] {
        fs::set_permissions(&node.dir, fs::Permissions::from_mode(open))
            .expect("changing the mode");
        let error = refusal(&node.store);
        assert!(matches!(error, Error::WritableByOthers { mode, .. } if mode == open), "{error}");
        assert!(error.to_string().contains(&format!("{open:04o}")), "{error}");
    }
}

#[test]
fn a_readable_directory_is_made_private() {
    let node = Node::new();
    fs::create_dir(&node.dir).expect("making a directory");
    fs::set_permissions(&node.dir, fs::Permissions::from_mode(0o755)).expect("changing the mode");
    drop(node.lock());
    assert_eq!(mode(&node.dir), 0o700);
}

/// Nobody but us can have put them there, but a restored backup can.
#[test]
fn links_inside_are_not_followed() {
    let node = Node::new();
    drop(node.lock());
    let outside = node.dir.with_file_name("outside");
    fs::write(&outside, "precious").expect("writing");

    symlink(&outside, node.path(".new")).expect("linking");
    fs::create_dir_all(node.path("attachments")).expect("making a directory");
    save(&node, "4f2a", &[host("0.0.0.0", 80)]);
    assert_eq!(fs::read(&outside).expect("reading"), b"precious");

    fs::remove_file(node.path("lock")).expect("removing");
    symlink(&outside, node.path("lock")).expect("linking");
    let error = node.store.lock(&mut Silent).expect_err("a link as lock");
    assert!(matches!(error, Error::Io { action: "open", .. }), "{error}");
}

#[test]
fn failures_name_the_path() {
    let error = Store::at(Path::new("/proc/autoport")).lock(&mut Silent);
    let error = error.expect_err("nobody makes directories there");
    assert_eq!(error.to_string(), "cannot create /proc/autoport");
    assert!(std::error::Error::source(&error).is_some());
}
