//! Asking an agent of this machine whether it is well, as a process of its own: kubelet's exec probe. Its
//! probes by HTTP could reach another Pod on the host network, the one that an update is about to end.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the agent may take for each step.
const LIMIT: Duration = Duration::from_secs(2);

/// More than an answer has.
const MAX: u64 = 16 << 10;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Probe {
    /// Whether the agent runs
    Alive,
    /// Whether it is connected to the runtime, or the node has no runtime with NRI
    Ready,
}

impl Probe {
    const fn path(self) -> &'static str {
        match self {
            Self::Alive => "/healthz",
            Self::Ready => "/readyz",
        }
    }
}

/// Asks the agent at this socket. Gives its text as an error where it is not well.
///
/// # Errors
/// When it does not answer.
pub fn ask(socket: &Path, probe: Probe) -> io::Result<Result<(), String>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let path = probe.path();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: autoport-agent\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let unknown = || io::Error::other("the answer is not HTTP");
    let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(unknown)?;
    let status = head.split(' ').nth(1).ok_or_else(unknown)?;
    Ok(if status == "200" { Ok(()) } else { Err(text.trim_end().to_owned()) })
}
