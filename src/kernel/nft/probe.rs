//! Trying out what the kernel can do, in a network namespace that is made for it and ends with the
//! trial: what is missing shows as the refusal that ADD would meet.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::thread;

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, unshare};

use super::socket::Transaction;
use super::{Error, Extent, Nft, elements};
use crate::model::{
    Attachment, Family, HostPort, Mapping, Masquerade, Owner, Policy, Protocol, Record,
};
use crate::ruleset::{Data, Identity, Ruleset};

/// How released elements go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// They are given a millisecond to live (Linux 6.12).
    Expiry,
    /// They are deleted.
    Deletion,
}

/// Builds a table with every kind of set, map and rule, asks for the UDP flows, and releases an
/// element.
///
/// # Errors
/// Where no namespace may be made; inside, what the kernel refused.
pub fn trial() -> io::Result<Result<Release, Error>> {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(table())
    };
    let trial = thread::Builder::new().spawn(inside)?;
    trial.join().unwrap_or_else(|_| Err(io::Error::other("the trial panicked")))
}

fn table() -> Result<Release, Error> {
    let instance = "trial";
    let records = samples();
    let ruleset = Ruleset::new(Identity::current(instance), &records);
    let mut nft = Nft::open(instance)?;
    nft.adopt(&ruleset)?;
    let leads = |data: &Data| matches!(data, Data::Target(_));
    let Some(element) = ruleset.elements.values().find(|element| leads(&element.data)) else {
        return Ok(Release::Deletion);
    };
    let place = element.place();
    nft.attempt::<_, Error>(Extent::Places(&[]), |_, _, _| {
        let mut transaction = Transaction::begin();
        elements::expire(&mut transaction, &[(place, element.data)]);
        Ok(Some((transaction, ())))
    })?;
    let stays = nft.seen_at(&[place])?.values().any(|seen| !seen.expiring);
    Ok(if stays { Release::Deletion } else { Release::Expiry })
}

/// Two records that together need every kind of rule.
fn samples() -> Vec<Record> {
    let pods = [IpAddr::from(Ipv4Addr::new(192, 0, 2, 9)), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let network = |address, prefix| IpNetwork::new(address, prefix).ok();
    let everywhere = [network(pods[0], 24), network(pods[1], 64)];
    let alone = [network(pods[0], 32), network(pods[1], 128)];
    let record = |name: &str, port, addresses: [Option<IpNetwork>; 2], gates: bool| {
        let port = NonZeroU16::new(port)?;
        let networks: Vec<IpNetwork> = addresses.into_iter().flatten().collect();
        let mapping = |protocol, family: Family| Mapping {
            host: HostPort { protocol, address: family.wildcard(), port },
            container_port: port,
            target: Some(SocketAddr::new(pods[usize::from(family == Family::V6)], port.get())),
        };
        let protocols = Protocol::ALL.into_iter();
        Some(Record {
            owner: Owner::bare(Attachment::new("trial", name, "eth0").ok()?),
            policy: Policy {
                masquerade: Masquerade::Local,
                mark_bit: 13,
                source_ranges: if gates { networks.clone() } else { Vec::new() },
                host_addresses: if gates { networks.clone() } else { Vec::new() },
                counters: gates,
            },
            pod_addresses: networks,
            mappings: protocols
                .flat_map(|protocol| Family::ALL.map(|family| mapping(protocol, family)))
                .collect(),
            grants: Vec::new(),
            dialects: [].into(),
            advertised: [].into(),
            created: 0,
            boot_id: String::new(),
        })
    };
    let both = [record("one", 1, everywhere, true), record("other", 2, alone, false)];
    both.into_iter().flatten().collect()
}
