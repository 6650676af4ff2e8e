//! Pods that name their host ports.

use std::mem;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{self, PATIENCE};
use crate::cluster::{Cluster, pod};
use crate::machine::wait_for;
use crate::node::{CLIENT, FIRST, SECOND};
use crate::plugin::Plugin;
use crate::probe::{Answer, Probe, Transport};
use crate::recording::{Call, assert_recorded};

/// A container's port with a host port.
pub(crate) fn port(container: u16, host: u16, protocol: &str, address: &str) -> Value {
    json!({"containerPort": container, "hostPort": host, "protocol": protocol, "hostIP": address})
}

#[test]
fn a_host_port_is_reached_from_outside() {
    let mut cluster = Cluster::new();
    let ports = [
        port(8000, 8080, "TCP", ""),
        port(8000, 8080, "UDP", ""),
        port(8001, 9090, "TCP", SECOND[0]),
    ];
    api::runs(&pod("web", &ports));
    let node = &cluster.machine.node;
    for transport in Transport::BOTH {
        cluster.machine.assert_reached("web", transport, 8080);
        for (host, client) in FIRST.into_iter().zip(CLIENT) {
            let answer = node.client_asks(&Probe { transport, ..Probe::tcp(host, 8080) });
            assert_eq!(answer, Answer::reached("web", client), "{host} {}", transport.name());
        }
    }
    let answer = node.client_asks(&Probe::tcp(SECOND[0], 9090));
    assert_eq!(answer, Answer::reached("web", CLIENT[0]));
    cluster.machine.assert_refused(9090);
    assert_eq!(cluster.machine.held(), ["8080/tcp", "8080/udp", "9090/tcp"]);
    cluster.ends(&["web"]);
    cluster.machine.assert_refused(8080);
}

/// Kubernetes' conformance test "validates that there is no conflict between pods with same hostPort
/// but different hostIP and protocol", step by step: one port for 127.0.0.1 and TCP, the node's
/// address and TCP, the node's address and UDP, asked from the node. And the same over IPv6.
#[test]
fn one_port_for_three_pods_by_address_and_protocol() {
    const PORT: u16 = 54321;
    let mut cluster = Cluster::new();
    for (family, localhost) in ["127.0.0.1", "::1"].into_iter().enumerate() {
        let host = FIRST[family];
        let pods = [("pod1", localhost, "TCP"), ("pod2", host, "TCP"), ("pod3", host, "UDP")];
        for (name, address, protocol) in pods {
            api::runs(&pod(name, &[port(8000, PORT, protocol, address)]));
        }
        // From a process of the node; to localhost with the node's address for its source.
        let first = Probe::tcp(localhost, PORT).from(host, 0).ask();
        assert_eq!(first.by(), Some("pod1"), "{first}");
        let second = Probe::tcp(host, PORT).ask();
        assert_eq!(second.by(), Some("pod2"), "{second}");
        let third = Probe::udp(host, PORT).ask();
        assert_eq!(third.by(), Some("pod3"), "{third}");
        let node = &cluster.machine.node;
        assert_eq!(node.client_asks(&Probe::tcp(host, PORT)).by(), Some("pod2"));
        assert_eq!(node.client_asks(&Probe::udp(host, PORT)).by(), Some("pod3"));
        for (name, ..) in pods {
            api::ends(name);
        }
    }
    cluster.assert_nothing_left();
}

/// kubelet and containerd send up to six DELs for one sandbox, the last when kubelet collects
/// garbage: once a minute.
#[test]
fn a_late_del_leaves_the_next_pod_its_port() {
    const COLLECTED: Duration = Duration::from_secs(90);
    let mut cluster = Cluster::new();
    let ports = [port(8000, 8080, "TCP", ""), port(8000, 8080, "UDP", "")];
    api::runs(&pod("pod0", &ports));
    // If the minute is over just between two pods, there is no late DEL for the first. Then it is
    // the next one's turn, with most of a minute ahead.
    for generation in 1..4 {
        let (old, new) = (format!("pod{}", generation - 1), format!("pod{generation}"));
        cluster.machine.assert_reached(&old, Transport::Tcp, 8080);
        api::delete("pods", &old);
        // The scheduler lets it wait until the old one is gone.
        api::runs(&pod(&new, &ports));
        let added = calls_of(cluster.calls(), "ADD", &new)[0];
        let end = Instant::now() + COLLECTED;
        let mut late = false;
        while Instant::now() < end && !late {
            for transport in Transport::BOTH {
                cluster.machine.assert_reached(&new, transport, 8080);
            }
            late = calls_of(cluster.calls(), "DEL", &old).into_iter().any(|at| at > added);
            thread::sleep(Duration::from_millis(100));
        }
        for transport in Transport::BOTH {
            cluster.machine.assert_reached(&new, transport, 8080);
        }
        assert_eq!(cluster.machine.held(), ["8080/tcp", "8080/udp"]);
        if late {
            cluster.ends(&[&new]);
            return;
        }
    }
    panic!("kubelet never came late: {:#?}", cluster.calls());
}

/// Which of the calls these are.
fn calls_of(calls: &[Call], command: &str, pod: &str) -> Vec<usize> {
    let calls = calls.iter().enumerate();
    calls.filter(|(_, call)| call.is(command, pod)).map(|(at, _)| at).collect()
}

#[test]
fn what_is_refused_is_said_in_an_event() {
    let mut cluster = Cluster::new();
    let program = Plugin::Autoport.path();
    let autoport = |words: &[&str]| cluster.machine.run(&program.to_string_lossy(), words);
    autoport(&["reserve", "metrics", "8080/tcp"]);
    api::create("pods", &pod("web", &[port(8000, 8080, "TCP", ""), port(8001, 8081, "TCP", "")]));
    let mut said = String::new();
    wait_for(PATIENCE, "an event says why the sandbox was not made", || {
        said = api::events("web", "FailedCreatePodSandBox");
        !said.is_empty()
    });
    for part in ["plugin type=\"autoport\"", "failed (add)", "8080/tcp", "metrics"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    cluster.machine.assert_refused(8081);
    autoport(&["release", "metrics"]);
    // kubelet tries again by itself.
    api::wait_for_pod("web");
    cluster.machine.assert_reached("web", Transport::Tcp, 8080);
    cluster.ends(&["web"]);
}

/// The calls that can be told apart: how often kubelet repeats a DEL depends on the moment.
#[test]
fn what_kubelet_sends() {
    let mut cluster = Cluster::new();
    let mut web = pod(
        "web",
        &[
            port(8000, 8080, "TCP", ""),
            port(8000, 8053, "UDP", FIRST[0]),
            port(8000, 5000, "SCTP", ""),
        ],
    );
    web["metadata"]["annotations"] = json!({"autoport.cni/ports": "game=8001"});
    api::runs(&web);
    api::runs(&pod("plain", &[]));
    let program = Plugin::Autoport.path();
    cluster.machine.run(&program.to_string_lossy(), &["reserve", "metrics", "8099/tcp"]);
    api::create("pods", &pod("refused", &[port(8000, 8099, "TCP", "")]));
    wait_for(PATIENCE, "an event says what is wrong", || {
        api::events("refused", "FailedCreatePodSandBox").contains("metrics")
    });
    // Its DELs follow the failure.
    let refused = |cluster: &mut Cluster| calls_of(cluster.calls(), "DEL", "refused").len();
    wait_for(PATIENCE, "a DEL follows", || refused(&mut cluster) > 0);
    api::ends("refused");
    cluster.machine.run(&program.to_string_lossy(), &["release", "metrics"]);
    cluster.ends(&["web", "plain"]);
    cluster.calls();
    let mut calls = mem::take(&mut cluster.seen);
    let mut take = |command: &str, pod: &str, like: &dyn Fn(&Call) -> bool| {
        let found = calls.iter().position(|call| call.is(command, pod) && like(call));
        calls.remove(found.unwrap_or_else(|| panic!("no {command} of {pod} like this: {calls:#?}")))
    };
    let has_netns = |call: &Call| !call.environment["CNI_NETNS"].is_empty();
    let has_result = |call: &Call| call.stdin.get().contains("\"prevResult\"");
    let sent = vec![
        take("ADD", "web", &|_| true),
        take("ADD", "plain", &|_| true),
        take("ADD", "refused", &|_| true),
        take("DEL", "refused", &|call| has_netns(call) && !has_result(call)),
        take("DEL", "web", &|call| has_netns(call) && has_result(call)),
        take("DEL", "web", &|call| !has_netns(call) && !has_result(call)),
        take("DEL", "plain", &|call| has_netns(call) && has_result(call)),
    ];
    assert!(calls.iter().all(|call| ["ADD", "DEL"].contains(&call.command())), "{calls:#?}");
    let version = cluster.kubectl(&[
        "get",
        "node",
        "node",
        "-o",
        "jsonpath={.status.nodeInfo.kubeletVersion}",
    ]);
    assert_recorded("kubelet", version.trim_start_matches('v'), sent);
}
