//! Rules that drop what is forwarded, under conditions.

use super::{Situation, at, chain, dead, filter, load};
use crate::cli::verdict::{Client, ask};
use crate::stage::netns::{nft, run};
use std::process::Command;

fn forward(rules: &str) {
    chain("inet", "forward priority 0", rules);
}

pub(super) fn all() -> Vec<Situation> {
    let mut all = healthy();
    all.extend(by_client());
    all.extend(by_connection());
    all.extend(of_nftables());
    all
}

fn healthy() -> Vec<Situation> {
    vec![
        at("nothing but autoport", |_| {}),
        at("nothing but autoport, IPv6", |_| {}).asking(ask(Client::Outside, 8080).v6()),
        at("nothing but autoport, UDP", |_| {}).udp(),
        at("nothing but autoport, from loopback", |_| {}).asking(ask(Client::Loopback, 8080)),
        at("nothing but autoport, from the pod itself", |_| {}).asking(ask(Client::Pod, 8080)),
        at("nothing but autoport, from a neighbour", |_| {}).asking(ask(Client::Neighbour, 8080)),
    ]
}

fn by_client() -> Vec<Situation> {
    const USER: &str = ":DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER";
    vec![
        dead("DOCKER-USER: -i uplink ! -s 10.0.0.0/8 DROP", |_| {
            filter(&format!("{USER}\n-A DOCKER-USER -i uplink ! -s 10.0.0.0/8 -j DROP"));
        }),
        at("DOCKER-USER: the client's network RETURNs before a DROP", |_| {
            filter(&format!(
                "{USER}\n-A DOCKER-USER -s 192.0.2.0/24 -j RETURN\n-A DOCKER-USER -i uplink -j DROP"
            ));
        }),
        dead("iptables-legacy: -i uplink ! -s 10.0.0.0/8 DROP", |_| {
            load(
                "iptables-legacy-restore",
                "*filter\n-A FORWARD -i uplink ! -s 10.0.0.0/8 -j DROP\nCOMMIT\n",
            );
        }),
        dead("iptables-legacy: an ipset-like match that is not understood, DROP", |_| {
            load(
                "iptables-legacy-restore",
                "*filter\n-A FORWARD -i uplink -m length --length 1:9000 -j DROP\nCOMMIT\n",
            );
        }),
        at("iptables-legacy: other clients DROP", |_| {
            load(
                "iptables-legacy-restore",
                "*filter\n-A FORWARD -s 203.0.113.0/24 -j DROP\nCOMMIT\n",
            );
        }),
        dead("-i uplink DROP", |_| filter("-A FORWARD -i uplink -j DROP")),
        dead("-i up+ DROP", |_| filter("-A FORWARD -i up+ -j DROP")),
        dead("! -o uplink DROP", |_| filter("-A FORWARD ! -o uplink -j DROP")),
        at("-o uplink -d another client DROP", |_| {
            filter("-A FORWARD -o uplink -d 192.0.2.99/32 -j DROP");
        }),
        at("-s the client DROP", |_| filter("-I FORWARD -s 192.0.2.100/32 -j DROP")),
        at("-s another client DROP", |_| filter("-I FORWARD -s 192.0.2.99/32 -j DROP")),
        at("--src-range with the client DROP", |_| {
            filter("-A FORWARD -m iprange --src-range 192.0.2.90-192.0.2.110 -j DROP");
        }),
        at("--src-range without the client DROP", |_| {
            filter("-A FORWARD -m iprange --src-range 192.0.2.101-192.0.2.110 -j DROP");
        }),
    ]
}

fn by_connection() -> Vec<Situation> {
    vec![
        dead("-i uplink --ctstate NEW REJECT", |_| {
            filter("-A FORWARD -i uplink -m conntrack --ctstate NEW -j REJECT");
        }),
        dead("--ctorigdstport 8080 --ctdir ORIGINAL DROP", |_| {
            filter("-A FORWARD -p tcp -m conntrack --ctorigdstport 8080 --ctdir ORIGINAL -j DROP");
        }),
        at("--ctorigdstport 8081 --ctdir ORIGINAL DROP", |_| {
            filter("-A FORWARD -p tcp -m conntrack --ctorigdstport 8081 --ctdir ORIGINAL -j DROP");
        }),
        dead("--ctorigdst the node DROP", |_| {
            filter("-A FORWARD -m conntrack --ctorigdst 192.0.2.1/32 -j DROP");
        }),
        dead("the answer: -o uplink --ctstate ESTABLISHED DROP", |_| {
            filter("-A FORWARD -o uplink -m conntrack --ctstate ESTABLISHED -j DROP");
        }),
        dead("what follows: -i uplink --ctstate ESTABLISHED DROP", |_| {
            filter("-A FORWARD -i uplink -m conntrack --ctstate ESTABLISHED -j DROP");
        }),
        at("--ctstate INVALID DROP", |_| {
            filter("-A FORWARD -m conntrack --ctstate INVALID -j DROP");
        }),
        at("policy DROP, --ctstate DNAT ACCEPT", |_| {
            filter(":FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT");
        }),
        dead("policy DROP, --ctstate RELATED,ESTABLISHED ACCEPT", |_| {
            filter(
                ":FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            );
        }),
        dead("-m multiport --dports 79:81 DROP", |_| {
            filter("-A FORWARD -p tcp -m multiport --dports 79:81,443 -j DROP");
        }),
        at("-m multiport ! --dports 80 DROP", |_| {
            filter("-A FORWARD -i uplink -p tcp -m multiport ! --dports 80,443 -j DROP");
        }),
        dead("--syn DROP", |_| filter("-A FORWARD -p tcp --syn -j DROP")),
        at("-p udp DROP", |_| filter("-A FORWARD -p udp -j DROP")),
        at("-p udp DROP, asked over UDP", |_| filter("-A FORWARD -p udp -j DROP")).udp(),
        at("-m limit RETURN before a DROP", |_| {
            filter(
                "-A FORWARD -i uplink -m limit --limit 100/s -j ACCEPT\n-A FORWARD -i uplink -j DROP",
            );
        }),
        at("-m recent --update DROP", |_| {
            filter("-A FORWARD -i uplink -m recent --name ban --update -j DROP");
        }),
        at("a chain of fail2ban with another address", |_| {
            filter(
                ":f2b-sshd - [0:0]\n-A FORWARD -p tcp -m multiport --dports 22 -j f2b-sshd\n-A f2b-sshd -s 192.0.2.100/32 -j REJECT\n-A f2b-sshd -j RETURN",
            );
        }),
        at("a chain of fail2ban with the client", |_| {
            filter(
                ":f2b-web - [0:0]\n-A FORWARD -p tcp -j f2b-web\n-A f2b-web -s 192.0.2.100/32 -j REJECT\n-A f2b-web -j RETURN",
            );
        }),
        at("a mark is set, and ACCEPTed before a DROP", |_| {
            load(
                "iptables-nft-restore",
                "*mangle\n-A PREROUTING -i uplink -j MARK --set-xmark 0x40/0x40\nCOMMIT\n",
            );
            filter("-A FORWARD -m mark --mark 0x40/0x40 -j ACCEPT\n-A FORWARD -i uplink -j DROP");
        }),
        dead("a mark is set, and cleared, before it is asked for", |_| {
            load(
                "iptables-nft-restore",
                "*mangle\n-A PREROUTING -j MARK --set-xmark 0x40/0x40\n-A FORWARD -j MARK --set-xmark 0x0/0x40\nCOMMIT\n",
            );
            filter("-A FORWARD -i uplink -m mark ! --mark 0x40/0x40 -j DROP");
        }),
        dead("ip6tables: -i uplink DROP", |_| {
            load("ip6tables-nft-restore", "*filter\n-A FORWARD -i uplink -j DROP\nCOMMIT\n");
        })
        .asking(ask(Client::Outside, 8080).v6()),
        at("OUTPUT: -d the pod DROP, from loopback", |_| {
            let _ = run(
                Command::new("iptables-nft").args(["-A", "OUTPUT", "-d", "10.1.0.2", "-j", "DROP"]),
                "",
            );
        })
        .asking(ask(Client::Loopback, 8080)),
        at("INPUT: the answer of the pod DROP, from loopback", |_| {
            filter("-A INPUT -i cni1 -p tcp -m tcp --sport 80 -j DROP");
        })
        .asking(ask(Client::Loopback, 8080)),
    ]
}

fn of_nftables() -> Vec<Situation> {
    let ban = |name: &'static str, elements: &'static str, rule: &'static str| {
        at(name, move |_| {
            nft(&format!(
                "table inet ban {{ set bad {{ type ipv4_addr; flags interval; elements = {{ {elements} }}; }}
                 chain gate {{ type filter hook forward priority 0; {rule}\n}}\n}}"
            ));
        })
    };
    vec![
        ban(
            "a ban list of runs with the client",
            "203.0.113.0/24, 192.0.2.90-192.0.2.110",
            "ip saddr @bad drop",
        ),
        ban(
            "a ban list of runs without the client",
            "203.0.113.0/24, 192.0.2.101-192.0.2.110",
            "ip saddr @bad drop",
        ),
        ban(
            "all but a list with the client",
            "192.0.2.64/26",
            "iifname uplink ip saddr != @bad drop",
        ),
        ban(
            "all but a list without the client",
            "192.0.2.0/26",
            "iifname uplink ip saddr != @bad drop",
        ),
        dead("ct state vmap, new goes to a chain that drops", |_| {
            nft("table inet wall { chain fresh { tcp dport 80 drop; }
                 chain gate { type filter hook forward priority 0;
                 ct state vmap { invalid : drop, established : accept, related : accept, new : jump fresh }; }; }");
        }),
        at("ct state vmap, new is accepted", |_| {
            forward("ct state vmap { invalid : drop, established : accept, new : accept }; drop");
        }),
        at("a map of address and port to verdicts drops", |_| {
            forward(
                "ip saddr . tcp dport vmap { 192.0.2.100 . 80 : drop, 192.0.2.99 . 81 : accept }",
            );
        }),
        at("a set of runs of address and port with the client", |_| {
            nft("table inet ban { set bad { type ipv4_addr . inet_service; flags interval;
                 elements = { 192.0.2.64-192.0.2.127 . 79-81 }; }
                 chain gate { type filter hook forward priority 0; ip saddr . tcp dport @bad drop; }; }");
        }),
        at("a set of runs of address and port without the client", |_| {
            nft("table inet ban { set bad { type ipv4_addr . inet_service; flags interval;
                 elements = { 192.0.2.64-192.0.2.127 . 81-90 }; }
                 chain gate { type filter hook forward priority 0; ip saddr . tcp dport @bad drop; }; }");
        }),
        dead("numgen vmap, all of it drops", |_| {
            forward("iifname uplink numgen inc mod 2 vmap { 0 : drop, 1 : drop }");
        }),
        at("numgen vmap, a part of it drops", |_| {
            forward("iifname cni1 numgen random mod 100 vmap { 0-1 : drop, 2-99 : accept }");
        }),
        dead("iif by number", |_| forward("iif uplink drop")),
        dead("ip ttl is not understood", |_| forward("iifname uplink ip ttl < 255 drop")),
        at("a goto ends the chain before a drop", |_| {
            nft("table inet wall { chain back { counter; }
                 chain gate { type filter hook forward priority 0; iifname uplink goto back; iifname uplink drop; }; }");
        }),
        at("a vmap with a verdict for all others", |_| {
            forward("ip saddr vmap { 192.0.2.100 : accept, * : drop }; drop");
        }),
        at("a limit over a rate that is not reached", |_| {
            forward("iifname uplink limit rate over 1000/second drop");
        }),
        dead("icmpx reject of what comes by the uplink", |_| {
            forward("iifname \"uplink\" reject with icmpx admin-prohibited");
        }),
        at("flags and length of TCP that are not those of a client", |_| {
            forward("tcp flags & (fin|syn) == (fin|syn) drop; tcp flags == 0x0 drop");
        }),
    ]
}
