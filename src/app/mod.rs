//! A file for each thing that can be done: `claim`, `release`, `check`, `gc`, `repair`, `list` and so on
//! are functions over the store and the kernel; [`run`] makes calls of them out of CNI's.

mod adopt;
mod check;
mod choose;
mod claim;
mod command;
mod decide;
mod differences;
mod dismantle;
mod explain;
mod gather;
mod gc;
mod list;
mod loopback;
mod phases;
mod reconcile;
mod release;
mod repair;
mod reserve;
mod status;
mod survey;
mod table;
mod watch;

use std::path::Path;

use crate::cni;
use crate::error::Error;
use crate::event::{Event, Log, Undone};
use crate::kernel::{self, Applied, Nft, Redirected};
use crate::store::{PERSISTENT, Store, Unreadable};

pub use check::check;
pub use claim::{Claimed, claim, undo};
pub use command::{Outcome, World, panicked, run};
pub use differences::{Examined, Offloaded, examine};
pub use dismantle::{Dismantled, dismantle};
pub use explain::{Explained, Foreseen, NO_INSTANCE, Superseded, explain};
pub use gc::{Collected, Judged, collect, gc};
pub use list::{
    Ambiguous, InKernel, Listing, MappingInKernel, Told, Unread, in_kernel, list, records_of_pod,
    told,
};
pub use release::release;
pub use repair::{Ownership, Repaired, repair};
pub use reserve::{reserve, unreserve};
pub use status::{Overview, overview, status};
pub use watch::watch;

/// The store that a configuration names. Reservations that outlive a boot belong to the node's own.
pub fn store(config: &cni::StoreConfig) -> Store {
    let store = Store::at(&config.state_dir).waiting(config.lock_timeout);
    if config.state_dir == Path::new(cni::DEFAULT_STATE_DIR) {
        store.with_persistent(Path::new(PERSISTENT))
    } else {
        store
    }
}

/// Notes what had to be changed in the table besides what a command is about.
///
/// # Errors
/// Why something that was released may still be there.
fn report(applied: &mut Applied, log: &mut dyn Log) -> Result<(), Error> {
    if let Some(reason) = applied.rebuilt.clone() {
        log.note(Event::Built { reason });
    }
    if let Some(summary) = applied.summary() {
        log.note(Event::Mended { summary });
    }
    if let Some(error) = applied.not_offloaded.take() {
        failed(log, Undone::NotOffloaded, error);
    }
    applied.unfinished.take().map_or(Ok(()), |error| Err(error.into()))
}

/// Ends the flows that `change` makes stale; says whether it makes sense to try that again. One that lives on is
/// worth a word, not the failure of a command whose change is in force.
fn end_flows(nft: &mut Nft, change: &Redirected, log: &mut dyn Log) -> bool {
    let ended = nft.end_flows(change);
    let passes = matches!(ended, Err(kernel::Error::Restless | kernel::Error::Socket { .. }));
    tolerate(ended, Undone::StaleFlows, log);
    passes
}

/// What could be read, and what could not.
fn split<T>(read: Vec<Result<T, Unreadable>>) -> (Vec<T>, Vec<Unreadable>) {
    let mut unreadable = Vec::new();
    let readable = |one: Result<T, _>| one.map_err(|error| unreadable.push(error)).ok();
    (read.into_iter().filter_map(readable).collect(), unreadable)
}

/// Notes why something failed that does not fail the command.
fn tolerate(result: Result<(), impl Into<Error>>, what: Undone, log: &mut dyn Log) {
    if let Err(error) = result {
        failed(log, what, error);
    }
}

/// Notes an error that does not fail the command.
fn failed(log: &mut dyn Log, what: Undone, error: impl Into<Error>) {
    let error: Error = error.into();
    log.note(Event::Failed { what, code: error.code(), error: error.in_one_line() });
}
