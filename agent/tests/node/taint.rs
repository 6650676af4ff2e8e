//! The taint that keeps Pods off a node until both of its agents serve the runtime.

use std::thread;
use std::time::{Duration, Instant};

use super::agent::{Agent, Node};
use super::api::Api;
use super::runtime::Runtime;

const TAINT: &str = "autoport.cni/agent-not-ready";
const OTHER: &str = "node.kubernetes.io/not-ready";

struct Scene {
    node: Node,
    api: Api,
    runtime: Runtime,
    /// Of the standby: a runtime has one socket, this one of the tests one connection at a time.
    other: Runtime,
}

impl Scene {
    fn new(keys: &str) -> Self {
        let scene = Self {
            node: Node::new(keys),
            api: Api::new(),
            runtime: Runtime::new(),
            other: Runtime::new(),
        };
        scene.api.taint(&[OTHER, TAINT]);
        scene
    }

    fn standby(&self) -> Agent {
        let kubeconfig = self.api.kubeconfig(self.node.node_dir());
        let kubeconfig = kubeconfig.to_str().expect("an ASCII path");
        let options =
            ["--kubeconfig", kubeconfig, "--node-name", "n1", "--standby", "--startup-taint"];
        self.node.start(&self.other.socket(), &options)
    }

    /// Waits until the taint is removed; the other one stays.
    fn await_removal(&self) {
        let begun = Instant::now();
        while self.api.taints() != [OTHER] {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", self.api.taints());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Insists that it is not removed, for longer than the agent takes to look.
    fn assert_kept(&self) {
        thread::sleep(Duration::from_secs(3));
        assert_eq!(self.api.taints(), [OTHER, TAINT]);
    }
}

#[test]
fn the_taint_is_removed_when_both_agents_are_connected() {
    let scene = Scene::new(r#""agent": "required""#);
    let _standby = scene.standby();
    scene.assert_kept();
    let _to_standby = scene.other.connect(Vec::new(), Vec::new());
    // The standby leads alone: the next failure would start containers without their variables.
    scene.assert_kept();
    let _agent = scene.node.start(&scene.runtime.socket(), &[]);
    let _to_agent = scene.runtime.connect(Vec::new(), Vec::new());
    scene.await_removal();
}

#[test]
fn without_required_pods_would_not_wait_for_an_agent_so_the_taint_stays() {
    let scene = Scene::new("");
    let _agent = scene.node.start(&scene.runtime.socket(), &[]);
    let _to_agent = scene.runtime.connect(Vec::new(), Vec::new());
    let standby = scene.standby();
    let _to_standby = scene.other.connect(Vec::new(), Vec::new());
    scene.assert_kept();
    standby.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, log) = standby.end();
    assert!(log.contains("is kept: the configuration of the plugin lacks \"agent\""), "{log}");
}

/// An API server that is away is asked again.
#[test]
fn the_taint_is_removed_when_the_api_server_is_back() {
    let scene = Scene::new(r#""agent": "required""#);
    scene.api.set_away(true);
    let _agent = scene.node.start(&scene.runtime.socket(), &[]);
    let _to_agent = scene.runtime.connect(Vec::new(), Vec::new());
    let _standby = scene.standby();
    let _to_standby = scene.other.connect(Vec::new(), Vec::new());
    scene.assert_kept();
    scene.api.set_away(false);
    scene.await_removal();
}
