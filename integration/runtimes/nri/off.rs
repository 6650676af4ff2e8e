//! Where NRI is off, as it is in containerd 1.7 by default.

use std::fs;

use serde_json::json;

use super::{PORTS, documented_lines, same};
use crate::daemon::{Containerd, Release};
use crate::machine::{CONFIGURATIONS, PLUGINS, wait_until};
use crate::stage::plugin::Plugin;

/// What agent and doctor say.
const HINT: &str = "NRI is off in its configuration: for containerd 1.7, set disable = false in the section \
                    [plugins.\"io.containerd.nri.v1.nri\"] of /etc/containerd/config.toml";

#[test]
fn agent_and_doctor_say_what_turns_nri_on() {
    let mut node = Containerd::new(Release::Trixie, same);
    let doctor = |node: &Containerd| {
        let program = Plugin::Autoport.path();
        let words = ["doctor", "--conf-dir", CONFIGURATIONS, "--bin-dir", PLUGINS];
        node.machine.try_run(&program.to_string_lossy(), &words).1
    };
    assert!(!doctor(&node).contains("NRI"), "a node needs no agent");
    let agent = node.lonely_agent("agent", &[]);
    wait_until("the agent says why it is not connected", || agent.log().contains(HINT));
    let report = doctor(&node);
    assert!(report.contains("no node agent has been connected"), "{report}");
    assert!(report.contains(HINT), "{report}");
    let web = node.asking("web", &[(PORTS, "http=8080")]);
    let sandbox = node.runs(&web);
    let container = node.creates(&web, &sandbox, "main", json!({}));
    assert!(!node.environment(&container).contains_key("AUTOPORT_PORT_HTTP"));
    assert_eq!(agent.log().matches(HINT).count(), 1, "the same failure, many times, is one line");

    // The default configuration has this section.
    let default = node.machine.run("containerd", &["config", "default"]);
    assert!(
        default.contains("[plugins.\"io.containerd.nri.v1.nri\"]\n    disable = true"),
        "{default}"
    );
    let file = "/run/containerd.toml";
    let configuration = fs::read_to_string(file).expect("our file") + documented_lines();
    fs::write(file, configuration).expect("/run is ours");
    node.stops("-TERM");
    node.starts();
    agent.wait_for_session(1);
    assert!(doctor(&node).contains("a node agent is connected"));
    let (late, _) = node.serving(&node.asking("late", &[(PORTS, "http=8080")]));
    node.ends(&[&sandbox, &late]);
}
