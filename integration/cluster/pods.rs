//! Pods that name their host ports.

use std::mem;

use serde_json::{Value, json};

use crate::api::{self, PATIENCE};
use crate::cluster::{Cluster, pod};
use crate::machine::wait_for;
use crate::recording::{Call, assert_recorded};
use crate::stage::node::{CLIENT, FIRST, SECOND};
use crate::stage::plugin::{self, Plugin};
use crate::stage::probe::{Answer, Probe, Transport};

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

/// kubelet and containerd send up to six DELs for one sandbox. When a sandbox dies, the last come
/// with the garbage collection, once a minute, and its successor has its ports by then.
#[test]
fn a_late_del_leaves_the_next_sandbox_its_ports() {
    let mut cluster = Cluster::new();
    let ports = [port(8000, 8080, "TCP", ""), port(8000, 8080, "UDP", "")];
    let mut web = pod("web", &ports);
    web["metadata"]["annotations"] = json!({"autoport.cni/ports": "game=8001/tcp+udp"});
    api::runs(&web);
    let held = cluster.machine.held();
    assert_eq!(held.len(), 4);
    let all_reached = |cluster: &Cluster| {
        for transport in Transport::BOTH {
            cluster.machine.assert_reached("web", transport, 8080);
        }
        assert_eq!(cluster.machine.held(), held);
    };
    // Of the container that was restarted last kubelet keeps the dead one, and its sandbox with it.
    // So it is the first sandbox of three that is collected; unless it was while the second was dead and
    // the third not made. Then it is the second of four.
    let mut has_come_late = false;
    for sandboxes in 2..=5 {
        another_sandbox(&mut cluster, sandboxes);
        let [.., old, _, new] = calls_of(cluster.calls(), "ADD", "web")[..] else { continue };
        api::wait_for_pod("web");
        let id = |call: &Call| call.environment["CNI_CONTAINERID"].clone();
        let old = id(&cluster.calls()[old]);
        wait_for(PATIENCE, "the old sandbox is collected", || {
            all_reached(&cluster);
            !cluster.sandboxes().contains(&old)
        });
        let dels = calls_of(cluster.calls(), "DEL", "web");
        has_come_late = dels.into_iter().any(|at| at > new && id(&cluster.calls()[at]) == old);
        if has_come_late {
            break;
        }
    }
    assert!(has_come_late, "no DEL came for a sandbox whose successor had the ports");
    all_reached(&cluster);
    api::ends("web");
    // Another pod has the port, and each DEL that was sent for the first comes once more.
    api::runs(&pod("next", &ports));
    let dels = calls_of(cluster.calls(), "DEL", "web");
    for at in dels {
        let sent = &cluster.calls()[at];
        let mut call = plugin::Call::new(Plugin::Autoport.path(), "DEL").stdin(sent.stdin.get());
        for (name, value) in &sent.environment {
            call = call.env(name, value);
        }
        call.run().success();
        for transport in Transport::BOTH {
            cluster.machine.assert_reached("next", transport, 8080);
        }
    }
    assert_eq!(cluster.machine.held(), ["8080/tcp", "8080/udp"]);
    cluster.ends(&["next"]);
}

/// Kills the sandbox of `web`, and waits until it has another one, the how manyth, that answers.
fn another_sandbox(cluster: &mut Cluster, number: usize) {
    let list = cluster.machine.run("ps", &["-e", "-o", "pid=,args="]);
    let mut processes = list.lines().filter_map(|line| line.trim().split_once(' '));
    let (sandbox, _) = processes.find(|(_, args)| *args == "/echo").expect("it runs");
    cluster.machine.run("kill", &["-KILL", sandbox]);
    wait_for(PATIENCE, "the pod has another sandbox", || {
        calls_of(cluster.calls(), "ADD", "web").len() == number
    });
    wait_for(PATIENCE, "its container runs", || {
        cluster.machine.answers(Transport::Tcp, 8080)[0].by() == Some("web")
    });
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
