//! Ports that a daemon of the node has, taken out of the pool and given back.

use super::decide;
use crate::error::Error;
use crate::event::{Log, Then};
use crate::model::HostPort;
use crate::netns;
use crate::store::{self, Key, Reservation, Store, Who};

/// Records `reservation`, in place of the one of that name, which it gives. One that outlives a boot is
/// replaced by one that does. The kernel is not told: a reserved port has no pod.
///
/// An attachment that holds one of the ports keeps it, even one that would give way to a container.
///
/// # Errors
/// [`Error::Taken`], [`Error::Unreadable`] for the first who holds one of the ports; or what the
/// store says.
pub fn reserve(
    store: &Store,
    reservation: &mut Reservation,
    log: &mut dyn Log,
) -> Result<Option<Reservation>, Error> {
    let own = Key::of_reservation(&reservation.name).map_err(store::Error::from)?;
    let locked = store.lock(log)?;
    locked.belongs_here()?;
    let wanted = &reservation.hosts;
    for holder in locked.holders(wanted)? {
        let held = holder.hosts[0];
        let wanted = wanted.iter().copied().find(|host| host.overlaps(&held)).unwrap_or(held);
        match holder.who {
            Who::Record(record) if record.owner.netns.as_ref().is_some_and(netns::is_gone) => {
                let holder = format!(
                    "{}, which no longer exists: `autoport gc` releases its ports",
                    record.owner
                );
                return Err(Error::Taken { wanted, held, holder });
            }
            Who::Reservation(other) if other.name == reservation.name => {}
            Who::Unreadable(other) if other.key == own && other.is_discardable() => {}
            who @ (Who::Record(_) | Who::Reservation(_) | Who::Unreadable(_)) => {
                return Err(decide::refused(wanted, held, who));
            }
        }
    }
    let before = match locked.who(&own) {
        Some(Who::Reservation(before)) => Some(before),
        Some(Who::Record(_) | Who::Unreadable(_)) | None => None,
    };
    reservation.persistent |= before.as_ref().is_some_and(|before| before.persistent);
    match locked.reserve(reservation) {
        Err(store::Error::Unreadable(unreadable))
            if unreadable.key == own && unreadable.is_discardable() =>
        {
            log.note(unreadable.event(Then::Replaced));
            locked.release(&reservation.name)?;
            locked.reserve(reservation)?;
        }
        outcome => outcome?,
    }
    Ok(before)
}

/// Ends the reservation of this name and says which ports that frees; `None` when there is none.
///
/// # Errors
/// When the store fails.
pub fn unreserve(
    store: &Store,
    name: &str,
    log: &mut dyn Log,
) -> Result<Option<Vec<HostPort>>, Error> {
    Key::of_reservation(name).map_err(store::Error::from)?;
    let locked = store.lock(log)?;
    locked.belongs_here()?;
    Ok(locked.release(name)?)
}
