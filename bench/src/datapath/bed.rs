//! A node with a client before it and pods behind it, and as many mappings as are wanted.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use serde_json::json;

use super::load::Ends;
use crate::fill::fill;
use crate::measure::Call;
use crate::node::{Node, Space, ip, sysctl, tool};
use crate::plugins::{Executables, Plugin, Pod};

/// The port on which the pod answers.
const POD_PORT: u16 = 80;

/// The host port that is measured. Its mapping is the last that is made.
const HOST_PORT: u16 = 2000;

/// The first host port of our other pods, and how many each of them has.
const OTHERS: u16 = 3000;
const PORTS_PER_POD: u16 = 1_000;

/// The pod that has it.
const POD: u16 = 0xff02;

/// The addresses, and how long the prefixes before the node and behind it are.
struct Family {
    /// As nftables calls it.
    name: &'static str,
    client: &'static str,
    uplink: &'static str,
    before: u8,
    bridge: &'static str,
    /// The address of the pod [`POD`].
    pod: &'static str,
    neighbour: &'static str,
    behind: u8,
    service: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "ip",
        client: "192.0.2.100",
        uplink: "192.0.2.1",
        before: 24,
        bridge: "10.1.0.1",
        pod: "10.1.255.2",
        neighbour: "10.1.255.3",
        behind: 16,
        service: "10.96.0.1",
    },
    Family {
        name: "ip6",
        client: "2001:db8::100",
        uplink: "2001:db8::1",
        before: 64,
        bridge: "fd00:1::1",
        pod: "fd00:1::ff02",
        neighbour: "fd00:1::ff03",
        behind: 64,
        service: "fd00:96::1",
    },
];

/// What is on a node besides the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// Nothing: packets are routed, and not even tracked.
    Plain,
    /// A Service, translated by tables of its own as kube-proxy's is.
    Service,
    /// The same, and so many TCP mappings by a plugin.
    Mapped(Plugin, u16),
    /// The same with one mapping of ours, whose established connections are offloaded.
    Offloaded,
}

impl Setup {
    /// Its name in the raw figures, and its mappings.
    pub(super) const fn id(self) -> (&'static str, u16) {
        match self {
            Self::Plain => ("plain", 0),
            Self::Service => ("service", 0),
            Self::Mapped(plugin, mappings) => (plugin.id(), mappings),
            Self::Offloaded => ("offload", 1),
        }
    }
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

/// The same, and the family of its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) path: Path,
    pub(super) v6: bool,
}

impl Way {
    /// Its name in the raw figures.
    pub(super) fn id(self) -> String {
        let path = match self.path {
            Path::HostPort => "host port",
            Path::Hairpin => "hairpin",
            Path::Localhost => "localhost",
            Path::Service => "service",
            Path::Routed => "routed",
            Path::Neighbour => "pod to pod",
        };
        format!("{path}{}", if self.v6 { ", IPv6" } else { "" })
    }

    fn target(self) -> SocketAddr {
        let family = &FAMILIES[usize::from(self.v6)];
        match self.path {
            Path::HostPort | Path::Hairpin => socket_address(family.uplink, HOST_PORT),
            Path::Localhost => socket_address("127.0.0.1", HOST_PORT),
            Path::Service => socket_address(family.service, POD_PORT),
            Path::Routed | Path::Neighbour => socket_address(family.pod, POD_PORT),
        }
    }
}

fn socket_address(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// A node to measure on, with what serves in its pod.
pub(super) struct Bed {
    node: Node,
    client: Space,
    pod: Space,
    neighbour: Space,
    /// In the pod, by family.
    ends: [Ends; 2],
}

impl Bed {
    pub(super) fn new(executables: &Executables, setup: Setup) -> Self {
        let node = Node::new();
        let names = ["client", "target", "neighbour"];
        let [client, pod, neighbour] = names.map(|name| node.space.add(name));
        node.space.run(|| {
            ip("link add uplink type veth peer name eth0 netns client
                link set uplink up
                link add veth1 type veth peer name eth0 netns target
                link set veth1 master cni0 up
                link set veth1 type bridge_slave hairpin on
                link add veth2 type veth peer name eth0 netns neighbour
                link set veth2 master cni0 up");
            for family in &FAMILIES {
                ip(&format!("addr add {}/{} dev uplink nodad", family.uplink, family.before));
                if setup != Setup::Plain {
                    serve(family);
                }
            }
            // As Kubernetes wants it: packets on the bridge pass through the IP hooks. A pod that
            // asks for itself then comes back by the port it came from.
            sysctl("net/bridge/bridge-nf-call-iptables", "1");
            sysctl("net/bridge/bridge-nf-call-ip6tables", "1");
        });
        attach(&client, |family| (family.client, family.before, family.uplink));
        attach(&pod, |family| (family.pod, family.behind, family.bridge));
        attach(&neighbour, |family| (family.neighbour, family.behind, family.bridge));
        let open = |family: Family| Ends::open(socket_address(family.pod, POD_PORT));
        let ends = pod.run(|| FAMILIES.map(open));
        let bed = Self { node, client, pod, neighbour, ends };
        match setup {
            Setup::Plain | Setup::Service => {}
            Setup::Mapped(plugin, mappings) => map(executables, plugin, &bed.node, mappings, &[]),
            Setup::Offloaded => map(executables, Plugin::Autoport, &bed.node, 1, &["uplink"]),
        }
        bed
    }

    /// The medians of one turn, in nanoseconds.
    pub(super) fn measure(&self, way: Way) -> [(&'static str, f64); 5] {
        let space = match way.path {
            Path::HostPort | Path::Service | Path::Routed => &self.client,
            Path::Hairpin => &self.pod,
            Path::Localhost => &self.node.space,
            Path::Neighbour => &self.neighbour,
        };
        let figures = space.run(|| self.ends[usize::from(way.v6)].measure(way.target()));
        self.forget_flows();
        figures
    }

    /// Forgets all connections, so that the next measurement finds the node as this one did.
    fn forget_flows(&self) {
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

/// Gives what is at the other end of the node's cable its addresses, and the routes by the node.
fn attach(space: &Space, at: fn(&Family) -> (&'static str, u8, &'static str)) {
    space.run(|| {
        ip("link set eth0 up");
        for family in &FAMILIES {
            let (own, length, gateway) = at(family);
            // Without "nodad" an address of IPv6 cannot be bound at once. For IPv4 it has no effect.
            ip(&format!(
                "addr add {own}/{length} dev eth0 nodad
                 route add default via {gateway}"
            ));
        }
        sysctl("net/ipv4/ip_local_port_range", "10000 65535");
    });
}

/// A Service with one endpoint, in a table at the priority that kube-proxy's has.
fn serve(Family { name, service, pod, .. }: &Family) {
    let endpoint = socket_address(pod, POD_PORT);
    let script = format!(
        "table {name} services {{
            map services {{
                type {v}_addr . inet_proto . inet_service : verdict
                elements = {{
                    {service} . tcp . {POD_PORT} : goto endpoint,
                    {service} . udp . {POD_PORT} : goto endpoint
                }}
            }}
            chain endpoint {{
                tcp dport {POD_PORT} dnat to {endpoint}
                udp dport {POD_PORT} dnat to {endpoint}
            }}
            chain prerouting {{
                type nat hook prerouting priority -100;
                {name} daddr . meta l4proto . th dport vmap @services
            }}
            chain output {{
                type nat hook output priority -100;
                {name} daddr . meta l4proto . th dport vmap @services
            }}
            chain postrouting {{
                type nat hook postrouting priority 100;
            }}
        }}\n",
        v = if *name == "ip" { "ipv4" } else { "ipv6" },
    );
    tool(Command::new("nft").args(["-f", "-"]), &script);
}

/// Makes `mappings` TCP mappings, the last one to the server and dual-stack, and one of UDP. Established connections by
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
    let mut target = Pod::numbered(POD, true, []);
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
