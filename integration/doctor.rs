//! `autoport doctor`: everything that keeps host ports from working is done for real, doctor names it,
//! and what it says to do makes it go away.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::chain::{Attachment, Main, Network, PortMapping};
use crate::netns::{ip, nft, ruleset, run, sysctl};
use crate::node::{FIRST, Node, POD_PORT, Pod};
use crate::operator::{autoport, told, under};
use crate::plugin::Plugin;
use crate::view::STATE;

const CONF: &str = "/run/conf";
const BIN: &str = "/run/bin";
const ARGUMENTS: [&str; 7] = ["doctor", "--conf-dir", CONF, "--bin-dir", BIN, "--output", "json"];

/// A node on which nothing is wrong: one pod with port 8080, over TCP and UDP, of either family.
struct Scene {
    node: Node,
    _pod: Pod,
    attachment: Attachment,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new();
        let network = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
        let mappings = PortMapping::both(8080, POD_PORT, "");
        let (pod, attachment) = node.attached("web", &network, mappings);
        fs::create_dir(CONF).expect("a new folder");
        fs::create_dir(BIN).expect("a new folder");
        let scene = Self { node, _pod: pod, attachment };
        scene.restore();
        scene
    }

    /// The files as they should be.
    fn restore(&self) {
        for folder in [CONF, BIN] {
            for entry in fs::read_dir(folder).expect("our folder").flatten() {
                fs::remove_file(entry.path()).expect("our file");
            }
        }
        write("10-blue.conflist", &self.conflist());
        symlink(Plugin::Autoport.path(), format!("{BIN}/autoport")).expect("a link");
    }

    fn conflist(&self) -> Value {
        let mut conflist = self.attachment.network.conflist();
        conflist["plugins"][1]["capabilities"] =
            json!({"portMappings": true, "io.kubernetes.cri.pod-annotations": true});
        conflist
    }

    /// Writes it with something changed in it.
    fn with(&self, change: impl Fn(&mut Value)) {
        let mut conflist = self.conflist();
        change(&mut conflist);
        write("10-blue.conflist", &conflist);
    }

    fn well(&self, when: &str) {
        let report = report();
        self.node.note(format!("{when}: {report:#}"));
        assert_eq!(worst(&report), [0, 0, 0], "{when}: {report:#}");
    }

    /// Does harm, insists that doctor names it, and nothing else as failed; cures it as doctor says.
    fn names(&self, case: &Case<'_>) {
        let Case { harm, check, state, words, cure } = case;
        let name = words[0];
        harm();
        let (status, stdout, stderr) = autoport(&ARGUMENTS);
        let report: Value = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("{name}: {error}: {stdout}{stderr}"));
        self.node.note(format!("{name}: {report:#}"));
        let found = report["findings"].as_array().expect("findings").iter().find(|finding| {
            let text = finding["text"].as_str().unwrap_or_default();
            finding["check"] == **check
                && finding["state"] == **state
                && words.iter().all(|word| text.contains(word))
        });
        let found = found.unwrap_or_else(|| panic!("{name} is not named: {report:#}"));
        assert_eq!(status.code(), Some(if *state == "failed" { 3 } else { 0 }), "{report:#}");
        cure(found["remedy"].as_str().expect("a remedy"));
        self.well(&format!("cured of {name}"));
    }
}

/// What is done to a node, what doctor has to say of it, and what is done about it.
struct Case<'a> {
    harm: &'a dyn Fn(),
    check: &'static str,
    state: &'static str,
    words: &'a [&'a str],
    cure: &'a dyn Fn(&str),
}

fn report() -> Value {
    let (_, stdout, stderr) = autoport(&ARGUMENTS);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
}

fn worst(report: &Value) -> [u64; 3] {
    ["failed", "warnings", "unseen"].map(|number| report[number].as_u64().expect("a number"))
}

fn write(file: &str, content: &Value) {
    fs::write(Path::new(CONF).join(file), content.to_string()).expect("our file");
}

/// Runs what a remedy says, up to the first word of the sentence that is no part of it.
fn obey(remedy: &str) {
    let command = remedy.split(['`', ';', '(']).find(|part| !part.trim().is_empty());
    let command = command.unwrap_or_default().split(", ").next().unwrap_or_default();
    let mut words = command.split_whitespace();
    let name = words.next().unwrap_or_default();
    if name == "autoport" {
        told(&words.collect::<Vec<_>>());
        return;
    }
    if name == "sysctl" {
        let (name, value) = words.nth(1).and_then(|it| it.split_once('=')).expect("name=value");
        sysctl(&name.replace('.', "/"), value);
        return;
    }
    let (ok, text) = run(Command::new(name).args(words), "");
    assert!(ok, "{remedy}: {text}");
}

#[test]
fn a_healthy_node_is_well_and_the_report_fits_a_screen() {
    let scene = Scene::new();
    scene.well("at first");
    let before = ruleset();
    let report = told(&ARGUMENTS[..5]);
    assert_eq!(ruleset(), before, "doctor changes nothing");
    let lines: Vec<&str> = report.lines().collect();
    assert!(lines.len() <= 24, "{report}");
    for (line, check) in lines.iter().zip([
        "kernel",
        "plugin",
        "network",
        "table",
        "port range",
        "listeners",
        "forwarding",
        "rp_filter",
        "routes",
        "bridges",
        "FORWARD",
        "other tables",
    ]) {
        assert!(line.starts_with(&format!("ok        {check}")), "{check}: {report}");
    }
    assert_eq!(lines.last(), Some(&"0 failed, 0 warnings, 0 not seen"));
    assert!(!report.contains('\u{1b}'), "no colours but on a terminal");
}

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
    case(&|| table("tcp sport 22 accept"), "warning", "all but what some of its rules accept");
    table("accept; drop");
    scene.well("a rule accepts before the policy drops");
}

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

/// The real portmap, whose container is gone without a DEL.
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
            obey(remedy.split_once("gone: ").expect("a command").1);
            let (_, stdout, _) = autoport(&ARGUMENTS);
            assert!(stdout.contains("[::]:8080/tcp"), "the other family is left: {stdout}");
            let report: Value = serde_json::from_str(&stdout).expect("a report");
            for finding in report["findings"].as_array().expect("findings") {
                if let Some((_, command)) =
                    finding["remedy"].as_str().and_then(|remedy| remedy.split_once("gone: "))
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
fn records_and_table_that_differ_are_named() {
    let scene = Scene::new();
    let failed = |harm: &dyn Fn(), check, words: &[&str], cure: &dyn Fn(&str)| {
        scene.names(&Case { harm, check, state: "failed", words, cure });
    };
    failed(&|| nft("flush chain inet autoport hostports"), "table", &["hostports"], &obey);
    failed(&|| nft("delete table inet autoport"), "table", &["missing"], &obey);
    failed(
        &|| nft("add element inet autoport ports4 { tcp . 9 : 10.1.0.9 . 80 }"),
        "table",
        &["nobody recorded", "ports4"],
        &obey,
    );
    failed(
        &|| {
            let newer = ruleset().replace("autoport layout 1 ", "autoport layout 2 ");
            nft(&format!("flush ruleset\n{newer}"));
        },
        "plugin",
        &["the table has layout 2"],
        &|_| {
            nft("delete table inet autoport");
            told(&["repair"]);
        },
    );
    failed(
        &|| fs::rename(STATE, "/run/elsewhere").expect("the store can be moved"),
        "records",
        &["nothing is recorded", "table inet autoport of store"],
        &obey,
    );
    let record = || {
        let path = format!("{STATE}/attachments");
        let entry = fs::read_dir(path).expect("records").flatten().next();
        entry.expect("a record").path()
    };
    failed(
        &|| fs::write(record(), "{").expect("our file"),
        "records",
        &["cannot be read"],
        &|_| {
            told(&["repair"]);
            scene.attachment.plugin_call("ADD").run().success();
        },
    );
    scene.names(&Case {
        harm: &|| {
            drop(scene.node.attached(
                "lost",
                &scene.attachment.network,
                PortMapping::both(8090, 80, ""),
            ));
            ip("netns del lost");
        },
        check: "records",
        state: "warning",
        words: &["nobody knows", "blue/lost/eth0"],
        cure: &obey,
    });
}

#[test]
fn a_wrong_configuration_is_named() {
    let scene = Scene::new();
    let restore = |_: &str| scene.restore();
    let check = |harm: &dyn Fn(), check, state, words: &[&str]| {
        scene.names(&Case { harm, check, state, words, cure: &restore });
    };
    let with = |state, word: &str, change: &dyn Fn(&mut Value)| {
        check(&|| scene.with(change), "network", state, &[word]);
    };
    let remove = || fs::remove_file(format!("{CONF}/10-blue.conflist")).expect("our file");
    check(&remove, "network", "failed", &["no network configuration"]);
    let broken = || fs::write(format!("{CONF}/10-blue.conflist"), "{").expect("our file");
    check(&broken, "network", "failed", &["10-blue.conflist", "is not understood"]);
    let other =
        json!({"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "ptp", "ipam": {}}]});
    let first = || write("05-a.conflist", &other);
    check(&first, "network", "warning", &["take 05-a.conflist (ptp)", "10-blue.conflist only"]);
    let portmap = json!({"cniVersion": "1.0.0", "name": "z",
        "plugins": [{"type": "ptp"}, {"type": "portmap"}]});
    let last = || write("90-z.conflist", &portmap);
    check(&last, "network", "warning", &["90-z.conflist maps host ports with portmap"]);
    let plugins = |conf: &mut Value| conf["plugins"].as_array_mut().expect("plugins").clone();
    with("failed", "does not chain autoport (bridge)", &|conf| {
        conf["plugins"] = json!([plugins(conf)[0]]);
    });
    with("failed", "autoport is the first of the chain", &|conf| {
        let [bridge, own] = [0, 1].map(|index| plugins(conf)[index].clone());
        conf["plugins"] = json!([own, bridge]);
    });
    with("failed", "autoport is in the chain twice", &|conf| {
        let [bridge, own] = [0, 1].map(|index| plugins(conf)[index].clone());
        conf["plugins"] = json!([bridge, own, own]);
    });
    with("failed", "portmap is in the same chain", &|conf| {
        let [bridge, own] = [0, 1].map(|index| plugins(conf)[index].clone());
        conf["plugins"] = json!([bridge, {"type": "portmap"}, own]);
    });
    with("failed", "does not declare the capability portMappings", &|conf| {
        conf["plugins"][1]["capabilities"] = json!({"io.kubernetes.cri.pod-annotations": true});
    });
    with("warning", "annotations of pods do not reach autoport", &|conf| {
        conf["plugins"][1]["capabilities"] = json!({"portMappings": true});
    });
    with("failed", "cniVersion \"9.9.9\"", &|conf| conf["cniVersion"] = json!("9.9.9"));
    with("warning", "cniVersion 0.3.1 has no CHECK", &|conf| conf["cniVersion"] = json!("0.3.1"));
    with("failed", "did you mean portRange?", &|conf| conf["plugins"][1]["portRang"] = json!("1"));
    with("warning", "unknown key is ignored: colour", &|conf| {
        conf["plugins"][1]["colour"] = json!("blue");
    });

    let plugin = format!("{BIN}/autoport");
    let remove = || fs::remove_file(&plugin).expect("our link");
    check(&remove, "plugin", "failed", &["is missing"]);
    let script = |mode: u32| {
        fs::remove_file(&plugin).expect("our link");
        fs::write(&plugin, "#!/bin/sh\necho autoport 9.9.9\n").expect("our file");
        fs::set_permissions(&plugin, PermissionsExt::from_mode(mode)).expect("our file");
    };
    check(&|| script(0o644), "plugin", "failed", &["cannot be run"]);
    check(&|| script(0o755), "plugin", "warning", &["another program", "9.9.9"]);
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
    warned(&|| {}, "listeners", &["in the range listens", "20005/tcp"], &|_| {
        scene.with(|conf| conf["plugins"][1]["excludePorts"] = json!(["20005"]));
    });
    drop(open);
    defaults("");
    let open = TcpListener::bind((FIRST[0], 8080)).expect("a free port");
    let (_, stdout, _) = autoport(&ARGUMENTS);
    assert!(stdout.contains("192.0.2.1:8080/tcp") && stdout.contains("blue/web/eth0"), "{stdout}");
    drop(open);
    scene.well("nobody listens");
}

/// Without any capability, doctor says what it could and what it could not see.
#[test]
fn without_privilege_it_says_what_it_could_not_see() {
    let scene = Scene::new();
    sysctl("net/ipv4/ip_forward", "0");
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let (status, stdout, stderr) = under(&bare, &ARGUMENTS[..5]);
    scene.node.note(format!("without privilege: {stdout}{stderr}"));
    assert_eq!(status.code(), Some(3), "{stdout}{stderr}");
    for words in [
        "not seen  kernel",
        "not seen  table",
        "not seen  FORWARD",
        "not seen  other tables",
        "ok        network",
        "ok        plugin",
        "failed    forwarding",
        "run it as root",
    ] {
        assert!(stdout.contains(words), "{words}: {stdout}");
    }
}
