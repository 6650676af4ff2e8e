//! Attachments with a hand-written `prevResult`: for tests that send no packets, and for results
//! that no real plugin returns.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::netns::{ip, settle};
use crate::stage::node::{Node, POD_PORT};
use crate::stage::plugin::{Call, Outcome, Plugin};
use crate::stage::probe::Transport;
use crate::stage::view::{self, STATE};

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

/// Routes the addresses of such attachments to an interface without a receiver: packets to them are tracked
/// and lost.
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

/// A call whose runtime passes these annotations of the pod.
pub(crate) fn annotated(
    attachment: &Attachment,
    command: &str,
    annotations: &[(&str, &str)],
) -> Call {
    let all: Map<_, _> =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let mut config = attachment.config();
    config["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = Value::Object(all);
    attachment.plugin_call(command).stdin(config.to_string())
}

/// The numbers that were chosen for a container, as its record has them.
pub(crate) fn chosen(attachment: &Attachment) -> Vec<u16> {
    let folder = Path::new(STATE).join("attachments");
    let records = view::records().into_iter().map(|name| fs::read(folder.join(name)));
    let records = records.map(|bytes| {
        let bytes = bytes.expect("a record can be read");
        serde_json::from_slice::<Value>(&bytes).expect("a record is JSON")
    });
    let own = |record: &Value| record["containerId"] == json!(attachment.container_id);
    let record = { records }.find(own).expect("there is a record");
    let grants = record["grants"].as_array().cloned().unwrap_or_default();
    let port = |grant: &Value| grant["port"].as_u64()?.try_into().ok();
    grants.iter().map(|grant| port(grant).expect("a grant has a port")).collect()
}

/// The GC of a runtime that does not say what is valid.
pub(crate) fn gc_without_list(network: &Network) -> Call {
    let config = gc_config(network).to_string();
    Call::new(Plugin::Autoport.path(), "GC").stdin(config)
}

fn gc_config(network: &Network) -> Value {
    let mut config = network.entry();
    config["name"] = json!(network.name);
    config["cniVersion"] = json!("1.1.0");
    config
}

/// Runs GC for `network` with just these valid.
pub(crate) fn gc(network: &Network, valid: &[&str]) -> Outcome {
    let mut config = gc_config(network);
    let entry = |id: &&str| json!({"containerID": id, "ifname": "eth0"});
    config["cni.dev/valid-attachments"] = valid.iter().map(entry).collect();
    Call::new(Plugin::Autoport.path(), "GC").stdin(config.to_string()).run()
}
