//! What goes to stdout (SPEC section 5, "Result Types"), complete. ADD prints its result as it is, and the other
//! commands nothing where they succeed.

use serde_json::json;

use super::version::Version;

/// The reply to VERSION, which gives the asker's `cniVersion` back even if it is not spoken.
pub fn versions(cni_version: &str) -> String {
    let spoken = Version::ALL.map(Version::as_str);
    json!({"cniVersion": cni_version, "supportedVersions": spoken}).to_string()
}

/// The reply to a command that failed, in the version that the asker speaks: [`super::reply_version`].
/// `message` tells a person what was attempted, and `details` why it failed.
pub fn failure(version: Version, code: u32, message: &str, details: &str) -> String {
    let version = version.as_str();
    json!({"cniVersion": version, "code": code, "msg": message, "details": details}).to_string()
}

#[cfg(test)]
mod tests;
