//! Several networks of one container.

use super::add;
use crate::cni::Claim;
use crate::error::Error;
use crate::model::{HostPort, Mapping, Owner};
use crate::netns;
use crate::plan::{self, Standing};
use crate::store::{Shared, Who};

/// Takes out of `claim` what another network of the same container maps to the same container port
/// already; gives those who do.
///
/// podman and nerdctl ask for a container's host ports in each of its networks. A host port leads to
/// one address, and either network's will do: the first has it.
pub(super) fn leave_mappings(shared: &Shared, claim: &mut Claim) -> Result<Vec<Owner>, Error> {
    let claimant = add::owner(claim);
    let hosts: Vec<HostPort> = claim.mappings.iter().map(|mapping| mapping.host).collect();
    let mut siblings = Vec::new();
    for holder in shared.holders(&hosts)? {
        let Who::Attachment(record) = holder.who else { continue };
        if plan::standing(&claimant, &record.owner, netns::is_gone) != Standing::Sibling {
            continue;
        }
        let serves = |wanted: &Mapping, held: &Mapping| {
            (held.host, held.container_port) == (wanted.host, wanted.container_port)
        };
        claim.mappings.retain(|wanted| !record.mappings.iter().any(|held| serves(wanted, held)));
        siblings.push(record.owner);
    }
    Ok(siblings)
}
