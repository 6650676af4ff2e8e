//! What goes to stdout.

use serde_json::json;
use serde_json::value::RawValue;

use super::version::Version;

/// An answer, complete (SPEC section 5, "Result Types").
#[derive(Debug)]
pub enum Reply {
    /// ADD succeeded: its result.
    Result(Box<RawValue>),
    /// DEL, CHECK, GC or STATUS succeeded: they say nothing.
    Nothing,
    /// VERSION.
    Versions {
        /// The asker's `cniVersion`, which is given back even if it is not spoken.
        cni_version: String,
    },
    /// Any command failed.
    Error {
        /// The version that the asker speaks: [`super::reply_version`].
        version: Version,
        code: u32,
        /// What was attempted, for a person.
        message: String,
        /// Why it failed, for a person.
        details: String,
    },
}

impl Reply {
    /// The bytes to print, and nothing besides.
    pub fn to_bytes(&self) -> Vec<u8> {
        let value = match self {
            Self::Result(result) => return result.get().as_bytes().to_vec(),
            Self::Nothing => return Vec::new(),
            Self::Versions { cni_version } => json!({
                "cniVersion": cni_version,
                "supportedVersions": Version::ALL.map(Version::as_str),
            }),
            Self::Error { version, code, message, details } => json!({
                "cniVersion": version.as_str(),
                "code": code,
                "msg": message,
                "details": details,
            }),
        };
        value.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests;
