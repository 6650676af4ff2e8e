//! A node with a client before it and pods behind it, and as many mappings as are wanted.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use serde_json::json;

use super::load::POD_PORT;
use crate::fill::fill;
use crate::measure::Call;
use crate::node::{Node, Space, ip, sysctl, tool};
use crate::plugins::{Executables, Plugin, Pod};

/// The host port that is measured. Its mapping is the last that is made.
const HOST_PORT: u16 = 2000;

/// The first host port of our other pods, and how many each of them has.
const OTHERS: u16 = 3000;
const PORTS_PER_POD: u16 = 1_000;

/// The pod that has it: 10.1.255.2.
const POD: u16 = 0xff02;

/// What is on a node besides the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// Nothing: packets are routed, and not even tracked.
    Plain,
    /// A Service, translated by a table of its own as kube-proxy's is.
    Service,
    /// The same, and so many TCP mappings by a plugin.
    Mapped(Plugin, u16),
    /// The same with one mapping of ours, whose established connections are offloaded.
    Offloaded,
}

/// Which way packets take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Client to the node's address and the host port.
    HostPort,
    /// The pod to itself by the same.
    Hairpin,
    /// The node to 127.0.0.1 and the host port.
    Localhost,
    /// Client to a Service, which another table translates.
    Service,
    /// Client to the pod's own address.
    Routed,
    /// A pod to another on the same bridge.
    Neighbour,
}

impl Path {
    /// Its name in the raw figures.
    pub(super) const fn id(self) -> &'static str {
        match self {
            Self::HostPort => "host port",
            Self::Hairpin => "hairpin",
            Self::Localhost => "localhost",
            Self::Service => "service",
            Self::Routed => "routed",
            Self::Neighbour => "pod to pod",
        }
    }

    fn target(self) -> SocketAddr {
        let text = match self {
            Self::HostPort | Self::Hairpin => format!("192.0.2.1:{HOST_PORT}"),
            Self::Localhost => format!("127.0.0.1:{HOST_PORT}"),
            Self::Service => "10.96.0.1:80".to_owned(),
            Self::Routed | Self::Neighbour => format!("10.1.255.2:{POD_PORT}"),
        };
        text.parse().expect("an address and a port")
    }
}

/// A node to measure on, with what serves in its pod.
pub(super) struct Bed<S> {
    node: Node,
    client: Space,
    pod: Space,
    neighbour: Space,
    pub(super) server: S,
}

impl<S> Bed<S> {
    pub(super) fn new(
        executables: &Executables,
        setup: Setup,
        serve_in: impl FnOnce(&Space) -> S,
    ) -> Self {
        let node = Node::new();
        let names = ["client", "target", "neighbour"];
        let [client, pod, neighbour] = names.map(|name| node.space.add(name));
        node.space.run(|| {
            ip("link add uplink type veth peer name eth0 netns client
                addr add 192.0.2.1/24 dev uplink
                link set uplink up
                link add veth1 type veth peer name eth0 netns target
                link set veth1 master cni0 up
                link set veth1 type bridge_slave hairpin on
                link add veth2 type veth peer name eth0 netns neighbour
                link set veth2 master cni0 up");
            // As Kubernetes wants it: packets on the bridge pass through the IP hooks. A pod that
            // asks for itself then comes back by the port it came from.
            sysctl("net/bridge/bridge-nf-call-iptables", "1");
        });
        let attach = |space: &Space, address: &str, gateway: &str| {
            space.run(|| {
                ip(&format!(
                    "addr add {address} dev eth0
                     link set eth0 up
                     route add default via {gateway}"
                ));
                sysctl("net/ipv4/ip_local_port_range", "10000 65535");
            });
        };
        attach(&client, "192.0.2.100/24", "192.0.2.1");
        attach(&pod, "10.1.255.2/16", "10.1.0.1");
        attach(&neighbour, "10.1.255.3/16", "10.1.0.1");
        let server = serve_in(&pod);
        let bed = Self { node, client, pod, neighbour, server };
        if setup != Setup::Plain {
            bed.node.space.run(serve);
        }
        match setup {
            Setup::Plain | Setup::Service => {}
            Setup::Mapped(plugin, mappings) => map(executables, plugin, &bed.node, mappings, &[]),
            Setup::Offloaded => map(executables, Plugin::Autoport, &bed.node, 1, &["uplink"]),
        }
        bed
    }

    /// Runs `work` where packets of this way come from, with the address they go to.
    pub(super) fn from<T: Send>(&self, path: Path, work: impl FnOnce(SocketAddr) -> T + Send) -> T {
        let space = match path {
            Path::HostPort | Path::Service | Path::Routed => &self.client,
            Path::Hairpin => &self.pod,
            Path::Localhost => &self.node.space,
            Path::Neighbour => &self.neighbour,
        };
        space.run(|| work(path.target()))
    }

    /// Forgets all connections, so that the next measurement finds the node as this one did.
    pub(super) fn forget_flows(&self) {
        /// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`, of whatever there is.
        const DELETE: [u8; 2] = 0x0102_u16.to_ne_bytes();
        /// `NLM_F_REQUEST | NLM_F_ACK`.
        const FLAGS: [u8; 2] = 5_u16.to_ne_bytes();
        self.node.space.run(|| {
            let netfilter = SockProtocol::NetlinkNetFilter;
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, netfilter)
                .expect("a netlink socket can be made");
            let mut message = [0; 20];
            message[..4].copy_from_slice(&20_u32.to_ne_bytes());
            message[4..6].copy_from_slice(&DELETE);
            message[6..8].copy_from_slice(&FLAGS);
            let mut answer = [0; 64];
            send(socket.as_raw_fd(), &message, MsgFlags::empty()).expect("netlink takes a message");
            recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("netlink answers");
            let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
            assert_eq!(errno, 0, "deleting all connections");
        });
    }
}

/// A Service with one endpoint, in a table at the priority that kube-proxy's has.
fn serve() {
    let script = format!(
        "table ip services {{
            map services {{
                type ipv4_addr . inet_proto . inet_service : verdict
                elements = {{ 10.96.0.1 . tcp . 80 : goto endpoint }}
            }}
            chain endpoint {{
                tcp dport 80 dnat to 10.1.255.2:{POD_PORT}
            }}
            chain prerouting {{
                type nat hook prerouting priority -100;
                ip daddr . meta l4proto . th dport vmap @services
            }}
            chain output {{
                type nat hook output priority -100;
                ip daddr . meta l4proto . th dport vmap @services
            }}
            chain postrouting {{
                type nat hook postrouting priority 100;
            }}
        }}\n"
    );
    tool(Command::new("nft").args(["-f", "-"]), &script);
}

/// Makes `mappings` TCP mappings, whose last one leads to the server, and one of UDP. Established connections by
/// `uplinks` are offloaded.
fn map(executables: &Executables, plugin: Plugin, node: &Node, mappings: u16, uplinks: &[&str]) {
    let others = mappings - 1;
    if plugin == Plugin::Autoport {
        // One transaction for many: with each, the kernel walks all verdicts there are.
        for first in (0..others).step_by(PORTS_PER_POD.into()) {
            let ports = OTHERS + first..OTHERS + others.min(first + PORTS_PER_POD);
            let pod = Pod::numbered(1 + first / PORTS_PER_POD, false, ports);
            let add = Call::cni(executables, plugin, "ADD", &pod);
            node.space.run(|| add.time().success("ADD of a pod among many"));
        }
    } else {
        fill(executables, plugin, node, false, 0, others);
    }
    let mut target = Pod::numbered(POD, false, []);
    target.ports = vec![(HOST_PORT, POD_PORT)];
    let mut config = plugin.config(&target);
    let udp = json!({"hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "udp"});
    let all = config["runtimeConfig"]["portMappings"].as_array_mut();
    all.expect("mappings are an array").push(udp);
    config["prevResult"]["interfaces"][1]["name"] = json!("veth1");
    if !uplinks.is_empty() {
        config["offload"] = json!(uplinks);
    }
    let add = Call::configured(executables, plugin, "ADD", &target, &config);
    node.space.run(|| add.time().success("ADD of the pod that is measured"));
}
