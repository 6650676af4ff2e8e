//! Attachments whose `prevResult` is written by hand: for tests that send no packets, and for what
//! no other plugin would say.

use serde_json::{Value, json};

use crate::chain::{Attachment, Main, Network, PortMapping};
use crate::netns::{ip, settle};
use crate::node::{Node, POD_PORT};
use crate::plugin::{Outcome, Plugin};
use crate::probe::Transport;

/// The `lockTimeout` of commands that wait for each other, in seconds: a busy machine is slow.
pub(crate) const AMONG_MANY: u32 = 100;

/// A network of the newest version, with our plugin.
pub(crate) fn network(name: &str) -> Network {
    Network::new(name, Main::Bridge, 1, Plugin::Autoport).speaking("1.1.0")
}

/// What a main plugin would have given a pod with these addresses.
pub(crate) fn result(version: &str, addresses: &[String]) -> Value {
    let ips: Vec<_> = addresses
        .iter()
        .map(|address| {
            let family = if address.contains(':') { "6" } else { "4" };
            let mut ip = json!({"address": address, "interface": 0});
            // From 1.0.0 on the version is gone.
            if version < "1.0.0" {
                ip["version"] = json!(family);
            }
            ip
        })
        .collect();
    json!({
        "cniVersion": version,
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/pod"}],
        "ips": ips,
    })
}

/// A container in the client's namespace, which is not the node's, with the addresses 10.1.x.y/24
/// and `fd00:1::n/64` made of `number`.
pub(crate) fn attachment(node: &Node, network: &Network, id: &str, number: u16) -> Attachment {
    let mut attachment = Attachment::new(network, id, &node.client);
    let [high, low] = number.to_be_bytes();
    let addresses = [format!("10.1.{high}.{low}/16"), format!("fd00:1::{number:x}/64")];
    attachment.result = Some(result(network.version, &addresses));
    attachment
}

/// The same by another interface.
pub(crate) fn by_interface(mut attachment: Attachment, ifname: &str) -> Attachment {
    let result = attachment.result.as_mut().expect("it was written by hand");
    result["interfaces"][0]["name"] = ifname.into();
    attachment.named(ifname)
}

/// Gives the addresses of such attachments a way out of the node, at whose end nobody is: what is sent
/// to them is tracked, and lost.
pub(crate) fn lead_nowhere(node: &Node) {
    ip("link add nowhere arp off type veth peer name nowhere netns client
        addr add 10.1.255.254/16 dev nowhere
        addr add fd00:1::ffff/64 dev nowhere nodad
        link set nowhere up");
    node.client.run(|| ip("link set nowhere up"));
}

/// The mapping of a TCP host port.
pub(crate) fn tcp(host_port: u16) -> PortMapping {
    PortMapping::new(Transport::Tcp, host_port, POD_PORT)
}

/// The mapping of a UDP host port.
pub(crate) fn udp(host_port: u16) -> PortMapping {
    PortMapping::new(Transport::Udp, host_port, POD_PORT)
}

/// Runs a command of our plugin. After a DEL, what expires within a timer tick is waited for.
pub(crate) fn run(attachment: &Attachment, command: &str) -> Outcome {
    let outcome = attachment.plugin_call(command).run();
    if command == "DEL" {
        settle();
    }
    outcome
}

/// Runs ADD of our plugin, insists on success, and keeps a note of it.
pub(crate) fn add(node: &Node, attachment: &Attachment) -> Value {
    let outcome = run(attachment, "ADD");
    node.note(format!("ADD {}: {outcome}", attachment.container_id));
    outcome.success()
}
