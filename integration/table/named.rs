//! `kernel::Nft::check` names every difference.

use autoport::kernel::Nft;
use autoport::model::{Policy, Protocol};

use super::oracle::rebuild;
use crate::stage::netns::{elsewhere, nft};
use crate::stage::records::{INSTANCE, map, networks, policy, record, ruleset};

const TABLE: &str = "inet autoport";

/// What is done, as nft says it, and what CHECK must name.
type Damage<'a> = (&'a str, String, &'a str);

/// To the elements and chains of a network whose chains are `net` and `from`, with another beside it
/// whose chain is `other`.
fn damage_to_the_networks<'a>(net: &'a str, from: &'a str, other: &str) -> Vec<Damage<'a>> {
    let held = |net: &str| net.replace("net_", "held4_");
    let (own, others) = (held(net), held(other));
    let lead = |family: u8, chain: &str| {
        let key = format!("meta nfproto ipv{family} meta l4proto . th dport");
        let set = own.replace("held4", &format!("held{family}"));
        format!("add rule {TABLE} hostports {key} @{set} goto {chain}")
    };
    let on_one = |family: &str, digit: u8| {
        let set = own.replace("held4", &format!("host_held{digit}"));
        let chain = net.replace("net_", "host_");
        let key = format!("{family} daddr . meta l4proto . th dport");
        format!("add rule {TABLE} hostports {key} @{set} goto {chain}")
    };
    let mark = |condition: &str| format!("add rule {TABLE} hostports {condition} jump {other}");
    let hairpin = |family: &str, digit: u8| {
        mark(&format!("{family} saddr . meta l4proto . th dport @hairpins{digit}"))
    };
    let translate = |digit: u8| {
        let key = "meta l4proto . th dport";
        let family = if digit == 4 { "ip" } else { "ip6" };
        format!(
            "add rule {TABLE} hostports meta nfproto ipv{digit} dnat {family} to {key} map @ports{digit}"
        )
    };
    // The rules of both networks as they are, but for two of them.
    let dispatch = |first: String, second: String| {
        [
            format!("flush chain {TABLE} hostports"),
            second,
            hairpin("ip", 4),
            hairpin("ip6", 6),
            on_one("ip", 4),
            on_one("ip6", 6),
            first,
            lead(6, from),
            translate(4),
            translate(6),
        ]
        .join("\n")
    };
    let local = || mark("ip saddr 127.0.0.0/8");
    let intact = dispatch(lead(4, from), local());
    let swapped = |one: usize, other: usize| {
        let mut lines: Vec<&str> = intact.lines().collect();
        lines.swap(one, other);
        lines.join("\n")
    };
    vec![
        (
            "element missing",
            format!("delete element {TABLE} gated_ports4 {{ tcp . 8001 : 10.1.0.5 . 80 }}"),
            "gated_ports4",
        ),
        (
            "element elsewhere",
            format!(
                "delete element {TABLE} gated_ports4 {{ tcp . 8001 : 10.1.0.5 . 80 }}\n\
            add element {TABLE} gated_ports4 {{ tcp . 8001 : 10.1.0.6 . 80 }}"
            ),
            "gated_ports4",
        ),
        (
            "past its gate",
            format!("add element {TABLE} ports4 {{ tcp . 8001 : 10.1.0.5 . 80 }}"),
            "ports4",
        ),
        (
            "treated as others are",
            format!(
                "delete element {TABLE} {own} {{ tcp . 8001 }}\n\
            add element {TABLE} {others} {{ tcp . 8001 }}"
            ),
            "held4_",
        ),
        (
            "treated as others are as well",
            format!("add element {TABLE} {others} {{ tcp . 8001 }}"),
            "held4_",
        ),
        ("led past its gate", dispatch(lead(4, net), local()), "hostports"),
        ("led to others", dispatch(lead(4, other), local()), "hostports"),
        ("a rule twice", dispatch(hairpin("ip", 4), local()), "hostports"),
        (
            "another rule of others",
            dispatch(lead(4, from), mark("ip saddr 10.0.0.0/8")),
            "hostports",
        ),
        ("every address first", swapped(4, 6), "hostports"),
        ("translated at once", swapped(1, 8), "hostports"),
        ("chain flushed", format!("flush chain {TABLE} {net}"), net),
        ("gate flushed", format!("flush chain {TABLE} {from}"), from),
        ("dispatch flushed", format!("flush chain {TABLE} hostports"), "hostports"),
        (
            "output gone",
            format!("flush chain {TABLE} output\ndelete chain {TABLE} output"),
            "output",
        ),
    ]
}

/// To what every table has.
fn damage_to_the_rest() -> Vec<Damage<'static>> {
    vec![
        ("guard gone", format!("flush chain {TABLE} guard\ndelete chain {TABLE} guard"), "guard"),
        (
            "guard elsewhere",
            format!(
                "flush chain {TABLE} guard\ndelete chain {TABLE} guard\n\
            add chain {TABLE} guard {{ type filter hook prerouting priority -200; }}\n\
            add rule {TABLE} guard iif != lo ip saddr 127.0.0.0/8 drop\n\
            add rule {TABLE} guard iif != lo ip daddr 127.0.0.0/8 drop"
            ),
            "guard",
        ),
        (
            "guard without established connections",
            format!(
                "flush chain {TABLE} guard_input\n{}",
                "add rule inet autoport guard_input accept\n".repeat(3)
            ),
            "guard_input",
        ),
        ("policy drop", format!("add chain {TABLE} prerouting {{ policy drop; }}"), "prerouting"),
        ("masquerade gone", format!("flush chain {TABLE} masquerade_13"), "masquerade_13"),
        ("masquerading unreachable", format!("flush chain {TABLE} postrouting"), "postrouting"),
        (
            "foreign rule",
            format!("insert rule {TABLE} prerouting tcp dport 8001 accept"),
            "prerouting",
        ),
        ("foreign rule first", format!("insert rule {TABLE} hostports drop"), "hostports"),
        (
            "foreign rule before masquerading",
            format!("insert rule {TABLE} postrouting accept"),
            "postrouting",
        ),
        (
            "rule replaced",
            format!(
                "flush chain {TABLE} prerouting\n\
            add rule {TABLE} prerouting fib saddr type local jump hostports"
            ),
            "prerouting",
        ),
        (
            "rules out of order",
            format!(
                "flush chain {TABLE} output\n\
            add rule {TABLE} output fib daddr type local jump hostports\n\
            add rule {TABLE} output ip6 saddr ::1 return"
            ),
            "output",
        ),
        ("table gone", format!("delete table {TABLE}"), "missing"),
    ]
}

#[test]
fn check_names_every_kind_of_damage() {
    let gated = Policy { source_ranges: networks(&["192.0.2.0/24"]), ..policy() };
    let own = map(record("own", gated, &["10.1.0.5/24"]), Protocol::Tcp, "*", 8001);
    let own = &map(own, Protocol::Tcp, "192.0.2.1", 8003);
    let lone = map(record("lone", policy(), &["10.3.0.5/32"]), Protocol::Tcp, "*", 8002);
    let chain = |prefix: &str| {
        let all = ruleset(&[own]).networks();
        all.into_iter().find(|chain| chain.name.starts_with(prefix)).expect(prefix).name
    };
    let (net, from) = (chain("net_"), chain("from_"));
    let other = ruleset(&[&lone]).networks().pop().expect("the last is that of its network").name;
    let damages = [damage_to_the_networks(&net, &from, &other), damage_to_the_rest()].concat();
    for (what, damage, named) in damages {
        elsewhere(|| {
            rebuild(&ruleset(&[own, &lone]));
            let open = || Nft::open(INSTANCE).expect("netlink works");
            let check = || open().check(&ruleset(&[own])).expect("the kernel answers");
            assert_eq!(check(), None, "before: {what}");
            nft(&damage);
            let found = check().unwrap_or_else(|| panic!("{what} was not noticed"));
            assert!(found.contains(named), "{what}: {found}");
        });
    }
}
