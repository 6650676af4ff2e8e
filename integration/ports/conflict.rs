//! Two pods that ask for the same host port: the first one keeps it, unless it no longer exists.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::mount::{MntFlags, umount2};

use crate::stage::bare::{self, add, attachment, network, run, tcp, udp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{ip, nft};
use crate::stage::node::{FIRST, Node, SECOND};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Probe, Transport};
use crate::stage::view::{self, STATE, snapshot};

fn wanting(node: &Node, id: &str, number: u16, mapping: PortMapping) -> Attachment {
    let one =
        attachment(node, &network("blue"), id, number).of_pod("shop", id, &format!("uid-{id}"));
    one.mapping([mapping])
}

/// Insists that an ADD is refused because of the pod `shop/holder`, and that nothing changed.
fn refused(claim: &Attachment) {
    let before = snapshot();
    let outcome = run(claim, "ADD");
    outcome.failure(100);
    assert!(outcome.message().contains("shop/holder"), "the holder is not named: {outcome}");
    assert_eq!(snapshot(), before);
}

#[test]
fn what_overlaps_is_refused_in_either_order() {
    let node = Node::new();
    let pairs = [
        (tcp(8080), tcp(8080)),
        (tcp(8080), tcp(8080).on(FIRST[0])),
        (tcp(8080), tcp(8080).on(FIRST[1])),
        (tcp(8080), tcp(8080).on("0.0.0.0")),
        (tcp(8080), tcp(8080).on("::")),
        (tcp(8080).on("0.0.0.0"), tcp(8080).on("127.0.0.1")),
        (tcp(8080).on("::"), tcp(8080).on("::1")),
        (udp(8080).on(FIRST[0]), udp(8080).on(FIRST[0])),
    ];
    for (one, other) in pairs {
        for (held, wanted) in [(&one, &other), (&other, &one)] {
            let holder = wanting(&node, "holder", 5, held.clone());
            let second = wanting(&node, "second", 6, wanted.clone());
            add(&node, &holder);
            refused(&second);
            // A port that is free beside one that is not: all or nothing.
            refused(&second.clone().mapping([udp(9999)]));
            holder.check().success();
            run(&second, "DEL").success();
            holder.check().success();
            run(&holder, "DEL").success();
            add(&node, &second);
            run(&second, "DEL").success();
        }
    }
}

#[test]
fn what_does_not_overlap_stands_side_by_side() {
    let node = Node::new();
    let claims = [
        tcp(8080).on(FIRST[0]),
        tcp(8080).on(SECOND[0]),
        tcp(8080).on("127.0.0.1"),
        tcp(8080).on(FIRST[1]),
        tcp(8080).on("::1"),
        udp(8080),
        PortMapping { protocol: "sctp", ..tcp(8080) },
        tcp(8081).on("0.0.0.0"),
        tcp(8081).on("::"),
    ];
    let pods: Vec<_> = claims
        .into_iter()
        .zip(5..)
        .map(|(claim, number)| wanting(&node, &format!("pod{number}"), number, claim))
        .collect();
    for pod in &pods {
        add(&node, pod);
    }
    for pod in &pods {
        pod.check().success();
    }
}

/// Takes a namespace away as a runtime does: unmounted, then the file deleted.
fn destroy(path: &str) {
    umount2(path, MntFlags::MNT_DETACH).expect("a bind mount of ours");
    fs::remove_file(path).expect("a file of ours");
}

/// What happened to a namespace, and how it is done to its path.
type Way = (&'static str, fn(&str));

/// Every way in which the path of a namespace can prove that the namespace no longer exists.
#[test]
fn a_holder_whose_namespace_is_gone_gives_way_as_a_whole() {
    let node = Node::new();
    let ways: [Way; 3] = [
        ("deleted", destroy),
        ("only unmounted", |path| umount2(path, MntFlags::MNT_DETACH).expect("ours")),
        ("another namespace at its path", |path| {
            destroy(path);
            ip(&format!("netns add {}", path.rsplit('/').next().expect("a name")));
        }),
    ];
    for ((what, way), number) in ways.into_iter().zip(0..) {
        let name = format!("dead{number}");
        ip(&format!("netns add {name}"));
        let mut holder = wanting(&node, "holder", 5, tcp(8080)).mapping([udp(8080), tcp(8081)]);
        holder.netns = format!("/run/netns/{name}");
        add(&node, &holder);
        let second = wanting(&node, "second", 6, tcp(8080).on(FIRST[0]));
        refused(&second);
        way(&holder.netns);
        let (status, _, stderr) =
            crate::stage::operator::autoport(&["reserve", "mine", "8081/tcp"]);
        assert!(!status.success() && stderr.contains("`autoport gc` releases"), "{what}: {stderr}");
        let outcome = run(&second, "ADD");
        assert!(outcome.status.success(), "{what}: {outcome}");
        for part in ["shop/holder", "shop/second", "no longer exists"] {
            assert!(outcome.stderr.contains(part), "{what}: nobody is told: {outcome}");
        }
        second.check().success();
        // All its ports go, also those that nobody asked for.
        assert_eq!(view::records(), ["blue:second:eth0.json"], "{what}");
        assert_eq!(view::index().len(), 1, "{what}: {:?}", view::index());
        assert!(view::elements().iter().all(|e| !e.contains("shop/holder")), "{what}");
        run(&holder, "DEL").success();
        second.check().success();
        run(&second, "DEL").success();
        view::assert_nothing_held();
    }
}

#[test]
fn traffic_reaches_the_pod_that_took_over() {
    let node = Node::new();
    let network = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let (old, _attachment) = node.attached("old", &network, [tcp(8080), udp(8080)]);
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 8080)).by(), Some("old"));
    let probe = Probe::udp(FIRST[0], 8080).from(crate::stage::node::CLIENT[0], 40000);
    assert_eq!(node.client_asks(&probe).by(), Some("old"));
    destroy(old.netns.path());
    let (_new, new) = node.attached("new", &network, [tcp(8080), udp(8080)]);
    for address in FIRST {
        assert_eq!(node.client_asks(&Probe::tcp(address, 8080)).by(), Some("new"));
    }
    // The same client socket, whose flow went to the old pod.
    assert_eq!(node.client_asks(&probe).by(), Some("new"));
    new.check().success();
}

#[test]
fn a_pod_with_a_new_sandbox_supersedes_its_old_one() {
    let node = Node::new();
    let old = wanting(&node, "holder", 5, tcp(8080)).mapping([tcp(8081)]);
    add(&node, &old);
    let uid = "uid-holder";
    let mut new = attachment(&node, &network("blue"), "new", 6).of_pod("shop", "holder", uid);
    new.mappings = vec![tcp(8080)];
    let outcome = run(&new, "ADD");
    assert!(outcome.stderr.contains("new sandbox"), "{outcome}");
    outcome.success();
    assert_eq!(view::records(), ["blue:new:eth0.json"]);
    assert!(view::elements().iter().all(|e| !e.contains("10.1.0.5") && !e.contains("8081")));
    new.check().success();
    // Without a UID there is nothing to go by: two containers of one name may be two pods.
    for uid in ["", "uid-other"] {
        let other = attachment(&node, &network("blue"), "other", 7).of_pod("shop", "holder", uid);
        refused(&other.mapping([tcp(8080)]));
    }
}

/// Doubt means alive.
#[test]
fn a_holder_that_cannot_be_judged_stays() {
    let node = Node::new();
    ip("netns add doubtful");
    let mut holder = wanting(&node, "holder", 5, tcp(8080));
    let second = wanting(&node, "second", 6, tcp(8080));
    // Recorded from another mount namespace, where the path may mean something else.
    holder.netns = "/run/netns/doubtful".to_owned();
    holder.plugin_call("ADD").under(&["unshare", "--mount"]).run().success();
    destroy(&holder.netns);
    refused(&second);
    run(&holder, "DEL").success();
    // Judged from another mount namespace.
    ip("netns add doubtful");
    add(&node, &holder);
    destroy(&holder.netns);
    let outcome = second.plugin_call("ADD").under(&["unshare", "--mount"]).run();
    outcome.failure(100);
    run(&holder, "DEL").success();
}

/// The process to which a link led has ended; its namespace may live on in others.
#[test]
fn a_link_to_a_process_proves_nothing_when_it_ends() {
    const LINK: &str = "/run/netns/link";
    let node = Node::new();
    let mut process = Command::new("unshare")
        .args(["--net", "sleep", "60"])
        .spawn()
        .expect("unshare and sleep are part of every system");
    let own = format!("/proc/{}/ns/net", process.id());
    let here = fs::read_link("/proc/thread-self/ns/net").expect("the link");
    while fs::read_link(&own).expect("the process runs") == here {
        thread::yield_now();
    }
    symlink(&own, LINK).expect("/run is ours");
    let mut holder = wanting(&node, "holder", 5, tcp(8080));
    LINK.clone_into(&mut holder.netns);
    add(&node, &holder);
    let mut by_process = wanting(&node, "by-process", 7, tcp(8090));
    by_process.netns = own;
    add(&node, &by_process);
    let second = wanting(&node, "second", 6, tcp(8080).on(FIRST[0])).mapping([tcp(8090)]);
    run(&second, "ADD").failure(100);
    process.kill().expect("it is ours");
    process.wait().expect("it is ours");
    assert!(fs::metadata(LINK).is_err(), "the link leads nowhere");
    run(&second, "ADD").failure(100);
    run(&holder, "DEL").success();
    run(&second, "ADD").failure(100);
    run(&by_process, "DEL").success();
    view::assert_nothing_held();
}

#[test]
fn an_unreadable_record_holds_its_ports_until_its_del() {
    let node = Node::new();
    let holder = wanting(&node, "holder", 5, tcp(8080)).mapping([udp(8081).on(FIRST[0])]);
    let path = Path::new(STATE).join("attachments/blue:holder:eth0.json");
    let damages = ["", "{", "{\"version\":1}", "null", "{\"version\":99}"];
    for (number, damage) in (1..).zip(damages) {
        add(&node, &holder);
        fs::write(&path, damage).expect("the record is ours");
        let second = wanting(&node, "second", 6, tcp(8080));
        for claim in [&second, &holder] {
            let outcome = run(claim, "ADD");
            outcome.failure(102);
            assert!(outcome.stdout.contains(&*path.to_string_lossy()), "{outcome}");
            assert_eq!(fs::read_to_string(&path).expect("it is left"), damage, "{outcome}");
        }
        assert!(view::elements().iter().any(|element| element.contains("8080")), "it still works");
        let third = wanting(&node, "third", 7, tcp(9090));
        add(&node, &third);
        third.check().success();
        run(&third, "DEL").success();
        run(&holder, "DEL").success();
        let copy = Path::new(STATE).join(format!("unreadable/blue:holder:eth0.{number}"));
        assert_eq!(fs::read_to_string(copy).expect("a copy is kept"), damage);
        view::assert_nothing_held();
        add(&node, &second);
        run(&second, "DEL").success();
    }
}

/// JSON of the right form with values that the kernel rejects. They must not get into a table that is built
/// for another pod.
#[test]
fn an_impossible_record_fails_nobody_else() {
    let node = Node::new();
    let path = Path::new(STATE).join("attachments/blue:holder:eth0.json");
    let holder = wanting(&node, "holder", 5, tcp(8080));
    for (part, damage) in [
        ("\"markBit\": 13", "\"markBit\": 32"),
        ("\"target\": \"10.1.0.5:80\"", "\"target\": \"[fd00:1::5]:80\""),
        ("\"10.1.0.5/16\"", "\"10.1.0.5/16\", \"10.1.0.6/16\""),
    ] {
        add(&node, &holder);
        let good = fs::read_to_string(&path).expect("the record is ours");
        assert!(good.contains(part), "{good}");
        fs::write(&path, good.replace(part, damage)).expect("the record is ours");
        nft("flush ruleset");
        let third = wanting(&node, "third", 7, tcp(9090));
        add(&node, &third);
        third.check().success();
        let outcome = run(&wanting(&node, "second", 6, tcp(8080)), "ADD");
        assert_eq!(outcome.code(), Some(102), "{damage}: {outcome}");
        run(&third, "DEL").success();
        run(&holder, "DEL").success();
        view::assert_nothing_held();
    }
}

/// With host prefixes the pods' own addresses are keys of the table. A DEL that never came leaves
/// one, until the address and the port are given out again, for another address of the node.
#[test]
fn an_address_that_is_given_out_again_is_the_new_pods() {
    let node = Node::new();
    let lone = |id: &str, host: &str| {
        let mut pod = wanting(&node, id, 5, tcp(8080).on(host));
        pod.result = Some(bare::result("1.1.0", &["10.3.0.5/32".to_owned()]));
        pod
    };
    let (old, new) = (lone("holder", FIRST[0]), lone("new", SECOND[0]));
    add(&node, &old);
    add(&node, &new);
    new.check().success();
    run(&old, "DEL").success();
    new.check().success();
}

/// The name of a pod is whatever the API server took; a message and a listing stay one line each.
#[test]
fn names_cannot_break_out_of_a_message_or_a_comment() {
    let node = Node::new();
    let evil = "a\"; } drop; # \n\u{1b}[2J;K8S_POD_UID=1";
    let mut holder = attachment(&node, &network("blue"), "holder", 5).mapping([tcp(8080)]);
    holder.args = format!("K8S_POD_NAMESPACE={evil};K8S_POD_NAME={evil}");
    bare::add(&node, &holder);
    let listing = crate::stage::netns::full_ruleset();
    assert!(!listing.contains("drop; #") && !listing.contains('\u{1b}'), "{listing}");
    crate::stage::netns::nft(&format!("flush ruleset\n{listing}"));
    holder.check().success();
    let outcome = run(&attachment(&node, &network("blue"), "b", 6).mapping([tcp(8080)]), "ADD");
    assert!(!outcome.failure(100).stdout.contains("drop; #"), "{outcome}");
}

/// podman and nerdctl ask for a container's ports in each of its networks.
#[test]
fn networks_of_one_container_share_a_host_port() {
    let node = Node::new();
    let blue = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    let green = attachment(&node, &network("green"), "web", 6).named("eth1");
    let green = green.mapping([tcp(8080), tcp(8081)]);
    add(&node, &blue);
    let asked = run(&green, "ADD");
    assert!(asked.status.success(), "{asked}");
    assert!(asked.stderr.contains("blue/web/eth0"), "who has it is said: {asked}");
    let entry = |port, name: &str| {
        let index = view::index();
        let of_port = index.iter().filter(|line| line.contains(&format!("/tcp/{port}/")));
        let count = of_port.clone().count();
        assert_eq!(
            (count, of_port.filter(|line| line.contains(name)).count()),
            (2, 2),
            "{index:?}"
        );
    };
    entry(8080, "blue:web:eth0");
    entry(8081, "green:web:eth1");
    add(&node, &green);
    for attachment in [&blue, &green] {
        run(attachment, "CHECK").success();
    }
    // Not to another port of it, and not with another container.
    let other_port = PortMapping::new(Transport::Tcp, 8080, 81);
    let other_port =
        attachment(&node, &network("red"), "web", 7).named("eth2").mapping([other_port]);
    run(&other_port, "ADD").failure(100);
    let other = attachment(&node, &network("green"), "other", 8).mapping([tcp(8080)]);
    run(&other, "ADD").failure(100);
    // All that a network asked for is served by another.
    let red = attachment(&node, &network("red"), "web", 7).named("eth2").mapping([tcp(8080)]);
    add(&node, &red);
    assert_eq!(view::records().len(), 2);
    run(&red, "CHECK").success();
    run(&red, "DEL").success();
    entry(8080, "blue:web:eth0");
    // The one that served goes: the other has it as soon as it is asked for again.
    run(&blue, "DEL").success();
    run(&green, "CHECK").failure(120);
    add(&node, &green);
    entry(8080, "green:web:eth1");
    run(&green, "CHECK").success();
    run(&green, "DEL").success();
    view::assert_nothing_held();
}

/// podman listens on a published port all the while, and reloads a container's networks in any
/// order: the one that comes first need not be the one that had the port.
#[test]
fn the_listener_on_a_port_that_another_network_of_the_container_had_is_its_runtime() {
    let node = Node::new();
    let blue = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    let green = attachment(&node, &network("green"), "web", 6).named("eth1").mapping([tcp(8080)]);
    for attachment in [&blue, &green] {
        add(&node, attachment);
    }
    let _conmon = TcpListener::bind("0.0.0.0:8080").expect("the port is free");
    for attachment in [&blue, &green] {
        run(attachment, "DEL").success();
    }
    let other = attachment(&node, &network("green"), "other", 7).mapping([tcp(8080)]);
    run(&other, "ADD").failure(103);
    for attachment in [&green, &blue] {
        add(&node, attachment);
    }
    assert!(view::index().iter().all(|line| line.contains("green:web:eth1")), "the first has it");
}
