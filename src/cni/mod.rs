//! The bytes and variables of a CNI call in, a typed [`Call`] out, and the text of a reply.
//!
//! Everything is checked here once, so that a [`Call`] needs no checking. Nothing is read or
//! written: the caller hands in the environment, stdin and the node's own files.

mod address;
mod annotations;
mod command;
mod config;
mod convert;
mod env;
mod error;
mod gc;
mod grammar;
mod json;
mod judge;
mod mappings;
mod node_files;
mod number;
mod parse;
mod prev_result;
mod reply;
mod requests;
mod text;
mod version;

use std::collections::BTreeSet;

use serde_json::value::RawValue;

pub use self::annotations::{
    ALLOCATION, BIND, BindHook, ENV, MOUNT, PORTS, PodAnnotations, RANGE, bind_hook,
    requires_variables,
};
pub use self::command::Command;
pub use self::config::{
    Config, DEFAULT_LOCK_TIMEOUT, DEFAULT_MARK_BIT, DEFAULT_STATE_DIR, Setting, StoreConfig,
};
pub use self::env::Env;
pub use self::error::Error;
pub use self::node_files::{CLUSTER_FILE, NODE_DIR, NODE_FILE, NodeFile, NodeFiles};
pub use self::reply::{failure, versions};
pub use self::requests::{asking, read_annotations};
pub use self::version::Version;

pub(crate) use self::json::Entries;
use self::json::Object;
pub(crate) use self::number::range as port_range;
use crate::model::{Ask, Attachment};

/// One CNI call.
#[derive(Debug)]
pub enum Call {
    /// Take these host ports.
    Add(Claim),
    /// Say whether these host ports work as ADD left them.
    Check(Claim),
    /// Give back whatever the attachment holds. `has_mappings` is whether the request maps ports, which a
    /// runtime repeats on DEL.
    Del { attachment: Attachment, has_mappings: bool, store: StoreConfig },
    /// Give back what no valid attachment of the network holds; other networks are left alone. `None` if
    /// the runtime did not say which are valid, which is not the same as none.
    Gc { network: String, valid: Option<BTreeSet<Attachment>>, store: StoreConfig },
    /// Say whether ADD could work.
    Status(StoreConfig),
    /// Say which versions are spoken, with the asker's `cniVersion`: for [`versions`].
    Version { cni_version: String },
}

/// An ADD or CHECK.
#[derive(Debug)]
pub struct Claim {
    /// What is asked for. If no port is, the node's own files have not been read.
    pub ask: Ask,
    /// Whether the pod must not start without the agent.
    pub needs_agent: bool,
    /// The result that ADD prints: `prevResult` in the configuration's version.
    pub result: Box<RawValue>,
    pub store: StoreConfig,
}

/// A request that was understood.
#[derive(Debug)]
pub struct Parsed {
    pub call: Call,
    /// What was passed over, for the log: one line each.
    pub warnings: Vec<String>,
}

/// The version that an error reply to `stdin` is written in: the configuration's if it can be read
/// and is spoken, else the newest.
pub fn reply_version(stdin: &[u8]) -> Version {
    version_on(stdin).and_then(|text| Version::of_config(&text)).unwrap_or(Version::NEWEST)
}

/// `cniVersion`, if it can be read.
fn version_on(stdin: &[u8]) -> Option<String> {
    Object::decode("", "", stdin).and_then(|conf| conf.text("cniVersion")).ok()
}

#[cfg(test)]
mod tests;
