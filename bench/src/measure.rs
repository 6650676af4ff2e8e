//! One call of a program: how long it takes from exec to reaped, and what it uses.
//!
//! Time and CPU are taken by the parent: the monotonic clock around `posix_spawn` (which does not
//! copy the parent) and wait(2), and `RUSAGE_CHILDREN` before and after. Memory is taken apart
//! ([`Call::peak`]), because a process inherits the peak of whoever it was before exec.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::personality::{self, Persona};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::Value;

use crate::node::PATH;
use crate::plugins::{Executables, Plugin, Pod};

/// What was released is there for a timer tick of the kernel's more, and an ADD that meets it waits.
pub(crate) const TICK: Duration = Duration::from_millis(20);

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
    pub(crate) fn cni(executables: &Executables, plugin: Plugin, command: &str, pod: &Pod) -> Self {
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

    /// The same with another value of a variable.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
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

    /// Starts it, run by `words`; gives the child and where its output goes.
    pub(crate) fn start(&self, words: &[String]) -> (Child, File) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = scratch();
        let child = self.command(&words, &output).spawn();
        (child.unwrap_or_else(|error| panic!("{words:?}: {error}")), output)
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
        let cpu = children_cpu().saturating_sub(before);
        Sample { wall, cpu, succeeded: status.success(), output: text(&mut output) }
    }

    /// The peak of its resident memory, or of the largest of its children, in KiB.
    ///
    /// A process that this one starts has this one's memory until exec, and keeps the peak. So it is
    /// started by a small one, which copies little of itself.
    pub(crate) fn peak(&self) -> u64 {
        let own = std::env::current_exe().expect("the path of this program");
        let own = own.to_str().expect("a path of ASCII");
        let mut output = scratch();
        let status = self.command(&[own, PEAK], &output).status();
        let text = text(&mut output);
        assert!(status.is_ok_and(|status| status.success()), "{}: {text}", self.program.display());
        let last = text.rsplit(' ').next().and_then(|word| word.trim().parse().ok());
        last.unwrap_or_else(|| panic!("no peak: {text}"))
    }

    fn strace(&self, follow: &[&str]) -> String {
        const FILE: &str = "/run/strace";
        let mut output = scratch();
        let words = ["/usr/bin/strace", "-qq", "-e", "signal=none", "-o", FILE];
        let words: Vec<&str> = words.iter().chain(follow).chain(&["--"]).copied().collect();
        let status = self.command(&words, &output).status().expect("strace is installed");
        assert!(status.success(), "{}", text(&mut output));
        fs::read_to_string(FILE).expect("strace wrote it")
    }

    /// The system calls of one run in words, in order.
    pub(crate) fn words(&self) -> Vec<String> {
        self.strace(&[]).lines().map(str::to_owned).collect()
    }

    /// The system calls of one run, and how many processes it started besides its own.
    pub(crate) fn trace(&self) -> Trace {
        let trace = self.strace(&["-f"]);
        let mut calls = SystemCalls::new();
        for line in trace.lines() {
            let (_, line) = line.trim_start().split_once(' ').unwrap_or_default();
            // A call that another process interrupted has a second line, `<... name resumed>`.
            if let Some((name, _)) = line.trim_start().split_once('(')
                && !name.contains(' ')
            {
                *calls.entry(name.to_owned()).or_default() += 1;
            }
        }
        let started = trace.lines().filter(|line| line.contains("execve") && line.ends_with("= 0"));
        Trace { children: (started.count() as u64).saturating_sub(1), calls }
    }

    /// How long it waits for the lock of the store and how long it has it.
    pub(crate) fn lock(&self) -> Option<(Duration, Duration)> {
        const FILE: &str = "/run/strace";
        let words = lock_tracer(FILE);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.command(&words, &scratch()).status().expect("strace is installed");
        held(&fs::read_to_string(FILE).expect("strace wrote it"))
    }
}

/// What traces the lock of a program into `file`: it stops at few system calls only, and what it
/// finds is still longer than without.
pub(crate) fn lock_tracer(file: &str) -> Vec<String> {
    let words = [
        "/usr/bin/strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-T",
        "--absolute-timestamps=format:unix,precision:us",
        "-e",
        "trace=flock,close,exit_group",
        "-o",
        file,
        "--",
    ];
    words.map(str::to_owned).into()
}

/// Reads waiting and holding out of lines such as `4711 1700000000.000123 flock(5, …) = 0 <0.000004>`.
pub(crate) fn held(trace: &str) -> Option<(Duration, Duration)> {
    let mut asked: Option<f64> = None;
    let mut taken: Option<(String, f64)> = None;
    for line in trace.lines() {
        let mut words = line.split_whitespace();
        let at: f64 = words.nth(1)?.parse().ok()?;
        let call = words.next()?;
        if let Some(file) = call.strip_prefix("flock(") {
            asked = asked.or(Some(at));
            let took = line.rsplit_once('<')?.1.trim_end_matches('>').parse::<f64>().ok()?;
            if line.contains(") = 0") {
                taken = Some((format!("close({})", file.trim_end_matches(',')), at + took));
            }
        } else if let Some((close, since)) = &taken
            && (call == close || call.starts_with("exit_group"))
        {
            let span = |from: f64, to: f64| Duration::from_secs_f64((to - from).max(0.0));
            return Some((span(asked?, *since), span(*since, at)));
        }
    }
    None
}

/// The word by which this program asks itself for [`tell_peak`].
pub(crate) const PEAK: &str = "peak";

/// Runs a program and prints the peak of its memory.
///
/// A name without a slash and a `PATH` make the standard library fork instead of sharing the memory
/// until exec; of this small process little is copied.
pub(crate) fn tell_peak(words: &[String]) {
    let [program] = words else { panic!("{PEAK} takes a program") };
    let program = Path::new(program);
    let (folder, name) = (program.parent(), program.file_name());
    let folder = folder.and_then(Path::to_str).expect("a whole path");
    let status = Command::new(name.expect("a whole path"))
        .env("PATH", format!("{folder}:{PATH}"))
        .status()
        .expect("the program runs");
    assert!(status.success(), "{}: {status}", program.display());
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the use of children can be asked for");
    println!(" {}", usage.max_rss());
}

/// What one run did.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) children: u64,
    pub(crate) calls: SystemCalls,
}

/// What a child reads: a file, so that nobody has to feed it.
fn input(bytes: &[u8]) -> Stdio {
    let mut file = scratch();
    file.write_all(bytes).and_then(|()| file.rewind()).expect("a scratch file can be written");
    file.into()
}

/// A file without a name, in the memory.
fn scratch() -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(nix::libc::O_TMPFILE);
    options.open("/run").expect("a scratch file can be made in /run")
}

pub(crate) fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
    read.expect("a scratch file can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// For what the calling thread starts from now on: where the heap begins decides how often it is
/// enlarged.
pub(crate) fn fix_addresses() {
    personality::set(Persona::ADDR_NO_RANDOMIZE).expect("addresses can be fixed");
}

fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the use of children can be asked for");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros as u64)
}

/// How often each system call was made, by whoever.
pub(crate) type SystemCalls = BTreeMap<String, u64>;
