//! containerd on a [`Machine`], driven by the CRI as a kubelet does. What a sandbox runs for its first
//! process is our echo server.

use std::fs;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::machine::{
    CONFIGURATIONS, CONTAINERD, Machine, PLUGINS, configure, containerd_configuration, wait_until,
};
use crate::recording::commands;
use crate::stage::chain::{Main, Network};
use crate::stage::plugin::{Plugin, tool};
use crate::stage::view::assert_nothing_held;

const LOG: &str = "/run/containerd.log";
const PID: &str = "/run/containerd.pid";

/// Which containerd.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// 1.6, whose libcni knows the specification up to 1.0.0, and which has no NRI.
    Bookworm,
    /// 1.7, the same but for NRI, which is off by default.
    Trixie,
    /// 2.1, which asks for STATUS, and whose NRI is on.
    Sid,
}

impl Release {
    /// Below which the tools have it.
    const fn folder(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

/// A machine with a running containerd that has the echo server for its sandbox image.
pub(crate) struct Containerd {
    pub(crate) machine: Machine,
    daemon: Option<Child>,
}

impl Containerd {
    pub(crate) fn new(release: Release, network: impl FnOnce(Network) -> Network) -> Self {
        Self::configured(release, "", network)
    }

    /// One with these lines more in its configuration.
    pub(crate) fn configured(
        release: Release,
        lines: &str,
        network: impl FnOnce(Network) -> Network,
    ) -> Self {
        let mut machine = Machine::new(release.folder());
        machine.environment = vec![("CRI_SOCKET", CONTAINERD.to_owned())];
        let version = if release == Release::Sid { "1.1.0" } else { "1.0.0" };
        let blue = Network::new("blue", Main::Bridge, 1, Plugin::Autoport).speaking(version);
        configure(&network(blue));
        let configuration = containerd_configuration(PLUGINS, CONFIGURATIONS);
        fs::write("/run/containerd.toml", configuration + lines).expect("/run is ours");
        let mut containerd = Self { machine, daemon: None };
        containerd.starts();
        let mut import = vec!["--address", CONTAINERD, "--namespace", "k8s.io", "images", "import"];
        if release == Release::Sid {
            import.push("--local");
        }
        let image = tool("image.tar");
        import.extend(["--snapshotter", "native"]);
        import.push(image.to_str().expect("a path in UTF-8"));
        containerd.machine.run("ctr", &import);
        // STATUS has been asked while we waited for the daemon.
        commands();
        containerd
    }

    pub(crate) fn starts(&mut self) {
        let script =
            format!("echo $$ >{PID}; exec containerd --config /run/containerd.toml >>{LOG} 2>&1");
        let mut daemon = self.machine.command("sh");
        daemon.args(["-c", &script]).stdin(Stdio::null());
        self.daemon = Some(daemon.spawn().expect("nsenter is there"));
        wait_until("containerd answers", || self.cri("status", "").0);
    }

    /// Ends the daemon by this signal; the sandboxes stay.
    pub(crate) fn stops(&mut self, signal: &str) {
        let pid = fs::read_to_string(PID).expect("the daemon has said its number");
        self.machine.run("kill", &[signal, pid.trim()]);
        let mut daemon = self.daemon.take().expect("it was started");
        daemon.wait().expect("a child can be waited for");
    }

    /// One call of the CRI; whether it succeeded, and what it gave.
    pub(crate) fn cri(&self, method: &str, argument: &str) -> (bool, String) {
        let client = tool("bin/cri");
        self.machine.try_run(&client.to_string_lossy(), &[method, argument])
    }

    /// One that has to succeed.
    pub(crate) fn does(&self, method: &str, argument: &str) -> String {
        let (ok, text) = self.cri(method, argument);
        assert!(ok, "{text}");
        text
    }

    /// A sandbox's configuration: `pod` is its name and its UID.
    pub(crate) fn pod(&self, pod: &str, attempt: u32) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": pod, "uid": format!("uid-{pod}"), "attempt": attempt},
            "hostname": pod,
            "linux": {"cgroup_parent": self.machine.cgroup},
        })
    }

    /// A configuration with a static host port 8080 and, by annotation, one that the node chooses.
    pub(crate) fn web(&self, attempt: u32) -> Value {
        let mut web = self.pod("web", attempt);
        web["port_mappings"] = json!([
            {"host_port": 8080, "container_port": 80},
            {"container_port": 81},
        ]);
        web["annotations"] = json!({"autoport.cni/ports": "game=81/tcp+udp", "else": ""});
        web
    }

    pub(crate) fn runs(&self, config: &Value) -> String {
        self.does("run", &config.to_string())
    }

    /// Stops and removes sandboxes, and insists that nothing is left.
    pub(crate) fn ends(&self, sandboxes: &[&str]) {
        for sandbox in sandboxes {
            self.does("stop", sandbox);
            self.does("remove", sandbox);
        }
        assert_nothing_held();
        assert_eq!(self.machine.held(), [""; 0]);
    }

    /// The status and the message of a condition.
    pub(crate) fn condition(&self, name: &str) -> (bool, String) {
        let status: Value = serde_json::from_str(&self.does("status", "")).expect("JSON");
        let conditions = status["status"]["conditions"].as_array().expect("there are conditions");
        let found = conditions.iter().find(|condition| condition["type"] == name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {status}"));
        let message = found["message"].as_str().unwrap_or_default();
        (found["status"] == true, message.to_owned())
    }
}

impl Drop for Containerd {
    #[expect(clippy::print_stderr, reason = "libtest shows it with the failure it belongs to")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(LOG).unwrap_or_default();
            let lines = log.lines().filter(|line| !line.contains("level=info"));
            eprintln!("--- containerd ---\n{}", lines.collect::<Vec<_>>().join("\n"));
        }
    }
}
