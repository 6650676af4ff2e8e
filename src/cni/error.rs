//! What can be wrong with a request, as facts.

use std::error::Error as _;
use std::io;
use std::num::NonZeroU16;
use std::path::PathBuf;

use super::command::Command;
use super::text::quote;

/// Why a request was not understood. Which number the runtime is told is decided outside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `CNI_*` variables are missing or malformed; all of them at once. The specification's code 4.
    #[error("the CNI environment cannot be used: {}", problems.join(", "))]
    Environment { problems: Vec<String> },
    /// The configuration's version is not spoken, or too old for the command. Code 1.
    #[error(
        "cniVersion {} of the network configuration does not work with {command}, \
         supported are {}", quote(config), command.versions().join(", ")
    )]
    IncompatibleVersion { config: String, command: Command },
    /// A key or value that must not be ignored and cannot be served. Code 2.
    #[error("{key} is {value}, which is not supported: {remedy}")]
    Unsupported { key: String, value: String, remedy: String },
    /// Text that is not JSON. Code 6.
    #[error("cannot decode {what}")]
    Decode { what: String, source: serde_json::Error },
    /// A value of another JSON type than its key takes. Code 6, as Go's decoder makes it.
    #[error("cannot decode {key}: found {value}, expected {expected}")]
    WrongType { key: String, value: String, expected: &'static str },
    /// A value of the right type that makes no sense: as JSON, or `missing`. Code 7.
    #[error("{key} is {value}, {allowed}")]
    Invalid { key: String, value: String, allowed: String },
    /// An annotation asks for more ports than any Pod may have. Code 104.
    #[error(
        "annotation {key} lists {count} items and asks for a host port with each, which is more \
         than maxPortsPerPod of this node's configuration permits, {most}; ask for fewer ports, or \
         have the node's operator raise maxPortsPerPod"
    )]
    TooMany { key: &'static str, count: usize, most: NonZeroU16 },
    /// The annotations name ports that only the Pod's spec has. Unless it is `needed`, a patched kubelet or a
    /// webhook may have served them. Code 7.
    #[error("the Pod's annotations name ports of its spec; list them in autoport.cni/ports")]
    NeedsSpec { needed: bool },
    /// A file of the node is there and cannot be read. Code 5.
    #[error("cannot read {}", path.display())]
    NodeFile { path: PathBuf, source: io::Error },
}

impl Error {
    /// A value that is needed is not there.
    pub(super) fn missing(key: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), value: "missing".to_owned(), allowed: allowed.into() }
    }

    /// What is wrong with the value of an annotation.
    pub fn annotation(key: &str, value: &str, allowed: impl Into<String>) -> Self {
        let (key, value) = (format!("annotation {key}"), quote(value));
        Self::Invalid { key, value, allowed: allowed.into() }
    }

    /// This error and its cause in one line, for places that have no `details`.
    pub fn in_one_line(&self) -> String {
        self.source().map_or_else(|| self.to_string(), |cause| format!("{self}: {cause}"))
    }
}
