//! Host ports of pods on the node's own network. No CNI plugin is called for such a pod: its ports are
//! claimed when its sandbox is set up, and released when it stops, with the library's functions.
//! Nothing is translated.

mod ask;
mod listening;
mod sandboxes;
mod taken;

use autoport::app::{self, Claimed};
use autoport::cni::Config;
use autoport::event::{Event, Log};
use autoport::model::{Holder, HostPod, NamespaceId, Pod as Named, Record};
use autoport::netns;
use autoport::store::Store;

pub use self::listening::{Expected, silent};
pub use self::sandboxes::{Listed, Sandboxes};
pub use self::taken::{Taken, Takers};
use crate::nri::Rejection;
use crate::nri::message::Pod;

/// What a claim or a release works with.
pub struct Call<'a> {
    pub store: &'a Store,
    /// Seconds since the epoch.
    pub now: u64,
    pub log: &'a mut dyn Log,
}

/// Whether the pod is on the node's network, as far as its event tells; the runtime lists no namespaces when
/// a sandbox is stopped or removed.
pub fn is_on_host(pod: &Pod, own: Option<NamespaceId>) -> Option<bool> {
    let namespaces = &pod.linux.as_ref()?.namespaces;
    if namespaces.is_empty() {
        return None;
    }
    let network = namespaces.iter().find(|one| one.kind == "network");
    let Some(network) = network else { return Some(true) };
    // CRI-O lists a path that leads to the node's own.
    let seen = netns::observe(&network.path).ok().flatten().map(|seen| seen.id);
    Some(seen.is_some() && seen == own)
}

/// Whether an annotation may be about host ports, so that the configuration has to be read. A key that is
/// misspelt is about them too.
pub fn concerns(pod: &Pod) -> bool {
    let words = ["autoport", "bkbcs.tencent.com"];
    pod.annotations.keys().any(|key| words.iter().any(|word| key.contains(word)))
}

/// Claims what the pod asks for; `None` where that is nothing. `is_awaited` says whether the runtime still
/// waits.
///
/// # Errors
/// Why the sandbox must not run.
pub fn claim(
    pod: &Pod,
    config: Config,
    call: &mut Call<'_>,
    is_awaited: &dyn Fn() -> bool,
) -> Result<Option<Claimed>, Rejection> {
    let holder =
        HostPod::new(&pod.uid).map_err(|error| Rejection::new("request", error.to_string()))?;
    let (namespace, name, uid) = (pod.namespace.clone(), pod.name.clone(), pod.uid.clone());
    let named = Named { namespace, name, uid };
    let asked = ask::ask(holder.into(), named, &pod.annotations, config);
    let asked = asked.map_err(|error| Rejection::new("request", error.in_one_line()))?;
    let Some((ask, ignored)) = asked else { return Ok(None) };
    for text in ignored {
        call.log.note(Event::Ignored(text));
    }
    let claimed = app::claim(call.store, ask, is_awaited, call.now, call.log);
    claimed.map_err(|error| {
        let text = format!("{} (code {})", error.in_one_line(), error.code());
        Rejection::new(kind(error.code()), text)
    })
}

/// The kind of reason that a code of docs/errors.md is.
const fn kind(code: u32) -> &'static str {
    match code {
        5 => "late",
        11 => "lock",
        100 => "held",
        101 => "range_full",
        103 => "listener",
        104 => "policy",
        102 | 110 | 111 => "node",
        _ => "request",
    }
}

/// Takes back what the runtime did not wait for, if this agent still `leads` when it has the lock: another
/// may have told the pod of it meanwhile.
///
/// # Errors
/// Why it is still held.
pub fn undo(
    claimed: &Claimed,
    leads: &dyn Fn() -> bool,
    call: &mut Call<'_>,
) -> Result<(), String> {
    let undone = app::undo(call.store, claimed, leads, call.now, call.log);
    undone.map_err(|error| error.in_one_line())
}

/// Releases what the pod with this UID holds, if it holds anything, and if this agent still `leads` when it has
/// the lock: under another one the pod may run again. Gives whether it was released.
///
/// # Errors
/// Why it is still held; a later look tries again.
pub fn release(uid: &str, leads: &dyn Fn() -> bool, call: &mut Call<'_>) -> Result<bool, String> {
    let Ok(pod) = HostPod::new(uid) else { return Ok(false) };
    let records = app::records_of_pod(call.store, uid, call.log);
    // A record that cannot be read is a reason to try: the store knows what to do with it.
    let holds = records.map_or(true, |records| records.iter().any(is_of_host));
    if holds {
        let released = app::release(call.store, &Holder::from(pod), leads, call.now, call.log);
        released.map_err(|error| error.in_one_line())?;
    }
    Ok(holds && leads())
}

/// Whether a pod on the node's network holds it.
pub fn is_of_host(record: &Record) -> bool {
    matches!(record.owner.holder, Holder::HostPod { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nri::message::{LinuxPod, Namespace};

    fn pod(namespaces: &[(&str, &str)]) -> Pod {
        let namespace = |(kind, path): &(&str, &str)| Namespace {
            kind: (*kind).to_owned(),
            path: (*path).to_owned(),
        };
        let namespaces = namespaces.iter().map(namespace).collect();
        Pod { linux: Some(LinuxPod { namespaces, ..LinuxPod::default() }), ..Pod::default() }
    }

    #[test]
    fn the_host_network_is_a_pod_without_a_network_namespace_of_its_own() {
        let own = netns::own().ok();
        let this = format!("/proc/{}/ns/net", std::process::id());
        for (namespaces, expected) in [
            (&[][..], None),
            (&[("pid", ""), ("ipc", "")], Some(true)),
            (&[("pid", ""), ("network", "/var/run/netns/no-such")], Some(false)),
            (&[("pid", ""), ("network", "")], Some(false)),
            (&[("network", this.as_str())], Some(true)),
        ] {
            assert_eq!(is_on_host(&pod(namespaces), own), expected, "{namespaces:?}");
        }
        assert_eq!(is_on_host(&Pod::default(), own), None);
    }
}
