//! A node with a client before it and pods behind it, and as many mappings as are wanted.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use serde_json::json;
use std::os::fd::AsRawFd as _;

use super::load::{POD_PORT, Server};
use crate::measure::Call;
use crate::node::{Node, PATH, Space, ip, sysctl, tool};
use crate::plugins::{Executables, Plugin, Pod};

/// The host port that is measured. Its mapping is the last that is made.
const HOST_PORT: u16 = 2000;

/// The first host port of the other pods.
const OTHERS: u16 = 3000;

/// How many ports each of them has. A node has a few hundred pods at most.
const PORTS_PER_POD: u16 = 20;

/// What is on a node besides the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// Nothing: packets are routed, and not even tracked.
    Plain,
    /// A Service, translated by a table of its own as kube-proxy's is.
    Service,
    /// The same, and so many TCP mappings by a plugin.
    Mapped(Plugin, u16),
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
            Self::Routed | Self::Neighbour => format!("10.1.0.2:{POD_PORT}"),
        };
        text.parse().expect("an address and a port")
    }
}

/// A node to measure on.
pub(super) struct Bed {
    pub(super) setup: Setup,
    node: Space,
    client: Space,
    pod: Space,
    neighbour: Space,
    pub(super) server: Server,
}

impl Bed {
    pub(super) fn new(executables: &Executables, setup: Setup) -> Self {
        let node = Node::new().space;
        let [client, pod, neighbour] = ["client", "target", "neighbour"].map(|name| node.add(name));
        node.run(|| {
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
        attach(&pod, "10.1.0.2/16", "10.1.0.1");
        attach(&neighbour, "10.1.0.3/16", "10.1.0.1");
        let server = Server::start(&pod);
        let bed = Self { setup, node, client, pod, neighbour, server };
        if setup != Setup::Plain {
            bed.node.run(serve);
        }
        if let Setup::Mapped(plugin, mappings) = setup {
            bed.node.run(|| map(executables, plugin, mappings));
        }
        bed
    }

    /// Runs `work` where packets of this way come from, with the address they go to.
    pub(super) fn from<T: Send>(&self, path: Path, work: impl FnOnce(SocketAddr) -> T + Send) -> T {
        let space = match path {
            Path::HostPort | Path::Service | Path::Routed => &self.client,
            Path::Hairpin => &self.pod,
            Path::Localhost => &self.node,
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
        self.node.run(|| {
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
                tcp dport 80 dnat to 10.1.0.2:{POD_PORT}
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

/// Makes `mappings` TCP mappings, the last of which leads to the server, and one of UDP.
fn map(executables: &Executables, plugin: Plugin, mappings: u16) {
    let others = mappings - 1;
    let pods = others.div_ceil(PORTS_PER_POD);
    let pod = |number: u16| {
        let first = OTHERS + number * PORTS_PER_POD;
        let count = PORTS_PER_POD.min(others - number * PORTS_PER_POD);
        Pod::numbered(256 + number, false, first..first + count)
    };
    let add = |pod: &Pod| {
        Call::cni(executables, plugin, "ADD", pod).time().success("ADD of a pod among many");
    };
    match plugin {
        Plugin::Autoport | Plugin::PortmapNftables => {
            (0..pods).for_each(|number| add(&pod(number)));
        }
        // It would take minutes: it runs six programs for each port.
        Plugin::PortmapIptables | Plugin::PortmapOld => imitate(pods, pod, add),
    }
    let mut target = Pod::numbered(2, false, [HOST_PORT]);
    target.ports = vec![(HOST_PORT, POD_PORT)];
    let mut config = plugin.config(&target);
    let udp = json!({"hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "udp"});
    config["runtimeConfig"]["portMappings"]
        .as_array_mut()
        .expect("mappings are an array")
        .push(udp);
    Call::configured(executables, plugin, "ADD", &target, &config)
        .time()
        .success("ADD of the pod that is measured");
}

/// What one pod has in the `nat` table of iptables-save, with holes for what is its own.
struct Template(String);

impl Template {
    /// Cuts the rules of `pod` out of what iptables-save printed.
    fn cut(saved: &str, pod: &Pod) -> Self {
        let entry = saved
            .lines()
            .find(|line| line.contains(&pod.id) && line.contains("-j CNI-DN-"))
            .expect("there is a rule that leads to the pod's chain");
        let chain = entry.rsplit(' ').next().expect("it names the chain");
        let own: Vec<&str> = saved.lines().filter(|line| line.contains(chain)).collect();
        let mut text = own.join("\n").replace(chain, "{chain}").replace(&pod.id, "{id}");
        let address = pod.addresses[0].trim_end_matches("/16");
        text = text.replace(&format!("{address}:"), "{address}:");
        for (at, (port, _)) in pod.ports.iter().enumerate() {
            text = text.replace(&port.to_string(), &format!("{{port {at}}}"));
        }
        Self(text)
    }

    fn fill(&self, pod: &Pod) -> String {
        let chain = format!("CNI-DN-{}", &pod.id[pod.id.len() - 21..]);
        let address = pod.addresses[0].trim_end_matches("/16");
        let filled = self.0.replace("{chain}", &chain).replace("{id}", &pod.id);
        let filled = filled.replace("{address}", address);
        pod.ports.iter().enumerate().fold(filled, |text, (at, (port, _))| {
            text.replace(&format!("{{port {at}}}"), &port.to_string())
        })
    }
}

/// Puts in at once what `add` would for each pod, in the same order: as it does for the first, after
/// seeing that it does the same for the second.
fn imitate(pods: u16, pod: impl Fn(u16) -> Pod, add: impl Fn(&Pod)) {
    let saved = || {
        let mut command = Command::new("iptables-save");
        tool(command.env("PATH", PATH).args(["-t", "nat"]), "")
    };
    if pods < 3 {
        (0..pods).for_each(|number| add(&pod(number)));
        return;
    }
    let [first, second] = [pod(0), pod(1)];
    add(&first);
    add(&second);
    let saved = saved();
    let template = Template::cut(&saved, &first);
    assert_eq!(template.0, Template::cut(&saved, &second).0, "two pods are mapped alike");
    let mut script = "*nat\n".to_owned();
    for number in 2..pods {
        writeln!(script, "{}", template.fill(&pod(number))).expect("a string takes everything");
    }
    script.push_str("COMMIT\n");
    tool(Command::new("iptables-restore").args(["--noflush"]), &script);
}
