//! Plugin executables, and one call of one of them.

use std::env;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::stage::netns::PATH;

/// A plugin that takes longer than this is taken for stuck. The longest wait it has of its own is
/// 100 s, for the lock, in the tests that start many at once.
const STUCK: Duration = Duration::from_mins(3);

/// Debian's own plugins: bridge, ptp, host-local and the older portmap.
pub(crate) const DEBIAN: &str = "/usr/lib/cni";

/// What `integration/setup.sh test` installed, below the tools folder.
pub(crate) fn tool(name: &str) -> PathBuf {
    let tools = env::var_os("AUTOPORT_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"), PathBuf::from);
    let path = tools.join(name);
    assert!(path.exists(), "{} is missing: run integration/setup.sh test", path.display());
    path
}

/// The port mapping plugin a scenario runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugin {
    /// Ours.
    Autoport,
    /// Ours, as it was before the store's layout changed.
    Previous,
    /// Debian's portmap with its default backend.
    PortmapIptables,
    /// A newer portmap with its nftables backend.
    PortmapNftables,
}

impl Plugin {
    /// The executable.
    pub(crate) fn path(self) -> PathBuf {
        match self {
            Self::Autoport => PathBuf::from(env!("CARGO_BIN_EXE_autoport")),
            Self::Previous => tool("previous/autoport"),
            Self::PortmapIptables => Path::new(DEBIAN).join("portmap"),
            Self::PortmapNftables => tool("cni-sid/portmap"),
        }
    }

    /// The `type` of its entry in a network configuration.
    pub(crate) const fn type_name(self) -> &'static str {
        match self {
            Self::Autoport | Self::Previous => "autoport",
            Self::PortmapIptables | Self::PortmapNftables => "portmap",
        }
    }

    /// The `backend` its entry asks for.
    pub(crate) const fn backend(self) -> Option<&'static str> {
        match self {
            Self::Autoport | Self::Previous => None,
            Self::PortmapIptables => Some("iptables"),
            Self::PortmapNftables => Some("nftables"),
        }
    }
}

/// One call of an executable as a runtime makes it: environment and standard input.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    executable: PathBuf,
    environment: Vec<(String, String)>,
    stdin: Option<Vec<u8>>,
    /// A program that runs the executable, with its first arguments.
    wrapper: Vec<String>,
    arguments: Vec<String>,
}

impl Call {
    /// `CNI_COMMAND=command`, and nothing else but `PATH` and `CNI_PATH`.
    pub(crate) fn new(executable: impl Into<PathBuf>, command: &str) -> Self {
        let bare = Self {
            executable: executable.into(),
            environment: vec![("PATH".to_owned(), PATH.to_owned())],
            stdin: Some(Vec::new()),
            wrapper: Vec::new(),
            arguments: Vec::new(),
        };
        bare.env("CNI_COMMAND", command).env("CNI_PATH", DEBIAN)
    }

    /// Our executable as an operator calls it.
    pub(crate) fn operator(arguments: &[&str]) -> Self {
        Self::new(Plugin::Autoport.path(), "").by_hand(arguments)
    }

    /// The same, with the environment and standard input of this call.
    pub(crate) fn by_hand(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        self.without("CNI_COMMAND")
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a variable out.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// Sets what the plugin reads, whether it is JSON or not.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Has the plugin find its standard input closed.
    pub(crate) fn closed_stdin(mut self) -> Self {
        self.stdin = None;
        // The shell can close a descriptor before the plugin starts; std can only redirect it.
        self.under(&["/bin/sh", "-c", "exec \"$0\" <&-"])
    }

    /// Has another program run the plugin: `words`, then the executable.
    pub(crate) fn under(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Whether it does nothing before its standard input has ended.
    pub(crate) fn waits_for_input(&self) -> bool {
        self.arguments.is_empty()
    }

    /// Runs it in the calling thread's namespaces.
    pub(crate) fn run(&self) -> Outcome {
        self.start().finish()
    }

    /// Starts it in the calling thread's namespaces. A plugin waits for its standard input.
    pub(crate) fn start(&self) -> Running {
        let mut words = self.wrapper.iter().map(Path::new).chain([&*self.executable]);
        let mut command = Command::new(words.next().expect("there is the executable"));
        command.args(words).args(&self.arguments);
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.executable.display()));
        let stdout = drain(child.stdout.take().expect("stdout was asked to be a pipe"));
        let stderr = drain(child.stderr.take().expect("stderr was asked to be a pipe"));
        Running { child, input: self.stdin.clone().unwrap_or_default(), stdout, stderr }
    }
}

/// A child that has not been fed yet.
pub(crate) struct Running {
    child: Child,
    input: Vec<u8>,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Gives it its standard input.
    pub(crate) fn feed(&mut self) {
        // A plugin that fails early does not read everything.
        if let Some(mut stdin) = self.child.stdin.take() {
            let _ = stdin.write_all(&self.input);
        }
    }

    /// Feeds it and waits until it is done, but not forever.
    pub(crate) fn finish(mut self) -> Outcome {
        self.feed();
        let Ok(stdout) = self.stdout.recv_timeout(STUCK) else {
            let _ = self.child.kill();
            panic!("a plugin did not finish within {STUCK:?}");
        };
        let status = self.child.wait().expect("a child can be waited for");
        Outcome::new(status, &stdout, &self.stderr)
    }

    /// The outcome, for a caller that has waited for the process itself.
    pub(crate) fn outcome(self, status: ExitStatus) -> Outcome {
        let stdout = self.stdout.recv_timeout(STUCK).expect("stdout ends with the process");
        Outcome::new(status, &stdout, &self.stderr)
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _: io::Result<usize> = pipe.read_to_end(&mut bytes);
        // Nobody listens any more once the test has failed for another reason.
        let _ = sender.send(bytes);
    });
    receiver
}

/// What a call came to.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    /// Standard output as JSON, if that is what it is.
    pub(crate) reply: Option<Value>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    fn new(status: ExitStatus, stdout: &[u8], stderr: &Receiver<Vec<u8>>) -> Self {
        let stderr = stderr.recv_timeout(STUCK).expect("stderr ends with the process");
        Self {
            status,
            reply: serde_json::from_slice(stdout).ok(),
            stdout: String::from_utf8_lossy(stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// The `code` of an error reply; `None` for success.
    pub(crate) fn code(&self) -> Option<u64> {
        if self.status.success() {
            return None;
        }
        let code = self.reply.as_ref().and_then(|reply| reply["code"].as_u64());
        Some(code.unwrap_or_else(|| panic!("failed without a code: {self}")))
    }

    /// The `msg` of an error reply.
    pub(crate) fn message(&self) -> &str {
        self.reply.as_ref().and_then(|reply| reply["msg"].as_str()).unwrap_or_default()
    }

    /// Insists on success and gives the reply; `Null` where there is none.
    pub(crate) fn success(self) -> Value {
        assert!(self.status.success(), "{self}");
        assert!(self.reply.is_some() || self.stdout.is_empty(), "not JSON: {self}");
        self.reply.unwrap_or_default()
    }

    /// Insists on a failure with exactly this code.
    pub(crate) fn failure(&self, code: u64) -> &Self {
        assert_eq!(self.code(), Some(code), "expected code {code}: {self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, stdout: {}, stderr: {}", self.status, self.stdout, self.stderr)
    }
}
