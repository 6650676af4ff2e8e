//! Whether what is held works: the record against what is asked for, then the kernel against the record.

use super::{decide, loopback};
use crate::error::Error;
use crate::event::Log;
use crate::kernel::Nft;
use crate::model::{Ask, Grant, Record};
use crate::plan;
use crate::ruleset::{Identity, Ruleset};
use crate::store::{self, Key, Store};

/// Succeeds when everything is as [`super::claim()`] left it.
///
/// # Errors
/// [`Error::Different`]; or what the store or the kernel says.
pub fn check(store: &Store, mut ask: Ask, log: &mut dyn Log) -> Result<(), Error> {
    if ask.is_empty() {
        return Ok(());
    }
    match difference(store, &mut ask, log)? {
        None => Ok(()),
        Some(difference) => {
            Err(Error::Different { attachment: ask.holder.to_string(), difference })
        }
    }
}

fn difference(store: &Store, ask: &mut Ask, log: &mut dyn Log) -> Result<Option<String>, Error> {
    let nothing_recorded = || Ok(Some("nothing is recorded for it".to_owned()));
    let Some(shared) = store.read(log)? else { return nothing_recorded() };
    shared.belongs_here()?;
    let record = shared.record(&Key::of(&ask.holder)).map_err(store::Error::from)?;
    let (claimant, _) = decide::owner(ask);
    // What it holds it left to nobody.
    let holds = |record: &Record| ask.fixed.iter().all(|it| record.mapping_at(&it.host).is_some());
    if !record.as_ref().is_some_and(holds) {
        let holders = shared.holders(&decide::hosts_of(&ask.fixed))?;
        decide::leave_to_siblings(&holders, &claimant, &mut ask.fixed);
        if ask.is_empty() {
            return Ok(None);
        }
    }
    let Some(record) = record else { return nothing_recorded() };
    let numbers = plan::earlier(&ask.requested, &record.grants);
    let mut grants = Vec::new();
    for (request, number) in ask.requested.iter().zip(numbers) {
        let Some(port) = number else {
            return Ok(Some(format!("no host port was chosen for {request}")));
        };
        grants.push(Grant { request: request.clone(), port });
    }
    let wanted = decide::mappings(ask, &claimant, &grants, shared.instance().netns);
    if let Some(difference) = plan::difference(&record, &ask.policy, &wanted) {
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
    let guarded = loopback::guarded(&shared, &ask.host_interfaces)?;
    let expected = expected.guarding(guarded.iter().map(String::as_str));
    Ok(Nft::open(&shared.instance().id)?.check(&expected)?)
}
