//! Several networks of one container.

use crate::model::{Mapping, Owner};
use crate::netns;
use crate::plan::{self, Standing};
use crate::store::{Held, Who};

/// Takes out of `wanted` what another network of the same container maps to the same container port
/// already; gives those who do. `holders` are all who hold something of it.
///
/// podman and nerdctl ask for a container's host ports in each of its networks. A host port leads to
/// one address, and either network's will do: the first has it.
pub(super) fn leave<'a>(
    holders: &'a [Held],
    claimant: &Owner,
    wanted: &mut Vec<Mapping>,
) -> Vec<&'a Owner> {
    let mut siblings = Vec::new();
    for holder in holders {
        let Who::Record(record) = &holder.who else { continue };
        if plan::standing(claimant, &record.owner, netns::is_gone) != Standing::Sibling {
            continue;
        }
        let before = wanted.len();
        wanted.retain(|wanted| {
            let serves = |held: &Mapping| {
                (held.host, held.container_port) == (wanted.host, wanted.container_port)
            };
            !record.mappings.iter().any(serves)
        });
        if wanted.len() < before {
            siblings.push(&record.owner);
        }
    }
    siblings
}
