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
    let key = "meta l4proto . th dport";
    let rule = |text: String| format!("add rule {TABLE} prerouting {text}");
    let lead = |chain: &str| rule(format!("meta nfproto ipv4 {key} @{own} goto {chain}"));
    let on_one = || {
        let (set, chain) = (own.replace("held4", "host_held4"), net.replace("net_", "host_"));
        rule(format!("ip daddr . {key} @{set} goto {chain}"))
    };
    let mark = |condition: &str| {
        let mark = "meta mark set meta mark | 0x00002000";
        rule(format!("{condition} {key} @{others} {mark} dnat ip to {key} map @ports4"))
    };
    let hairpin = || mark(&format!("ip saddr . {key} @hairpins4"));
    // The rules of both networks as they are, but for two of them.
    let dispatch = |first: String, second: String| {
        [
            format!("flush chain {TABLE} prerouting"),
            rule("fib daddr type != local return".to_owned()),
            second,
            hairpin(),
            on_one(),
            first,
            rule(format!("meta nfproto ipv4 dnat ip to {key} map @ports4")),
            rule("meta nfproto ipv6 jump hostports6".to_owned()),
        ]
        .join("\n")
    };
    let local = || mark("ip saddr 127.0.0.0/8");
    let intact = dispatch(lead(from), local());
    let swapped = |one: usize, other: usize| {
        let mut lines: Vec<&str> = intact.lines().collect();
        lines.swap(one, other);
        lines.join("\n")
    };
    let accepted = format!("add rule {TABLE} hostports6 accept\n").repeat(5);
    let accepted = format!("flush chain {TABLE} hostports6\n{accepted}");
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
        ("led past its gate", dispatch(lead(net), local()), "prerouting"),
        ("led to others", dispatch(lead(other), local()), "prerouting"),
        ("a rule twice", dispatch(hairpin(), local()), "prerouting"),
        ("another rule of others", dispatch(lead(from), mark("ip saddr 10.0.0.0/8")), "prerouting"),
        ("every address first", swapped(4, 5), "prerouting"),
        ("translated at once", swapped(2, 6), "prerouting"),
        ("addresses of others", swapped(1, 2), "prerouting"),
        ("chain flushed", format!("flush chain {TABLE} {net}"), net),
        ("gate flushed", format!("flush chain {TABLE} {from}"), from),
        ("dispatch flushed", format!("flush chain {TABLE} prerouting"), "prerouting"),
        ("IPv6 flushed", format!("flush chain {TABLE} hostports6"), "hostports6"),
        ("foreign rule of IPv6", format!("insert rule {TABLE} hostports6 drop"), "hostports6"),
        ("IPv6 accepted", accepted, "hostports6"),
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
        (
            "everything masqueraded",
            format!("flush chain {TABLE} postrouting\nadd rule {TABLE} postrouting masquerade"),
            "postrouting",
        ),
        (
            "masquerade gone",
            format!("flush chain {TABLE} postrouting\ndelete chain {TABLE} masquerade_13"),
            "masquerade_13",
        ),
        ("masquerading unreachable", format!("flush chain {TABLE} postrouting"), "postrouting"),
        (
            "foreign rule",
            format!("insert rule {TABLE} prerouting tcp dport 8001 accept"),
            "prerouting",
        ),
        ("foreign rule first", format!("insert rule {TABLE} output drop"), "output"),
        (
            "foreign rule before masquerading",
            format!("insert rule {TABLE} postrouting accept"),
            "postrouting",
        ),
        (
            "rule replaced",
            format!(
                "flush chain {TABLE} prerouting\n\
            add rule {TABLE} prerouting fib saddr type != local return"
            ),
            "prerouting",
        ),
        (
            "rules out of order",
            format!(
                "flush chain {TABLE} hostports6\n\
            add rule {TABLE} hostports6 meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @ports6\n\
            add rule {TABLE} hostports6 ip6 saddr ::1 return"
            ),
            "hostports6",
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
