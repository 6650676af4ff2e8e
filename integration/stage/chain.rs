//! Network configurations, and running their plugins as libcni does.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::stage::netns::Netns;
use crate::stage::plugin::{Call, DEBIAN, Outcome, Plugin, tool};
use crate::stage::probe::Transport;

/// The plugin that makes the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Main {
    Bridge,
    Ptp,
}

/// An entry of `runtimeConfig.portMappings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortMapping {
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) protocol: &'static str,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub(crate) host_ip: Option<String>,
}

impl PortMapping {
    pub(crate) const fn new(transport: Transport, host_port: u16, container_port: u16) -> Self {
        Self { host_port, container_port, protocol: transport.name(), host_ip: None }
    }

    /// The same port over TCP and over UDP, on `host_ip` if it is not empty.
    pub(crate) fn both(host_port: u16, container_port: u16, host_ip: &str) -> Vec<Self> {
        let on = |transport| Self::new(transport, host_port, container_port).on(host_ip);
        Transport::BOTH.into_iter().map(on).collect()
    }

    /// Restricts it to one address; an empty one stands for none.
    pub(crate) fn on(mut self, host_ip: &str) -> Self {
        self.host_ip = (!host_ip.is_empty()).then(|| host_ip.to_owned());
        self
    }
}

/// A network configuration: a main plugin with host-local, then the plugin under test.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    main: Main,
    subnet: u8,
    pub(crate) plugin: Plugin,
    options: Map<String, Value>,
}

impl Network {
    /// A network whose pods get `10.subnet.0.0/24` and `fd00:subnet::/64`.
    pub(crate) fn new(name: &str, main: Main, subnet: u8, plugin: Plugin) -> Self {
        let backend = plugin.backend().map(|backend| ("backend".to_owned(), json!(backend)));
        let options = backend.into_iter().collect();
        Self { name: name.to_owned(), version: "1.0.0", main, subnet, plugin, options }
    }

    /// Speaks this version of the specification.
    pub(crate) fn speaking(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// Sets a key of the plugin under test.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.options.insert(key.to_owned(), value.into());
        self
    }

    /// The node's address in the pods' subnet, which is also what masquerading uses towards them.
    pub(crate) fn gateway(&self) -> [String; 2] {
        [format!("10.{}.0.1", self.subnet), format!("fd00:{}::1", self.subnet)]
    }

    /// The entry of the plugin under test.
    pub(crate) fn entry(&self) -> Value {
        let mut entry = self.options.clone();
        entry.insert("type".to_owned(), json!(self.plugin.type_name()));
        entry.insert("capabilities".to_owned(), json!({"portMappings": true}));
        Value::Object(entry)
    }

    /// The configuration as a file in `/etc/cni/net.d` holds it.
    pub(crate) fn conflist(&self) -> Value {
        json!({
            "cniVersion": self.version,
            "name": self.name,
            "plugins": [self.main_entry(), self.entry()],
        })
    }

    fn main_entry(&self) -> Value {
        let ipam = json!({
            "type": "host-local",
            "ranges": [
                [{"subnet": format!("10.{}.0.0/24", self.subnet)}],
                [{"subnet": format!("fd00:{}::/64", self.subnet)}],
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        });
        match self.main {
            Main::Bridge => json!({
                "type": "bridge",
                "bridge": format!("cni{}", self.subnet),
                "isGateway": true,
                // A pod that asks for itself needs this where bridges call iptables.
                "hairpinMode": true,
                "ipam": ipam,
            }),
            Main::Ptp => json!({"type": "ptp", "ipam": ipam}),
        }
    }

    /// The folder with the other plugins. Debian 12's do not speak 1.1.0.
    pub(crate) fn folder(&self) -> PathBuf {
        if self.version == "1.1.0" { tool("cni-sid") } else { PathBuf::from(DEBIAN) }
    }
}

/// What a runtime says about one container's interface in one network.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) network: Network,
    pub(crate) container_id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    /// `CNI_ARGS`.
    pub(crate) args: String,
    pub(crate) mappings: Vec<PortMapping>,
    /// What ADD gave; what CHECK and DEL are told.
    pub(crate) result: Option<Value>,
}

impl Attachment {
    pub(crate) fn new(network: &Network, container_id: &str, netns: &Netns) -> Self {
        Self {
            network: network.clone(),
            container_id: container_id.to_owned(),
            netns: netns.path().to_owned(),
            ifname: "eth0".to_owned(),
            args: String::new(),
            mappings: Vec::new(),
            result: None,
        }
    }

    pub(crate) fn mapping(mut self, mappings: impl IntoIterator<Item = PortMapping>) -> Self {
        self.mappings.extend(mappings);
        self
    }

    pub(crate) fn named(mut self, ifname: &str) -> Self {
        ifname.clone_into(&mut self.ifname);
        self
    }

    /// Says which Pod this is, in the words of containerd.
    pub(crate) fn of_pod(mut self, namespace: &str, name: &str, uid: &str) -> Self {
        self.args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={uid}",
            self.container_id
        );
        self
    }

    /// The call of the main plugin. It has no prevResult on ADD.
    pub(crate) fn main_call(&self, command: &str) -> Call {
        let mut config = self.network.main_entry();
        if let (Some(result), true) = (&self.result, command != "ADD") {
            config["prevResult"] = result.clone();
        }
        let executable = match self.network.main {
            Main::Bridge => "bridge",
            Main::Ptp => "ptp",
        };
        self.call(&self.network.folder().join(executable), command, config)
    }

    /// What the plugin under test reads.
    pub(crate) fn config(&self) -> Value {
        let mut config = self.network.entry();
        config["name"] = json!(self.network.name);
        config["cniVersion"] = json!(self.network.version);
        if let Some(result) = &self.result {
            config["prevResult"] = result.clone();
        }
        if !self.mappings.is_empty() {
            config["runtimeConfig"] = json!({"portMappings": self.mappings});
        }
        config
    }

    /// The call of the plugin under test.
    pub(crate) fn plugin_call(&self, command: &str) -> Call {
        self.call(&self.network.plugin.path(), command, self.config())
    }

    fn call(&self, executable: &Path, command: &str, mut config: Value) -> Call {
        config["name"] = json!(self.network.name);
        config["cniVersion"] = json!(self.network.version);
        Call::new(executable, command)
            .env("CNI_CONTAINERID", &self.container_id)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", &self.ifname)
            .env("CNI_ARGS", &self.args)
            .env("CNI_PATH", &self.network.folder().to_string_lossy())
            .stdin(config.to_string())
    }

    /// Has only the main plugin attach the container, so that the next plugin can be called with
    /// what it gave.
    pub(crate) fn attach_main(&mut self) {
        self.result = Some(self.main_call("ADD").run().success());
    }

    /// ADD of the whole chain. If the second plugin fails, the first one's interface stays.
    pub(crate) fn add(&mut self) -> Outcome {
        self.attach_main();
        let outcome = self.plugin_call("ADD").run();
        if outcome.status.success() {
            self.result.clone_from(&outcome.reply);
        }
        outcome
    }

    /// CHECK of the plugin under test.
    pub(crate) fn check(&self) -> Outcome {
        self.plugin_call("CHECK").run()
    }

    /// DEL of the whole chain, in reverse order; stops where libcni stops.
    pub(crate) fn del(&self) -> Outcome {
        let outcome = self.plugin_call("DEL").run();
        if outcome.status.success() {
            self.main_call("DEL").run().success();
        }
        outcome
    }
}
