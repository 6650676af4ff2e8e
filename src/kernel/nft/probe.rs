//! Trying out what the kernel can do, in a network namespace that is made for it and ends with the
//! trial: what is missing shows as the refusal that ADD would meet.

use std::io;
use std::num::NonZeroU16;
use std::thread;

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, unshare};

use super::socket::Transaction;
use super::{Error, Extent, Nft, elements};
use crate::model::{
    Attachment, Family, HostPort, Mapping, Masquerade, Owner, Policy, Protocol, Record,
};
use crate::ruleset::{Identity, Ruleset};

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
    elsewhere(table)
}

/// Builds a flowtable, with a set and a rule.
///
/// # Errors
/// As for [`trial`].
pub fn offload_trial() -> io::Result<Result<(), Error>> {
    elsewhere(|| Nft::open("trial")?.build_offload())
}

fn elsewhere<T: Send + 'static>(attempt: fn() -> Result<T, Error>) -> io::Result<Result<T, Error>> {
    let inside = move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(attempt())
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
    let Some((&place, element)) = ruleset.elements.first_key_value() else {
        return Ok(Release::Deletion);
    };
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
    let one = record("one", 1, ["192.0.2.9/24", "2001:db8::9/64"], true);
    let other = record("other", 2, ["192.0.2.10/32", "2001:db8::10/128"], false);
    one.into_iter().chain(other).collect()
}

fn record(name: &str, port: u16, pods: [&str; 2], has_gates: bool) -> Option<Record> {
    let port = NonZeroU16::new(port)?;
    let pods: Vec<IpNetwork> = pods.iter().filter_map(|pod| pod.parse().ok()).collect();
    let gates = if has_gates { pods.clone() } else { Vec::new() };
    let towards =
        |protocol, address| Mapping::towards(HostPort { protocol, address, port }, port, &pods);
    let wildcards = Family::ALL.map(|family| towards(Protocol::Tcp, family.wildcard()));
    let specific = pods.iter().map(|pod| towards(Protocol::Udp, pod.ip()));
    let mappings = wildcards.into_iter().chain(specific).collect();
    Some(Record {
        owner: Owner::bare(Attachment::new("trial", name, "eth0").ok()?),
        policy: Policy {
            masquerade: Masquerade::Local,
            mark_bit: 13,
            source_ranges: gates.clone(),
            host_addresses: gates,
        },
        mappings,
        pod_addresses: pods,
        grants: Vec::new(),
        dialects: [].into(),
        advertised: [].into(),
        offload: None,
        created: 0,
        boot_id: String::new(),
    })
}
