//! A node with two agents on which everything happens that they count, but for what needs cgroups.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use serde_json::json;
use tempfile::TempDir;

use autoport::store::Store;
use autoport_agent::nri::message::{Container, CreateContainer, Pod};

use super::agent::{Agent, Node};
use super::api::Api;
use super::capacity::{Kubelet, RESOURCE};
use super::figures::fill;
use super::runtime::{Connection, Runtime};
use super::{PORTS, add, cbr0_pod, create, host_pod, run, stop, tool, try_add};

/// Ranges that some pods fill, and whose pods may.
pub(crate) const KEYS: &str = r#""portRange": "20000-20099", "namedRanges": {"games": "7000-7039"}, "allowedNamespaces": ["games"]"#;

pub(crate) struct Busy {
    pub(crate) node: Arc<Node>,
    pub(crate) api: Api,
    connection: Connection,
    number: u32,
    pods: VecDeque<Pod>,
    _running: (Runtime, Kubelet, TempDir, [Agent; 2], Connection),
}

impl Busy {
    /// Agent and standby serve metrics at these addresses. A container runs without its variables.
    pub(crate) fn new(node: Node, [leader, standby]: [&str; 2]) -> Self {
        let (runtime, api, dir) =
            (Runtime::new(), Api::new(), tempfile::tempdir().expect("a directory"));
        let kubelet = Kubelet::new(dir.path());
        let kubeconfig = api.kubeconfig(node.node_dir());
        let start = |address: &str, options: &[&str]| {
            let [kubeconfig, dir] =
                [&*kubeconfig, dir.path()].map(|path| path.to_str().expect("ASCII"));
            let common = ["--kubeconfig", kubeconfig, "--node-name", "n1", "--device-plugins", dir];
            let own = ["--metrics-address", address, "--log-level", "error"];
            node.start(&runtime.socket(), &[&common[..], &own, options].concat())
        };
        let early = cbr0_pod("early", "s0", &[(PORTS, "http=8080")]);
        let lacking = Container {
            pod_sandbox_id: early.id.clone(),
            name: "main".to_owned(),
            state: 3,
            ..Container::default()
        };
        let leader = start(leader, &[]);
        let connection = runtime.connect(vec![early], vec![lacking]);
        let standby = start(standby, &["--standby"]);
        let second = runtime.connect(Vec::new(), Vec::new());
        fill(&Store::at(&node.state()), 10);
        // Has the agent look.
        tool("nft", "add table inet autoport");
        let running = (runtime, kubelet, dir, [leader, standby], second);
        Self {
            node: Arc::new(node),
            api,
            connection,
            number: 0,
            pods: VecDeque::new(),
            _running: running,
        }
    }

    /// How many of the pods run that [`Self::begin`] began.
    pub(crate) fn running(&self) -> u32 {
        self.pods.len() as u32
    }

    /// A pod on the host network begins; every second asks for the resource, every third for the range
    /// `games`, and every fourth has a variable that is replaced.
    pub(crate) fn begin(&mut self) {
        self.number += 1;
        let uid = format!("pod-{}", self.number);
        let mut asked = vec![(PORTS, "http=auto")];
        if self.number.is_multiple_of(3) {
            asked.push(("autoport.cni/range", "games"));
        }
        let limits = if self.number.is_multiple_of(2) { json!({RESOURCE: "1"}) } else { json!({}) };
        let container = json!({"name": "main", "resources": {"limits": limits}});
        let annotations =
            asked.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.api.put_with(&uid, &serde_json::Value::Object(annotations), &container);
        let pod = host_pod(&uid, &format!("sandbox-{uid}"), &asked);
        run(&mut self.connection, &pod).expect("it is assigned a port");
        let env =
            if self.number.is_multiple_of(4) { vec![b"PORT=80".to_vec()] } else { Vec::new() };
        let container = Container { name: "main".to_owned(), env, ..Container::default() };
        let create = CreateContainer { pod: Some(pod.clone()), container: Some(container) };
        self.connection.call("CreateContainer", &create).expect("it is created");
        self.pods.push_back(pod);
    }

    /// The oldest pod ends.
    pub(crate) fn end(&mut self) {
        if let Some(pod) = self.pods.pop_front() {
            stop(&mut self.connection, &pod);
            self.api.delete(&pod.uid);
        }
    }

    /// A pod on the pod network begins, in the place of the last; meanwhile, one on the host network.
    pub(crate) fn begin_both(&mut self) {
        let sandbox = format!("web-{}", self.number);
        let annotation =
            format!(r#"{{"io.kubernetes.cri.pod-annotations": {{"{PORTS}": "http=8080"}}}}"#);
        thread::scope(|scope| {
            // The thread is in the namespace of the node, as this one.
            let node = self.node.clone();
            scope.spawn(move || add(&node, "web", &sandbox, &annotation));
            self.begin();
        });
    }

    /// A request is rejected, for the reason of this number.
    pub(crate) fn reject(&mut self, reason: u32) {
        let web = r#"{"io.kubernetes.cri.pod-annotations": {"autoport.cni/ports": "="}}"#;
        match reason {
            0 => {
                let wrong = host_pod("wrong", "wrong", &[(PORTS, "http=8080")]);
                run(&mut self.connection, &wrong).expect_err("a number on the host network");
            }
            1 => {
                let namespace = "others".to_owned();
                let other =
                    Pod { namespace, ..host_pod("other", "other", &[(PORTS, "http=auto")]) };
                run(&mut self.connection, &other).expect_err("it is of another namespace");
            }
            2 => {
                let unseen = cbr0_pod("unseen", "unseen", &[(PORTS, "http=8080")]);
                create(&mut self.connection, &unseen).expect_err("the plugin was not called");
            }
            _ => assert!(!try_add(&self.node, "web", "wrong", web).0, "the annotation is wrong"),
        }
    }
}
