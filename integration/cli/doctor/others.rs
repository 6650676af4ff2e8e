//! Other programs that translate our ports, or use numbers of our range.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stage::chain::{Main, Network, PortMapping};
use crate::stage::netns::{ip, nft, sysctl};
use crate::stage::node::{FIRST, POD_PORT};
use crate::stage::operator::autoport;
use crate::stage::plugin::Plugin;

use super::{ARGUMENTS, Case, Scene, obey};

/// Another program's rules in front of ours, however they are written.
#[test]
fn whoever_translates_our_port_first_is_named() {
    let scene = Scene::new();
    let chain = |rule: &str| {
        nft(&format!(
            "table ip alien {{
                map to {{ type inet_service : ipv4_addr . inet_service; elements = {{ 8080 : 10.9.9.9 . 81 }} }}
                map on {{ type inet_proto . inet_service : verdict; elements = {{ tcp . 8080 : goto there }} }}
                set runs {{ type inet_service; flags interval; elements = {{ 8000-8100 }} }}
                chain there {{ meta l4proto tcp dnat to 10.9.9.9:81
                }}
                chain first {{ type nat hook prerouting priority -100; {rule}
                }}
            }}"
        ));
    };
    for (rule, state) in [
        ("tcp dport 8080 dnat to 10.9.9.9:81", "failed"),
        ("tcp dport { 80, 8080 } dnat to 10.9.9.9:81", "failed"),
        ("udp dport 8000-8090 dnat to 10.9.9.9:81", "failed"),
        ("tcp dport @runs dnat to 10.9.9.9:81", "failed"),
        ("tcp dport 8080 jump there", "failed"),
        ("meta l4proto . th dport vmap @on", "failed"),
        ("meta l4proto tcp dnat ip to tcp dport map @to", "failed"),
        ("fib daddr type local tcp dport 8080 dnat to 10.9.9.9:81", "failed"),
        ("ip daddr 192.0.2.1 tcp dport 8080 dnat to 10.9.9.9:81", "failed"),
        ("iifname \"uplink\" tcp dport 8080 dnat to 10.9.9.9:81", "warning"),
    ] {
        scene.names(&Case {
            harm: &|| chain(rule),
            check: "other tables",
            state,
            words: &["table ip alien", "8080/", "blue/web/eth0", "10.9.9.9:81"],
            cure: &|_| nft("delete table ip alien"),
        });
    }
    for rule in [
        "tcp dport 8081 dnat to 10.9.9.9:81",
        "sctp dport 8080 dnat to 10.9.9.9:81",
        "ip daddr 203.0.113.1 tcp dport 8080 dnat to 10.9.9.9:81",
        "tcp dport 8080 accept",
    ] {
        chain(rule);
        scene.well(rule);
        nft("delete table ip alien");
    }
    nft(
        "table ip alien { chain late { type nat hook prerouting priority -50; tcp dport 8080 dnat to 10.9.9.9:81\n}\n}",
    );
    scene.well("who comes after us gets nothing");
    nft("delete table ip alien");
    scene.names(&Case {
        harm: &|| chain("tcp dport 20017 dnat to 10.9.9.9:81"),
        check: "other tables",
        state: "warning",
        words: &["takes port 20017 of the range to 10.9.9.9:81"],
        cure: &|_| nft("delete table ip alien"),
    });
}

/// The real portmap, for a container that was deleted without a DEL.
#[test]
fn what_portmap_left_behind_is_named() {
    let scene = Scene::new();
    let leak = |plugin, subnet| {
        let network = Network::new("old", Main::Bridge, subnet, plugin);
        let name = format!("old{subnet}");
        drop(scene.node.attached(&name, &network, PortMapping::both(8080, POD_PORT, "")));
        ip(&format!("netns del {name}"));
    };
    scene.names(&Case {
        harm: &|| leak(Plugin::PortmapIptables, 2),
        check: "other tables",
        state: "failed",
        words: &["chain CNI-DN-", "0.0.0.0:8080/tcp", "10.2.0.2:80"],
        cure: &|remedy| {
            obey(remedy.split_once("exists: ").expect("a command").1);
            let (_, stdout, _) = autoport(&ARGUMENTS);
            assert!(stdout.contains("[::]:8080/tcp"), "the other family is left: {stdout}");
            let report: Value = serde_json::from_str(&stdout).expect("a report");
            for finding in report["findings"].as_array().expect("findings") {
                if let Some((_, command)) =
                    finding["remedy"].as_str().and_then(|remedy| remedy.split_once("exists: "))
                {
                    obey(command);
                }
            }
        },
    });
    scene.names(&Case {
        harm: &|| leak(Plugin::PortmapNftables, 3),
        check: "other tables",
        state: "failed",
        words: &["table ip cni_hostport, chain hostports", "10.3.0.2:80"],
        cure: &|remedy| {
            assert!(remedy.contains("by its handle"), "{remedy}");
            nft("delete table ip cni_hostport\ndelete table ip6 cni_hostport");
        },
    });
    scene.names(&Case {
        harm: &|| obey("iptables-legacy -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.9.9.9:81"),
        check: "other tables",
        state: "failed",
        words: &["(iptables-legacy), chain PREROUTING", "10.9.9.9:81"],
        cure: &|_| obey("iptables-legacy -t nat -F PREROUTING"),
    });
}

#[test]
fn whoever_else_uses_the_range_is_named() {
    let scene = Scene::new();
    let warned = |harm: &dyn Fn(), check, words: &[&str], cure: &dyn Fn(&str)| {
        scene.names(&Case { harm, check, state: "warning", words, cure });
    };
    let defaults = |_: &str| {
        sysctl("net/ipv4/ip_local_reserved_ports", "\n");
        sysctl("net/ipv4/ip_local_port_range", "32768\t60999");
        scene.restore();
    };
    let ranges = |range: &str| scene.with(|conf| conf["plugins"][1]["portRange"] = json!(range));
    warned(
        &|| sysctl("net/ipv4/ip_local_port_range", "29000\t60999"),
        "port range",
        &["29000-29999 of 20000-29999", "ip_local_port_range"],
        &obey,
    );
    defaults("");
    warned(&|| ranges("32000-32100"), "port range", &["NodePort"], &defaults);
    let reserved = || sysctl("net/ipv4/ip_local_reserved_ports", "21000,21010-21020");
    warned(&reserved, "port range", &["21000, 21010-21020 of 20000-29999"], &|remedy| {
        assert!(remedy.contains("excludePorts"), "{remedy}");
        scene.with(|conf| {
            conf["plugins"][1]["excludePorts"] = json!(["21000", "21010-21020"]);
        });
    });
    defaults("");
    let open = TcpListener::bind("0.0.0.0:20005").expect("a free port");
    warned(&|| {}, "listeners", &["in use by other programs", "20005/tcp"], &|_| {
        scene.with(|conf| conf["plugins"][1]["excludePorts"] = json!(["20005"]));
    });
    drop(open);
    defaults("");
    let open = TcpListener::bind((FIRST[0], 8080)).expect("a free port");
    let (_, stdout, _) = autoport(&ARGUMENTS);
    assert!(stdout.contains("192.0.2.1:8080/tcp") && stdout.contains("blue/web/eth0"), "{stdout}");
    assert!(stdout.contains("configure that program for another port"), "{stdout}");
    drop(open);
    scene.well("nobody listens");
    // As podman's conmon has the container's ID.
    let mut monitor = Command::new("busybox")
        .args(["httpd", "-f", "-p", "0.0.0.0:8080", "-r", "web"])
        .spawn()
        .expect("busybox is installed");
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect("127.0.0.1:8080").is_err() && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    scene.well("the monitor of the container itself listens");
    monitor.kill().expect("our child");
    monitor.wait().expect("our child");
}
