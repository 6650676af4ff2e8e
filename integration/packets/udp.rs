//! UDP flows that connection tracking has from before an ADD or a DEL.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;

use serde_json::{Value, json};

use crate::stage::bare::{attachment, network, run, udp};
use crate::stage::chain::{Attachment, Main, Network};
use crate::stage::echo::Echo;
use crate::stage::netns::{ip, keep_tracking, nft, sysctl};
use crate::stage::node::{CLIENT, FIRST, Node, Pod, SECOND, address};
use crate::stage::plugin::{Outcome, Plugin};
use crate::stage::probe::{Answer, Probe};
use crate::stage::strace::trace;
use crate::stage::view::{self, udp_flows};

const PORT: u16 = 8080;

/// A node whose table is there already, so that flows are tracked.
fn scene() -> (Node, Network, Pod) {
    let node = Node::new();
    let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let (keeper, _attachment) = node.attached("keeper", &blue, [udp(9999)]);
    (node, blue, keeper)
}

/// The client's socket is always the same: port 40000.
fn probe(to: &str) -> Probe {
    let client = CLIENT[usize::from(to.contains(':'))];
    Probe::udp(to, PORT).from(client, 40000)
}

/// Another client, known by its port.
fn begun_at(to: &str, source: u16) -> Probe {
    Probe::udp(to, PORT).from(CLIENT[usize::from(to.contains(':'))], source)
}

#[test]
fn a_client_that_began_before_the_add_reaches_the_pod() {
    let (node, blue, _keeper) = scene();
    for to in FIRST {
        assert_eq!(node.client_asks(&probe(to)), Answer::Refused);
        assert_eq!(udp_flows(to, PORT).len(), 1, "the flow is tracked: {to}");
    }
    let (_web, web) = node.attached("web", &blue, [udp(PORT)]);
    for to in FIRST {
        assert_eq!(node.client_asks(&probe(to)).by(), Some("web"), "{to}");
    }
    web.del().success();
    for to in FIRST {
        assert_eq!(node.client_asks(&probe(to)), Answer::Refused, "{to}");
    }
}

/// A process of the node had the port; its clients' flows lead to it, not to nowhere.
#[test]
fn a_client_of_a_process_of_the_node_reaches_the_pod() {
    let (node, blue, _keeper) = scene();
    let server = Echo::start("process", &node.here, &[(address(FIRST[0]), PORT).into()]);
    assert_eq!(node.client_asks(&probe(FIRST[0])).by(), Some("process"));
    drop(server);
    let (_web, _attachment) = node.attached("web", &blue, [udp(PORT).on(FIRST[0])]);
    assert_eq!(node.client_asks(&probe(FIRST[0])).by(), Some("web"));
}

/// The old pod's server is still there when its DEL comes, and so is its interface.
#[test]
fn after_del_nobody_sends_to_the_old_pod() {
    let (node, blue, _keeper) = scene();
    let (_web, web) = node.attached("web", &blue, [udp(PORT).on(FIRST[0]), udp(PORT).on(FIRST[1])]);
    for to in FIRST {
        assert_eq!(node.client_asks(&probe(to)).by(), Some("web"), "{to}");
    }
    run(&web, "DEL").success();
    for to in FIRST {
        assert_eq!(udp_flows(to, PORT), [""; 0], "{to}");
        assert_eq!(node.client_asks(&probe(to)), Answer::Refused, "{to}");
    }
}

/// Kills an ADD before it sends to the kernel for the nth time.
fn killed_at(nth: u32, attachment: &Attachment) -> Outcome {
    let inject = format!("inject=sendto:signal=SIGKILL:when={nth}");
    let strace = ["strace", "-f", "-e", "trace=sendto", "-e", &inject, "-o", "/run/strace"];
    attachment.plugin_call("ADD").under(&strace).run()
}

/// Whatever restores the table, and for whomever: a client that went on meanwhile reaches the pod.
#[test]
fn a_client_that_sent_while_the_table_was_gone_reaches_the_pod() {
    let (node, blue, keeper) = scene();
    keep_tracking();
    let (_web, web) = node.attached("web", &blue, [udp(PORT)]);
    let other = attachment(&node, &network("blue"), "other", 200).mapping([udp(9000)]);
    let cli = |word: &str| {
        let mut command = Command::new(Plugin::Autoport.path());
        assert!(command.arg(word).status().expect("it can be started").success());
    };
    let restorers: [(&str, &dyn Fn()); 5] = [
        ("the ADD of another", &|| drop(run(&other, "ADD").success())),
        ("the DEL of another", &|| drop(run(&other, "DEL").success())),
        ("GC", &|| drop(run(&other, "GC").success())),
        ("repair", &|| cli("repair")),
        ("its own ADD", &|| drop(web.plugin_call("ADD").run().success())),
    ];
    for ((who, restore), source) in restorers.into_iter().zip(41000..) {
        // Each time a client that has not reached the pod before.
        let asks = |to: &str| node.client_asks(&begun_at(to, source));
        nft("delete table inet autoport");
        for to in FIRST {
            assert_eq!(asks(to), Answer::Refused, "{who}: {to}");
            let own = format!("sport={source} ");
            let tracked = udp_flows(to, PORT).iter().filter(|flow| flow.contains(&own)).count();
            assert_eq!(tracked, 1, "the flow is tracked: {to}");
        }
        restore();
        for to in FIRST {
            assert_eq!(asks(to).by(), Some("web"), "{who}: {to}");
        }
    }
    drop(keeper);
}

/// A repeated ADD gives a port up and is killed at any point: its DEL still knows of the flows.
#[test]
fn a_shrinking_add_that_is_killed_leaves_no_flow() {
    let (node, blue, _keeper) = scene();
    let (_web, web) = node.attached("web", &blue, [udp(PORT), udp(PORT + 1)]);
    let mut less = web.clone();
    less.mappings.retain(|mapping| mapping.host_port != PORT);
    let mut struck = 0;
    for nth in 1..=30 {
        run(&web, "ADD").success();
        assert_eq!(node.client_asks(&probe(FIRST[0])).by(), Some("web"));
        struck += u32::from(!killed_at(nth, &less).status.success());
        run(&less, "DEL").success();
        assert_eq!(udp_flows(FIRST[0], PORT), [""; 0], "killed at question {nth}");
        if struck < nth {
            break;
        }
    }
    assert!(struck >= 5, "only {struck} faults struck");
}

#[test]
fn flows_that_are_not_the_mappings_are_not_cut() {
    let (node, blue, keeper) = scene();
    let blue = blue.with("hostListeners", "ignore");
    // Forwarded by this node to somebody else's address, with the same port.
    let pods = [false, true].map(|v6| keeper.address(v6).to_string());
    let _other = Echo::start("other", &keeper.netns, &[(address("::"), PORT).into()]);
    for to in &pods {
        assert_eq!(node.client_asks(&probe(to)).by(), Some("other"), "{to}");
    }
    // To an address of this node that the mapping is not about, and to another port.
    let _process = Echo::start("process", &node.here, &[(address(SECOND[0]), PORT).into()]);
    assert_eq!(node.client_asks(&probe(SECOND[0])).by(), Some("process"));
    assert_eq!(
        node.client_asks(&Probe::udp(FIRST[0], 9999).from(CLIENT[0], 40000)).by(),
        Some("keeper")
    );
    assert_eq!(node.client_asks(&probe(FIRST[0])), Answer::Refused);
    let left = || {
        let pods = pods.iter().map(|to| udp_flows(to, PORT).len());
        pods.chain([udp_flows(SECOND[0], PORT).len(), udp_flows(FIRST[0], 9999).len()])
            .collect::<Vec<_>>()
    };
    assert_eq!(left(), [1; 4]);
    let own = [udp(PORT).on(FIRST[0]), udp(PORT).on(FIRST[1])];
    let (_web, web) = node.attached("web", &blue, own);
    assert_eq!(udp_flows(FIRST[0], PORT), [""; 0], "what the mapping is about is cut");
    assert_eq!(left(), [1; 4], "after ADD");
    run(&web, "DEL").success();
    assert_eq!(left(), [1; 4], "after DEL");
    // A wildcard is about every address of this node, and about no other.
    let any = attachment(&node, &network("blue").with("hostListeners", "ignore"), "any", 200)
        .mapping([udp(PORT)]);
    run(&any, "ADD").success();
    assert_eq!(left(), [1, 1, 0, 1], "after ADD on every address");
    run(&any, "DEL").success();
    assert_eq!(left(), [1, 1, 0, 1], "after DEL on every address");
}

/// A daemon of the node, a client that may not connect, a Service whose rules come first: what the mapping
/// does not translate is left alone, whatever the command.
#[test]
fn flows_that_the_policy_leaves_out_are_not_cut() {
    let (node, _blue, keeper) = scene();
    let _daemon = Echo::start("daemon", &node.here, &[(address("::"), PORT).into()]);
    let service = format!("dnat ip to {}:80", keeper.address(false));
    nft(&format!(
        "table inet service {{\n chain pre {{\n type nat hook prerouting priority dstnat\n \
         udp sport 43000 udp dport {PORT} {service}\n }}\n}}"
    ));
    let elsewhere = format!("{}/32", SECOND[0]);
    let policies: [(&str, Value); 2] =
        [("hostAddresses", json!([elsewhere])), ("sourceRanges", json!(["203.0.113.0/24"]))];
    for (number, (key, value)) in (1..).zip(policies) {
        let asked = [probe(FIRST[0]), begun_at(FIRST[0], 43000)].map(|it| node.client_asks(&it));
        assert_eq!(asked.each_ref().map(Answer::by), [Some("daemon"), Some("keeper")]);
        let left = || udp_flows(FIRST[0], PORT).len();
        assert_eq!(left(), 2, "{key}");
        let narrow = network("blue").with("hostListeners", "ignore").with(key, value);
        let web = attachment(&node, &narrow, &format!("web{number}"), 200).mapping([udp(PORT)]);
        for command in ["ADD", "ADD", "GC", "DEL"] {
            run(&web, command).success();
            assert_eq!(left(), 2, "{key}, after {command}");
        }
    }
    drop(keeper);
}

/// Nothing of the table was lost, so nothing is restored, and no client is disturbed.
#[test]
fn where_nothing_has_changed_no_flow_is_cut() {
    let (node, blue, _keeper) = scene();
    keep_tracking();
    let (_web, web) = node.attached("web", &blue, [udp(PORT)]);
    // The client's flow was begun while another rule came first.
    nft(&format!(
        "table inet first {{\n chain pre {{\n type nat hook prerouting priority dstnat\n \
         udp dport {PORT} dnat ip to {}:{PORT}\n }}\n}}",
        FIRST[0]
    ));
    assert_eq!(node.client_asks(&probe(FIRST[0])), Answer::Refused);
    nft("delete table inet first");
    let repair = || {
        let mut command = Command::new(Plugin::Autoport.path());
        assert!(command.arg("repair").status().expect("it can be started").success());
    };
    let again = || drop(run(&web, "ADD").success());
    let gc = || drop(run(&attachment(&node, &network("blue"), "other", 200), "GC").success());
    for command in [&again, &gc, &repair] as [&dyn Fn(); 3] {
        command();
        assert_eq!(udp_flows(FIRST[0], PORT).len(), 1);
    }
    nft("flush map inet autoport ports4");
    repair();
    assert_eq!(node.client_asks(&probe(FIRST[0])).by(), Some("web"));
}

/// A flow within the node to an address of 127.0.0.0/8, which is a network of the node, not an
/// address of an interface. One to `::1` is never translated.
#[test]
fn a_flow_to_any_loopback_address_is_the_nodes_own() {
    let (node, blue, _keeper) = scene();
    let own = ["127.0.0.1", "127.1.2.3", "::1"];
    let probe = |to| Probe::udp(to, PORT).from(if to == "::1" { to } else { "127.0.0.1" }, 40000);
    for to in own {
        assert_eq!(probe(to).ask(), Answer::Refused, "{to}");
        assert_eq!(udp_flows(to, PORT).len(), 1, "the flow is tracked: {to}");
    }
    let (_web, _attachment) = node.attached("web", &blue, [udp(PORT)]);
    let left = own.map(|to| udp_flows(to, PORT).len());
    assert_eq!(left, [0, 0, 1], "from ::1 nothing is translated");
}

/// Flows that the node forwards have the port of a pod as well, each another destination; and the
/// node has routes that are nobody's address. Neither makes an ADD longer.
#[test]
fn what_is_forwarded_costs_one_look_at_the_nodes_addresses() {
    const DESTINATIONS: usize = 500;
    let (node, blue, _keeper) = scene();
    // Half a minute is not enough for a slow machine.
    sysctl("net/netfilter/nf_conntrack_udp_timeout", "3600");
    node.client.run(|| sysctl("net/ipv4/ip_forward", "0"));
    let via = CLIENT[0];
    ip(&format!("route add 198.18.0.0/16 via {via}\nroute add 198.19.0.0/16 via {via}"));
    node.client.run(|| {
        let socket = UdpSocket::bind((CLIENT[0], 0)).expect("an address of the client");
        for number in 0..DESTINATIONS {
            let to = Ipv4Addr::new(198, 18, u8::try_from(number / 256).expect("few"), number as u8);
            socket.send_to(b"?", (to, PORT)).expect("a way to the node");
        }
    });
    let forwarded = || view::flows().iter().filter(|flow| flow.contains(" dst=198.18.")).count();
    assert_eq!(forwarded(), DESTINATIONS);
    let web = attachment(&node, &blue, "any", 200).mapping([udp(PORT)]);
    let trace = trace(&web, "ADD");
    let count = |what: &str| trace.iter().filter(|line| line.contains(what)).count();
    // The other one is for the pod's interface. IPv6 has no flow that could be stale.
    assert_eq!(count("NETLINK_ROUTE)"), 2, "{trace:#?}");
    assert_eq!(count("NETLINK_GET_STRICT_CHK"), 1, "{trace:#?}");
    let told: Vec<_> = trace.iter().filter(|line| line.contains("RTM_NEWROUTE")).collect();
    assert!(told.iter().any(|line| line.contains("127.0.0.0")), "{told:#?}");
    assert!(told.iter().all(|line| !line.contains("198.1")), "{told:#?}");
    assert_eq!(forwarded(), DESTINATIONS);
    // For so many ports all flows are listed, and none of them leads to one of the ports.
    let many = attachment(&node, &blue, "many", 201).mapping((1..8).map(|more| udp(PORT + more)));
    let trace = self::trace(&many, "ADD");
    assert!(!trace.iter().any(|line| line.contains("NETLINK_GET_STRICT_CHK")), "{trace:#?}");
}
