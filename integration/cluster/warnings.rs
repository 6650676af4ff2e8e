//! The events that the agents create, as an operator sees them. `PortTaken` needs cgroups of version 2, which these
//! nodes do not have: it goes the same way (`agent/tests/node/taken.rs`).

use serde_json::json;

use crate::agents::{PORTS, node_with_agents, process};
use crate::api::{self, PATIENCE};
use crate::cluster::pod;
use crate::deployed::manifests;
use crate::machine::wait_for;

/// Not every API server of these tests has columns of its own for events.
const COLUMNS: &str = "custom-columns=TYPE:.type,POD:.involvedObject.name,MESSAGE:.message";

#[test]
fn a_pod_whose_container_lacks_its_variables_has_an_event() {
    let mut cluster = node_with_agents();
    let mut game = pod("game", &[]);
    game["metadata"]["annotations"] = json!({PORTS: "http=8000"});
    api::runs(&game);
    let path = "/api/v1/namespaces/default/pods/game";
    let started = api::get(path);
    assert!(cluster.environment(&started, "echo").contains_key("AUTOPORT_HOST_PORT_HTTP"));
    cluster.in_system(&["delete", "daemonset", "autoport", "--cascade=foreground"]);
    cluster.machine.run("kill", &["-KILL", &process(&started, "echo")]);
    wait_for(PATIENCE, "kubelet has started its container again", || {
        api::get(path)["status"]["containerStatuses"][0]["restartCount"] == 1
    });
    api::wait_for_pod("game");
    let environment = cluster.environment(&api::get(path), "echo");
    assert!(!environment.contains_key("AUTOPORT_HOST_PORT_HTTP"), "no agent was there");
    cluster.kubectl(&["apply", "-k", &manifests("kubernetes")]);
    wait_for(PATIENCE, "an operator who looks for such events finds it", || {
        let reason = "--field-selector=reason=PortsNotInjected";
        let found = cluster.kubectl(&["get", "events", reason, &format!("--output={COLUMNS}")]);
        ["Warning", "game", ": echo; delete the Pod"].iter().all(|part| found.contains(part))
    });
    api::delete("pods", "game");
    cluster.ends_with_agents("autoport");
}
