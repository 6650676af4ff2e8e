//! Rules that translate the port first, in every form.

use super::{Situation, at, dead, load};
use crate::cli::verdict::{Client, ask};
use crate::stage::netns::nft;

/// Rules in a nat chain of prerouting that comes before ours.
fn first(more: &str, rules: &str) {
    nft(&format!(
        "table ip alien {{ {more}\nchain first {{ type nat hook prerouting priority -100; {rules}\n}}\n}}"
    ));
}

fn nat(rules: &str) {
    load("iptables-nft-restore", &format!("*nat\n{}\nCOMMIT\n", rules.trim()));
}

pub(super) fn all() -> Vec<Situation> {
    let mut all = of_nftables();
    all.extend(of_iptables());
    all
}

fn of_nftables() -> Vec<Situation> {
    vec![
        dead("dnat of the port", |_| first("", "tcp dport 8080 dnat to 10.9.9.9:81")),
        at("dnat of another port", |_| first("", "tcp dport 8081 dnat to 10.9.9.9:81")),
        at("dnat of the port for other clients", |_| {
            first("", "ip saddr 203.0.113.0/24 tcp dport 8080 dnat to 10.9.9.9:81");
        }),
        at("dnat of the port to the same pod", |_| first("", "tcp dport 8080 dnat to 10.1.0.2:80")),
        dead("redirect of the port", |_| first("", "tcp dport 8080 redirect to :9")),
        dead("dnat by a map of address and port", |_| {
            first(
                "map to { type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = { 192.0.2.1 . 8080 : 10.9.9.9 . 81 }; }",
                "dnat ip to ip daddr . tcp dport map @to",
            );
        }),
        at("dnat by a map of another address and port", |_| {
            first(
                "map to { type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = { 192.0.2.9 . 8080 : 10.9.9.9 . 81 }; }",
                "dnat ip to ip daddr . tcp dport map @to",
            );
        }),
        dead("dnat to a random one by numgen", |_| {
            first("", "tcp dport 8080 dnat to numgen random mod 2 map { 0 : 10.9.9.9, 1 : 10.9.9.8 }");
        }),
        dead("dnat to one by the hash of the client", |_| {
            first("", "tcp dport 8080 dnat to jhash ip saddr mod 2 map { 0 : 10.9.9.9, 1 : 10.9.9.8 }");
        }),
        at("an accept in a nat chain before ours", |_| first("", "tcp dport 8080 accept")),
        at("a dnat behind an accept", |_| {
            first("", "ip saddr 192.0.2.100 accept\ntcp dport 8080 dnat to 10.9.9.9:81");
        }),
        at("a nat chain behind ours", |_| {
            nft("table ip late { chain c { type nat hook prerouting priority -50; tcp dport 8080 dnat to 10.9.9.9:81\n}\n}");
        }),
        at("a nat chain of OUTPUT, from outside", |_| {
            nft("table ip late { chain c { type nat hook output priority -100; tcp dport 8080 dnat to 10.9.9.9:81\n}\n}");
        }),
        at("a nat chain of OUTPUT, from loopback", |_| {
            nft("table ip late { chain c { type nat hook output priority -100; tcp dport 8080 dnat to 10.9.9.9:81\n}\n}");
        })
        .asking(ask(Client::Loopback, 8080)),
        at("masquerade towards the pods", |_| {
            nft("table ip m { chain c { type nat hook postrouting priority 100; oifname cni1 masquerade\n}\n}");
        }),
        dead("kube-proxy, nftables: a NodePort of the same number", |_| nft(&kube_nft("8080"))),
        at("kube-proxy, nftables: a NodePort of another number", |_| nft(&kube_nft("30080"))),
    ]
}

/// As kube-proxy's mode nftables writes it: maps of verdicts, and a random endpoint.
fn kube_nft(port: &str) -> String {
    format!(
        "table ip kube-proxy {{
            set cluster-ips {{ type ipv4_addr; elements = {{ 10.96.0.1, 10.96.0.10 }}; }}
            map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
            map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict;
                elements = {{ 10.96.0.10 . udp . 53 : goto service-ULMVA6XW-kube-system/dns/udp/dns }}; }}
            map service-nodeports {{ type inet_proto . inet_service : verdict;
                elements = {{ tcp . {port} : goto external-ULMVA6XW-default/web/tcp/http }}; }}
            set nodeport-ips {{ type ipv4_addr; elements = {{ 192.0.2.1 }}; }}
            chain services {{
                ip daddr . meta l4proto . th dport vmap @service-ips
                ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
            }}
            chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
            chain service-ULMVA6XW-kube-system/dns/udp/dns {{ meta l4proto udp dnat to 10.244.0.2:53; }}
            chain external-ULMVA6XW-default/web/tcp/http {{
                jump mark-for-masquerade
                goto service-ULMVA6XW-default/web/tcp/http
            }}
            chain service-ULMVA6XW-default/web/tcp/http {{
                ip daddr 10.96.0.20 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
                numgen random mod 2 vmap {{ 0 : goto endpoint-5OJB2KTY, 1 : goto endpoint-5OJB2KTZ }}
            }}
            chain endpoint-5OJB2KTY {{ ip saddr 10.244.1.3 jump mark-for-masquerade; meta l4proto tcp dnat to 10.244.1.3:8080; }}
            chain endpoint-5OJB2KTZ {{ ip saddr 10.244.1.4 jump mark-for-masquerade; meta l4proto tcp dnat to 10.244.1.4:8080; }}
            chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
            chain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}
            chain nat-postrouting {{ type nat hook postrouting priority srcnat; policy accept;
                meta mark & 0x4000 != 0 jump masquerading; }}
            chain masquerading {{ meta mark set meta mark xor 0x4000; masquerade fully-random; }}
            chain filter-forward {{ type filter hook forward priority -110; policy accept; ct state new jump services-filter; }}
            chain services-filter {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
            chain cluster-ips-check {{ ip daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\"; }}
            chain filter-forward-late {{ type filter hook forward priority -90; policy accept; ct state new jump cluster-ips-check; }}
         }}"
    )
}

fn of_iptables() -> Vec<Situation> {
    vec![
        dead("iptables-legacy: DNAT of the port", |_| {
            load(
                "iptables-legacy-restore",
                "*nat\n-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.9.9.9:81\nCOMMIT\n",
            );
        }),
        dead("iptables-legacy: REDIRECT of a range", |_| {
            load(
                "iptables-legacy-restore",
                "*nat\n-A PREROUTING -i uplink -p tcp -m tcp --dport 8000:8100 -j REDIRECT --to-ports 9\nCOMMIT\n",
            );
        }),
        at("Docker publishes another port", |_| nat(&docker("8088"))),
        dead("Docker publishes the same port", |_| nat(&docker("8080"))),
        at("podman's netavark publishes another port", |_| {
            nat(
                ":NETAVARK-HOSTPORT-DNAT - [0:0]\n:NETAVARK-DN-1D8721804F16F - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j NETAVARK-HOSTPORT-DNAT\n-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 8088 -m comment --comment \"dnat name: podman\" -j NETAVARK-DN-1D8721804F16F\n-A NETAVARK-DN-1D8721804F16F -p tcp -m tcp --dport 8088 -j DNAT --to-destination 10.88.0.2:80",
            );
        }),
        dead("portmap's chains hold the same port", |_| {
            nat(
                ":CNI-HOSTPORT-DNAT - [0:0]\n:CNI-DN-0123456789abcdef01234 - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"net\\\" id: \\\"abc\\\"\" -m multiport --dports 8080 -j CNI-DN-0123456789abcdef01234\n-A CNI-DN-0123456789abcdef01234 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.9.9.9:80",
            );
        }),
        dead("kube-proxy, iptables: a NodePort of the same number", |_| nat(&kube("8080"))),
        at("kube-proxy, iptables: a NodePort of another number", |_| nat(&kube("30080"))),
        at("DNAT of the port with a probability", |_| {
            nat(
                "-A PREROUTING -s 192.0.2.100/32 -p tcp -m tcp --dport 8080 -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.1.0.2:80",
            );
        }),
    ]
}

fn docker(port: &str) -> String {
    format!(
        ":DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport {port} -j DNAT --to-destination 172.17.0.2:80"
    )
}

fn kube(port: &str) -> String {
    format!(
        ":KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXT-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-SEP-57KPRZ3JQVENLNBR - [0:0]
:KUBE-SEP-63ARYNXWGYNZS4CS - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment \"default/web:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment \"default/web:http\" -m tcp --dport {port} -j KUBE-EXT-TCOU7JCQXEZGVUNU
-A KUBE-EXT-TCOU7JCQXEZGVUNU -m comment --comment \"masquerade traffic for default/web:http external destinations\" -j KUBE-MARK-MASQ
-A KUBE-EXT-TCOU7JCQXEZGVUNU -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment \"default/web:http -> 10.244.1.3:8080\" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-57KPRZ3JQVENLNBR
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment \"default/web:http -> 10.244.1.4:8080\" -j KUBE-SEP-63ARYNXWGYNZS4CS
-A KUBE-SEP-57KPRZ3JQVENLNBR -s 10.244.1.3/32 -m comment --comment \"default/web:http\" -j KUBE-MARK-MASQ
-A KUBE-SEP-57KPRZ3JQVENLNBR -p tcp -m comment --comment \"default/web:http\" -m tcp -j DNAT --to-destination 10.244.1.3:8080
-A KUBE-SEP-63ARYNXWGYNZS4CS -s 10.244.1.4/32 -m comment --comment \"default/web:http\" -j KUBE-MARK-MASQ
-A KUBE-SEP-63ARYNXWGYNZS4CS -p tcp -m comment --comment \"default/web:http\" -m tcp -j DNAT --to-destination 10.244.1.4:8080"
    )
}
