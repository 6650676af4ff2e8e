use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// A link to a namespace can be made without privilege; the integration tests have bind mounts,
/// as a runtime makes them.
fn linked(dir: &Path, target: &str) -> Netns {
    let path = dir.join("cni-1");
    let _ = std::fs::remove_file(&path);
    symlink(target, &path).expect("linking to a namespace");
    let seen = observe(path.to_str().expect("an ASCII path"));
    seen.expect("a namespace").expect("it can be examined")
}

#[test]
fn own_is_what_readlink_shows() {
    let shown = std::fs::read_link(OWN_NETNS).expect("reading the link");
    let own = own().expect("the own namespace");
    assert_eq!(shown.to_str(), Some(format!("net:[{}]", own.inode).as_str()));
}

#[test]
fn observes_namespaces_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let seen = linked(dir.path(), OWN_NETNS);
    assert_eq!(seen.id, own().expect("the own namespace"));
    let found = |path: &str| observe(path).map_err(|missing| missing.found);
    let folder = dir.path().to_str().expect("an ASCII path");
    assert_eq!(found(folder), Err("is not a network namespace"));
    assert_eq!(found("/nonexistent/netns"), Err("does not exist"));
    assert_eq!(found(&format!("{}/x", file(dir.path()))), Err("does not exist"));
    assert_eq!(found(""), Err("does not exist"));
    assert_eq!(found("a\0b"), Ok(None), "it cannot be asked for");
}

#[test]
fn a_fifo_in_the_place_of_a_namespace_does_not_block() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("fifo");
    nix::sys::stat::mknod(&path, nix::sys::stat::SFlag::S_IFIFO, Mode::S_IRUSR, 0)
        .expect("making a FIFO");
    observe(path.to_str().expect("an ASCII path")).expect_err("a FIFO");
}

#[test]
fn gone_when_absent_or_no_namespace() {
    let dir = tempfile::tempdir().expect("a directory");
    let seen = linked(dir.path(), OWN_NETNS);
    std::fs::remove_file(&seen.path).expect("removing the link");
    assert!(is_gone(&seen), "absent");

    std::fs::write(&seen.path, "").expect("writing a file");
    assert!(is_gone(&seen), "a file, as an unmounted bind mount leaves it");

    let below_a_file = Netns { path: format!("{}/x", file(dir.path())), ..seen };
    assert!(is_gone(&below_a_file), "its directory is a file now");
}

#[test]
fn doubt_means_alive() {
    let dir = tempfile::tempdir().expect("a directory");
    let seen = linked(dir.path(), OWN_NETNS);
    std::fs::remove_file(&seen.path).expect("removing the link");
    let elsewhere = Netns { seen_from: NamespaceId { device: 0, inode: 0 }, ..seen.clone() };
    assert!(!is_gone(&elsewhere), "recorded from another mount namespace");

    let relative = Netns { path: "netns/cni-1".to_owned(), ..seen.clone() };
    assert!(!is_gone(&relative), "recorded from another working directory");

    let of_a_process = Netns { path: "/proc/4194304/ns/net".to_owned(), ..seen.clone() };
    assert!(!is_gone(&of_a_process), "the process is gone, the namespace may not be");

    symlink("cni-1", &seen.path).expect("linking in a circle");
    assert!(!is_gone(&seen), "ELOOP");
}

#[test]
fn a_link_proves_nothing_wherever_it_leads() {
    let dir = tempfile::tempdir().expect("a directory");
    let seen = linked(dir.path(), OWN_NETNS);
    assert!(!is_gone(&seen), "to the namespace itself");
    linked(dir.path(), "/proc/self/ns/uts");
    assert!(!is_gone(&seen), "to another namespace");
    for target in ["/proc/4194304/ns/net", "/dev/null"] {
        std::fs::remove_file(&seen.path).expect("removing the link");
        symlink(target, &seen.path).expect("linking");
        assert!(!is_gone(&seen), "to {target}");
    }
}

fn file(dir: &Path) -> String {
    let path = dir.join("file");
    std::fs::write(&path, "").expect("writing a file");
    path.to_str().expect("an ASCII path").to_owned()
}
