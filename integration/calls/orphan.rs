//! Commands whose pod, runtime, record or store no longer exists: after a successful DEL, no other
//! pod gets the traffic, and no ADD leaves ports that nothing would release.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use autoport::app;
use autoport::event::Silent;
use autoport::model::{ContainerPort, HostPod, Protocol, Request};
use autoport::store::Store;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stage::bare::{add, attachment, by_interface, network, run, tcp};
use crate::stage::chain::Attachment;
use crate::stage::netns::{ip, settle};
use crate::stage::node::{FIRST, Node};
use crate::stage::on_host::claims;
use crate::stage::view::{self, STATE};

fn web(node: &Node) -> Attachment {
    attachment(node, &network("blue"), "web", 5).mapping([tcp(8080)])
}

/// Takes the lock of the store, as another command would.
fn taken() -> Flock<File> {
    let file = OpenOptions::new().write(true).open(format!("{STATE}/lock")).expect("the lock");
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("it is free")
}

#[test]
fn an_add_without_a_sandbox_is_refused() {
    let node = Node::new();
    let mut web = web(&node);
    fs::write("/run/file", "").expect("/run is ours");
    for (path, why) in [
        ("/run/netns/never", "does not exist"),
        ("/run/file/below", "does not exist"),
        ("/proc/4194304/ns/net", "does not exist"),
        ("/run/file", "is not a network namespace"),
        ("/run", "is not a network namespace"),
    ] {
        path.clone_into(&mut web.netns);
        let outcome = run(&web, "ADD");
        outcome.failure(4);
        for part in ["CNI_NETNS", path, why] {
            assert!(outcome.message().contains(part), "{part}: {outcome}");
        }
        view::assert_nothing_held();
    }
    // By annotation, and as long as no port is asked for nobody looks.
    let mut chosen = web.clone();
    chosen.mappings = vec![tcp(0)];
    run(&chosen, "ADD").failure(4);
    web.mappings.clear();
    run(&web, "ADD").success();
    // What is explained need not exist.
    let call = chosen.plugin_call("ADD").by_hand(&["explain"]).run();
    assert!(call.status.success(), "{call}");
    // The node's own network is a namespace like any other.
    "/proc/self/ns/net".clone_into(&mut chosen.netns);
    run(&chosen, "ADD").success();
    run(&chosen, "DEL").success();
    view::assert_nothing_held();
}

/// Waits until a process sleeps for the lock.
fn until_it_waits(process: u32) {
    let waits = || {
        let locks = fs::read_to_string("/proc/locks").expect("the locks");
        locks.lines().any(|line| line.contains("->") && line.contains(&format!(" {process} ")))
    };
    while !waits() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_add_that_outlives_its_sandbox_is_refused() {
    let node = Node::new();
    add(&node, &attachment(&node, &network("blue"), "first", 1).mapping([tcp(9)]));
    ip("netns add brief");
    let mut web = web(&node);
    "/run/netns/brief".clone_into(&mut web.netns);
    let lock = taken();
    let mut waiting = web.plugin_call("ADD").start();
    waiting.feed();
    until_it_waits(waiting.id());
    run(&web, "DEL").success();
    ip("netns del brief");
    drop(lock);
    let outcome = waiting.finish();
    outcome.failure(4);
    assert_eq!(view::records(), ["blue:first:eth0.json"]);
}

/// A runtime: it starts the plugin, gives it its input and waits for the reply.
const RUNTIME: &str = "import subprocess, sys\n\
    plugin = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n\
    plugin.communicate(sys.stdin.buffer.read())";

/// The only child of a process.
fn child_of(process: u32) -> u32 {
    loop {
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        if let Some(Ok(child)) =
            children.expect("it runs").split_whitespace().next().map(str::parse)
        {
            return child;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a process has ended, even if its parent has not reaped it.
fn until_it_ends(process: u32) {
    let state = || fs::read_to_string(format!("/proc/{process}/stat"));
    while state().is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|it| it.starts_with('Z')))
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The runtime is killed while ADD waits for the lock, and its DEL comes and goes. The namespace lives on.
#[test]
fn an_add_whose_runtime_was_killed_undoes_itself() {
    let node = Node::new();
    add(&node, &attachment(&node, &network("blue"), "first", 1).mapping([tcp(9)]));
    let web = web(&node);
    let lock = taken();
    let mut runtime = web.plugin_call("ADD").under(&["python3", "-c", RUNTIME]).start();
    runtime.feed();
    let plugin = child_of(runtime.id());
    until_it_waits(plugin);
    kill(Pid::from_raw(runtime.id().cast_signed()), Signal::SIGKILL).expect("it is ours");
    run(&web, "DEL").success();
    drop(lock);
    until_it_ends(plugin);
    settle();
    assert_eq!(view::records(), ["blue:first:eth0.json"]);
    assert!(view::elements().iter().all(|element| !element.contains("8080")));
    // The same pod may ask again.
    add(&node, &web);
}

/// It is killed later, so that only writing the reply tells.
#[test]
fn an_add_whose_reply_cannot_be_written_undoes_itself() {
    let node = Node::new();
    let web = web(&node);
    let to_full = ["/bin/sh", "-c", "exec \"$0\" > /dev/full"];
    for _ in 0..2 {
        let outcome = web.plugin_call("ADD").under(&to_full).run();
        assert!(!outcome.status.success(), "{outcome}");
        assert!(outcome.stderr.contains("cannot write the reply"), "{outcome}");
        settle();
        view::assert_nothing_held();
    }
    // What was held before stays as it was.
    add(&node, &web);
    let outcome = web.plugin_call("ADD").under(&to_full).run();
    assert!(!outcome.status.success(), "{outcome}");
    web.check().success();
}

/// Kinds of damage to a store with which DEL must still remove the elements of the container.
type Loss = (&'static str, fn());

#[test]
fn a_del_needs_no_store_to_end_what_is_mapped() {
    let losses: [Loss; 6] = [
        ("the state directory is gone", || fs::remove_dir_all(STATE).expect("ours")),
        ("the record is gone", || {
            fs::remove_file(format!("{STATE}/attachments/blue:web:eth0.json")).expect("ours");
        }),
        ("others may write to it", || {
            fs::set_permissions(STATE, Permissions::from_mode(0o770)).expect("ours");
        }),
        ("it is another's", || chown(STATE, Some(1), None).expect("root may")),
        ("it is a file", || {
            fs::rename(STATE, "/run/elsewhere").expect("ours");
            fs::write(STATE, "").expect("/run is ours");
        }),
        ("it is of a later layout", || {
            let path = format!("{STATE}/instance");
            let text = fs::read_to_string(&path).expect("ours");
            fs::write(path, text.replacen("\"version\": 2", "\"version\": 99", 1)).expect("ours");
        }),
    ];
    for (what, lose) in losses {
        let node = Node::new();
        let (web, blue) = (web(&node), network("blue"));
        let beside = attachment(&node, &network("green"), "web", 6).mapping([tcp(8090)]);
        let beside = by_interface(beside, "net1");
        let other = attachment(&node, &blue, "other", 7).mapping([tcp(8091).on(FIRST[0])]);
        for pod in [&web, &beside, &other] {
            add(&node, pod);
        }
        lose();
        let outcome = run(&web, "DEL");
        assert!(outcome.status.success(), "{what}: {outcome}");
        let left = view::elements();
        let has = |port: &str| left.iter().any(|element| element.contains(port));
        assert!(!has("8080"), "{what}: {left:?}");
        assert!(has("8090") && has("8091"), "{what}: {left:?}");
        // Whoever has nothing is told nothing.
        let nobody = attachment(&node, &blue, "nobody", 8);
        let before = view::elements();
        run(&nobody, "DEL").success();
        assert_eq!(view::elements(), before, "{what}");
    }
}

/// A GC whose list was made before the pod came.
#[test]
fn a_gc_leaves_alone_what_is_young_and_alive() {
    let node = Node::new();
    let web = web(&node);
    add(&node, &web);
    crate::stage::bare::gc(&web.network, &[]).success();
    web.check().success();
    view::an_hour_passes();
    crate::stage::bare::gc(&web.network, &[]).success();
    settle();
    view::assert_nothing_held();
}

/// Another program claims for a pod on the node's network, and gives back: no CNI call, no namespace.
#[test]
fn a_program_claims_for_a_pod_on_the_nodes_network() {
    let _node = Node::new();
    let store = Store::at(Path::new(STATE));
    let now = 1_800_000_000;
    let both = Request::new(vec![Protocol::Tcp, Protocol::Udp], ContainerPort::Same);
    let both = Request { name: Some("http".to_owned()), ..both };
    let claim = |uid: &str| claims(uid, vec![both.clone()], now);
    let (one, two) = (claim("uid-1"), claim("uid-2"));
    assert_eq!(one.mappings.len(), 4, "both protocols and families");
    assert!(one.mappings.iter().all(|mapping| mapping.target.is_none()), "{one:?}");
    assert_ne!(one.grants[0].port, two.grants[0].port);
    assert_eq!(claim("uid-1"), one, "asked again");
    assert_eq!(view::elements(), [""; 0], "nothing is translated");
    let told = fs::read_to_string(format!("{STATE}/pods/uid-1/ports.env")).expect("it is told");
    assert!(told.contains(&format!("AUTOPORT_HOST_PORT_HTTP='{}'", one.grants[0].port)), "{told}");
    // No evidence of a namespace ends it: neither a GC nor an operator's.
    view::an_hour_passes();
    crate::stage::bare::gc(&network("blue"), &[]).success();
    let collected = app::collect(&store, false, now, &mut Silent).expect("it works");
    assert_eq!(collected.expect("something is recorded").holders.len(), 2);
    let listing = app::list(&store, &mut Silent).expect("it works").expect("two");
    assert_eq!(listing.attachments, [one.clone(), two]);
    for holder in [one.owner.holder, HostPod::new("uid-2").expect("a UID").into()] {
        app::release(&store, &holder, &|| true, now, &mut Silent).expect("it works");
    }
    assert_eq!(view::index(), [""; 0]);
    assert!(!Path::new(STATE).join("pods/uid-1").exists());
}
