//! kube-proxy in its iptables mode, and us.

use serde_json::{Value, json};

use crate::api::{self, PATIENCE};
use crate::cluster::{Cluster, pod};
use crate::machine::wait_for;
use crate::pods::port;
use crate::stage::netns::{nft, ruleset};
use crate::stage::node::{CLIENT, FIRST};
use crate::stage::probe::{Answer, Probe, Transport};

/// A Service of the pods of that name, TCP and UDP, on a port of the node as well.
fn service(name: &str, app: &str, port: u16, policy: &str) -> Value {
    let ports = ["TCP", "UDP"].map(|protocol| {
        json!({
            "name": protocol.to_lowercase(),
            "protocol": protocol,
            "port": 8000,
            "targetPort": 8000,
            "nodePort": port,
        })
    });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "type": "NodePort",
            "selector": {"app": app},
            "externalTrafficPolicy": policy,
            "ports": ports,
        },
    })
}

const CLUSTER: u16 = 30_080;
const LOCAL: u16 = 30_081;

/// Everybody asks the Services; `addresses` are theirs, `asker` is a pod that is not behind them.
fn assert_services(cluster: &mut Cluster, asker: &str, addresses: &[String; 2]) {
    let asker = cluster.inside(asker);
    let gateway = "10.1.0.1";
    for transport in Transport::BOTH {
        let ask = |to: &str, port| Probe { transport, ..Probe::tcp(to, port) };
        let node = &cluster.machine.node;
        let name = transport.name();
        // From outside: masqueraded, unless the policy is Local.
        let answer = node.client_asks(&ask(FIRST[0], CLUSTER));
        assert_eq!(answer, Answer::reached("web", gateway), "{name}");
        let answer = node.client_asks(&ask(FIRST[0], LOCAL));
        assert_eq!(answer, Answer::reached("web", CLIENT[0]), "{name}");
        let own = asker.run(|| {
            crate::stage::probe::source_towards((crate::stage::node::address(FIRST[0]), 80).into())
        });
        for address in addresses {
            // From a pod: as it is.
            let answer = asker.run(|| ask(address, 8000).ask());
            assert_eq!(answer, Answer::reached("web", &own.to_string()), "{name} {address}");
            // From the node.
            let answer = ask(address, 8000).ask();
            assert_eq!(answer.by(), Some("web"), "{name} {address}: {answer}");
        }
    }
}

#[test]
fn services_of_the_same_pods() {
    let mut cluster = Cluster::new();
    // No host port on this node yet, so no table.
    api::runs(&pod("asker", &[]));
    api::runs(&pod("web", &[]));
    assert!(!ruleset().contains("table inet autoport"));
    let addresses =
        [("cluster", CLUSTER, "Cluster"), ("local", LOCAL, "Local")].map(|(name, port, policy)| {
            let service = api::create("services", &service(name, "web", port, policy));
            service["spec"]["clusterIP"].as_str().expect("it has an address").to_owned()
        });
    wait_for(PATIENCE, "kube-proxy has the Services", || {
        let client = |port| cluster.machine.node.client_asks(&Probe::tcp(FIRST[0], port).in_vain());
        [CLUSTER, LOCAL].into_iter().all(|port| client(port).by() == Some("web"))
    });
    assert_services(&mut cluster, "asker", &addresses);
    // Its successor has host ports besides.
    api::ends("web");
    api::runs(&pod("web", &[port(8000, 8080, "TCP", ""), port(8000, 8080, "UDP", "")]));
    let host_port = |cluster: &Cluster| {
        for transport in Transport::BOTH {
            let probe = Probe { transport, ..Probe::tcp(FIRST[0], 8080) };
            let answer = cluster.machine.node.client_asks(&probe);
            assert_eq!(answer, Answer::reached("web", CLIENT[0]), "{}", transport.name());
        }
    };
    wait_for(PATIENCE, "kube-proxy has the new pod", || {
        let client = |port| cluster.machine.node.client_asks(&Probe::tcp(FIRST[0], port).in_vain());
        [CLUSTER, LOCAL].into_iter().all(|port| client(port).by() == Some("web"))
    });
    assert!(ruleset().contains("table inet autoport"));
    assert_services(&mut cluster, "asker", &addresses);
    host_port(&cluster);
    // kube-proxy writes all of its rules anew, and we ours.
    cluster.stops("kube-proxy");
    cluster.starts("kube-proxy");
    nft("delete table inet autoport");
    api::runs(&pod("third", &[port(8000, 8081, "TCP", "")]));
    assert_services(&mut cluster, "asker", &addresses);
    host_port(&cluster);
    // A node port is a port of the node: kube-proxy 1.20 listens there.
    api::create("pods", &pod("taken", &[port(8000, CLUSTER, "TCP", "")]));
    wait_for(PATIENCE, "an event says who has the port", || {
        let said = api::events("taken", "FailedCreatePodSandBox");
        assert!(said.is_empty() || said.contains("kube-proxy"), "{said}");
        !said.is_empty()
    });
    cluster.ends(&["asker", "web", "third", "taken"]);
}
