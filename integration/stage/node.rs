//! A node with a client outside it, and its pods.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::stage::chain::{Attachment, Network, PortMapping};
use crate::stage::echo::Echo;
use crate::stage::netns::{Netns, ip, ruleset, sysctl, without_dad};
use crate::stage::probe::{self, Answer, Probe};
use crate::stage::view::{STATE, tree};

/// The node's first address, IPv4 and IPv6.
pub(crate) const FIRST: [&str; 2] = ["192.0.2.1", "2001:db8:0:1::1"];
/// The node's second address.
pub(crate) const SECOND: [&str; 2] = ["192.0.2.2", "2001:db8:0:1::2"];
/// The client's address.
pub(crate) const CLIENT: [&str; 2] = ["192.0.2.100", "2001:db8:0:1::100"];

/// The port on which every pod answers.
pub(crate) const POD_PORT: u16 = 80;

/// An address as the tests write it.
pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A node in namespaces of its own, and a client one hop away.
///
/// The thread that makes it lives on the node from then on, and so do the threads and processes it
/// starts. When a test fails, what there is to see on the node is printed.
pub(crate) struct Node {
    pub(crate) here: Netns,
    pub(crate) client: Netns,
    journal: Mutex<Vec<String>>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::at([FIRST, SECOND, CLIENT])
    }

    /// The same with these addresses: its own two, and the client's.
    pub(crate) fn at([first, second, outside]: [[&str; 2]; 3]) -> Self {
        let here = Netns::isolate();
        without_dad();
        let client = Netns::add("client");
        ip(&format!(
            "link add uplink type veth peer name eth0 netns client
             addr add {}/24 dev uplink
             addr add {}/24 dev uplink
             addr add {}/64 dev uplink nodad
             addr add {}/64 dev uplink nodad
             link set uplink up",
            first[0], second[0], first[1], second[1]
        ));
        client.run(|| {
            ip(&format!(
                "addr add {}/24 dev eth0
                 addr add {}/64 dev eth0 nodad
                 link set eth0 up
                 route add default via {}
                 route add default via {}",
                outside[0], outside[1], first[0], first[1]
            ));
        });
        sysctl("net/ipv4/ip_forward", "1");
        sysctl("net/ipv6/conf/all/forwarding", "1");
        // "Port unreachable" is how UDP says refused, and a table of cases asks often.
        sysctl("net/ipv4/icmp_ratemask", "0");
        sysctl("net/ipv6/icmp/ratelimit", "0");
        sysctl("net/ipv6/icmp/ratemask", "127");
        Self { here, client, journal: Mutex::default() }
    }

    /// Whether bridged packets pass through the IP hooks (`br_netfilter`).
    pub(crate) fn bridges_call_iptables(&self, on: bool) {
        let value = if on { "1" } else { "0" };
        self.here.run(|| {
            sysctl("net/bridge/bridge-nf-call-iptables", value);
            sysctl("net/bridge/bridge-nf-call-ip6tables", value);
        });
    }

    /// Makes a pod that answers on [`POD_PORT`], without any network yet.
    #[expect(clippy::unused_self, reason = "a pod is made on a node, that is on its thread")]
    pub(crate) fn pod(&self, name: &str) -> Pod {
        let netns = Netns::add(name);
        let any = SocketAddr::new(address("::"), POD_PORT);
        let server = Echo::start(name, &netns, &[any]);
        Pod { name: name.to_owned(), netns, _server: server }
    }

    /// Attaches a container with the whole chain.
    pub(crate) fn add(&self, attachment: &mut Attachment) {
        let outcome = attachment.add();
        self.note(format!("ADD {}: {outcome}", attachment.container_id));
        outcome.success();
    }

    /// Makes a pod and attaches it, with `mappings`.
    pub(crate) fn attached(
        &self,
        name: &str,
        network: &Network,
        mappings: impl IntoIterator<Item = PortMapping>,
    ) -> (Pod, Attachment) {
        let pod = self.pod(name);
        let mut attachment = pod.in_network(network).mapping(mappings);
        self.add(&mut attachment);
        (pod, attachment)
    }

    /// Keeps something for the case that the test fails.
    pub(crate) fn note(&self, text: String) {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Begins with other notes.
    pub(crate) fn forget_notes(&self) {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Asks from outside.
    pub(crate) fn client_asks(&self, probe: &Probe) -> Answer {
        self.client.run(|| probe.ask())
    }
}

impl Drop for Node {
    #[expect(clippy::print_stderr, reason = "libtest shows it with the failure it belongs to")]
    fn drop(&mut self) {
        if thread::panicking() {
            let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("--- calls ---\n{}", journal.join("\n"));
            eprintln!("--- store ---\n{}", tree(Path::new(STATE)));
            eprintln!("--- ruleset ---\n{}", ruleset());
        }
    }
}

/// A workload: a network namespace and what answers in it.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) netns: Netns,
    _server: Echo,
}

impl Pod {
    /// What a runtime says about it: its name serves as the container ID.
    pub(crate) fn in_network(&self, network: &Network) -> Attachment {
        Attachment::new(network, &self.name, &self.netns)
    }

    /// Asks from inside the pod.
    pub(crate) fn asks(&self, probe: &Probe) -> Answer {
        self.netns.run(|| probe.ask())
    }

    /// The address it has on the way to the node's first address.
    pub(crate) fn address(&self, v6: bool) -> IpAddr {
        let to = SocketAddr::new(address(FIRST[usize::from(v6)]), POD_PORT);
        self.netns.run(|| probe::source_towards(to))
    }
}
