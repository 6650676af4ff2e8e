//! The agent's own configuration file, and the plugin's configuration on this node, which holds for the
//! agent too.

mod plugin;

use std::fmt;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use autoport::regular;
use serde::Deserialize;

use crate::metrics::Address;

pub use self::plugin::Plugin;

/// Where the file is if no option says otherwise; it need not exist.
pub const FILE: &str = "/etc/cni/autoport-agent.json";

/// The socket of containerd and CRI-O.
pub use autoport::diagnosis::NRI_SOCKET as SOCKET;

/// Where runtimes look for network configurations.
pub const NET_CONF_DIR: &str = "/etc/cni/net.d";

/// How many `EndpointSlices` an agent makes at most: those of 128 Pods in two families.
pub const MAX_ENDPOINT_SLICES: usize = 256;

/// The NRI index of the agent that leads where it can, and of the one that stands by. Runtimes call plugins in
/// ascending order, so the standby is called when the leader has not answered in time.
pub const INDEX: u8 = 50;
pub const STANDBY_INDEX: u8 = 51;

/// The keys of the file. All are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    pub socket: Option<PathBuf>,
    pub index: Option<u8>,
    pub net_conf_dir: Option<PathBuf>,
    pub metrics_address: Option<Address>,
    pub kubeconfig: Option<PathBuf>,
    pub node_name: Option<String>,
    pub device_plugins: Option<PathBuf>,
    pub discovery: Option<bool>,
    pub max_endpoint_slices: Option<NonZeroU16>,
    pub log_format: Option<LogFormat>,
    pub log_level: Option<LogLevel>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people
    #[default]
    Text,
    /// A JSON object in each line
    Json,
}

/// Which log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures only
    Error,
    /// What needs attention, too
    Warn,
    /// What changes, too
    #[default]
    Info,
    /// Every event of the runtime, too
    Debug,
}

/// Why a configuration cannot be used, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unusable {
    path: PathBuf,
    reason: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot use {}: {}; correct it", self.path.display(), self.reason)
    }
}

impl Unusable {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), reason: reason.into() }
    }
}

impl File {
    /// Reads the file at `path`, or at [`FILE`] if there is one.
    ///
    /// # Errors
    /// When it cannot be read or understood, also for a key that does not exist.
    pub fn read(path: Option<&Path>) -> Result<Self, Unusable> {
        let (is_asked, path) = (path.is_some(), path.unwrap_or(Path::new(FILE)));
        match regular::read(path) {
            Ok(bytes) => Self::parse(&bytes).map_err(|reason| Unusable::new(path, reason)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_asked => {
                Ok(Self::default())
            }
            Err(error) => Err(Unusable::new(path, error.to_string())),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        for (key, path) in [
            ("socket", &file.socket),
            ("netConfDir", &file.net_conf_dir),
            ("kubeconfig", &file.kubeconfig),
            ("devicePlugins", &file.device_plugins),
        ] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(format!("{key} must be an absolute path"));
            }
        }
        if file.index.is_some_and(|index| index > 99) {
            return Err("index must be 0 to 99".to_owned());
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_are_optional() {
        assert_eq!(File::parse(b"{}"), Ok(File::default()));
        let all = br#"{"socket": "/run/nri.sock", "index": 51, "netConfDir": "/etc/cni/net.d",
                       "metricsAddress": "127.0.0.1:9417", "kubeconfig": "/etc/kubernetes/kubelet.conf",
                       "nodeName": "n1", "devicePlugins": "/x", "discovery": true,
                       "maxEndpointSlices": 64, "logFormat": "json", "logLevel": "debug"}"#;
        let file = File::parse(all).expect("all keys are right");
        assert_eq!((file.index, file.log_format), (Some(51), Some(LogFormat::Json)));
        assert!(File::read(Some(Path::new("/no/such/file"))).is_err());
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_names_it() {
        for (text, named) in [
            (r#"{"sockets": "/x"}"#, "`sockets`"),
            (r#"{"index": "50"}"#, "invalid type: string \"50\""),
            (r#"{"index": 100}"#, "index must be 0 to 99"),
            (r#"{"socket": "nri.sock"}"#, "socket must be an absolute path"),
            (r#"{"logFormat": "xml"}"#, "`xml`"),
            (r#"{"metricsAddress": ":9417"}"#, "\":9417\" is not an IP address and a port"),
            (r#"{"maxEndpointSlices": 0}"#, "nonzero"),
            ("[]x", "invalid length"),
            ("", "EOF"),
        ] {
            let reason = File::parse(text.as_bytes()).expect_err("it is wrong");
            assert!(reason.contains(named), "{text}: {reason}");
        }
        let told = Unusable::new(Path::new("/etc/cni/x.json"), "unknown field `a`").to_string();
        assert_eq!(told, "cannot use /etc/cni/x.json: unknown field `a`; correct it");
    }
}
