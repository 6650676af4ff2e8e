//! Why a network configuration is left as it is.

use crate::cni;

/// Why a configuration is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No JSON.
    #[error(
        "it is not valid JSON, so no runtime can read it: correct it, or move it to another folder"
    )]
    Json(#[source] serde_json::Error),
    /// JSON, but not what the specification says.
    #[error("{what} is not {expected}, as the CNI specification requires: correct it first")]
    Shape { what: &'static str, expected: &'static str },
    /// A version that is not spoken.
    #[error(
        "its cniVersion is {0}; autoport supports 0.1.0 to 1.1.0: set one of these, if all plugins of \
         the list support it"
    )]
    Version(String),
    /// More port mappers than one.
    #[error("it has {count} plugins of type {what}, which map each port twice: keep one of them")]
    Several { count: usize, what: &'static str },
    /// Nobody makes an interface before autoport's turn.
    #[error(
        "its first plugin is {0:?}, which makes no interface for the pod, so autoport would get no \
         prevResult: put the main plugin (bridge, ptp, calico, ...) first, or name the right file \
         with --conflist"
    )]
    NoMainPlugin(String),
    /// The pods' network is in another file.
    #[error(
        "its first plugin is {0:?}, which does not pass pod annotations on: name the file of the \
         cluster's default network, to which it delegates, with --conflist"
    )]
    Delegating(String),
    /// A restriction that cannot be taken over. It must not be dropped in silence.
    #[error(
        "portmap's {key} is {value}, which autoport cannot translate: it supports single conditions on \
         the source or destination address. Remove {key}, name the clients that may connect in \
         \"sourceRanges\" and the node's addresses in \"hostAddresses\", and install again"
    )]
    Condition { key: &'static str, value: String },
    /// The changed text is not what was meant. The file is not touched.
    #[error(
        "the change would break the list, which is a bug in autoport: change the file by hand, and \
         report the bug with this file"
    )]
    Broken,
    /// What was taken over from portmap is no configuration of autoport.
    #[error("portmap's settings in it are not valid for autoport: correct them first")]
    Config(#[source] cni::Error),
}
