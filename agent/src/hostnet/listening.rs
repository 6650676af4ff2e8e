//! Whether the program of a pod on the host network listens on its ports.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use autoport::kernel::{self, Listeners};
use autoport::model::Protocol;

use crate::cgroups::{Cgroups, is_of};

/// The UID of a pod, and the ports on which it is to listen.
pub type Expected = (String, Vec<(Protocol, NonZeroU16)>);

/// For each pod, the first of its ports on which no process of the pod listens. A pod that has no cgroup of version 2
/// does not tell whose a socket is: there any listener counts.
///
/// # Errors
/// When the kernel does not list its sockets.
pub fn silent(pods: &[Expected]) -> Result<Vec<Option<(Protocol, NonZeroU16)>>, kernel::Error> {
    let protocols: BTreeSet<_> = pods.iter().flat_map(|(_, ports)| ports).map(|it| it.0).collect();
    let protocols: Vec<_> = protocols.into_iter().collect();
    let listeners = Listeners::of(&protocols)?;
    let cgroups = Cgroups::read();
    let silent = pods.iter().map(|(uid, ports)| {
        let is_told = cgroups.has(uid);
        let is_its = |id: Option<u64>| {
            let path = id.and_then(|id| cgroups.path(id));
            !is_told || path.is_some_and(|path| is_of(path, uid))
        };
        let listens = |wanted: &(Protocol, NonZeroU16)| {
            let mut on = listeners.all().filter(|one| (one.protocol, one.port) == *wanted);
            on.any(|one| is_its(one.cgroup))
        };
        ports.iter().find(|port| !listens(port)).copied()
    });
    Ok(silent.collect())
}
