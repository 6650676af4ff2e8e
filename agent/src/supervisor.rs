//! The process that starts the agent again at once when it ends. Kubelet would wait for up to five minutes, in
//! which pods would start without an agent.

#![expect(
    clippy::disallowed_methods,
    reason = "the child is this program, and its arguments are these"
)]

use std::collections::VecDeque;
use std::env;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// Set for the child, which does not supervise another.
const CHILD: &str = "AUTOPORT_AGENT_SUPERVISED";

/// After so many restarts within [`WINDOW`] it is left to the container runtime or systemd.
const RESTARTS: usize = 10;

const WINDOW: Duration = Duration::from_mins(1);

/// Whether this process is to supervise, and is not itself a child.
pub(crate) fn is_wanted(asked: bool) -> bool {
    (asked || std::process::id() == 1) && env::var_os(CHILD).is_none()
}

/// Runs the agent as a child until a signal ends both, or it ends too often. Gives the exit status.
///
/// # Errors
/// When the child cannot be started.
pub(crate) fn run() -> io::Result<u8> {
    let signals = signals();
    signals.thread_block()?;
    let mut starts = VecDeque::new();
    loop {
        starts.push_back(Instant::now());
        starts.retain(|start: &Instant| start.elapsed() < WINDOW);
        let child = Command::new(env::current_exe()?)
            .args(env::args_os().skip(1))
            .env(CHILD, "1")
            .spawn()?;
        let (status, is_asked) = wait(child, &signals)?;
        // Wrong arguments do not become right.
        if is_asked || status.success() || status.code() == Some(2) {
            return Ok(status.code().map_or(0, |code| code as u8));
        }
        if starts.len() > RESTARTS {
            tracing::error!("the agent ended {RESTARTS} times within a minute: {status}");
            return Ok(1);
        }
        tracing::warn!("the agent ended and is started again: {status}");
    }
}

/// Lets this process receive what its supervisor has blocked for itself: a child inherits it.
///
/// # Errors
/// Never, with these signals.
pub(crate) fn leave() -> nix::Result<()> {
    signals().thread_unblock()
}

fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect()
}

/// Waits for the child to end, and passes on the signals that end it. Gives whether one did.
fn wait(mut child: Child, signals: &SigSet) -> io::Result<(ExitStatus, bool)> {
    let mut is_asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, is_asked));
        }
        let signal = signals.wait()?;
        if signal != Signal::SIGCHLD {
            is_asked = true;
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
    }
}
