//! Which holders of host ports have no sandbox any more: their DEL or their stop was lost. The evidence is
//! the runtime's own list. A network namespace is none: it cannot be examined from another mount namespace.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use autoport::model::{Holder, Record};

use crate::hostnet::Sandboxes;

/// A holder whose sandbox the runtime does not list is looked at again after this time, and released then.
pub const SECOND_LOOK: Duration = Duration::from_mins(1);

/// How old a record of the plugin is, in seconds, before it counts: a runtime lists a sandbox when its network
/// is set up, which kubelet waits for four minutes.
const SET_UP: u64 = 600;

/// The holders without a sandbox, each with the time of the first look.
#[derive(Debug, Default)]
pub struct Suspects(BTreeMap<Holder, Instant>);

impl Suspects {
    /// Looks: gives the records to be released, whose sandbox the runtime did not list at a look at least
    /// [`SECOND_LOOK`] ago either. `seconds` is `now` since the epoch.
    pub fn look<'a>(
        &mut self,
        records: &'a [Record],
        sandboxes: &Sandboxes,
        now: Instant,
        seconds: u64,
    ) -> Vec<&'a Record> {
        let missing = |record: &&Record| is_missing(record, sandboxes, seconds);
        let missing: Vec<_> = records.iter().filter(missing).collect();
        let first = |holder| self.0.get(holder).copied().unwrap_or(now);
        let holders = missing.iter().map(|record| &record.owner.holder);
        self.0 = holders.map(|holder| (holder.clone(), first(holder))).collect();
        let is_due = |record: &&Record| {
            let first = self.0.get(&record.owner.holder);
            first.is_some_and(|first| now.duration_since(*first) >= SECOND_LOOK)
        };
        missing.into_iter().filter(is_due).collect()
    }

    /// Starts again: a new list of the runtime is a new first look.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

/// Whether the runtime has no sandbox for the record. One without the UID of a pod is of another runtime, such
/// as podman, and a runtime without any sandbox is not kubelet's: Docker's containerd speaks NRI too.
fn is_missing(record: &Record, sandboxes: &Sandboxes, seconds: u64) -> bool {
    match (&record.owner.holder, record.owner.uid()) {
        (Holder::HostPod { pod }, _) => !sandboxes.lists(pod.uid()),
        (Holder::Attachment(attachment), Some(uid)) => {
            !sandboxes.is_empty()
                && !sandboxes.has(uid, attachment.container_id())
                && seconds.saturating_sub(record.created) >= SET_UP
        }
        (Holder::Attachment(_), None) => false,
    }
}

#[cfg(test)]
pub(crate) mod tests;
