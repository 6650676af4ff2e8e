//! Pods whose DEL never came, and pods that must not be taken for deleted ones.

use std::fs;
use std::process::Command;
use std::thread;

use nix::mount::{MntFlags, umount2};

use crate::stage::bare::{add, attachment, gc, network, run, tcp};
use crate::stage::chain::Attachment;
use crate::stage::netns::ip;
use crate::stage::node::Node;
use crate::stage::operator::{autoport, told, under};
use crate::stage::view::{self, snapshot};

/// A pod of `network` with a namespace of its own.
fn pod(node: &Node, net: &str, id: &str, number: u16) -> Attachment {
    ip(&format!("netns add {id}"));
    let mut one = attachment(node, &network(net), id, number).mapping([tcp(8080 + number)]);
    one.netns = format!("/run/netns/{id}");
    add(node, &one);
    one
}

fn destroy(one: &Attachment) {
    umount2(one.netns.as_str(), MntFlags::MNT_DETACH).expect("a bind mount of ours");
    fs::remove_file(&one.netns).expect("a file of ours");
}

/// In a mount namespace in which the pods' namespaces are not to be seen, as in a debugging pod.
const ELSEWHERE: [&str; 4] = ["unshare", "--mount", "/bin/sh", "-c"];
const BLIND: &str = "mount -t tmpfs none /run/netns && exec \"$0\" \"$@\"";

fn blind() -> Vec<&'static str> {
    ELSEWHERE.into_iter().chain([BLIND]).collect()
}

/// The state that a listing shows of a port.
fn state(listed: &str, port: u16) -> &str {
    let line = listed.lines().find(|line| line.contains(&format!("0.0.0.0:{port}/tcp")));
    line.and_then(|line| line.split_whitespace().nth(4)).unwrap_or_default()
}

/// Whether the process has moved to a network namespace of its own.
fn told_of(process: u32) -> bool {
    let here = fs::read_link("/proc/thread-self/ns/net").expect("the link");
    fs::read_link(format!("/proc/{process}/ns/net")).expect("it runs") != here
}

#[test]
fn a_pod_whose_del_never_came_is_collected_in_every_network() {
    let node = Node::new();
    let gone = [pod(&node, "blue", "gone1", 1), pod(&node, "green", "gone2", 2)];
    let alive = pod(&node, "blue", "alive", 3);
    let mut doubtful = attachment(&node, &network("red"), "doubtful", 4).mapping([tcp(8084)]);
    let mut process = Command::new("ip").args(["netns", "exec", "alive", "sleep", "60"]).spawn();
    let process = process.as_mut().expect("ip is there");
    while !told_of(process.id()) {
        thread::yield_now();
    }
    doubtful.netns = format!("/proc/{}/ns/net", process.id());
    add(&node, &doubtful);
    process.kill().expect("it is ours");
    process.wait().expect("it is ours");
    let unreadable = pod(&node, "blue", "damaged", 5);
    fs::write("/run/autoport/attachments/blue:damaged:eth0.json", "{").expect("ours");
    for one in gone.iter().chain([&unreadable]) {
        destroy(one);
    }

    let listed = told(&["list"]);
    assert_eq!(
        [8081, 8082, 8083, 8084].map(|port| state(&listed, port)),
        ["stale", "stale", "alive", "unknown"],
        "{listed}"
    );

    let before = snapshot();
    let would = told(&["gc", "--dry-run"]);
    assert!(
        would.contains(
            "would remove container blue/gone1/eth0 (1 host port): its network namespace no longer exists"
        ),
        "{would}"
    );
    assert!(would.ends_with("2 would be removed, 3 kept\n"), "{would}");
    assert_eq!(snapshot(), before, "a dry run changes nothing");

    let done = told(&["gc", "-o", "wide"]);
    for line in [
        "removed container blue/gone1/eth0 (1 host port): its network namespace no longer exists",
        "removed container green/gone2/eth0 (1 host port): its network namespace no longer exists",
        "kept container blue/alive/eth0 (1 host port): its network namespace exists",
        "kept container red/doubtful/eth0 (1 host port): it may be in use: its path was that of a process",
        "kept blue:damaged:eth0: record /run/autoport/attachments/blue:damaged:eth0.json cannot be read",
        "2 removed, 3 kept",
    ] {
        assert!(done.lines().any(|found| found.starts_with(line)), "{line}: {done}");
    }
    alive.check().success();
    doubtful.check().success();
    assert_eq!(view::records().len(), 3);
    assert_eq!(view::elements().len(), 12, "the unreadable one's stay");
    for one in &gone {
        one.check().failure(120);
        run(one, "DEL").success();
    }
    assert!(told(&["gc"]).ends_with("0 removed, 3 kept\n"));
}

#[test]
fn gc_of_nothing_makes_nothing() {
    let _node = Node::new();
    assert!(told(&["gc"]).starts_with("nothing has been recorded in /run/autoport yet"));
    assert!(!std::path::Path::new(view::STATE).exists());
}

/// A process that cannot see the namespaces of the pods must not release their ports: neither ADD, nor
/// GC, nor a command of the operator.
#[test]
fn from_another_mount_namespace_nobody_is_gone() {
    let node = Node::new();
    let web = pod(&node, "blue", "web", 1);
    let words = blind();
    let elsewhere = |arguments: &[&str]| under(&words, arguments);
    assert_eq!(state(&elsewhere(&["list"]).1, 8081), "unknown");
    let (status, collected, _) = elsewhere(&["gc", "-o", "wide"]);
    let reason = "it may be in use: its path was recorded in another mount namespace";
    assert!(status.success() && collected.contains(reason), "{collected}");
    assert!(collected.ends_with("0 removed, 1 kept\n"), "{collected}");
    let mut claim = attachment(&node, &network("blue"), "claim", 9).mapping([tcp(8081)]);
    // Its own is not to be seen there either.
    "/proc/self/ns/net".clone_into(&mut claim.netns);
    claim.plugin_call("ADD").under(&words).run().failure(100);
    let by_evidence = crate::stage::bare::gc_without_list(&network("blue"));
    by_evidence.clone().under(&words).run().success();
    web.check().success();
    // Even when it is gone, only those who saw it can tell.
    destroy(&web);
    assert_eq!(state(&under(&["unshare", "--mount"], &["list"]).1, 8081), "unknown");
    let (status, _, _) = under(&["unshare", "--mount"], &["gc"]);
    assert!(status.success());
    by_evidence.under(&["unshare", "--mount"]).run().success();
    assert_eq!(view::records().len(), 1);
    assert_eq!(state(&told(&["list"]), 8081), "stale");
    // The next claimant takes over where it can be seen.
    let outcome = run(&claim, "ADD");
    assert!(outcome.status.success() && outcome.stderr.contains("no longer exists"), "{outcome}");
    assert_eq!(view::records(), ["blue:claim:eth0.json"]);
}

/// Recorded elsewhere, looked at here.
#[test]
fn what_was_recorded_in_another_mount_namespace_stays_unknown() {
    let node = Node::new();
    ip("netns add web");
    let mut web = attachment(&node, &network("blue"), "web", 1).mapping([tcp(8081)]);
    web.netns = "/run/netns/web".to_owned();
    web.plugin_call("ADD").under(&["unshare", "--mount"]).run().success();
    // Its path leads to the very namespace: alive, whoever recorded it.
    assert_eq!(state(&told(&["list"]), 8081), "alive");
    destroy(&web);
    assert_eq!(state(&told(&["list"]), 8081), "unknown");
    assert!(told(&["gc"]).ends_with("0 removed, 1 kept\n"));
    crate::stage::bare::gc_without_list(&network("blue")).run().success();
    web.check().success();
    // A list of the runtime's is no matter of evidence.
    gc(&network("blue"), &[]).success();
    view::assert_nothing_held();
}

/// What cannot be carried out is not called done.
#[test]
fn a_collection_that_fails_says_so() {
    let node = Node::new();
    let gone = pod(&node, "blue", "gone", 1);
    destroy(&gone);
    let words = ["strace", "-o", "/dev/null", "-e", "inject=unlinkat,renameat,renameat2:error=EIO"];
    let (status, stdout, stderr) = under(&words, &["gc"]);
    assert!(!status.success(), "{stdout}{stderr}");
    assert!(
        stdout.contains("kept container blue/gone/eth0 (1 host port): it could not be removed")
    );
    assert!(stderr.contains("Input/output error"), "{stderr}");
    let (status, stdout, _) = autoport(&["gc"]);
    assert!(status.success() && stdout.contains("1 removed, 0 kept"), "{stdout}");
    view::assert_nothing_held();
}
