//! `agent.json`: that an agent is connected to the runtime. Plugins of any version and other agents read it.

#![expect(clippy::disallowed_methods, reason = "the agent's own file in the state directory")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use autoport::store::BindHook;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::clock::{Instant, STOPPED};
use super::error::Error;

/// The version of the file, raised when an older reader would misunderstand it.
const VERSION: u32 = 1;

/// As long as it is ever written: it is overwritten in its place, which needs no free memory on a tmpfs.
const LENGTH: usize = 128;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub version: u32,
    /// Of the leader, in its own PID namespace.
    pub pid: u32,
    /// Whether the runtime's session is synchronized, and the agent is not about to end.
    pub connected: bool,
    /// Whether the leader hands the lead over to an agent that waits for it.
    #[serde(default)]
    pub standby: bool,
    /// Whether the agent can attach the bind hook.
    #[serde(default, rename = "bindHook", skip_serializing_if = "Option::is_none")]
    pub bind_hook: Option<BindHook>,
    /// When it was written.
    #[serde(with = "nanoseconds")]
    pub heartbeat: Instant,
}

mod nanoseconds {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Instant;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(time: &Instant, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(time.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Instant, D::Error> {
        u64::deserialize(from).map(Instant)
    }
}

/// Writes and reads the file.
#[derive(Debug)]
pub(super) struct Heart {
    path: PathBuf,
    standby: bool,
    pub(super) bind_hook: Option<BindHook>,
    /// The last beat that this process has written. A PID would not tell: agents in several containers
    /// may have the same.
    own: Option<Instant>,
}

impl Heart {
    pub(super) const fn at(path: PathBuf, standby: bool) -> Self {
        Self { path, standby, bind_hook: None, own: None }
    }

    /// Writes that this agent is there, and whether the plugin may count on it.
    pub(super) fn write(&mut self, now: Instant, connected: bool) -> Result<(), Error> {
        let (version, pid) = (VERSION, std::process::id());
        let Self { standby, bind_hook, .. } = *self;
        let beat = Heartbeat { version, pid, connected, standby, bind_hook, heartbeat: now };
        let text = serde_json::to_string(&beat).map_err(io::Error::other);
        let text = text.map_err(Error::of("encode", &self.path))?;
        let text = format!("{text:<width$}\n", width = LENGTH - 1);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits());
        let file: File = options.open(&self.path).map_err(Error::of("open", &self.path))?;
        file.write_all_at(text.as_bytes(), 0).map_err(Error::of("write", &self.path))?;
        self.own = Some(now);
        Ok(())
    }

    /// The last beat, if another agent has written it a short time ago.
    pub(super) fn of_another(&self, now: Instant) -> Result<Option<Heartbeat>, Error> {
        Ok(last(&self.path, now)?.filter(|seen| Some(seen.heartbeat) != self.own))
    }
}

/// The beat of an agent that beats.
///
/// # Errors
/// When the file cannot be read.
pub fn last(path: &Path, now: Instant) -> Result<Option<Heartbeat>, Error> {
    Ok(read(path)?.filter(|seen| now.since(seen.heartbeat) < STOPPED))
}

/// Reads such a file; `None` where there is none, or one that this version does not understand.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Option<Heartbeat>, Error> {
    match autoport::regular::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::of("read", path)(error)),
    }
}
