//! Decisions about who holds what. Values in, values out.

mod allocate;
mod choice;
mod exhausted;
mod grant;
mod permit;

use std::net::SocketAddr;

use crate::model::{Mapping, Netns, Owner, Policy, Record};

pub use self::allocate::allocate;
pub use self::choice::{Availability, Choice, Cursors, Granted, Spot};
pub use self::exhausted::Exhausted;
pub use self::grant::{Earlier, earlier, expand};
pub use self::permit::{Chosen, Forbidden, permit};

/// How somebody who holds a wanted port stands to the one who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They are the same attachment.
    Same,
    /// It holds the port by right.
    Holds,
    /// It holds the port by right, for the same container in another network.
    Sibling,
    /// It is no more, for this reason, and gives way.
    Superseded(&'static str),
}

/// Judges whether `holder` gives way to `claimant`.
///
/// Only evidence counts. A sandbox that was created again has the pod's UID and another container
/// ID; the same container on a second network has both in common and keeps what it holds.
/// `is_gone` says whether a network namespace provably does not exist any more.
pub fn standing(
    claimant: &Owner,
    holder: &Owner,
    is_gone: impl FnOnce(&Netns) -> bool,
) -> Standing {
    if claimant.holder == holder.holder {
        return Standing::Same;
    }
    let containers = claimant.container_id().zip(holder.container_id());
    let is_same_container = containers.is_some_and(|(own, other)| own == other);
    let is_same_pod = claimant.uid().is_some() && claimant.uid() == holder.uid();
    if is_same_pod && containers.is_some() && !is_same_container {
        return Standing::Superseded("its pod has a new sandbox");
    }
    if holder.netns.as_ref().is_some_and(is_gone) {
        return Standing::Superseded("its network namespace no longer exists");
    }
    if is_same_container {
        return Standing::Sibling;
    }
    Standing::Holds
}

/// What an attachment holds while it changes from `before` to `wanted`: either.
pub fn union(before: &[Mapping], wanted: &[Mapping]) -> Vec<Mapping> {
    let kept = before
        .iter()
        .filter(|old| wanted.binary_search_by(|mapping| mapping.host.cmp(&old.host)).is_err());
    let mut union: Vec<Mapping> = wanted.iter().chain(kept).copied().collect();
    union.sort_unstable();
    union
}

/// Names the first thing that `recorded` has not as it is wanted.
pub fn difference(recorded: &Record, policy: &Policy, wanted: &[Mapping]) -> Option<String> {
    if recorded.policy != *policy {
        return Some("the network's configuration changed since ADD".to_owned());
    }
    wanted.iter().find_map(|mapping| match recorded.mapping_at(&mapping.host) {
        None => Some(format!("host port {} is not recorded for it", mapping.host)),
        Some(recorded) if recorded.target != mapping.target => {
            let name = |target: Option<SocketAddr>| {
                target.map_or("nothing".to_owned(), |target| target.to_string())
            };
            let (recorded, wanted) = (name(recorded.target), name(mapping.target));
            Some(format!("host port {} is recorded for {recorded}, not {wanted}", mapping.host))
        }
        Some(_) => None,
    })
}

#[cfg(test)]
mod tests;
