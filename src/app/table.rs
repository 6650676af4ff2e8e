//! What the records say of the table: all of it, or the part of one record.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::event::{Log, Then};
use crate::model::{Family, HostPort, Mapping, Record};
use crate::ruleset::{Identity, Key as Address, Ruleset, Set, SetKind, elements_of, places_of};
use crate::store::{Key, Shared, Who};

/// The table for all records but those of `without`, and with `instead`.
///
/// What a record that cannot be read has in the table is not known, and left as it is; its ports stay
/// held.
pub(super) fn ruleset(
    shared: &Shared,
    without: &[Key],
    instead: Option<&Record>,
    log: &mut dyn Log,
) -> Result<Ruleset, Error> {
    let mut records = Vec::new();
    let mut left_alone = BTreeSet::new();
    for read in shared.owned_records()? {
        match read {
            Ok(record) if !without.contains(&Key::of(&record.owner.holder)) => {
                records.push(record);
            }
            Err(unreadable) if !without.contains(&unreadable.key) => {
                left_alone.extend(shared.entered(&unreadable.key)?.iter().flat_map(places_of));
                log.note(unreadable.event(Then::LeftInTable));
            }
            Ok(_) | Err(_) => {}
        }
    }
    records.extend(instead.cloned());
    let inlets = shared.loopback()?;
    let guarded = inlets.iter().filter(|inlet| inlet.guarded).map(|inlet| inlet.interface.as_str());
    let mut whole =
        Ruleset::new(Identity::current(&shared.instance().id), &records).guarding(guarded);
    whole.spared = left_alone;
    Ok(whole)
}

/// Every place that `record` may have elements in for `mappings`, a part of its own.
///
/// What an earlier configuration of the network put there counts too: a command that was killed
/// between the record and the kernel has left it there. A pod that shares its subnet with nobody is known by its address. Where a DEL never came, the
/// address may have been given out again, and one hairpin element serves both records.
pub(super) fn places(
    shared: &Shared,
    record: &Record,
    mappings: &[Mapping],
) -> Result<BTreeSet<(Set, Address)>, Error> {
    let translated = mappings.iter().filter(|mapping| mapping.target.is_some());
    let mut places: BTreeSet<_> = translated.flat_map(|it| places_of(&it.host)).collect();
    for element in elements_of(record, mappings) {
        // A wildcard is alone on its port.
        let specific = element.host.filter(|host| !host.is_wildcard());
        if let Some(host) = specific.filter(|_| element.set.kind == SetKind::Hairpins) {
            let address = Family::of(&host.address).wildcard();
            let holders = shared.holders(&[HostPort { address, ..host }])?;
            let mut others = holders.iter().filter_map(|holder| match &holder.who {
                Who::Record(other) => (other.owner.holder != record.owner.holder).then_some(other),
                Who::Reservation(_) | Who::Unreadable(_) => None,
            });
            let place = element.place();
            if others.any(|one| elements_of(one, &one.mappings).any(|its| its.place() == place)) {
                continue;
            }
        }
        places.insert(element.place());
    }
    Ok(places)
}
