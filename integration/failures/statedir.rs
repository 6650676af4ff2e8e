//! State directories that cannot be used or must not be trusted, and the properties of a valid one.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::Attachment;
use crate::stage::netns::ruleset;
use crate::stage::node::Node;
use crate::stage::operator::autoport;
use crate::stage::view::{STATE, tree};

fn holding(node: &Node, state_dir: &str) -> Attachment {
    let blue = network("blue").with("stateDir", state_dir);
    attachment(node, &blue, "web", 5).mapping([tcp(8080)])
}

/// Insists that ADD is refused, DEL is not, the operator is told, and nothing is changed below `place`.
fn unusable(node: &Node, state_dir: &str, place: &str, code: u64) {
    let web = holding(node, state_dir);
    let before = (tree(Path::new(place)), ruleset());
    let outcome = run(&web, "ADD");
    node.note(format!("ADD: {outcome}"));
    outcome.failure(code);
    assert!(outcome.message().contains(state_dir.trim_end_matches('/')), "{outcome}");
    let outcome = run(&web, "DEL");
    assert!(outcome.status.success() && outcome.stdout.is_empty(), "DEL never fails: {outcome}");
    let outcome = run(&web, "STATUS");
    outcome.failure(50);
    let (status, text, _) = autoport(&["status", "--state-dir", state_dir]);
    assert_eq!(status.code(), Some(3), "{text}");
    assert_eq!((tree(Path::new(place)), ruleset()), before, "{state_dir}");
}

fn directory(path: &str, mode: u32) {
    fs::create_dir_all(path).expect("/run is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("/run is ours");
}

#[test]
fn a_directory_that_is_not_ours_alone_is_refused() {
    let node = Node::new();
    directory("/run/real", 0o700);
    symlink("/run/real", "/run/link").expect("/run is ours");
    unusable(&node, "/run/link", "/run", 7);
    unusable(&node, "/run/link/", "/run", 7);
    fs::write("/run/file", "x").expect("/run is ours");
    unusable(&node, "/run/file", "/run", 7);
    directory("/run/open", 0o777);
    unusable(&node, "/run/open", "/run", 7);
    directory("/run/sticky", 0o1777);
    unusable(&node, "/run/sticky", "/run", 7);
    directory("/run/group", 0o770);
    unusable(&node, "/run/group", "/run", 7);
}

/// The owner of the directory can change its content. In a user namespace with one user, no other user can
/// own it; as root, another user can.
#[test]
fn a_directory_of_somebody_else_is_refused() {
    let node = Node::new();
    directory("/run/foreign", 0o700);
    match chown("/run/foreign", Some(65534), None) {
        Ok(()) => {}
        // `unshare --map-root-user` maps no other user: the nearest thing is a directory that the
        // machine's root owns.
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
            return unusable(&node, "/var/tmp", "/run", 7);
        }
        Err(error) => panic!("chown: {error}"),
    }
    unusable(&node, "/run/foreign", "/run", 7);
}

fn remount_read_only(path: &str) {
    const NONE: Option<&str> = None;
    mount(Some(path), path, NONE, MsFlags::MS_BIND, NONE).expect("a bind mount");
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NONE, path, NONE, flags, NONE).expect("a read-only bind mount");
}

/// Root can write anywhere except on a read-only mount.
#[test]
fn a_read_only_directory_is_refused() {
    let node = Node::new();
    directory("/run/empty", 0o700);
    remount_read_only("/run/empty");
    unusable(&node, "/run/empty", "/run", 5);
    unusable(&node, "/run/empty/below", "/run", 5);
    // One that was writable when the pod came: its record can be read, and not be taken back.
    let web = holding(&node, STATE);
    add(&node, &web);
    remount_read_only(STATE);
    let before = (tree(Path::new(STATE)), ruleset());
    let second = attachment(&node, &web.network, "second", 6).mapping([tcp(8081)]);
    run(&second, "ADD").failure(5);
    assert_eq!((tree(Path::new(STATE)), ruleset()), before);
    web.check().success();
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let node = Node::new();
    for umask in ["0", "0777", "0022"] {
        let parent = format!("/run/umask{umask}");
        let dir = format!("{parent}/state");
        let web = holding(&node, &dir);
        let shell = format!("umask {umask}; exec \"$0\"");
        let outcome = web.plugin_call("ADD").under(&["/bin/sh", "-c", &shell]).run();
        node.note(format!("ADD with umask {umask}: {outcome}"));
        outcome.success();
        assert_eq!(mode(&parent), 0o755, "{umask}: a parent is anybody's");
        let mut seen = 0;
        modes_below(&dir, &mut seen);
        assert!(seen > 6, "{seen} files and directories");
        run(&web, "DEL").success();
        crate::stage::netns::nft("delete table inet autoport");
    }
}

fn mode(path: &str) -> u32 {
    fs::symlink_metadata(path).expect("a path").permissions().mode() & 0o7777
}

fn modes_below(dir: &str, seen: &mut u32) {
    assert_eq!(mode(dir), 0o700, "{dir}");
    *seen += 1;
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path().display().to_string();
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            modes_below(&path, seen);
        } else if kind.is_file() {
            assert_eq!(mode(&path), 0o600, "{path}");
            *seen += 1;
        }
    }
}

/// Readable by others is repaired; it gives nothing away that could be used.
#[test]
fn a_readable_directory_is_closed() {
    let node = Node::new();
    directory(STATE, 0o755);
    add(&node, &holding(&node, STATE));
    modes_below(STATE, &mut 0);
}

/// A link or a device in the place of a file is neither followed nor opened.
#[test]
fn links_and_devices_inside_are_not_followed() {
    let node = Node::new();
    let web = holding(&node, STATE);
    add(&node, &web);
    let record = format!("{STATE}/attachments/blue:web:eth0.json");
    let content = fs::read(&record).expect("the record");
    fs::write("/run/elsewhere", &content).expect("/run is ours");
    fs::remove_file(&record).expect("ours");
    symlink("/run/elsewhere", &record).expect("ours");
    run(&web, "ADD").failure(102);
    run(&web, "DEL").success();
    assert_eq!(fs::read("/run/elsewhere").expect("still there"), content);
    let fifo = CString::new(record).expect("no NUL");
    add(&node, &web);
    fs::remove_file(fifo.to_str().expect("ASCII")).expect("ours");
    nix::unistd::mkfifo(&*fifo, nix::sys::stat::Mode::S_IRUSR).expect("a FIFO");
    run(&web, "ADD").failure(102);
    run(&web, "DEL").success();
    add(&node, &web);
    for lock in ["/run/elsewhere", "/dev/null"] {
        fs::remove_file(format!("{STATE}/lock")).expect("ours");
        symlink(lock, format!("{STATE}/lock")).expect("ours");
        run(&web, "ADD").failure(5);
    }
}

/// A second name that a file had before it was put here, or was given since: the file is replaced
/// and never written to, so what stands under the other name stays.
#[test]
fn what_a_hard_link_leads_to_is_not_changed() {
    const OUTSIDE: &str = "/run/outside";
    let node = Node::new();
    let web = holding(&node, STATE);
    let record = format!("{STATE}/attachments/blue:web:eth0.json");
    let intact = |content: &[u8]| {
        assert_eq!(fs::read(OUTSIDE).expect("still there"), content);
        assert_eq!(mode(OUTSIDE), 0o644);
    };
    let plant = |place: &str, content: &[u8]| {
        fs::write(OUTSIDE, content).expect("/run is ours");
        fs::set_permissions(OUTSIDE, fs::Permissions::from_mode(0o644)).expect("ours");
        // One that is missing is planted all the same.
        let _ = fs::remove_file(place);
        fs::hard_link(OUTSIDE, place).expect("one file system");
    };
    add(&node, &web);
    // A record is a record, under whatever other name; the next command replaces it.
    let content = fs::read(&record).expect("the record");
    plant(&record, &content);
    web.check().success();
    add(&node, &web.clone().mapping([tcp(8080), tcp(8081)]));
    assert_eq!(mode(&record), 0o600);
    intact(&content);
    // Garbage is put aside under its own name, and deleted.
    plant(&record, b"precious");
    run(&web, "ADD").failure(102);
    run(&web, "DEL").success();
    assert!(!Path::new(&record).exists());
    intact(b"precious");
    // What everybody writes to or locks.
    for name in [".new", "lock"] {
        plant(&format!("{STATE}/{name}"), b"precious");
        add(&node, &web);
        run(&web, "DEL").success();
        intact(b"precious");
    }
    // What a container may have planted where it is told its ports.
    let pod = web.clone().of_pod("shop", "web", "uid");
    let mut config = pod.config();
    config["runtimeConfig"] = serde_json::json!({"portMappings": [tcp(0)]});
    let chosen = pod.plugin_call("ADD").stdin(config.to_string());
    chosen.run().success();
    for name in ["ports.json", "ports.env"] {
        plant(&format!("{STATE}/pods/uid/{name}"), b"precious");
        chosen.run().success();
        intact(b"precious");
        assert!(fs::read(format!("{STATE}/pods/uid/{name}")).expect("ours") != b"precious");
    }
    run(&pod, "DEL").success();
    intact(b"precious");
}

/// Only root can put a link in the place of a directory in here. One that leads to a directory is
/// taken for it; one that leads nowhere is an error of ADD, and of nothing else.
#[test]
fn a_link_in_the_place_of_a_directory_inside() {
    for place in ["attachments", "ports", "ports/tcp", "ports/tcp/8080"] {
        let node = Node::new();
        let web = holding(&node, STATE);
        let other = attachment(&node, &web.network, "other", 6).mapping([tcp(8080)]);
        add(&node, &web);
        let path = format!("{STATE}/{place}");
        // As deep, since an entry of the index is a relative link.
        let moved = format!("{STATE}/{place}.moved");
        fs::rename(&path, &moved).expect("ours");
        symlink(&moved, &path).expect("ours");
        fs::write(format!("{moved}/.foreign"), "precious").expect("ours");
        web.check().success();
        run(&other, "ADD").failure(100);
        add(&node, &web);
        run(&web, "DEL").success();
        assert_eq!(fs::read(format!("{moved}/.foreign")).expect("still there"), b"precious");
        assert!(fs::symlink_metadata(&path).expect("still there").is_symlink(), "{place}");
        add(&node, &other);
        run(&other, "DEL").success();

        fs::remove_dir_all(&moved).expect("ours");
        let outcome = run(&web, "ADD");
        node.note(format!("ADD with a dangling {place}: {outcome}"));
        outcome.failure(5);
        assert!(outcome.message().contains(&path), "{outcome}");
        run(&web, "DEL").success();
        assert!(!Path::new(&moved).exists(), "nothing is made through {place}");
        assert_eq!(crate::stage::view::elements(), [""; 0]);
    }
}

/// The node's own file wins over the network's, for every command alike; where it is broken, ADD
/// says so and DEL goes on with what the network says.
#[test]
fn the_nodes_own_file_moves_the_state_directory() {
    const NODE_FILE: &str = "/etc/cni/autoport.json";
    let node = Node::new();
    let web = holding(&node, "/run/of-the-network");
    fs::write(NODE_FILE, "{\"stateDir\": \"/run/of-the-node\"}").expect("/etc/cni is ours");
    add(&node, &web);
    web.check().success();
    assert!(Path::new("/run/of-the-node/instance").exists());
    assert!(!Path::new("/run/of-the-network").exists());
    let before = tree(Path::new("/run/of-the-node"));
    for (text, code) in [("{", 6), ("{\"stateDir\": 5}", 6), ("{\"lockTimeuot\": 1}", 2)] {
        fs::write(NODE_FILE, text).expect("/etc/cni is ours");
        let outcome = run(&web, "ADD");
        outcome.failure(code);
        assert!(outcome.message().contains(NODE_FILE), "{outcome}");
        // Where the records are is not known, but what is mapped.
        run(&web, "DEL").success();
        assert_eq!(tree(Path::new("/run/of-the-node")), before, "{text}");
        assert_eq!(crate::stage::view::elements(), [""; 0], "{text}");
    }
    fs::write(NODE_FILE, "{\"stateDir\": \"/run/of-the-node\"}").expect("/etc/cni is ours");
    run(&web, "DEL").success();
    assert!(!Path::new("/run/of-the-node/attachments/blue:web:eth0.json").exists());
}
