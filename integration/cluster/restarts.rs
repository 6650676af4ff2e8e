//! Daemons that are restarted under running pods.

use serde_json::json;

use crate::api::{self, PATIENCE};
use crate::cluster::{Cluster, pod};
use crate::machine::wait_for;
use crate::pods::port;
use crate::stage::probe::Transport;
use crate::stage::view::{elements, records};

#[test]
fn kubelet_and_containerd_are_restarted() {
    let mut cluster = Cluster::new();
    let mut web = pod("web", &[port(8000, 8080, "TCP", ""), port(8000, 8080, "UDP", "")]);
    web["metadata"]["annotations"] = json!({"autoport.cni/ports": "game=8001/tcp+udp"});
    api::runs(&web);
    api::runs(&pod("other", &[port(8000, 8081, "TCP", "")]));
    let (before, calls) = ((records(), elements()), cluster.calls().len());
    for daemon in ["kubelet", "containerd"] {
        cluster.stops(daemon);
        for transport in Transport::BOTH {
            cluster.machine.assert_reached("web", transport, 8080);
        }
        cluster.starts(daemon);
        if daemon == "containerd" {
            wait_for(PATIENCE, "containerd answers", || cluster.import());
        } else {
            // It has looked at all pods when it can run another.
            api::runs(&pod("sign", &[]));
            api::ends("sign");
        }
        api::wait_for_pod("web");
        for transport in Transport::BOTH {
            cluster.machine.assert_reached("web", transport, 8080);
        }
    }
    assert_eq!((records(), elements()), before);
    let told = cluster.calls()[calls..].iter().filter(|call| {
        ["web", "other"].iter().any(|pod| call.is("ADD", pod) || call.is("DEL", pod))
    });
    assert_eq!(told.count(), 0, "nobody was told of the pods that run");
    // A pod that goes while kubelet is away.
    cluster.stops("kubelet");
    api::does(
        "DELETE",
        "/api/v1/namespaces/default/pods/other",
        Some(&json!({"gracePeriodSeconds": 0})),
    );
    cluster.machine.assert_reached("other", Transport::Tcp, 8081);
    cluster.starts("kubelet");
    wait_for(PATIENCE, "its port is free", || {
        !cluster.machine.held().contains(&"8081/tcp".to_owned())
    });
    cluster.machine.assert_refused(8081);
    cluster.machine.assert_reached("web", Transport::Udp, 8080);
    cluster.ends(&["web"]);
    cluster.machine.assert_refused(8080);
}
