//! One function per command: the request, the store, the decision, the kernel, the reply.

mod add;
mod adopt;
mod check;
mod choose;
mod collect;
mod del;
mod dismantle;
mod everything;
mod examine;
mod explain;
mod inspect;
mod loopback;
mod past;
mod prepare;
mod reserve;
mod siblings;
mod survey;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cni::{self, Env, Reply, Request};
use crate::error::Error;
use crate::event::{Event, Log, Undone};
use crate::kernel::{self, Applied, Nft, Redirected};
use crate::model::{Family, HostPort, Mapping, Record};
use crate::ruleset::{Key, Set, SetKind, elements_of, places_of};
use crate::store::{Locked, PERSISTENT, Shared, Store, Unlocked, Who};

pub use add::claim;
pub use collect::{Collected, Evidence, Judged, collect, judge};
pub use dismantle::{Dismantled, dismantle};
pub use everything::{Ownership, Repaired, repair};
pub use examine::{Examined, examine};
pub use explain::{Explained, Foreseen, NO_INSTANCE, explain};
pub use inspect::{
    Ambiguous, InKernel, Listing, MappingInKernel, Overview, Subject, Told, in_kernel, list,
    overview, told,
};
pub use reserve::{release, reserve};
pub use watch::watch;

/// What the world outside provides to a command.
pub struct World<'a, N: FnOnce() -> io::Result<Option<Vec<u8>>>> {
    /// The environment variables.
    pub env: &'a Env,
    /// Standard input, whole, or why it could not be read.
    pub stdin: io::Result<Vec<u8>>,
    /// Reads [`cni::NODE_FILE`]; called only if it is needed.
    pub node_file: N,
    /// The time.
    pub now: SystemTime,
    /// Where messages for the operator go. The reply does not.
    pub log: &'a mut dyn Log,
}

/// What a command leaves behind.
#[derive(Debug)]
pub struct Outcome {
    /// The reply, to be printed as it is.
    pub stdout: Vec<u8>,
    /// Whether it is an error.
    pub failed: bool,
}

/// Runs one CNI command.
pub fn run<N: FnOnce() -> io::Result<Option<Vec<u8>>>>(world: World<'_, N>) -> Outcome {
    let World { env, stdin, node_file, now, log } = world;
    let stdin = match stdin {
        Ok(stdin) => stdin,
        Err(source) => return failure(&Error::Stdin { source }, &[]),
    };
    let answer = Request::parse(env, &stdin, node_file).map_err(Error::from).and_then(|parsed| {
        for warning in parsed.warnings {
            log.note(Event::Ignored(warning));
        }
        execute(parsed.request, now, log)
    });
    match answer {
        Ok(reply) => Outcome { stdout: reply.to_bytes(), failed: false },
        Err(error) => failure(&error, &stdin),
    }
}

fn failure(error: &Error, stdin: &[u8]) -> Outcome {
    let reply = Reply::Error {
        version: cni::reply_version(stdin),
        code: error.code(),
        message: error.to_string(),
        details: error.details(),
    };
    Outcome { stdout: reply.to_bytes(), failed: true }
}

/// The reply to a command that ended in a panic: a bug, but the runtime still has to be told.
/// 999 is what the Go plugins say for an internal error.
#[must_use]
pub fn panicked(message: &str) -> String {
    let reply = Reply::Error {
        version: cni::Version::NEWEST,
        code: 999,
        message: format!("autoport {} panicked, please report it", env!("CARGO_PKG_VERSION")),
        details: message.to_owned(),
    };
    String::from_utf8_lossy(&reply.to_bytes()).into_owned()
}

fn execute(request: Request, now: SystemTime, log: &mut dyn Log) -> Result<Reply, Error> {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    match request {
        Request::Add(claim) => {
            let (store, patience) = (store(&claim.store), claim.store.lock_timeout);
            add::claim(&store, patience, claim.ask, now, log)?;
            Ok(Reply::Result(claim.result))
        }
        Request::Check(claim) => check::check(claim, now, log).map(|()| Reply::Nothing),
        Request::Del(release) => del::del(&release, now, log).map(|()| Reply::Nothing),
        Request::Gc(sweep) => del::gc(&sweep, now, log).map(|()| Reply::Nothing),
        Request::Status(config) => status(&config, log).map(|()| Reply::Nothing),
        Request::Version { cni_version } => Ok(Reply::Versions { cni_version }),
    }
}

/// The store that a configuration names. Reservations that outlive a boot belong to the node's own.
#[must_use]
pub fn store(config: &cni::StoreConfig) -> Store {
    let store = Store::at(&config.state_dir);
    if config.state_dir == Path::new(cni::DEFAULT_STATE_DIR) {
        store.with_persistent(Path::new(PERSISTENT))
    } else {
        store
    }
}

/// Succeeds when an ADD could: the store can be locked and is this node's, and `nf_tables` answers.
fn status(config: &cni::StoreConfig, log: &mut dyn Log) -> Result<(), Error> {
    let mut usable = || {
        match store(config).lock(config.lock_timeout, log) {
            Ok(locked) => {
                locked.belongs_here()?;
                Ok(Nft::open(&locked.instance().id)?.probe()?)
            }
            // Busy is not broken.
            Err(crate::store::Error::LockTaken { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    };
    usable().map_err(|source: Error| Error::Unavailable { source: Box::new(source) })
}

/// Notes what had to be changed in the table besides what a command is about, and hands back what is
/// unfinished.
fn report(applied: Applied, log: &mut dyn Log) -> Option<kernel::Error> {
    let mended = applied.summary();
    if let Some(reason) = applied.rebuilt {
        log.note(Event::Built { reason });
    }
    if let Some(summary) = mended {
        log.note(Event::Mended { summary });
    }
    applied.unfinished
}

/// Ends the flows that `change` makes stale. One that lives on is worth a word, not the failure of a command
/// whose change is in force.
fn end_flows(nft: &mut Nft, change: &Redirected, log: &mut dyn Log) {
    if let Err(error) = nft.end_flows(change) {
        failed(log, Undone::StaleFlows, error);
    }
}

/// How long is waited for a pod's directory, in which a command may be held up by its containers.
const PATIENCE_WITH_POD: Duration = Duration::from_secs(5);

/// Writes the published files of every pod whose records were changed. A container may have made
/// anything of its directory, and no command fails for that of another pod.
fn publish_rest(unlocked: Unlocked, log: &mut dyn Log) {
    for error in unlocked.publish_rest(PATIENCE_WITH_POD, &kernel::outward_addresses, log) {
        failed(log, Undone::PublicationLeft, error);
    }
}

/// The same, and deletes those of pods that have no record. Gives the first failure and notes the
/// others.
fn clear_published(locked: Locked, log: &mut dyn Log) -> Result<(), Error> {
    let unlocked = locked.unlock();
    let cleared = unlocked.clear_published(PATIENCE_WITH_POD, log);
    publish_rest(unlocked, log);
    let mut failures = cleared?.into_iter();
    let first = failures.next();
    for error in failures {
        failed(log, Undone::PublicationLeft, error);
    }
    first.map_or(Ok(()), |error| Err(error.into()))
}

/// Whether exactly this host port is recorded.
fn holds(record: Option<&Record>, host: &HostPort) -> bool {
    let find = |record: &Record| record.mappings.binary_search_by(|it| it.host.cmp(host)).is_ok();
    record.is_some_and(find)
}

/// Every place that `record` may have elements in for `mappings`, a part of its own.
///
/// What an earlier configuration of the network put there counts too: a command that was killed
/// between the record and the kernel has left it there. A pod that shares its subnet with nobody is known by its address. Where a DEL never came, the
/// address may have been given out again, and one hairpin element serves both records.
fn places(
    shared: &Shared,
    record: &Record,
    mappings: &[Mapping],
) -> Result<BTreeSet<(Set, Key)>, Error> {
    let translated = mappings.iter().filter(|mapping| mapping.target.is_some());
    let mut places: BTreeSet<_> = translated.flat_map(|mapping| places_of(&mapping.host)).collect();
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

/// Notes an error that does not fail the command.
fn failed(log: &mut dyn Log, what: Undone, error: impl Into<Error>) {
    log.note(Event::Failed { what, error: Box::new(error.into()) });
}
