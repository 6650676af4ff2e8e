//! CHECK: the record against the request, then the kernel against the record.

use super::{holds, loopback, prepare, siblings};
use crate::cni::Claim;
use crate::error::Error;
use crate::event::Log;
use crate::kernel::Nft;
use crate::model::Grant;
use crate::plan::{self, Earlier};
use crate::ruleset::{Identity, Ruleset};

pub(super) fn check(mut claim: Claim, now: u64, log: &mut dyn Log) -> Result<(), Error> {
    if claim.ask.is_empty() {
        return Ok(());
    }
    match difference(&mut claim, now, log)? {
        None => Ok(()),
        Some(difference) => {
            Err(Error::Different { attachment: claim.attachment.to_string(), difference })
        }
    }
}

fn difference(claim: &mut Claim, now: u64, log: &mut dyn Log) -> Result<Option<String>, Error> {
    let store = super::store(&claim.store);
    let nothing_recorded = || Ok(Some("nothing is recorded for it".to_owned()));
    let Some(shared) = store.read(claim.store.lock_timeout, log)? else {
        return nothing_recorded();
    };
    shared.belongs_here()?;
    let record = shared.load(&claim.attachment)?;
    let claimant = prepare::owner(&claim.ask);
    // What it holds it left to nobody.
    if !claim.ask.fixed.iter().all(|wanted| holds(record.as_ref(), &wanted.host)) {
        let holders = shared.holders(&prepare::hosts_of(&claim.ask.fixed))?;
        siblings::leave(&holders, &claimant, &mut claim.ask.fixed);
        if claim.ask.is_empty() {
            return Ok(None);
        }
    }
    let Some(record) = record else { return nothing_recorded() };
    let numbers = plan::earlier(&claim.ask.requested, &record.grants, Earlier::Own);
    let mut grants = Vec::new();
    for (wish, number) in claim.ask.requested.iter().zip(numbers) {
        let Some(Earlier::Own(port)) = number else {
            return Ok(Some(format!("no host port was chosen for {wish}")));
        };
        grants.push(Grant { wish: wish.clone(), port });
    }
    let (netns, boot_id) = (shared.instance().netns, &shared.instance().boot_id);
    let wanted = prepare::wanted(&claim.ask, claimant, grants, now, netns, boot_id);
    if let Some(difference) = plan::difference(&record, &wanted) {
        return Ok(Some(difference));
    }
    let owned = shared.owned(&record)?;
    if let Some(lost) = record.mappings.iter().find(|mapping| owned.binary_search(mapping).is_err())
    {
        return Ok(Some(format!("host port {} has been taken over", lost.host)));
    }
    let expected = Ruleset::new(Identity::current(&shared.instance().id), [&record]);
    if expected.elements.is_empty() {
        return Ok(None);
    }
    let guarded = loopback::guarded(&shared, &claim.ask.host_interfaces)?;
    let expected = expected.guarding(guarded.iter().map(String::as_str));
    Ok(Nft::open(&shared.instance().id)?.check(&expected)?)
}
