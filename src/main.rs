//! The executable: the CNI plugin where `CNI_COMMAND` is set, the operator's command line where it
//! is not. Everything that the library may not touch is collected here: environment, arguments,
//! standard streams, clock, exit status.
//!
//! It is started by the C library, without the standard library's own start. That looks for the
//! stack in `/proc/self/maps` and puts another one beside it for signal handlers: 18 system calls, and
//! 7 % of an ADD. What is needed of it is in [`prepare`]; the arguments are there without it.

#![cfg_attr(not(test), no_main)]
#![expect(clippy::disallowed_methods, reason = "this is the edge")]

mod cli;

use std::ffi::{c_char, c_int};
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, IntoRawFd as _};
use std::panic;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc::STDERR_FILENO;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use autoport::app::{self, World};
use autoport::cni::{Env, NODE_DIR, NodeFiles};
use autoport::event::{Event, Log};
use autoport::regular;

/// The C library calls this.
#[cfg_attr(
    not(test),
    expect(unsafe_code, reason = "no other function of this program is called main")
)]
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    prepare();
    let env: Env = std::env::vars_os().collect();
    c_int::from(if env.is_plugin_call() { plugin(&env) } else { cli::main() })
}

/// Makes standard input, output and error be open, so that no file of the store is taken for one
/// of them, and lets a write to somebody who went away fail instead of ending this process.
fn prepare() {
    let mut sigpipe = SigSet::empty();
    sigpipe.add(Signal::SIGPIPE);
    // Neither fails with arguments like these; if it did, a runtime that hangs up would end us.
    let _ = sigpipe.thread_block();
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .map(|stream| PollFd::new(stream, PollFlags::empty()));
    let _ = poll(&mut streams, PollTimeout::ZERO);
    let closed = |stream: &PollFd<'_>| {
        stream.revents().is_some_and(|seen| seen.contains(PollFlags::POLLNVAL))
    };
    if !streams.iter().any(closed) {
        return;
    }
    while let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        if null.as_raw_fd() > STDERR_FILENO {
            return;
        }
        // Open for good.
        let _ = null.into_raw_fd();
    }
}

/// Gives the exit status.
fn plugin(env: &Env) -> u8 {
    panic::set_hook(Box::new(|panic| tell_panic(&panic.to_string())));
    let outcome = app::run(World {
        env,
        stdin: read_stdin(),
        node_files,
        is_awaited: &is_awaited,
        now: now(),
        log: &mut Stderr,
    });
    // A runtime that has no whole reply must not take the command for a success.
    let told = print(&outcome.stdout);
    if let Err(error) = &told {
        note(format_args!("cannot write the reply to stdout: {error}"));
    }
    let failed = outcome.failed || told.is_err();
    if told.is_err() {
        outcome.undo(now(), &mut Stderr);
    }
    u8::from(failed)
}

/// Whether anyone can still read standard output: of a pipe or socket the other end may be closed, when the
/// runtime was killed.
fn is_awaited() -> bool {
    let stdout = io::stdout();
    let mut streams = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut streams, PollTimeout::ZERO).is_err()
        || !streams[0].revents().is_some_and(|seen| seen.intersects(gone))
}

/// Tells the operator and the runtime. The process is aborted right after, and nobody flushes for it.
fn tell_panic(message: &str) {
    note(message);
    // There is nobody else to tell.
    let _ = print(app::panicked(message).as_bytes());
}

/// Prints the reply.
fn print(reply: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(reply).and_then(|()| stdout.flush())
}

/// Each event is a line on standard error.
struct Stderr;

impl Log for Stderr {
    fn note(&mut self, event: Event) {
        note(event);
    }
}

/// Tells the operator, who may have gone away.
fn note(message: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "autoport: {message}");
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// A person who tries `CNI_COMMAND=VERSION autoport` by hand has nothing to type.
fn read_stdin() -> io::Result<Vec<u8>> {
    if io::stdin().is_terminal() { Ok(Vec::new()) } else { regular::read_all(io::stdin()) }
}

fn node_files() -> NodeFiles {
    NodeFiles::in_dir(Path::new(NODE_DIR), regular::read)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The executable of a release is built with `panic = "abort"`, and tests never are. Here the
    /// hook aborts by itself, in a process of its own: it is the last that happens in either.
    #[test]
    fn the_reply_to_a_panic_is_out_before_the_abort() {
        const CHILD: &str = "AUTOPORT_TEST_PANIC";
        if std::env::var_os(CHILD).is_some() {
            panic::set_hook(Box::new(|panic| {
                tell_panic(&panic.to_string());
                std::process::abort();
            }));
            panic!("on purpose");
        }
        let own = std::env::current_exe().expect("the path of this program");
        let output = Command::new(own)
            .args(["--exact", "tests::the_reply_to_a_panic_is_out_before_the_abort", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("it can be run again");
        let (stdout, stderr) = (output.stdout.as_slice(), output.stderr.as_slice());
        let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
        // The test harness has written lines before it.
        let reply = stdout.lines().last().unwrap_or_default();
        assert!(reply.starts_with("{\"cniVersion\":"), "{output:?}");
        assert!(reply.contains("\"code\":999") && reply.ends_with('}'), "{output:?}");
        assert!(reply.contains("on purpose") && stderr.contains("on purpose"), "{output:?}");
    }
}
