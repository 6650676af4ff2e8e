//! Routes, sysctls, and the way of the answer.

use super::{Situation, at, dead, load};
use crate::cli::verdict::{Client, Scene, ask};
use crate::stage::netns::{ip, sysctl};

/// A second cable, to a network of its own.
fn second_uplink(scene: &Scene) {
    ip("link add other type veth peer name other0 netns client
        addr add 198.51.100.1/24 dev other
        link set other up");
    scene.node.client.run(|| {
        ip("addr add 198.51.100.100/24 dev other0
            link set other0 up");
        sysctl("net/ipv4/conf/all/rp_filter", "0");
        sysctl("net/ipv4/conf/other0/rp_filter", "1");
    });
    for interface in ["all", "uplink", "other", "cni1"] {
        sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
    }
}

pub(super) fn all() -> Vec<Situation> {
    vec![
        at("a second uplink that has nothing to do with it", second_uplink),
        dead("the answer leaves by a second uplink, by a policy of routing", |scene| {
            second_uplink(scene);
            ip("route add default via 198.51.100.100 dev other table 100
                rule add from 10.1.0.0/24 iif cni1 lookup 100");
        }),
        at("a route to the client by another uplink", |scene| {
            second_uplink(scene);
            ip("route add 192.0.2.100/32 dev other");
            sysctl("net/ipv4/conf/uplink/rp_filter", "1");
        }),
        dead("forwarding is off on the uplink", |_| sysctl("net/ipv4/conf/uplink/forwarding", "0")),
        dead("forwarding is off on the pods' bridge", |_| {
            sysctl("net/ipv4/conf/cni1/forwarding", "0");
        }),
        dead("forwarding is off on both", |_| {
            sysctl("net/ipv4/conf/uplink/forwarding", "0");
            sysctl("net/ipv4/conf/cni1/forwarding", "0");
        }),
        dead("IPv6 is not forwarded", |_| sysctl("net/ipv6/conf/all/forwarding", "0"))
            .asking(ask(Client::Outside, 8080).v6()),
        at("forwarding is off, from loopback", |_| sysctl("net/ipv4/ip_forward", "0"))
            .asking(ask(Client::Loopback, 8080)),
        dead("a blackhole towards the pods by a mark", |_| {
            load(
                "iptables-nft-restore",
                "*mangle\n-A PREROUTING -i uplink -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n",
            );
            ip("route add blackhole default table 101
                rule add fwmark 1 lookup 101");
        }),
        at("a blackhole by another mark", |_| {
            load(
                "iptables-nft-restore",
                "*mangle\n-A PREROUTING -i uplink -j MARK --set-xmark 0x2/0xffffffff\nCOMMIT\n",
            );
            ip("route add blackhole default table 101
                rule add fwmark 1 lookup 101");
        }),
        at("a mark by a map, and a policy of routing", |_| {
            crate::stage::netns::nft(
                "table ip m { chain c { type filter hook prerouting priority -150;
                 meta mark set tcp sport map { 1-30000 : 1, 30001-65535 : 2 }; }; }",
            );
            ip("route add blackhole default table 101
                rule add fwmark 7 lookup 101");
        }),
        dead("the connection's mark sends the answer into a blackhole", |_| {
            load(
                "iptables-nft-restore",
                "*mangle\n-A PREROUTING -i uplink -j CONNMARK --set-xmark 0x80/0x80\n\
                 -A PREROUTING -i cni1 -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80\nCOMMIT\n",
            );
            ip("route add blackhole default table 102
                rule add fwmark 0x80/0x80 lookup 102");
        }),
        at("the client is prohibited by a policy of routing", |_| {
            ip("rule add from 192.0.2.100 prohibit");
        }),
        at("another client is prohibited by a policy of routing", |_| {
            ip("rule add from 192.0.2.99 prohibit");
        }),
        dead("a policy of routing by the port of the pod", |_| {
            ip("rule add ipproto tcp dport 80 prohibit");
        }),
        dead("no route to the pods", |_| ip("route del 10.1.0.0/24 dev cni1")),
        dead("the bridge is down", |_| ip("link set cni1 down")),
        dead("the pod has no way back", |scene| scene.web.netns.run(|| ip("route del default"))),
        at("the pod has no way back, from loopback", |scene| {
            scene.web.netns.run(|| ip("route del default"));
        })
        .asking(ask(Client::Loopback, 8080)),
        dead("the pod answers by another router", |scene| {
            scene.web.netns.run(|| ip("route replace default via 10.1.0.9"));
        }),
        at("the uplink is a port of the pods' bridge", |_| {
            ip("addr flush dev uplink
                link set uplink master cni1
                addr add 192.0.2.1/24 dev cni1");
        }),
        at("route_localnet is off, from loopback", |_| {
            sysctl("net/ipv4/conf/cni1/route_localnet", "0");
        })
        .asking(ask(Client::Loopback, 8080)),
    ]
}
