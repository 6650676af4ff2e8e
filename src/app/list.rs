//! Looking at what is recorded, at what the kernel has of it, and at what a pod was told. Nothing here
//! changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::split;
use crate::error::Error;
use crate::event::Log;
use crate::kernel::{Extent, Nft};
use crate::model::{HostPort, Pod, PortRange, Protocol, Record, short_id};
use crate::publication::Publication;
use crate::ruleset::{Data, Identity, Ruleset, Traffic, elements_of};
use crate::store::{self, Reservation, Shared, Store};

/// Everyone who holds host ports.
#[derive(Debug, Default)]
pub struct Listing {
    /// The instance ID of the store.
    pub instance: String,
    /// The attachments, by name.
    pub attachments: Vec<Record>,
    /// The reservations, by name.
    pub reservations: Vec<Reservation>,
    /// Those whose record cannot be read.
    pub unreadable: Vec<Unread>,
}

/// A holder whose record cannot be read.
#[derive(Debug, Serialize)]
pub struct Unread {
    /// The name of the record: `network:containerID:ifname`, `hostpod:UID` or `reservation:NAME`.
    pub name: String,
    /// Why it cannot be read.
    pub reason: String,
    /// Its host ports, by the index.
    pub hosts: Vec<HostPort>,
}

/// Reads who holds what; `None` where nothing has been recorded.
///
/// # Errors
/// When the store fails.
pub fn list(store: &Store, log: &mut dyn Log) -> Result<Option<Listing>, Error> {
    store.read(log)?.map(|shared| listing_of(&shared)).transpose()
}

pub(super) fn listing_of(shared: &Shared) -> Result<Listing, Error> {
    let (attachments, mut broken) = split(shared.records()?);
    let (reservations, others) = split(shared.reservations()?);
    broken.extend(others);
    let instance = shared.instance().id.clone();
    let mut listing = Listing { instance, attachments, reservations, unreadable: Vec::new() };
    for unreadable in broken {
        let (name, reason) = (unreadable.key.to_string(), unreadable.to_string());
        listing.unreadable.push(Unread { name, reason, hosts: shared.entered(&unreadable.key)? });
    }
    Ok(listing)
}

/// Several containers have an ID that begins with the text, or several pods have it as their name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} is ambiguous: it matches {}; give more of the name or ID", found.join(", "))]
pub struct Ambiguous {
    /// The text.
    pub asked: String,
    /// The IDs, or the names of the pods.
    pub found: Vec<String>,
}

impl Listing {
    /// Keeps those who hold a host port that is `meant`.
    pub fn keep_holders(&mut self, meant: impl Fn(&HostPort) -> bool) {
        self.attachments.retain(|one| one.mappings.iter().any(|it| meant(&it.host)));
        self.reservations.retain(|one| one.hosts.iter().any(&meant));
        self.unreadable.retain(|one| one.hosts.iter().any(&meant));
    }

    /// Keeps the pods of `namespace`.
    pub fn narrow_to_namespace(&mut self, namespace: &str) {
        self.keep(|one| one.owner.pod.as_ref().is_some_and(|pod| pod.namespace == namespace));
    }

    /// Keeps those host ports of each holder that are `meant`, and the holders of one.
    pub fn keep_hosts(&mut self, meant: impl Fn(&HostPort) -> bool) {
        self.keep_holders(&meant);
        self.attachments.iter_mut().for_each(|one| one.mappings.retain(|it| meant(&it.host)));
        self.reservations.iter_mut().for_each(|one| one.hosts.retain(&meant));
        self.unreadable.iter_mut().for_each(|one| one.hosts.retain(&meant));
    }

    fn keep(&mut self, meant: impl Fn(&Record) -> bool) {
        self.attachments.retain(meant);
        self.reservations.clear();
        self.unreadable.clear();
    }

    /// Keeps whatever has this name: a pod's, with or without its namespace and a slash, or its UID; the ID
    /// of a container or the beginning of one; a reservation's.
    ///
    /// # Errors
    /// [`Ambiguous`].
    pub fn narrow_to_name(&mut self, name: &str) -> Result<(), Ambiguous> {
        let is_it = |one: &Record| {
            let is_pod = |pod: &Pod| {
                let is_whole = name.split_once('/') == Some((&pod.namespace, &pod.name));
                is_whole || pod.name == name || pod.uid == name
            };
            one.owner.container_id() == Some(name) || one.owner.pod.as_ref().is_some_and(is_pod)
        };
        let reserved = |one: &Reservation| one.name == name;
        if self.attachments.iter().any(is_it) || self.reservations.iter().any(reserved) {
            self.attachments.retain(is_it);
            self.reservations.retain(reserved);
            self.unreadable.clear();
            return Ok(());
        }
        let begins = |one: &Record| one.owner.container_id().is_some_and(|id| id.starts_with(name));
        self.keep(|one| !name.is_empty() && begins(one));
        let ids = self.attachments.iter().filter_map(|one| one.owner.container_id());
        let ids: BTreeSet<&str> = ids.collect();
        if ids.len() > 1 {
            let short: BTreeSet<&str> = ids.iter().map(|id| short_id(id)).collect();
            let found = if short.len() == ids.len() { short } else { ids };
            let found = found.into_iter().map(str::to_owned).collect();
            return Err(Ambiguous { asked: name.to_owned(), found });
        }
        Ok(())
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.attachments.is_empty() && self.reservations.is_empty() && self.unreadable.is_empty()
    }

    /// Every host port that is held.
    pub fn hosts(&self) -> impl Iterator<Item = &HostPort> {
        let mapped = self.attachments.iter().flat_map(|one| &one.mappings).map(|one| &one.host);
        let reserved = self.reservations.iter().flat_map(|one| &one.hosts);
        let unreadable = self.unreadable.iter().flat_map(|one| &one.hosts);
        mapped.chain(reserved).chain(unreadable)
    }

    /// How many numbers of `ranges` are held, on whatever address.
    pub fn held_in(&self, ranges: &[PortRange], protocol: Protocol) -> usize {
        let hosts = self.hosts().filter(|host| host.protocol == protocol);
        let meant = hosts.filter(|host| ranges.iter().any(|range| range.contains(host.port)));
        meant.map(|host| host.port).collect::<BTreeSet<_>>().len()
    }
}

/// The ports that are published for a pod's containers.
#[derive(Debug, Serialize)]
pub struct Told {
    /// The directory of the files.
    pub directory: PathBuf,
    /// The content of `ports.json`.
    #[serde(flatten)]
    pub publication: Publication,
    /// The same as variables, by name.
    pub variables: BTreeMap<String, String>,
}

impl Told {
    pub(super) fn new(directory: PathBuf, publication: Publication) -> Self {
        let variables = publication.variables().into_iter().collect();
        Self { directory, publication, variables }
    }
}

/// What the pod with this UID holds, a record for each attachment.
///
/// # Errors
/// What the store says, and where one of the records cannot be read.
pub fn records_of_pod(store: &Store, uid: &str, log: &mut dyn Log) -> Result<Vec<Record>, Error> {
    let Some(shared) = store.read(log)? else { return Ok(Vec::new()) };
    let records: Result<Vec<Record>, _> = shared.records_of_pod(uid)?.into_iter().collect();
    Ok(records.map_err(store::Error::from)?)
}

/// What the records of the pod with this UID tell it; `None` where that is nothing.
///
/// # Errors
/// When the store fails.
pub fn told(store: &Store, uid: &str, log: &mut dyn Log) -> Result<Option<Told>, Error> {
    let records = records_of_pod(store, uid, log)?;
    let publication = Publication::of(&records);
    let told = store.published_at(uid).zip(publication);
    Ok(told.map(|(directory, publication)| Told::new(directory, publication)))
}

/// What the kernel has of one record.
#[derive(Debug, Serialize)]
pub struct InKernel {
    /// The first thing that is not as ADD left it.
    pub difference: Option<String>,
    /// The chains that translate its packets, as they were if there were no other network.
    pub chains: String,
    /// Of each mapping, in the record's order.
    pub mappings: Vec<MappingInKernel>,
}

/// What the kernel has of one mapping.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingInKernel {
    /// The host port that is mapped.
    #[serde(flatten)]
    pub host: HostPort,
    /// How many elements it takes.
    pub elements: usize,
    /// How many of them are there.
    pub elements_present: usize,
    /// How many connections it has had; only where they are counted.
    pub connections: Option<u64>,
    /// How many flows there are through it now; `None` where connection tracking does not say.
    pub flows: Option<usize>,
}

/// Looks for `record` of the store `instance` in the kernel.
///
/// # Errors
/// When the kernel fails to answer.
pub fn in_kernel(instance: &str, record: &Record) -> Result<InKernel, Error> {
    let expected = Ruleset::new(Identity::current(instance), [record]);
    let mut nft = Nft::open(instance)?;
    let places: Vec<_> = expected.elements.keys().copied().collect();
    let look = nft.look(Extent::Places(&places))?;
    let flows = nft.count_flows(Traffic::of(record, record.mappings.clone()));
    let mappings = record.mappings.iter().map(|mapping| {
        let counted = flows.as_ref().ok().filter(|_| mapping.target.is_some());
        let flows = counted.map(|flows| flows.get(&mapping.host).copied().unwrap_or_default());
        let (mut elements, mut elements_present, mut connections) = (0, 0, None);
        for element in elements_of(record, std::slice::from_ref(mapping)) {
            elements += 1;
            let Some(seen) = look.elements.get(&element.place()) else { continue };
            if seen.expiring || seen.data.as_ref() != Some(&element.data) {
                continue;
            }
            elements_present += 1;
            if element.data != Data::None {
                connections = seen.packets;
            }
        }
        MappingInKernel { host: mapping.host, elements, elements_present, connections, flows }
    });
    let mappings = mappings.collect();
    if expected.elements.is_empty() {
        return Ok(InKernel { difference: None, chains: String::new(), mappings });
    }
    let difference = nft.check(&expected)?;
    let chains = expected.chains().into_iter();
    let chains = chains.filter(|chain| !chain.name.starts_with("guard") && !chain.rules.is_empty());
    Ok(InKernel { difference, chains: chains.map(|chain| chain.to_string()).collect(), mappings })
}
