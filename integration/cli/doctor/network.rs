//! What the node's network refuses: forwarding, routes, bridges, firewalls.

use std::process::Command;

use crate::stage::netns::{ip, nft, run, sysctl};

use super::{Case, Scene, obey};

#[test]
fn what_the_network_refuses_is_named() {
    let scene = Scene::new();
    let [gateway, _] = scene.attachment.network.gateway();
    let slot = "net/ipv4/conf/cni1/route_localnet";
    let failed = |harm: &dyn Fn(), check, words: &[&str]| {
        scene.names(&Case { harm, check, state: "failed", words, cure: &obey });
    };
    let warned = |harm: &dyn Fn(), check, words: &[&str]| {
        scene.names(&Case { harm, check, state: "warning", words, cure: &obey });
    };
    failed(&|| sysctl("net/ipv4/ip_forward", "0"), "forwarding", &["net.ipv4.ip_forward is 0"]);
    failed(
        &|| sysctl("net/ipv6/conf/all/forwarding", "0"),
        "forwarding",
        &["net.ipv6.conf.all.forwarding is 0"],
    );
    warned(
        &|| sysctl("net/ipv4/conf/uplink/forwarding", "0"),
        "forwarding",
        &["arrive by uplink are not forwarded"],
    );
    warned(&|| sysctl(slot, "0"), "routes", &["127.0.0.1", "route_localnet of cni1 is 0"]);
    scene.names(&Case {
        harm: &|| ip("route del 10.1.0.0/24 dev cni1"),
        check: "routes",
        state: "failed",
        words: &["no route to 10.1.0.2"],
        cure: &|_| ip(&format!("route add 10.1.0.0/24 dev cni1 proto kernel src {gateway}")),
    });
    scene.names(&Case {
        harm: &|| {
            ip("link add other type veth peer name other0 netns client
                addr add 198.51.100.1/24 dev other
                link set other up
                route add default via 192.0.2.100
                route add default via 198.51.100.9 metric 9");
            sysctl("net/ipv4/conf/other/rp_filter", "1");
        },
        check: "rp_filter",
        state: "warning",
        words: &["uplinks uplink and other", "other is strict"],
        cure: &obey,
    });
    scene.node.bridges_call_iptables(true);
    let hairpin = |on: &str| {
        let (_, links) = run(Command::new("ip").args(["-o", "link", "show", "master", "cni1"]), "");
        let port = links.split(": ").nth(1).and_then(|it| it.split('@').next()).expect("a port");
        ip(&format!("link set {port} type bridge_slave hairpin {on}"));
    };
    scene.names(&Case {
        harm: &|| hairpin("off"),
        check: "bridges",
        state: "warning",
        words: &["bridge-nf-call-iptables is 1", "cannot reach its own host port"],
        cure: &|remedy| {
            assert!(remedy.contains("hairpin on"), "{remedy}");
            hairpin("on");
        },
    });
    hairpin("off");
    scene.node.bridges_call_iptables(false);
    scene.well("without br_netfilter a bridge needs no hairpin");
}

#[test]
fn a_dropping_forward_chain_is_named() {
    let scene = Scene::new();
    let tools = [
        ("iptables", "table ip filter, chain FORWARD drops every packet"),
        ("ip6tables", "table ip6 filter, chain FORWARD drops every packet"),
        ("iptables-legacy", "table ip filter (iptables-legacy), chain FORWARD drops every packet"),
    ];
    for (tool, word) in tools {
        scene.names(&Case {
            harm: &|| obey(&format!("{tool} -P FORWARD DROP")),
            check: "FORWARD",
            state: "failed",
            words: &[word],
            cure: &|remedy| obey(&remedy.replacen("iptables", tool, 1)),
        });
    }
    obey("iptables -I FORWARD -i elsewhere -j DROP");
    scene.well("a rule against somebody is no policy");
}

#[test]
fn a_dropping_forward_chain_of_any_name_is_named() {
    let scene = Scene::new();
    let table = |rules: &str| {
        nft(&format!(
            "table inet wall {{ chain gate {{ type filter hook forward priority 5; policy drop;\n\
             {rules}\n}}\n}}"
        ));
    };
    let case = |harm: &dyn Fn(), state: &'static str, word: &str| {
        scene.names(&Case { harm, check: "FORWARD", state, words: &[word], cure: &obey });
        nft("delete table inet wall");
    };
    case(&|| table(""), "failed", "table inet wall, chain gate drops every packet");
    case(
        &|| table("tcp sport 22 accept"),
        "warning",
        "everything except what some of its rules accept",
    );
    table("accept; drop");
    scene.well("a rule accepts before the policy drops");
}
