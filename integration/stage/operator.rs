//! The operator's command line, run in the calling thread's namespaces.

use std::process::{Command, ExitStatus, Stdio};

use crate::stage::netns::PATH;
use crate::stage::plugin::Plugin;

/// Runs `autoport` with these arguments; gives its status and what it said on either stream.
pub(crate) fn autoport(arguments: &[&str]) -> (ExitStatus, String, String) {
    under(&[], arguments)
}

/// The same, run by another program, which gets `words` before it.
pub(crate) fn under(words: &[&str], arguments: &[&str]) -> (ExitStatus, String, String) {
    of(Plugin::Autoport, words, arguments)
}

/// The same of an executable of ours.
pub(crate) fn of(
    plugin: Plugin,
    words: &[&str],
    arguments: &[&str],
) -> (ExitStatus, String, String) {
    let executable = plugin.path();
    let executable = executable.to_str().expect("a path of ours");
    let mut all = words.iter().copied().chain([executable]).chain(arguments.iter().copied());
    let mut command = Command::new(all.next().expect("there is the executable"));
    let output = command.args(all).env_clear().env("PATH", PATH).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status, text(&output.stdout), text(&output.stderr))
}

/// Insists that it worked, and gives what it printed.
pub(crate) fn told(arguments: &[&str]) -> String {
    let (status, stdout, stderr) = autoport(arguments);
    assert!(status.success(), "{arguments:?}: {stdout}{stderr}");
    stdout
}
