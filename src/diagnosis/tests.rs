//! What follows from facts, without a node.

use crate::kernel::{
    ChainName, Does, Hook, Hooked, OtherChain, OtherRule, Others, Packet, Space, Step,
};
use crate::model::Family;

use super::facts::sysctl_name;
use super::passage::{Passage, Stage, walk};
use super::{counted, some_of};

fn name(chain: &str) -> ChainName {
    ChainName { space: Space::Ip, table: "t".to_owned(), chain: chain.to_owned() }
}

fn rule(steps: &[Step], does: Does) -> OtherRule {
    let steps = steps.iter().cloned().chain([Step::Does(does)]).collect();
    OtherRule { steps, name: "handle 1".to_owned() }
}

/// A condition that is not understood.
fn perhaps() -> Step {
    Step::Perhaps("match recent".to_owned())
}

fn port(run: std::ops::RangeInclusive<u16>) -> Step {
    Step::Ports { source: false, destination: true, runs: vec![run], inverted: false }
}

fn others(chains: Vec<(&str, Option<Hooked>, Vec<OtherRule>)>) -> Others {
    let chains = chains.into_iter();
    let chains = chains.map(|(chain, hooked, rules)| (name(chain), OtherChain { hooked, rules }));
    Others { chains: chains.collect() }
}

fn hooked(kind: &str, hook: Hook, priority: i32, drops: bool) -> Hooked {
    Hooked { kind: kind.to_owned(), hook, priority, drops, devices: Vec::new() }
}

fn jump(chain: &str) -> Does {
    Does::Jump(chain.to_owned())
}

fn to(target: &str) -> Does {
    Does::Translate(target.to_owned())
}

fn packet() -> Packet {
    let mut packet = Packet { protocol: Some(6), ..Packet::unknown(Family::V4) };
    packet.tuple.destination_port = Some(80);
    packet
}

/// What becomes of the packet: passes, perhaps, depends, drops.
fn fate(passage: Option<&Passage>) -> &'static str {
    match passage {
        None | Some(Passage::Passes) => "passes",
        Some(Passage::Perhaps(_)) => "perhaps",
        Some(Passage::Depends(_)) => "depends",
        Some(Passage::Drops(_)) => "drops",
    }
}

#[test]
fn the_policy_counts_where_no_rule_decides() {
    let judged = |drops, rules: Vec<OtherRule>| {
        let called = vec![rule(&[], Does::Return), rule(&[], Does::Drop)];
        let refuses = vec![rule(&[port(80..=80)], Does::Drop)];
        let forward = Some(hooked("filter", Hook::Forward, 0, drops));
        let chains = vec![("f", forward, rules), ("back", None, called), ("no", None, refuses)];
        let walked = walk(&others(chains), &Stage::of(Hook::Forward), &mut packet());
        fate(walked.obstacle.as_ref().map(|(_, passage)| passage))
    };
    let unknown = || Does::Unknown("queue".to_owned());
    for (drops, rules, expected) in [
        (false, vec![], "passes"),
        (true, vec![], "drops"),
        (true, vec![rule(&[], Does::Accept)], "passes"),
        (true, vec![rule(&[port(81..=90)], Does::Accept)], "drops"),
        (true, vec![rule(&[port(80..=90)], Does::Accept)], "passes"),
        (true, vec![rule(&[perhaps()], Does::Accept)], "depends"),
        (false, vec![rule(&[perhaps()], Does::Drop)], "perhaps"),
        (false, vec![rule(&[perhaps()], Does::Return), rule(&[], Does::Drop)], "perhaps"),
        (false, vec![rule(&[port(81..=90), perhaps()], Does::Drop)], "passes"),
        (false, vec![rule(&[], unknown())], "perhaps"),
        (false, vec![rule(&[], Does::Drop), rule(&[], Does::Accept)], "drops"),
        (false, vec![rule(&[perhaps()], Does::Drop), rule(&[], Does::Drop)], "drops"),
        (true, vec![rule(&[], jump("back")), rule(&[], Does::Accept)], "passes"),
        (true, vec![rule(&[], Does::Goto("back".to_owned())), rule(&[], Does::Accept)], "drops"),
        (false, vec![rule(&[perhaps()], jump("no"))], "perhaps"),
        (false, vec![rule(&[], jump("no"))], "drops"),
        (false, vec![rule(&[], jump("f"))], "passes"),
        (false, vec![rule(&[], jump("nowhere"))], "passes"),
    ] {
        assert_eq!(judged(drops, rules.clone()), expected, "{drops} {rules:?}");
    }
}

#[test]
fn a_translation_is_certain_or_not() {
    let taken = |rules: Vec<OtherRule>| {
        let nat = |priority| Some(hooked("nat", Hook::Prerouting, priority, false));
        let called = vec![rule(&[perhaps()], to("one")), rule(&[], to("two"))];
        let late = vec![rule(&[], to("late"))];
        let others =
            others(vec![("x", nat(-100), rules), ("c", None, called), ("l", nat(-50), late)]);
        let stage = Stage { nat: true, priorities: -200..=-99, ..Stage::of(Hook::Prerouting) };
        let taken = walk(&others, &stage, &mut packet()).taken;
        taken.map(|taken| (taken.to, taken.is_certain))
    };
    let is = |to: &str, is_certain| Some((to.to_owned(), is_certain));
    assert_eq!(taken(vec![]), None);
    assert_eq!(taken(vec![rule(&[port(80..=80)], to("one"))]), is("one", true));
    assert_eq!(taken(vec![rule(&[port(81..=81)], to("one"))]), None);
    assert_eq!(taken(vec![rule(&[perhaps()], to("one"))]), is("one", false));
    assert_eq!(taken(vec![rule(&[], jump("c"))]), is("one", true), "one of the two");
    assert_eq!(
        taken(vec![rule(&[perhaps()], Does::Accept), rule(&[], jump("c"))]),
        is("one", false)
    );
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
