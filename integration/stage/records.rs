//! Records made of the library's types, for tests that use the kernel without the plugin.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use autoport::kernel::Change;
use autoport::model::{
    Attachment, Family, HostPort, Mapping, Masquerade, Owner, Pod, Policy, Protocol, Record,
};
use autoport::ruleset::{Identity, Ruleset, chains_of, elements_of};
use ipnetwork::IpNetwork;

/// The instance ID in every table of these tests.
pub(crate) const INSTANCE: &str = "00112233445566778899aabbccddeeff";

/// What a network without any key of ours has.
pub(crate) fn policy() -> Policy {
    Policy {
        masquerade: Masquerade::Local,
        mark_bit: 13,
        source_ranges: Vec::new(),
        host_addresses: Vec::new(),
    }
}

/// Networks as a person writes them.
pub(crate) fn networks(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().expect("a test network")).collect()
}

/// A record of a pod with these addresses and nothing mapped yet.
pub(crate) fn record(name: &str, policy: Policy, addresses: &[&str]) -> Record {
    let attachment = Attachment::new("net", name, "eth0").expect("a valid attachment");
    let pod = Pod { namespace: "default".into(), name: name.into(), uid: String::new() };
    Record {
        owner: Owner { holder: attachment.into(), pod: Some(pod), netns: None },
        pod_addresses: networks(addresses),
        policy,
        mappings: Vec::new(),
        offload: None,
        created: 0,
        grants: Vec::new(),
        dialects: [].into(),
        advertised: Vec::new(),
        boot_id: String::new(),
    }
}

/// Maps `host` ("*" for both families) and `port` to the pod's port 80 in that family.
pub(crate) fn map(mut record: Record, protocol: Protocol, host: &str, port: u16) -> Record {
    let hosts = match host {
        "*" => Family::ALL.map(Family::wildcard).to_vec(),
        one => vec![one.parse().expect("a test address")],
    };
    let number = |port| NonZeroU16::new(port).expect("a test port");
    for address in hosts {
        let pod = |ip: &IpAddr| Family::of(ip) == Family::of(&address);
        let target = record.pod_addresses.iter().map(IpNetwork::ip).find(pod);
        let mapping = Mapping {
            host: HostPort { protocol, address, port: number(port) },
            container_port: number(80),
            target: target.map(|ip| SocketAddr::new(ip, 80)),
        };
        let place = record.mappings.binary_search(&mapping).unwrap_or_else(|place| place);
        record.mappings.insert(place, mapping);
    }
    record
}

/// A pod whose port 80 is mapped to each of `ports`, for TCP, on every address.
pub(crate) fn pod(name: &str, address: &str, ports: &[u16]) -> Record {
    let bare = record(name, policy(), &[address]);
    ports.iter().fold(bare, |record, port| map(record, Protocol::Tcp, "*", *port))
}

/// The table of these records.
pub(crate) fn ruleset(records: &[&Record]) -> Ruleset {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot ID");
    let boot = Some(boot.trim().to_owned());
    let identity = Identity { boot, ..Identity::current(INSTANCE) };
    Ruleset::new(identity, records.iter().copied())
}

/// The change that takes `released` away and brings `wanted` in.
pub(crate) fn change(released: &[&Record], wanted: &[&Record]) -> Change {
    let elements = |records: &[&Record]| {
        let all = records.iter().flat_map(|record| elements_of(record, &record.mappings));
        all.collect::<Vec<_>>()
    };
    Change {
        wanted: elements(wanted).into_iter().map(|element| (element.place(), element)).collect(),
        released: elements(released).iter().map(autoport::ruleset::Element::place).collect(),
        chains: wanted.iter().flat_map(|record| chains_of(record)).collect(),
        is_new: true,
    }
}
