//! What follows from facts, without a node.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::kernel::{ChainName, Conditions, Does, Hooked, OtherChain, OtherRule, Others, Space};
use crate::model::{Family, HostPort, Protocol};

use super::facts::sysctl_name;
use super::passage::{Packet, Passage, passage, translations};
use super::{counted, some_of};

fn name(chain: &str) -> ChainName {
    ChainName { space: Space::Ip, table: "t".to_owned(), chain: chain.to_owned() }
}

fn rule(conditions: Conditions, does: Does) -> OtherRule {
    OtherRule { conditions, does }
}

fn any() -> Conditions {
    Conditions::default()
}

fn unknown() -> Conditions {
    Conditions { unknown: true, ..any() }
}

fn ports(run: RangeInclusive<u16>) -> Conditions {
    Conditions { ports: Some(vec![run]), protocol: Some(6), ..any() }
}

fn others(chains: Vec<(&str, Option<Hooked>, Vec<OtherRule>)>) -> Others {
    let chains = chains.into_iter();
    let chains = chains.map(|(chain, hooked, rules)| (name(chain), OtherChain { hooked, rules }));
    Others { chains: chains.collect() }
}

fn hooked(kind: &str, hook: u32, priority: i32, drops: bool) -> Hooked {
    Hooked { kind: kind.to_owned(), hook, priority, drops }
}

fn jump(chain: &str) -> Does {
    Does::Jump(chain.to_owned())
}

fn to(target: &str) -> Does {
    Does::Translate(target.to_owned())
}

fn host(address: &str, port: u16) -> HostPort {
    HostPort {
        protocol: Protocol::Tcp,
        address: address.parse().expect("a test address"),
        port: port.try_into().expect("a test port"),
    }
}

const PACKET: Packet =
    Packet { family: Family::V4, protocol: Some(6), port: Some(80), destination: None };

#[test]
fn the_policy_counts_where_no_rule_decides() {
    let forward = |drops| Some(hooked("filter", Hooked::FORWARD, 0, drops));
    let judged = |drops, rules: Vec<OtherRule>| {
        let called = vec![rule(any(), Does::Return), rule(any(), Does::Drop)];
        let refuses = vec![rule(ports(80..=80), Does::Drop)];
        let chains =
            vec![("f", forward(drops), rules), ("back", None, called), ("no", None, refuses)];
        passage(&others(chains), &name("f"), &PACKET)
    };
    for (drops, rules, expected) in [
        (false, vec![], Passage::Passes),
        (true, vec![], Passage::Drops),
        (true, vec![rule(any(), Does::Accept)], Passage::Passes),
        (true, vec![rule(ports(81..=90), Does::Accept)], Passage::Drops),
        (true, vec![rule(ports(80..=90), Does::Accept)], Passage::Passes),
        (true, vec![rule(unknown(), Does::Accept)], Passage::Depends),
        (false, vec![rule(unknown(), Does::Drop)], Passage::Passes),
        (false, vec![rule(any(), Does::Drop), rule(any(), Does::Accept)], Passage::Drops),
        (true, vec![rule(any(), jump("back")), rule(any(), Does::Accept)], Passage::Passes),
        (false, vec![rule(any(), jump("no"))], Passage::Drops),
        (false, vec![rule(any(), jump("f"))], Passage::Passes),
        (false, vec![rule(any(), jump("nowhere"))], Passage::Passes),
    ] {
        assert_eq!(judged(drops, rules.clone()), expected, "{drops} {rules:?}");
    }
}

#[test]
fn conditions_add_up_along_the_chains() {
    let nat = |priority| Some(hooked("nat", Hooked::PREROUTING, priority, false));
    let node = Conditions {
        destination: Some("192.0.2.1/32".parse().expect("an address")),
        ..ports(8080..=8090)
    };
    let others = others(vec![
        ("first", nat(-100), vec![rule(ports(8000..=8100), jump("x"))]),
        ("late", nat(-50), vec![rule(any(), to("late"))]),
        (
            "x",
            None,
            vec![
                rule(node, to("one")),
                rule(ports(1..=2), to("never")),
                rule(any(), jump("first")),
            ],
        ),
    ]);
    let found = translations(&others, Hooked::PREROUTING, -99);
    let first = found.first().expect("a translation");
    assert_eq!(first.to, "one");
    assert_eq!(first.conditions.ports, Some(vec![8080..=8090]));
    assert!(found.iter().all(|one| one.to == "one"), "{found:?}");
    assert!(translations(&others, Hooked::OUTPUT, -99).is_empty());

    let own: IpAddr = "192.0.2.1".parse().expect("an address");
    let meets = |address, port, local: bool| {
        first.meets(&host(address, port), |asked| local && asked == own)
    };
    assert!(meets("0.0.0.0", 8080, true) && meets("192.0.2.1", 8090, true));
    assert!(!meets("0.0.0.0", 8080, false), "an address of somebody else's");
    assert!(!meets("192.0.2.2", 8080, true) && !meets("0.0.0.0", 8091, true));
    assert!(!meets("::", 8080, true), "the other family");
    let udp = HostPort { protocol: Protocol::Udp, ..host("0.0.0.0", 8080) };
    assert!(!first.meets(&udp, |_| true));
}

#[test]
fn a_sentence_names_three() {
    assert_eq!([0, 1, 2].map(|number| counted(number, "pod")), ["0 pods", "1 pod", "2 pods"]);
    assert_eq!(some_of(&["a"]), "a");
    assert_eq!(some_of(&["a", "b", "c"]), "a, b, c");
    assert_eq!(some_of(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
}

#[test]
fn a_sysctl_of_an_interface_with_dots_can_be_set() {
    assert_eq!(sysctl_name("net/ipv4/ip_forward"), "net.ipv4.ip_forward");
    let vlan = "net/ipv4/conf/eth0.798/rp_filter";
    assert_eq!(sysctl_name(vlan), vlan);
}
