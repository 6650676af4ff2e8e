//! What an operator can limit: how many ports, from which range, on which addresses. And numbers
//! that stay the same.

use serde_json::json;

use super::choosing::{network, pod};
use crate::stage::bare::{self, add, annotated, attachment, chosen, run, tcp};
use crate::stage::chain::{Attachment, Network};
use crate::stage::node::{FIRST, Node, SECOND};
use crate::stage::view;

const PORTS: &str = "autoport.cni/ports";
const ALLOCATION: &str = "autoport.cni/allocation";

/// Insists that an ADD with these annotations is forbidden, for all these reasons.
fn forbidden(attachment: &Attachment, annotations: &[(&str, &str)], reasons: &[&str]) {
    let before = view::snapshot();
    let outcome = annotated(attachment, "ADD", annotations).run();
    outcome.failure(104);
    for reason in reasons {
        assert!(outcome.message().contains(reason), "{reason}: {outcome}");
    }
    assert_eq!(view::snapshot(), before);
}

fn asks(attachment: &Attachment, ports: &str) {
    annotated(attachment, "ADD", &[(PORTS, ports)]).run().success();
}

#[test]
fn a_pod_and_a_namespace_have_only_so_many_chosen_numbers() {
    let node = Node::new();
    let limited = |name| {
        let network = bare::network(name).with("portRange", "20000-20099");
        network.with("maxPortsPerPod", 3).with("maxPortsPerNamespace", 5)
    };
    let (blue, green) = (limited("blue"), limited("green"));
    let of_web = |network: &Network, id: &str, number| {
        attachment(&node, network, id, number).of_pod("shop", "web", "uid-web")
    };
    let web = of_web(&blue, "web1", 5);
    asks(&web, "a=80, b=81/tcp+udp");
    asks(&web, "a=80, b=81/tcp+udp");
    // Another network of the same pod, and another Pod of its namespace.
    let second = of_web(&green, "web1", 6).named("eth1");
    let of_pod = ["maxPortsPerPod", "permits, 3", "pod shop/web has 2 already", "2 host ports"];
    forbidden(&second, &[(PORTS, "82, 83")], &of_pod);
    forbidden(&web, &[(PORTS, "1, 2, 3, 4")], &["maxPortsPerPod", "4 items"]);
    forbidden(&web, &[(PORTS, "1-4")], &["maxPortsPerPod", "4 host ports"]);
    let with_static = second.clone().mapping([tcp(30001), tcp(30002)]);
    asks(&with_static, "82");
    let other = attachment(&node, &blue, "other", 7).of_pod("shop", "other", "uid-other");
    let of_namespace = ["maxPortsPerNamespace", "permits, 5", "namespace shop on this node has 3"];
    forbidden(&other, &[(PORTS, "1-3")], &of_namespace);
    asks(&attachment(&node, &blue, "else", 8).of_pod("bank", "web", "uid-else"), "1-3");
    // A new sandbox of the pod takes the place of the old one, whose DEL has not come.
    let again = of_web(&blue, "web2", 9);
    asks(&again, "a=80, b=81, c=82");
    assert_eq!(chosen(&again).len(), 3);
    forbidden(&other, &[(PORTS, "1-2")], &["maxPortsPerNamespace"]);
    run(&with_static, "DEL").success();
    asks(&other, "1-2");
    // What a Pod names itself is not counted.
    add(&node, &other.clone().mapping((31000..31010).map(tcp).collect::<Vec<_>>()));
}

#[test]
fn a_request_that_never_fits_is_not_called_exhausted() {
    let node = Node::new();
    add(&node, &pod(&node, &network("20000-20009"), "first", 9).mapping([tcp(30000)]));
    let web = pod(&node, &network("20000-20009"), "web", 5);
    forbidden(&web, &[(PORTS, "a=1-11")], &["20000-20009: 10 numbers", "even when empty"]);
    asks(&web, "a=1-10");
    let outcome =
        annotated(&pod(&node, &network("20000-20009"), "x", 6), "ADD", &[(PORTS, "1-10")]).run();
    outcome.failure(101);
    assert!(outcome.message().starts_with("OutOfHostPort"), "{outcome}");
}

#[test]
fn a_range_can_be_kept_for_a_namespace() {
    let node = Node::new();
    let kept = json!({"game": {"ports": "7000-7009", "namespaces": ["games"]}, "rtp": "9000-9009"});
    let range = network("20000-20009").with("namedRanges", kept);
    add(&node, &pod(&node, &range, "first", 9).mapping([tcp(30000)]));
    let from = |name| [(PORTS, "http=80"), ("autoport.cni/range", name)];
    let web = pod(&node, &range, "web", 5);
    forbidden(&web, &from("game"), &["namespace \"shop\" may not choose from range game"]);
    annotated(&web, "ADD", &from("rtp")).run().success();
    assert_eq!(chosen(&web), [9000]);
    let game = attachment(&node, &range, "game", 6).of_pod("games", "game", "uid-game");
    annotated(&game, "ADD", &from("game")).run().success();
    assert_eq!(chosen(&game), [7000]);
}

#[test]
fn a_host_ip_outside_of_the_host_addresses_is_forbidden() {
    let node = Node::new();
    let inside = network("20000-20009").with("hostAddresses", json!([format!("{}/32", FIRST[0])]));
    for (port, to) in [(8080, SECOND[0]), (0, SECOND[0]), (8080, FIRST[1])] {
        let web = pod(&node, &inside, "web", 5).mapping([tcp(port).on(to)]);
        let outcome = run(&web, "ADD");
        outcome.failure(104);
        assert!(outcome.message().contains(&format!("host IP {to} is in none of")), "{outcome}");
    }
    for (number, port) in (5..).zip([8080, 0]) {
        add(
            &node,
            &pod(&node, &inside, &format!("w{number}"), number).mapping([tcp(port).on(FIRST[0])]),
        );
    }
    add(&node, &pod(&node, &inside, "any", 9).mapping([tcp(8081)]));
}

/// A replica that was re-created, on whatever node, has another UID and the same name.
#[test]
fn a_stable_number_follows_the_name_to_another_node() {
    let annotations = [(PORTS, "game=7777/udp, admin=80"), (ALLOCATION, "stable")];
    let replica = |node: &Node, name: &str, uid: &str, number| {
        let id = format!("{name}-{uid}");
        let own = attachment(node, &network("20000-29999"), &id, number).of_pod("games", name, uid);
        annotated(&own, "ADD", &annotations).run().success();
        own
    };
    let first = {
        let node = Node::new();
        let own = replica(&node, "game-0", "u1", 5);
        let numbers = chosen(&own);
        let other = replica(&node, "game-1", "u2", 6);
        assert_ne!(chosen(&other), numbers);
        assert_ne!(numbers[0], numbers[1]);
        // It is released and taken again at once.
        run(&own, "DEL").success();
        assert_eq!(chosen(&replica(&node, "game-0", "u3", 7)), numbers);
        numbers
    };
    let node = Node::new();
    for number in 5..9 {
        let other = pod(&node, &network("20000-29999"), &format!("other{number}"), number);
        asks(&other, "http=80");
    }
    assert_eq!(chosen(&replica(&node, "game-0", "u4", 10)), first);
    // Where the number is in use, the next one is taken.
    let taken = replica(&node, "game-0", "u5", 11);
    assert_eq!(chosen(&taken), [first[0] + 1, first[1] + 1]);
    let bad = pod(&node, &network("20000-29999"), "bad", 12);
    let outcome = annotated(&bad, "ADD", &[(PORTS, "1"), (ALLOCATION, "steady")]).run();
    outcome.failure(7);
    assert!(outcome.message().contains("\"sequential\", \"random\" or \"stable\""), "{outcome}");
}
