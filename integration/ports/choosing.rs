//! Host ports that the node chooses: from the range, never assigned twice, never one that is in
//! use, and the same again for the same pod.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use autoport::store::REMEMBERED;

use crate::stage::bare::{self, AMONG_MANY, add, attachment, chosen, run, tcp, udp};
use crate::stage::chain::{Attachment, Main, Network};
use crate::stage::echo::Echo;
use crate::stage::netns::{Netns, ip, settle, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, POD_PORT, SECOND};
use crate::stage::plugin::Plugin;
use crate::stage::probe::{Answer, Probe};
use crate::stage::view::{self, STATE, snapshot};

/// A bare network that chooses from this range.
pub(crate) fn network(range: &str) -> Network {
    bare::network("blue").with("portRange", range)
}

/// A bare container of the pod `shop/id`, whose UID is `uid-id`.
pub(crate) fn pod(node: &Node, network: &Network, id: &str, number: u16) -> Attachment {
    attachment(node, network, id, number).of_pod("shop", id, &format!("uid-{id}"))
}

/// ADD of a container that gets one number.
fn one(node: &Node, attachment: &Attachment) -> u16 {
    add(node, attachment);
    let [port] = chosen(attachment)[..] else { panic!("{:?}", chosen(attachment)) };
    port
}

/// Insists that there is no number for it, and that nothing changed.
fn exhausted(attachment: &Attachment) -> String {
    let before = snapshot();
    let outcome = run(attachment, "ADD");
    outcome.failure(101);
    assert!(outcome.message().starts_with("OutOfHostPort: "), "{outcome}");
    assert_eq!(snapshot(), before);
    run(attachment, "STATUS").success();
    outcome.message().to_owned()
}

#[test]
fn a_chosen_number_reaches_the_pod() {
    let node = Node::new();
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let blue = blue.with("portRange", "20000-20009");
    let on_one = tcp(0).on(FIRST[0]);
    let (_pod, web) = node.attached("web", &blue, [tcp(0), udp(0), on_one]);
    let ports = chosen(&web);
    assert_eq!(ports, [20000, 20001, 20002], "in the order of the ring");
    for to in [FIRST[0], FIRST[1], SECOND[0]] {
        assert_eq!(node.client_asks(&Probe::tcp(to, 20000)).by(), Some("web"), "{to}");
        assert_eq!(node.client_asks(&Probe::udp(to, 20001)).by(), Some("web"), "{to}");
        assert_eq!(node.client_asks(&Probe::udp(to, 20000)), Answer::Refused, "{to}");
    }
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 20002)).by(), Some("web"));
    assert_eq!(node.client_asks(&Probe::tcp(SECOND[0], 20002)), Answer::Refused);
    web.check().success();
    let before = snapshot();
    run(&web, "ADD").success();
    assert_eq!(snapshot(), before, "the same ADD again changes nothing");
    web.check().success();
    let (_other_pod, other) = node.attached("other", &blue, [tcp(0)]);
    assert_eq!(chosen(&other), [20003]);
    web.del().success();
    other.check().success();
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 20000)), Answer::Refused);
    assert_eq!(node.client_asks(&Probe::tcp(FIRST[0], 20003)).by(), Some("other"));
    other.del().success();
    view::assert_nothing_held();
}

#[test]
fn a_named_and_a_chosen_number_do_not_meet() {
    let node = Node::new();
    let range = network("20000-20002");
    let web = pod(&node, &range, "web", 5).mapping([tcp(20000), tcp(0), tcp(30000)]);
    let mut web = web;
    // Another port of the pod: the same mapping twice would be one.
    web.mappings[1].container_port = 81;
    assert_eq!(one(&node, &web), 20001);
    web.check().success();
    let named = pod(&node, &range, "named", 6).mapping([tcp(20001)]);
    let outcome = run(&named, "ADD");
    outcome.failure(100);
    assert!(outcome.message().contains("shop/web"), "{outcome}");
    run(&web, "DEL").success();
    view::assert_nothing_held();
}

#[test]
fn a_full_range_is_said_and_nothing_changes() {
    let node = Node::new();
    let range = network("20000-20003");
    for number in 0..3 {
        let holder = pod(&node, &range, &format!("holder{number}"), 5 + number);
        add(&node, &holder.mapping([tcp(20000 + number)]));
    }
    // All or nothing.
    let mut two = pod(&node, &range, "two", 20).mapping([tcp(0), tcp(0)]);
    two.mappings[1].container_port = 81;
    let text = exhausted(&two);
    assert!(text.contains("20000-20003") && text.contains("3 held"), "{text}");
    let last = pod(&node, &range, "last", 21).mapping([tcp(0)]);
    assert_eq!(one(&node, &last), 20003, "the last free one");
    let more = pod(&node, &range, "more", 22).mapping([tcp(0)]);
    let text = exhausted(&more);
    assert!(text.contains("4 held"), "{text}");
    // UDP has numbers of its own.
    let datagrams = pod(&node, &range, "datagrams", 23).mapping([udp(0)]);
    add(&node, &datagrams);
    last.check().success();
    run(&more, "DEL").success();
    last.check().success();
}

#[test]
fn a_range_may_be_one_number() {
    let node = Node::new();
    let range = network("20000");
    let first = pod(&node, &range, "first", 5).mapping([tcp(0)]);
    let second = pod(&node, &range, "second", 6).mapping([tcp(0)]);
    for _ in 0..2 {
        assert_eq!(one(&node, &first), 20000);
        exhausted(&second);
        run(&first, "DEL").success();
        assert_eq!(one(&node, &second), 20000, "released lately, but the only one");
        exhausted(&first);
        run(&second, "DEL").success();
    }
    view::assert_nothing_held();
}

#[test]
fn what_a_process_listens_on_is_not_given() {
    let node = Node::new();
    let range = network("20000-20002");
    let server = TcpListener::bind((FIRST[0], 20000)).expect("listening");
    let stub = TcpListener::bind("127.0.0.53:20001").expect("listening");
    let web = pod(&node, &range, "web", 5).mapping([tcp(0)]);
    assert_eq!(one(&node, &web), 20002);
    let text = exhausted(&pod(&node, &range, "more", 6).mapping([tcp(0)]));
    assert!(text.contains("1 held, 2 with a listener"), "{text}");
    for (port, listener, fd) in
        [(20000, FIRST[0], server.as_raw_fd()), (20001, "127.0.0.53", stub.as_raw_fd())]
    {
        let before = snapshot();
        let outcome = run(&pod(&node, &range, "named", 7).mapping([tcp(port)]), "ADD");
        outcome.failure(103);
        let socket = fs::read_link(format!("/proc/self/fd/{fd}")).expect("a socket");
        let socket = socket.to_string_lossy().into_owned();
        let own = format!("process {} ", process::id());
        for part in [&*format!("{listener}:{port}/tcp"), &socket, &own, "hostListeners"] {
            assert!(outcome.message().contains(part), "{part}: {outcome}");
        }
        assert_eq!(snapshot(), before);
    }
    // Another address, another protocol.
    add(&node, &pod(&node, &range, "beside", 8).mapping([tcp(20001).on(FIRST[0])]));
    add(&node, &pod(&node, &range, "datagrams", 9).mapping([udp(20000)]));
    let heedless = network("20000").with("hostListeners", "ignore");
    let web = pod(&node, &heedless, "heedless", 10).mapping([tcp(0)]);
    assert_eq!(one(&node, &web), 20000);
    run(&web, "DEL").success();
    add(&node, &pod(&node, &heedless, "named", 11).mapping([tcp(20000)]));
}

/// A process that starts to listen later does not affect the pod that has the number.
#[test]
fn a_listener_that_comes_later_does_not_end_a_mapping() {
    let node = Node::new();
    let web = pod(&node, &network("20000-20002"), "web", 5).mapping([tcp(0), tcp(30000)]);
    assert_eq!(one(&node, &web), 20000);
    let _late = ["127.0.0.1:20000", "127.0.0.1:30000"].map(|to| TcpListener::bind(to).expect(to));
    run(&web, "ADD").success();
    assert_eq!(chosen(&web), [20000]);
    web.check().success();
    let again = attachment(&node, &web.network, "again", 6).of_pod("shop", "web", "uid-web");
    let again = again.mapping(web.mappings);
    run(&again, "ADD").failure(103);
}

#[test]
fn an_outgoing_connection_does_not_count() {
    let node = Node::new();
    sysctl("net/ipv4/ip_local_port_range", "20000 20009");
    let server = node.client.run(|| TcpListener::bind((CLIENT[0], 9)).expect("listening"));
    let client = TcpStream::connect((CLIENT[0], 9)).expect("connecting");
    let _accepted = server.accept().expect("accepting");
    let port = client.local_addr().expect("an address").port();
    assert!((20000..=20009).contains(&port), "{port}");
    let datagrams = UdpSocket::bind((FIRST[0], port)).expect("binding");
    datagrams.connect((CLIENT[0], 9)).expect("connecting");
    let range = network(&port.to_string());
    let web = pod(&node, &range, "web", 5).mapping([tcp(0), udp(0)]);
    add(&node, &web);
    assert_eq!(chosen(&web), [port; 2]);
    run(&web, "DEL").success();
    add(&node, &pod(&node, &range, "named", 6).mapping([tcp(port), udp(port)]));
}

#[test]
fn the_pod_keeps_its_numbers_in_a_new_sandbox() {
    let node = Node::new();
    let range = network("20000-20003");
    let of_web = |id: &str, number| {
        let own = attachment(&node, &range, id, number).of_pod("shop", "web", "uid-web");
        own.mapping([tcp(0)])
    };
    add(&node, &pod(&node, &range, "first", 5).mapping([tcp(0)]));
    let [one_, two, three] = [("web1", 6), ("web2", 7), ("web3", 8)].map(|(id, n)| of_web(id, n));
    assert_eq!(one(&node, &one_), 20001);
    assert_eq!(one(&node, &two), 20001, "without a DEL of the one before");
    run(&one_, "DEL").success();
    two.check().success();
    run(&two, "DEL").success();
    // Others have the rest first.
    let other =
        |number: u16| pod(&node, &range, &format!("other{number}"), 10 + number).mapping([tcp(0)]);
    assert_eq!(one(&node, &other(0)), 20002);
    assert_eq!(one(&node, &three), 20001, "after a DEL of the one before");
    run(&three, "DEL").success();
    assert_eq!(one(&node, &other(1)), 20003);
    assert_eq!(one(&node, &other(2)), 20001, "nothing else was left");
    exhausted(&three);
    exhausted(&other(3));
}

/// A namespace behind a cable that has the addresses of all these bare attachments.
fn crowd(numbers: std::ops::Range<u16>) -> (Netns, Echo) {
    let crowd = Netns::add("crowd");
    ip("link add crowd0 type veth peer name eth0 netns crowd
        addr add 10.1.255.254/16 dev crowd0
        link set crowd0 up");
    let addresses = numbers.map(|number| {
        let [high, low] = number.to_be_bytes();
        format!("addr add 10.1.{high}.{low}/16 dev eth0\n")
    });
    let lines = addresses.collect::<String>();
    crowd.run(|| ip(&format!("link set eth0 up\n{lines}route add default via 10.1.255.254")));
    let everywhere = SocketAddr::from(([0, 0, 0, 0], POD_PORT));
    let echo = Echo::start("crowd", &crowd, &[everywhere]);
    (crowd, echo)
}

#[test]
fn two_hundred_at_once_have_two_hundred_numbers() {
    let node = Node::new();
    let _crowd = crowd(5..205);
    let range = network("20000-20199").with("lockTimeout", AMONG_MANY);
    let pods: Vec<_> = (0..200)
        .map(|number| pod(&node, &range, &format!("pod{number}"), number + 5).mapping([tcp(0)]))
        .collect();
    let all_at_once = |command: &'static str| {
        thread::scope(|scope| {
            let calls: Vec<_> = { &pods }
                .iter()
                .map(|pod| scope.spawn(move || pod.plugin_call(command).run()))
                .collect();
            for call in calls {
                call.join().expect("the call was made").success();
            }
        });
    };
    all_at_once("ADD");
    let ports: BTreeSet<u16> = pods.iter().flat_map(chosen).collect();
    assert!(ports.into_iter().eq(20000..=20199), "every number once");
    for port in 20000..=20199 {
        let answer = node.client_asks(&Probe::tcp(FIRST[0], port));
        assert_eq!(answer.by(), Some("crowd"), "{port}");
    }
    let more = pod(&node, &range, "more", 300).mapping([tcp(0)]);
    let text = exhausted(&more);
    assert!(text.contains("200 held"), "{text}");
    all_at_once("CHECK");
    all_at_once("DEL");
    settle();
    view::assert_nothing_held();
    add(&node, &more);
}

/// A pod without DEL, after the runtime lost its memory of it.
#[test]
fn whoever_is_no_more_is_found_when_nothing_else_is_left() {
    let node = Node::new();
    let range = network("20000-20002");
    ip("netns add dead");
    let mut dead = pod(&node, &range, "dead", 5).mapping([tcp(0), udp(30000)]);
    dead.netns = "/run/netns/dead".to_owned();
    add(&node, &dead);
    ip("netns del dead");
    let mut more = (6..9).map(|number| {
        let next = pod(&node, &range, &format!("pod{number}"), number).mapping([tcp(0)]);
        (add(&node, &next), chosen(&next)).1[0]
    });
    assert!(more.by_ref().take(3).eq([20001, 20002, 20000]), "the free ones first");
    assert_eq!(view::records().len(), 3, "the dead one gave way as a whole");
    assert!(view::index().iter().all(|entry| !entry.contains("/30000/")));
    exhausted(&pod(&node, &range, "late", 9).mapping([tcp(0)]));
    run(&dead, "DEL").success();
    exhausted(&pod(&node, &range, "late", 9).mapping([tcp(0)]));
}

/// podman says no UID, and does DEL and ADD of one container to reload its network.
#[test]
fn a_container_without_a_pod_keeps_its_numbers_too() {
    let node = Node::new();
    let range = network("20000-20009").with("allocation", "random");
    let web = attachment(&node, &range, "web", 5).mapping([tcp(0), udp(0)]);
    add(&node, &web);
    let ports = chosen(&web);
    for _ in 0..3 {
        run(&web, "DEL").success();
        add(&node, &web);
        assert_eq!(chosen(&web), ports);
    }
    // What the runtime listens on meanwhile to keep the numbers is no reason to move.
    run(&web, "DEL").success();
    let _kept = TcpListener::bind((FIRST[0], ports[0])).expect("listening");
    add(&node, &web);
    assert_eq!(chosen(&web), ports);
}

/// A process that starts and stops listening makes some numbers busy for a moment; no number is assigned
/// twice because of that.
#[test]
fn a_process_that_comes_and_goes_meanwhile() {
    let node = Node::new();
    let range = network("20000-20029");
    let pods: Vec<_> = (0..24)
        .map(|number| pod(&node, &range, &format!("pod{number}"), number + 5).mapping([tcp(0)]))
        .collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut times = 0;
            while !done.load(Ordering::Relaxed) {
                let all = (20000..20006).map(|port| TcpListener::bind((FIRST[0], port)));
                drop(all.collect::<Vec<_>>());
                times += 1;
            }
            times
        });
        let calls = { &pods }.iter().map(|pod| scope.spawn(move || pod.plugin_call("ADD").run()));
        let outcomes: Vec<_> = calls
            .collect::<Vec<_>>()
            .into_iter()
            .map(|call| call.join().expect("it ran"))
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(busy.join().expect("it ran") > 0);
        for outcome in outcomes {
            outcome.success();
        }
    });
    let ports: BTreeSet<u16> = pods.iter().flat_map(chosen).collect();
    assert_eq!(ports.len(), pods.len());
    for pod in &pods {
        pod.check().success();
    }
}

/// The holder of a whole range is examined once, not for each of its numbers.
#[test]
fn a_full_range_is_refused_after_one_look_at_its_holder() {
    const OUTPUT: &str = "/run/strace";
    let node = Node::new();
    let range = network("20000-20299");
    let all = (20000..20300).map(|port| (port, port - 10000));
    let mut holder =
        pod(&node, &range, "holder", 5).mapping(all.clone().map(|(port, _)| tcp(port)));
    for (mapping, (_, inside)) in holder.mappings.iter_mut().zip(all) {
        mapping.container_port = inside;
    }
    add(&node, &holder);
    let web = pod(&node, &range, "web", 6).mapping([tcp(0)]);
    let words = ["strace", "-qq", "-e", "trace=openat", "-o", OUTPUT];
    let outcome = web.plugin_call("ADD").under(&words).run();
    outcome.failure(101);
    assert!(outcome.message().contains("300 numbers to choose from, 300 held"), "{outcome}");
    let trace = fs::read_to_string(OUTPUT).expect("strace wrote it");
    let reads = trace.lines().filter(|line| line.contains("attachments/blue:holder"));
    assert_eq!(reads.count(), 1, "{trace}");
}

/// How often an ADD makes a system call, in all and to read a link, and the number that it chooses.
fn calls(node: &Node, id: &str) -> (usize, usize, u16) {
    const OUTPUT: &str = "/run/strace";
    let web = pod(node, &network("20000-29999"), id, 5).mapping([tcp(0)]);
    let words = ["strace", "-qq", "-e", "signal=none", "-o", OUTPUT];
    web.plugin_call("ADD").under(&words).run().success();
    let [port] = chosen(&web)[..] else { panic!("{:?}", chosen(&web)) };
    run(&web, "DEL").success();
    settle();
    let trace = fs::read_to_string(OUTPUT).expect("strace wrote it");
    (trace.lines().count(), trace.matches("readlinkat(").count(), port)
}

/// A choice with nothing to choose from for a while has the store to itself for that long.
#[test]
fn ten_thousand_numbers_are_not_looked_for_one_by_one() {
    let node = Node::new();
    let empty = calls(&node, "empty");
    assert_eq!(empty.2, 20000);
    let state = Path::new(STATE);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let release = |at: u64| {
        for part in ["released", "cursors"] {
            fs::remove_dir_all(state.join(part)).expect("it is there");
        }
        fs::create_dir(state.join("released")).expect("making a directory");
        let time = u32::try_from(at).expect("before 2106").to_le_bytes();
        fs::write(state.join("released/tcp"), time.repeat(30_000)).expect("writing");
    };
    for at in [now(), now() + 5 - REMEMBERED] {
        release(at);
        let recent = calls(&node, "recent");
        assert_eq!(recent.2, 20000, "the first of those that nobody should have");
        assert!(recent.0 < empty.0 + 500, "{recent:?} beside {empty:?}");
    }

    release(0);
    for port in 20000..29990 {
        let held = state.join(format!("ports/tcp/{port}"));
        fs::create_dir(held).expect("making a directory");
    }
    let held = calls(&node, "held");
    assert_eq!(held.2, 29990, "the first that is free");
    assert!(held.0 < empty.0 + 500, "{held:?} beside {empty:?}");
}
