//! Drops and NOTRACK in every hook.

use super::{Situation, at, chain, dead, load};
use crate::cli::verdict::{Client, ask};
use crate::stage::netns::nft;

fn raw(tool: &str, rule: &str) {
    load(tool, &format!("*raw\n{rule}\nCOMMIT\n"));
}

pub(super) fn all() -> Vec<Situation> {
    let mut all = tracking();
    all.extend(drops());
    all
}

fn tracking() -> Vec<Situation> {
    vec![
        dead("notrack by port", |_| {
            chain("inet", "prerouting priority raw", "udp dport 8080 notrack");
        })
        .udp(),
        at("notrack by another port", |_| {
            chain("inet", "prerouting priority raw", "udp dport 53 notrack");
        })
        .udp(),
        dead("iptables -t raw: CT --notrack", |_| {
            raw("iptables-nft-restore", "-A PREROUTING -p tcp -m tcp --dport 8080 -j CT --notrack");
        }),
        dead("iptables-legacy -t raw: CT --notrack", |_| {
            raw(
                "iptables-legacy-restore",
                "-A PREROUTING -p tcp -m tcp --dport 8080 -j CT --notrack",
            );
        }),
        at("iptables -t raw: CT --notrack of other clients", |_| {
            raw("iptables-nft-restore", "-A PREROUTING -s 203.0.113.0/24 -j CT --notrack");
        }),
        dead("notrack of the answer", |_| {
            chain("inet", "prerouting priority raw", "ip saddr 10.1.0.0/24 tcp sport 80 notrack");
        }),
        at("notrack behind connection tracking", |_| {
            chain("inet", "prerouting priority mangle", "tcp dport 8080 notrack");
        }),
        at("OUTPUT: notrack, from loopback", |_| {
            chain("inet", "output priority raw", "tcp dport 8080 notrack");
        })
        .asking(ask(Client::Loopback, 8080)),
    ]
}

fn drops() -> Vec<Situation> {
    vec![
        dead("raw: drop by port", |_| {
            chain("ip", "prerouting priority raw", "tcp dport 8080 drop");
        }),
        at("raw: drop by the port of the pod", |_| {
            chain("ip", "prerouting priority raw", "tcp dport 80 drop");
        }),
        at("raw: drop by client", |_| {
            chain("ip", "prerouting priority raw", "ip saddr 192.0.2.100 drop");
        }),
        dead("raw: Docker's direct access filter for the pod's address", |_| {
            chain("ip", "prerouting priority raw", "iifname cni1 ip saddr 10.1.0.2 drop");
        }),
        dead("mangle: drop of new connections", |_| {
            load(
                "iptables-nft-restore",
                "*mangle\n-A PREROUTING -i uplink -m conntrack --ctstate NEW -j DROP\nCOMMIT\n",
            );
        }),
        dead("mangle: drop of the translated destination", |_| {
            chain("inet", "prerouting priority 0", "ip daddr 10.1.0.2 drop");
        }),
        dead("mangle POSTROUTING: drop towards the pods", |_| {
            load("iptables-nft-restore", "*mangle\n-A POSTROUTING -o cni1 -j DROP\nCOMMIT\n");
        }),
        dead("iptables-legacy, mangle FORWARD: drop", |_| {
            load(
                "iptables-legacy-restore",
                "*mangle\n-A FORWARD -p tcp -m tcp --dport 80 -j DROP\nCOMMIT\n",
            );
        }),
        dead("netdev ingress: drop by port", |_| {
            chain("netdev", "ingress device uplink priority 0", "tcp dport 8080 drop");
        }),
        at("netdev ingress: drop by another port", |_| {
            chain("netdev", "ingress device uplink priority 0", "tcp dport 8081 drop");
        }),
        at("netdev ingress of another interface: drop", |_| {
            chain("netdev", "ingress device lo priority 0", "tcp dport 8080 drop");
        }),
        dead("netdev egress: drop of the answer", |_| {
            chain("netdev", "egress device uplink priority 0", "tcp sport 8080 drop");
        }),
        dead("inet ingress: drop by address", |_| {
            chain("inet", "ingress device uplink priority 0", "ip daddr 192.0.2.0/24 drop");
        }),
        dead("bridge output: drop towards the pod", |_| {
            chain("bridge", "output priority 0", "ip daddr 10.1.0.2 drop");
        }),
        dead("bridge prerouting: drop of the answer", |_| {
            chain("bridge", "prerouting priority 0", "ip saddr 10.1.0.2 tcp sport 80 drop");
        }),
        at("bridge forward: drop between pods", |_| {
            chain("bridge", "forward priority 0", "ip daddr 10.1.0.0/24 drop");
        }),
        at("a dormant table drops", |_| {
            nft(
                "table inet wall { flags dormant; chain gate { type filter hook forward priority 0; drop; }; }",
            );
        }),
        at("a changed header", |_| {
            chain("inet", "forward priority 0", "iifname uplink ip ttl set 1");
        }),
    ]
}
