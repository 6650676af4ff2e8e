//! `autoport explain`: what an ADD would do, by the code that would do it.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::decide::{self, Plan};
use super::gather::{Gathered, Scene};
use super::list::Told;
use super::loopback::{self, Opening};
use super::table;
use crate::cni::{Call, Claim, Env, NodeFiles, StoreConfig};
use crate::error::Error;
use crate::event::{Event, Log};
use crate::kernel::{self, Nft};
use crate::model::{Allocation, Owner, Record};
use crate::publication::Publication;
use crate::ruleset::{Identity, Ruleset};
use crate::store::{self, Key, Shared, Store};

/// The instance of a store that does not exist: ADD would draw a random one.
pub const NO_INSTANCE: &str = "00000000000000000000000000000000";

/// What there is to say about a request.
#[derive(Debug)]
pub struct Explained {
    /// What ADD would do; `None` where no host port is asked for, or the container's other networks
    /// map them all.
    pub outcome: Result<Option<Foreseen>, Error>,
    /// What ADD would write to its log besides.
    pub log: Vec<Event>,
    /// What could not be looked at, and what was assumed instead.
    pub unseen: Vec<String>,
}

/// What an ADD would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Foreseen {
    /// The record that would be written.
    pub record: Record,
    /// The file of that record.
    pub record_file: PathBuf,
    /// The record that the attachment has now.
    pub before: Option<Record>,
    /// The holders that would lose their ports.
    pub superseded: Vec<Superseded>,
    /// Whether another run may choose other numbers.
    pub random: bool,
    /// The change to the table, as an nft script; `None` if nothing is translated.
    pub nft: Option<String>,
    /// The interface on which `route_localnet` would be set.
    pub route_localnet: Option<String>,
    /// The files that would be published for the pod's containers.
    pub published: Option<Told>,
}

/// A holder that would lose all its host ports.
#[derive(Debug, Serialize)]
pub struct Superseded {
    /// The holder.
    #[serde(flatten)]
    pub owner: Owner,
    /// The evidence that it no longer exists, in words.
    pub reason: &'static str,
}

/// Says what the ADD in `env` and `stdin` would do, and changes nothing: the store is locked for
/// reading, and the kernel is only asked. `state_dir` wins over that of the configuration.
pub fn explain(
    env: &Env,
    stdin: &[u8],
    node_files: impl FnOnce() -> NodeFiles,
    now: u64,
    state_dir: Option<PathBuf>,
) -> Explained {
    let (mut log, mut unseen) = (Vec::new(), Vec::new());
    let declared = |config: &StoreConfig, pod: &_, needed| {
        let store = Store::at(state_dir.as_ref().unwrap_or(&config.state_dir));
        Ok::<_, Error>(store.declared(pod, needed)?)
    };
    let outcome = Call::parse(env, stdin, node_files, declared).and_then(|parsed| {
        log.extend(parsed.warnings.into_iter().map(Event::Ignored));
        // The environment says ADD: the command line sets it.
        let Call::Add(mut claim) = parsed.call else { return Ok(None) };
        if let Some(state_dir) = state_dir {
            claim.store.state_dir = state_dir;
        }
        foresee(claim, now, &mut log, &mut unseen)
    });
    Explained { outcome: outcome.map_err(Error::with_process), log, unseen }
}

fn foresee(
    mut claim: Claim,
    now: u64,
    log: &mut dyn Log,
    unseen: &mut Vec<String>,
) -> Result<Option<Foreseen>, Error> {
    if claim.ask.is_empty() {
        return Ok(None);
    }
    let config = claim.store.clone();
    let store = super::store(&config);
    // Without the privilege to ask, the script says so below.
    let mut nft = Nft::open(NO_INSTANCE).ok();
    let gathered = Gathered::of(&claim.ask, nft.as_mut())?;
    let shared = match store.read(log) {
        Err(error) if is_withheld(&error) => {
            let told = Error::from(error).in_one_line();
            unseen.push(format!("{told}; the store is assumed to be empty"));
            None
        }
        read => read?,
    };
    if let Some(shared) = &shared {
        shared.belongs_here()?;
    }
    let shared = shared.as_ref();
    let scene = Scene { shared, is_real: false, gathered: &gathered, now };
    let Some(plan) = decide::decide(&scene, &mut claim.ask, log)? else { return Ok(None) };
    let Plan { before, giving_way, wanted, .. } = plan;
    let going: Vec<&Record> = before.iter().chain(giving_way.iter().map(|(one, _)| one)).collect();
    let opening = loopback::towards(shared, &wanted, &claim.ask, gathered.towards.as_deref())?;
    let nft = script(shared, &going, &wanted, opening.as_ref(), log, unseen)?;
    let published = wanted.owner.uid().and_then(|uid| {
        let found = shared.and_then(|shared| shared.records_of_pod(uid).ok()).unwrap_or_default();
        let mut records: Vec<Record> = found.into_iter().flatten().collect();
        records.retain(|record| record.owner.holder != wanted.owner.holder);
        records.push(wanted.clone());
        let publication = Publication::of(&records)?;
        Some(Told::new(store.published_at(uid)?, publication))
    });
    let superseded = giving_way.into_iter();
    Ok(Some(Foreseen {
        record_file: store.path_of(&claim.ask.holder),
        random: claim.ask.allocation == Allocation::Random && !claim.ask.requested.is_empty(),
        superseded: superseded
            .map(|(one, reason)| Superseded { owner: one.owner, reason })
            .collect(),
        record: wanted,
        before,
        nft,
        route_localnet: opening.as_ref().and_then(Opening::switched_on).map(str::to_owned),
        published,
    }))
}

/// Whether only root may know.
fn is_withheld(error: &store::Error) -> bool {
    matches!(error, store::Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
        // Whoever is not root owns no directory of root's.
        || matches!(error, store::Error::ForeignOwner { euid, .. } if *euid != 0)
}

/// What makes the table lead to `wanted` instead of to what is `going`.
fn script(
    shared: Option<&Shared>,
    going: &[&Record],
    wanted: &Record,
    opening: Option<&Opening>,
    log: &mut dyn Log,
    unseen: &mut Vec<String>,
) -> Result<Option<String>, Error> {
    let mut change = decide::change(shared, wanted, going.iter().copied())?;
    if change.is_empty() {
        return Ok(None);
    }
    if let Some(opening) = opening {
        opening.guard(&mut change);
    }
    let mut without: Vec<Key> = going.iter().map(|one| Key::of(&one.owner.holder)).collect();
    without.push(Key::of(&wanted.owner.holder));
    let mut everything = || {
        let whole = match shared {
            Some(shared) => table::ruleset(shared, &without, Some(wanted), log)?,
            None => Ruleset::new(Identity::current(NO_INSTANCE), [wanted]),
        };
        Ok(whole.guarding(opening.and_then(Opening::guarded)))
    };
    let instance = shared.map_or(NO_INSTANCE, |shared| &shared.instance().id);
    let preview = Nft::open(instance)
        .map_err(Error::from)
        .and_then(|mut nft| nft.preview(&change, &mut everything));
    match preview {
        Err(Error::Kernel(
            error @ (kernel::Error::Socket { .. }
            | kernel::Error::Question { .. }
            | kernel::Error::Restless),
        )) => {
            let told = Error::from(error).in_one_line();
            unseen.push(format!("{told}; the table is assumed to be missing"));
            Ok(Some(everything()?.to_string()))
        }
        preview => preview.map(Some),
    }
}
