//! The plugins that take turns, and what a runtime says to them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::node::PATH;

/// Where the executables are.
#[derive(Clone, Debug)]
pub(crate) struct Executables {
    /// The plugin under test, as it is installed: stripped.
    pub(crate) autoport: PathBuf,
    /// What `integration/setup.sh bench` fetched.
    pub(crate) tools: PathBuf,
    /// The program that does nothing.
    pub(crate) floor: PathBuf,
}

/// A port mapping plugin with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plugin {
    /// Ours.
    Autoport,
    /// portmap of Debian sid with its nftables backend.
    PortmapNftables,
    /// The same with its iptables backend.
    PortmapIptables,
    /// portmap of Debian 12, which knows only iptables.
    PortmapOld,
}

impl Plugin {
    pub(crate) const ALL: [Self; 4] =
        [Self::Autoport, Self::PortmapNftables, Self::PortmapIptables, Self::PortmapOld];

    /// Its name in the raw figures.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Autoport => "autoport",
            Self::PortmapNftables => "portmap-nftables",
            Self::PortmapIptables => "portmap-iptables",
            Self::PortmapOld => "portmap-1.1.1",
        }
    }

    pub(crate) fn path(self, executables: &Executables) -> PathBuf {
        match self {
            Self::Autoport => executables.autoport.clone(),
            Self::PortmapNftables | Self::PortmapIptables => {
                executables.tools.join("cni-sid/portmap")
            }
            Self::PortmapOld => executables.tools.join("cni-bookworm/portmap"),
        }
    }

    /// The newest version of the specification that it speaks.
    const fn version(self) -> &'static str {
        match self {
            Self::Autoport | Self::PortmapNftables | Self::PortmapIptables => "1.1.0",
            Self::PortmapOld => "1.0.0",
        }
    }

    /// What it reads for `pod`. CHECK and DEL get the result of ADD, which is the one given to ADD.
    pub(crate) fn config(self, pod: &Pod) -> Value {
        let mut config = json!({
            "cniVersion": self.version(),
            "name": "bench",
            "type": if self == Self::Autoport { "autoport" } else { "portmap" },
            "capabilities": {"portMappings": true},
            "runtimeConfig": {"portMappings": pod.mappings()},
            "prevResult": pod.result(self.version()),
        });
        if self == Self::Autoport && pod.choice == Choice::Dynamic {
            // Where the mappings held by others are not.
            config["portRange"] = json!("2000-9999");
        }
        let backend = match self {
            Self::Autoport | Self::PortmapOld => return config,
            Self::PortmapNftables => "nftables",
            Self::PortmapIptables => "iptables",
        };
        config["backend"] = json!(backend);
        config
    }
}

/// Who chooses the host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The pod names it.
    Static,
    /// The plugin does.
    Dynamic,
}

impl Choice {
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        }
    }
}

/// A pod as the runtime describes it.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    /// The path of its network namespace.
    pub(crate) netns: String,
    /// Its addresses, with the length of the prefix.
    pub(crate) addresses: Vec<String>,
    pub(crate) choice: Choice,
    /// Pairs of host port and container port.
    pub(crate) ports: Vec<(u16, u16)>,
}

impl Pod {
    /// The pod with this number, on the bridge of [`crate::node::Node`].
    pub(crate) fn numbered(number: u16, dual: bool, ports: impl IntoIterator<Item = u16>) -> Self {
        let [high, low] = number.to_be_bytes();
        let mut addresses = vec![format!("10.1.{high}.{low}/16")];
        if dual {
            addresses.push(format!("fd00:1::{number:x}/64"));
        }
        Self {
            id: format!("{number:064x}"),
            netns: "/run/netns/pod".to_owned(),
            addresses,
            choice: Choice::Static,
            ports: ports.into_iter().zip(1..).collect(),
        }
    }

    pub(crate) fn choosing(mut self, choice: Choice) -> Self {
        self.choice = choice;
        self
    }

    /// Its address in one family, without the prefix.
    pub(crate) fn address(&self, v6: bool) -> String {
        let found = self.addresses.iter().find(|address| address.contains(':') == v6);
        let (address, _) = found.and_then(|text| text.split_once('/')).unwrap_or_default();
        address.to_owned()
    }

    fn mappings(&self) -> Value {
        let host = |port| if self.choice == Choice::Dynamic { 0 } else { port };
        let mapping = |&(port, inside): &(u16, u16)| json!({"hostPort": host(port), "containerPort": inside, "protocol": "tcp"});
        self.ports.iter().map(mapping).collect()
    }

    /// What the bridge plugin answers.
    fn result(&self, version: &str) -> Value {
        let ips: Vec<_> = self
            .addresses
            .iter()
            .map(|address| json!({"address": address, "interface": 2}))
            .collect();
        json!({
            "cniVersion": version,
            "interfaces": [
                {"name": "cni0", "mac": "0a:58:0a:01:00:01"},
                {"name": "veth0a1b2c3d", "mac": "0a:58:0a:01:00:02"},
                {"name": "eth0", "mac": "0a:58:0a:01:00:03", "sandbox": self.netns},
            ],
            "ips": ips,
        })
    }

    /// The variables for one command, and no others.
    pub(crate) fn environment(&self, command: &str) -> Vec<(String, String)> {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod;\
             K8S_POD_INFRA_CONTAINER_ID={0};K8S_POD_UID={0}",
            self.id
        );
        let pairs = [
            ("PATH", PATH),
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &self.id),
            ("CNI_NETNS", &self.netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &args),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

/// The number of the first pod that is measured; those of the others are lower.
pub(crate) const NUMBER: u16 = 60_000;

/// The host ports of the pod of this round, below those that others hold. What was mapped in the rounds
/// before is on its way out for a timer tick of the kernel's, and an ADD that meets it waits.
pub(crate) fn ports(round: usize, width: u16) -> Range<u16> {
    const PORT: u16 = 2_000;
    const TURNS: usize = 100;
    let first = PORT + if width > 20 { 0 } else { (round % TURNS) as u16 * width };
    first..first + width
}

/// The folder of the tools, next to the sources unless it is named.
pub(crate) fn default_tools(root: &Path) -> PathBuf {
    std::env::var_os("AUTOPORT_TOOLS").map_or_else(|| root.join("target/tools"), PathBuf::from)
}
