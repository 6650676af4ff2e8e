//! One CNI command: the call in, a function of this module with what it asks, the reply out.

use std::io;
use std::time::Duration;

use super::release::delete_portmaps;
use super::{Claimed, check, claim, gc, release, status, store, tolerate, undo};
use crate::cni::{self, Call, Env, NodeFiles, StoreConfig};
use crate::error::Error;
use crate::event::{Event, Log, Undone};
use crate::store::{Deed, Entry, Store};

/// How long DEL and GC wait for the lock: their failure costs more than their delay, because a
/// failed DEL keeps the main plugin from giving back the pod's address.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the world outside provides to a command.
pub struct World<'a, N: Fn() -> NodeFiles> {
    /// The environment variables.
    pub env: &'a Env,
    /// Standard input, whole, or why it could not be read.
    pub stdin: io::Result<Vec<u8>>,
    /// Reads the node's own files; called only if they are needed.
    pub node_files: N,
    /// Whether anyone still reads the reply.
    pub is_awaited: &'a dyn Fn() -> bool,
    /// Seconds since the epoch.
    pub now: u64,
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
    /// The claim of an ADD, to undo it if the reply cannot be written.
    granted: Option<(Store, Claimed)>,
}

impl Outcome {
    /// Takes back what was granted, because the reply did not reach anyone: a DEL for it may have come and
    /// gone while the ADD waited for the lock.
    pub fn undo(self, now: u64, log: &mut dyn Log) {
        if let Some((store, claimed)) = self.granted {
            let undone = undo(&store, &claimed, &|| true, now, log);
            tolerate(undone, Undone::MappingLeft, log);
        }
    }
}

/// Runs one CNI command.
pub fn run<N: Fn() -> NodeFiles>(world: World<'_, N>) -> Outcome {
    let World { env, stdin, node_files, is_awaited, now, log } = world;
    let stdin = match stdin {
        Ok(stdin) => stdin,
        Err(source) => return failure(&Error::Stdin { source }, &[]),
    };
    let mut log = Journaled { log, now, entries: Vec::new() };
    let declared = |it: &_, pod: &_, needed| Ok::<_, Error>(store(it).declared(pod, needed)?);
    let answer = Call::parse(env, &stdin, &node_files, declared).and_then(|parsed| {
        for warning in parsed.warnings {
            log.note(Event::Ignored(warning));
        }
        execute(parsed.call, is_awaited, now, &mut log)
    });
    if let (Err(error), Some(title)) = (&answer, env.title()) {
        log.keep(Deed::Rejected, error.code(), format!("{title}: {}", error.in_one_line()));
    }
    let entries = log.entries;
    if !entries.is_empty() {
        store(&StoreConfig::in_part(&node_files(), &stdin)).note(entries);
    }
    match answer {
        Ok((stdout, granted)) => Outcome { stdout, failed: false, granted },
        Err(error) => failure(&error, &stdin),
    }
}

/// Passes events on, and keeps those that belong into the journal.
struct Journaled<'a> {
    log: &'a mut dyn Log,
    now: u64,
    entries: Vec<Entry>,
}

impl Journaled<'_> {
    fn keep(&mut self, kind: Deed, code: u32, text: String) {
        self.entries.push(Entry { time: self.now, kind, code, text });
    }
}

impl Log for Journaled<'_> {
    fn note(&mut self, event: Event) {
        let is = |deed, is: bool| is.then_some(deed);
        let deed = is(Deed::Superseded, matches!(event, Event::Superseded { .. }))
            .or_else(|| is(Deed::Built, matches!(event, Event::Built { .. })))
            .or_else(|| is(Deed::Mended, matches!(event, Event::Mended { .. })));
        if let Some(deed) = deed {
            self.keep(deed, 0, event.to_string());
        }
        self.log.note(event);
    }
}

fn failure(error: &Error, stdin: &[u8]) -> Outcome {
    let version = cni::reply_version(stdin);
    let reply = cni::failure(version, error.code(), &error.to_string(), &error.details());
    Outcome { stdout: reply.into_bytes(), failed: true, granted: None }
}

/// The reply to a command that ended in a panic: a bug, but the runtime still has to be told.
/// 999 is what the Go plugins say for an internal error.
pub fn panicked(message: &str) -> String {
    let attempted = format!("autoport {} panicked, please report it", env!("CARGO_PKG_VERSION"));
    cni::failure(cni::Version::NEWEST, 999, &attempted, message)
}

/// What is printed, and what was granted.
type Answer = (Vec<u8>, Option<(Store, Claimed)>);

fn execute(
    call: Call,
    is_awaited: &dyn Fn() -> bool,
    now: u64,
    log: &mut dyn Log,
) -> Result<Answer, Error> {
    let done = match call {
        Call::Add(asked) => {
            let store = store(&asked.store);
            if asked.needs_agent {
                store.require_agent()?;
            }
            let claimed = claim(&store, asked.ask, is_awaited, now, log)?;
            let granted = claimed.map(|claimed| (store, claimed));
            return Ok((asked.result.get().into(), granted));
        }
        Call::Check(asked) => check(&store(&asked.store), asked.ask, log),
        Call::Del { attachment, has_mappings, store: it } => {
            let store = store(&it).waiting(PATIENCE);
            let is_recorded = release(&store, &attachment.clone().into(), &|| true, now, log)?;
            if has_mappings && !is_recorded {
                delete_portmaps(&attachment, log);
            }
            Ok(())
        }
        Call::Gc { network, valid, store: it } => {
            gc(&store(&it).waiting(PATIENCE), &network, valid.as_ref(), now, log)
        }
        Call::Status(config) => status(&store(&config), log),
        Call::Version { cni_version } => return Ok((cni::versions(&cni_version).into(), None)),
    };
    done.map(|()| (Vec::new(), None))
}
