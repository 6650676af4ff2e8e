//! Why the kernel could not be asked or changed.

use std::io;

use super::ATTEMPTS;
use crate::model::HostPort;
use crate::ruleset;
use crate::ruleset::Set;

/// Why the kernel could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("could not {action} the netlink socket")]
    Socket { action: &'static str, source: io::Error },
    /// A question was answered with an error.
    #[error("the kernel did not report {what}")]
    Question { what: &'static str, source: io::Error },
    /// The kernel knows no tables.
    #[error(
        "this kernel has no nf_tables, or may not load it: load the module (modprobe nf_tables), or \
         boot a kernel that was built with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET"
    )]
    NoTables,
    /// The transaction was refused as a whole; nothing changed. `subject` is what the first refused
    /// message was about.
    #[error("the kernel rejected {subject} in {tables}, nothing was changed")]
    Refused { subject: String, tables: &'static str, source: io::Error },
    /// The kernel did not say whether the transaction is in force.
    #[error("the kernel did not say whether the change to table inet autoport is in force")]
    Unanswered,
    /// Somebody else changed the tables during each listing of them.
    #[error(
        "gave up listing table inet autoport after {ATTEMPTS} attempts: something keeps changing \
         the nftables of this node"
    )]
    Restless,
    /// The table was built from another store.
    #[error(
        "table inet autoport belongs to the store with instance {found}, this one is {expected}: \
         two state directories are in use on one node; give the plugin and the command line the \
         same stateDir, or run `autoport repair --adopt` if the other no longer exists"
    )]
    OtherInstance { found: String, expected: String },
    /// The table was built by a later version.
    #[error(
        "table inet autoport has layout {found}, this binary knows {}: install the newer \
         autoport on this node",
        ruleset::LAYOUT
    )]
    NewerLayout { found: u32 },
    /// An element is there that nobody recorded.
    #[error(
        "host port {host} is mapped to {target} by an element of {set} that no record accounts for; \
         `autoport repair` removes it"
    )]
    Unrecorded { host: HostPort, target: String, set: Set },
    /// The route towards a pod could not be looked up.
    #[error("could not find the interface towards pod {pod}")]
    Route { pod: std::net::IpAddr, source: io::Error },
    /// A sysctl, a file under `/proc/sys`, could not be written.
    #[error("could not set {path} to {value}")]
    Sysctl { path: String, value: &'static str, source: io::Error },
}

impl Error {
    /// The kernel answered the question for `what` with an errno.
    pub(super) fn question(what: &'static str, errno: i32) -> Self {
        Self::Question { what, source: io::Error::from_raw_os_error(errno) }
    }

    /// The errno with which the kernel answered a question, or rejected a change.
    pub(super) fn refusal(&self) -> Option<i32> {
        if let Self::Question { source, .. } | Self::Refused { source, .. } = self {
            source.raw_os_error()
        } else {
            None
        }
    }
}
