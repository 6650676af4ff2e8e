//! What a container can write, as root, into its published directory: autoport reads nothing back,
//! no command of another pod waits for it, and the directory is deleted with the pod.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::attacks::{beside, cheap, collection, pod};
use crate::stage::bare::{add, annotated, run, tcp};
use crate::stage::chain::Attachment;
use crate::stage::node::Node;
use crate::stage::operator::told;
use crate::stage::plugin::Call;
use crate::stage::view::{self, STATE};

/// What a container finds at `hostPath`: its published files.
fn directory(uid: &str) -> PathBuf {
    Path::new(STATE).join("pods").join(uid)
}

/// A pod that is told a port, so that there is a directory that its containers can write to.
fn publisher(node: &Node, id: &str, number: u16) -> Attachment {
    let one = pod(node, id, number);
    asking(&one, "ADD").run().success();
    assert!(directory(&format!("uid-{id}")).join("ports.json").exists());
    one
}

fn asking(one: &Attachment, command: &str) -> Call {
    annotated(one, command, &[("autoport.cni/ports", "http=80")])
}
/// Replaces a file, a link or a directory.
fn replace(path: &Path, make: impl FnOnce(&Path)) {
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
    make(path);
}

/// As many entries as fit into 15 MiB, each of another container: `name` and a number, or `name` alone.
fn forge(uid: &str, name: &str, numbered: bool) {
    const ID: &str = "THE-CONTAINER";
    let path = directory(uid).join("ports.json");
    let text = fs::read_to_string(&path).expect("it is published");
    let mut whole: Value = serde_json::from_str(&text).expect("JSON");
    let mut entry = whole["ports"][0].clone();
    entry["hostIPs"] = json!([]);
    entry["attachment"]["containerId"] = json!(ID);
    let entry = entry.to_string();
    let id = |number| if numbered { format!("{name}{number}") } else { name.to_owned() };
    let entries = (0..(15 << 20) / entry.len()).map(|number| entry.replace(ID, &id(number)));
    let entries: Vec<_> = entries.collect();
    whole["ports"] = json!([ID]);
    let text = whole.to_string().replace(&format!("\"{ID}\""), &entries.join(","));
    replace(&path, |path| fs::write(path, text).expect("a file of ours"));
}

/// Many, large, and of pods that live on: with a look at each of them, every GC takes seconds.
#[test]
fn forged_files_delay_nobody() {
    let node = Node::new();
    let pods: Vec<_> =
        (0..10).map(|number| publisher(&node, &format!("p{number}"), 30 + number)).collect();
    let living = pod(&node, "living", 50).mapping([tcp(9000)]);
    add(&node, &living);
    for number in 0..10 {
        let numbered = number % 2 == 0;
        forge(&format!("uid-p{number}"), if numbered { "nobody" } else { "living" }, numbered);
    }
    cheap("GC", &collection(&node), &[]);
    for command in ["gc", "repair"] {
        cheap(command, &Call::operator(&[command]), &[]);
    }
    for (one, number) in pods.iter().zip(0..) {
        // Its next sandbox, and the late DEL of this one.
        let mut next = one.clone();
        next.container_id = format!("next{number}");
        forge(&format!("uid-p{number}"), "nobody", true);
        cheap("the next ADD", &asking(&next, "ADD"), &[]);
        cheap("the late DEL", &one.plugin_call("DEL"), &[]);
        forge(&format!("uid-p{number}"), "living", false);
        cheap("the last DEL", &next.plugin_call("DEL"), &[]);
    }
    run(&living, "DEL").success();
    assert_nothing_published();
    view::assert_nothing_held();
}

/// Insists that no file of any pod is left.
fn assert_nothing_published() {
    let left: Vec<_> = fs::read_dir(Path::new(STATE).join("pods"))
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("a folder").path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What a pod published goes with it, whatever its files say of others, and whatever lies beside them.
#[test]
fn an_entry_that_names_a_living_attachment_keeps_nothing() {
    let node = Node::new();
    let living = publisher(&node, "living", 30);
    for way in ["DEL", "GC", "gc"] {
        let gone = publisher(&node, "gone", 31);
        let path = directory("uid-gone").join("ports.json");
        let lie = fs::read_to_string(&path).expect("it is published");
        let lie = lie.replace("\"gone\"", "\"living\"");
        fs::write(&path, &lie).expect("a file of ours");
        fs::write(directory("uid-gone").join("ballast"), vec![0; 1 << 20]).expect("a file of ours");
        if way == "DEL" {
            run(&gone, "DEL").success();
        } else {
            // Its record is lost, and only the files are left.
            fs::remove_file(Path::new(STATE).join("attachments/blue:gone:eth0.json"))
                .expect("a record");
            match way {
                "GC" => drop(collection(&node).run().success()),
                _ => drop(told(&["gc"])),
            }
        }
        assert!(!directory("uid-gone").exists(), "{way}");
        assert!(directory("uid-living").join("ports.json").exists(), "{way}");
        // The elements of the lost one, and its entries.
        told(&["repair"]);
    }
    run(&living, "DEL").success();
    assert_nothing_published();
    view::assert_nothing_held();
}

/// What is in the place of a file, and how it is made.
type Kind = (&'static str, fn(&Path));

/// A device acts when it is opened, a FIFO waits for its other end, a link leads elsewhere: none is opened.
#[test]
fn what_is_no_file_is_not_opened() {
    let node = Node::new();
    let kinds: [Kind; 4] = [
        // Of all devices the one that a user namespace may make.
        ("device", |path| {
            mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, 0).expect("a device can be made");
        }),
        ("FIFO", |path| mkfifo(path, Mode::S_IRWXU).expect("a FIFO can be made")),
        ("link", |path| symlink("/dev/full", path).expect("a link can be made")),
        ("directory", |path| fs::create_dir(path).expect("a directory can be made")),
    ];
    for (kind, make) in kinds {
        let one = publisher(&node, "web", 30);
        let folder = directory("uid-web");
        let traced = |what: &str, command: &Call| {
            for name in ["ports.json", "ports.env"] {
                replace(&folder.join(name), make);
            }
            let words = ["strace", "-f", "-o", "/run/strace", "-e", "trace=open,openat,openat2"];
            cheap(&format!("{kind}: {what}"), command, &words);
            let text = fs::read_to_string("/run/strace").expect("strace wrote it");
            let opened = text.lines().filter(|line| {
                (line.contains("ports.json\"") || line.contains("ports.env\""))
                    && !line.contains("O_PATH")
                    && !line.contains("O_DIRECTORY")
                    && !line.contains("O_CREAT")
            });
            let opened: Vec<_> = opened.collect();
            assert!(opened.is_empty(), "{kind}: {what}: {opened:#?}");
        };
        traced("the same ADD again", &annotated(&one, "ADD", &[("autoport.cni/ports", "http=80")]));
        let mut next = one.clone();
        next.container_id = "next".to_owned();
        traced("the next ADD", &annotated(&next, "ADD", &[("autoport.cni/ports", "http=80")]));
        traced("the late DEL", &one.plugin_call("DEL"));
        traced("DEL", &next.plugin_call("DEL"));
        assert_nothing_published();
    }
}

/// A container may keep a lock on whatever it is shown.
#[test]
fn a_lock_on_published_files_delays_nobody() {
    let node = Node::new();
    let one = publisher(&node, "web", 30);
    let folder = directory("uid-web");
    let paths = [folder.clone(), folder.join("ports.json"), folder.join("ports.env")];
    let _locks: Vec<_> = paths
        .iter()
        .map(|path| {
            let file = File::open(path).expect("a file of ours");
            Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("nobody has that lock")
        })
        .collect();
    cheap("the same ADD again", &asking(&one, "ADD"), &[]);
    cheap("GC", &collection(&node), &[]);
    cheap("DEL", &one.plugin_call("DEL"), &[]);
    view::assert_nothing_held();
    assert_nothing_published();
}

/// The directory is written to all the time, and has more entries than can be deleted in between.
#[test]
fn a_directory_full_of_files_delays_nobody() {
    let node = Node::new();
    let one = publisher(&node, "web", 30);
    let folder = directory("uid-web");
    let litter = folder.join("litter");
    fs::create_dir(&litter).expect("a folder");
    for number in 0..100_000 {
        File::create(litter.join(number.to_string())).expect("a file");
    }
    let numbers = AtomicU32::new(0);
    let write = || {
        let number = numbers.fetch_add(1, Ordering::Relaxed) % 1_000;
        let _ = fs::write(folder.join("ports.json"), vec![b'['; 1 << 20]);
        let _ = fs::write(litter.join(format!("more-{number}")), "");
    };
    let sandboxes = || {
        let mut next = one.clone();
        next.container_id = "next".to_owned();
        asking(&next, "ADD").run().success();
        next.plugin_call("DEL").run().success();
        collection(&node).run().success();
    };
    beside(&node, &[&write, &sandboxes]);
}
