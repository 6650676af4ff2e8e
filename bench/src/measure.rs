//! One call of a program: how long it takes from exec to reaped, and what it uses.
//!
//! Time and CPU are taken by the parent: the monotonic clock around posix_spawn(3) (which does not
//! copy the parent) and wait(2), and `RUSAGE_CHILDREN` before and after. Memory is taken apart
//! ([`Call::peak`]), because a process inherits the peak of whoever it was before exec.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::Value;

use crate::plugins::{Executables, Plugin, Pod};

/// A program with its environment and what it reads.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    program: PathBuf,
    environment: Vec<(String, String)>,
    stdin: Vec<u8>,
}

/// What one run took.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    /// Of the process and of all children it waited for.
    pub(crate) cpu: Duration,
    pub(crate) succeeded: bool,
    pub(crate) output: String,
}

impl Sample {
    /// Insists on success.
    pub(crate) fn success(self, what: &str) -> Self {
        assert!(self.succeeded, "{what}: {}", self.output);
        self
    }
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

impl Call {
    /// A program that reads nothing.
    pub(crate) fn bare(program: &Path) -> Self {
        Self { program: program.to_owned(), environment: Vec::new(), stdin: Vec::new() }
    }

    /// A command of a plugin.
    pub(crate) fn cni(
        executables: &Executables,
        plugin: Plugin,
        command: &str,
        pod: &Pod,
    ) -> Self {
        Self::configured(executables, plugin, command, pod, &plugin.config(pod))
    }

    /// The same with a configuration of one's own.
    pub(crate) fn configured(
        executables: &Executables,
        plugin: Plugin,
        command: &str,
        pod: &Pod,
        config: &Value,
    ) -> Self {
        Self {
            program: plugin.path(executables),
            environment: pod.environment(command),
            stdin: config.to_string().into_bytes(),
        }
    }

    /// The call as a command in which another program runs it: `words`, then the program.
    fn command(&self, words: &[&str], output: &File) -> Command {
        let mut words = words.iter().map(Path::new).chain([&*self.program]);
        let mut command = Command::new(words.next().expect("there is the program"));
        let shared = || output.try_clone().expect("a descriptor can be duplicated");
        command
            .args(words)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(input(&self.stdin))
            .stdout(shared())
            .stderr(shared());
        command
    }

    /// Runs it once in the calling thread's namespaces.
    pub(crate) fn time(&self) -> Sample {
        let mut output = scratch();
        let mut command = self.command(&[], &output);
        let before = children_cpu();
        let start = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let status = child.wait().expect("a child can be waited for");
        let wall = start.elapsed();
        let cpu = children_cpu() - before;
        Sample { wall, cpu, succeeded: status.success(), output: text(&mut output) }
    }
}

/// What a child reads: a file, so that nobody has to feed it.
fn input(bytes: &[u8]) -> Stdio {
    let mut file = scratch();
    file.write_all(bytes).and_then(|()| file.rewind()).expect("a scratch file can be written");
    file.into()
}

/// A file without a name, in the memory.
fn scratch() -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags_tmpfile()
        .open("/run")
        .expect("a scratch file can be made in /run")
}

trait Tmpfile {
    fn custom_flags_tmpfile(&mut self) -> &mut Self;
}

impl Tmpfile for OpenOptions {
    fn custom_flags_tmpfile(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.mode(0o600).custom_flags(nix::libc::O_TMPFILE)
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
    read.expect("a scratch file can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the use of children can be asked for");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros as u64)
}

/// How often each system call was made, by whoever.
pub(crate) type SystemCalls = BTreeMap<String, u64>;
