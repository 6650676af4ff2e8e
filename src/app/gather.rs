//! What a claim looks at before it takes the lock: how long that takes is up to others.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::loopback;
use crate::error::Error;
use crate::kernel::{self, Listeners, Nft, Portmap};
use crate::model::{Ask, HostListeners, HostPort, NamespaceId, Offload};
use crate::netns;
use crate::store::Shared;

/// The node as a claim finds it.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Who listens, where that counts.
    pub(super) listeners: Listeners,
    /// What portmap translates.
    pub(super) portmap: Portmap,
    /// The interface towards the pod, where none is known that 127.0.0.0/8 reaches it by.
    pub(super) towards: Option<String>,
    /// The addresses that the pod is told.
    pub(super) advertised: Vec<IpAddr>,
    /// By which interfaces its established connections are offloaded.
    pub(super) offload: Option<Offload>,
}

impl Gathered {
    /// Looks at the node. What portmap does is unknown without `nft`.
    pub(super) fn of(ask: &Ask, nft: Option<&mut Nft>) -> Result<Self, Error> {
        Ok(Self {
            listeners: listeners(ask)?,
            portmap: nft.map_or(Ok(Portmap::default()), Nft::portmap)?,
            towards: towards(ask)?,
            advertised: advertised(ask)?,
            offload: offload(ask)?,
        })
    }
}

/// The node as an ADD finds it.
pub(super) struct Scene<'a> {
    /// The records: none where there is no store, or none that a command may read that only asks.
    pub(super) shared: Option<&'a Shared>,
    /// Whether the pod's network namespace has to exist.
    pub(super) is_real: bool,
    pub(super) gathered: &'a Gathered,
    /// Seconds since the epoch.
    pub(super) now: u64,
}

impl Scene<'_> {
    /// The node's own network namespace, and its boot.
    pub(super) fn place(&self) -> Result<(NamespaceId, &str), Error> {
        match self.shared.map(Shared::instance) {
            Some(instance) => Ok((instance.netns, &instance.boot_id)),
            None => Ok((netns::own()?, "")),
        }
    }
}

/// All listeners where the node is to choose, else those near the ports asked for by number.
fn listeners(ask: &Ask) -> Result<Listeners, Error> {
    if ask.ports.host_listeners == HostListeners::Ignore {
        return Ok(Listeners::default());
    }
    let fixed = ask.fixed.iter().map(|mapping| mapping.host);
    if ask.requested.is_empty() {
        return Ok(Listeners::near(&fixed.collect::<Vec<HostPort>>())?);
    }
    let requested = ask.requested.iter().flat_map(|request| request.protocols.iter().copied());
    let protocols: BTreeSet<_> = requested.chain(fixed.map(|host| host.protocol)).collect();
    Ok(Listeners::of(&protocols.into_iter().collect::<Vec<_>>())?)
}

/// Looked up only where the node chooses: a pod that names all its ports is told nothing.
fn advertised(ask: &Ask) -> Result<Vec<IpAddr>, Error> {
    if ask.advertise_addresses.is_empty() && !ask.requested.is_empty() {
        return Ok(kernel::outward_addresses(&ask.policy.host_addresses)?);
    }
    Ok(ask.advertise_addresses.clone())
}

/// A pod whose interfaces are not known is reached like this node.
fn offload(ask: &Ask) -> Result<Option<Offload>, Error> {
    if ask.offload.is_empty() || ask.host_interfaces.is_empty() {
        return Ok(None);
    }
    let interfaces = kernel::veths(&ask.host_interfaces)?;
    Ok(Some(Offload { uplinks: ask.offload.clone(), interfaces }))
}

/// On a bridge that is once per boot, with an interface of its own once per pod.
fn towards(ask: &Ask) -> Result<Option<String>, Error> {
    let mut pods = ask.pod_addresses.iter().map(ipnetwork::IpNetwork::ip);
    let is_open = |name: &String| kernel::allows_loopback(name);
    match pods.find(IpAddr::is_ipv4) {
        Some(pod)
            if loopback::is_let_in(&ask.policy) && !ask.host_interfaces.iter().any(is_open) =>
        {
            Ok(kernel::interface_towards(pod)?)
        }
        Some(_) | None => Ok(None),
    }
}
