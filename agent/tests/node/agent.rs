//! The executable on a node of its own: a network namespace and a state directory.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A node; the test's own thread is in it, and so is every process that it starts.
pub(crate) struct Node {
    dir: TempDir,
}

impl Node {
    /// A node with these keys of the plugin's configuration.
    pub(crate) fn new(keys: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; use scripts/namespaces.sh");
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let state = state.display();
        let own = format!("\"stateDir\": \"{state}\", \"advertiseAddresses\": \"192.0.2.1\"");
        let node_file = format!("{{{own}{}{keys}}}", if keys.is_empty() { "" } else { ", " });
        fs::write(dir.path().join("autoport.json"), node_file).expect("it can be written");
        Self { dir }
    }

    /// Where the plugin's own files of this node are.
    pub(crate) fn node_dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts the agent for the runtime at `socket`.
    pub(crate) fn start(&self, socket: &Path, options: &[&str]) -> Agent {
        self.started(Command::new(program()), socket, options)
    }

    /// The same with no more than these capabilities, as setpriv(1) has them.
    pub(crate) fn start_with(&self, capabilities: &str, socket: &Path) -> Agent {
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set={capabilities}")).arg("--").arg(program());
        self.started(command, socket, &[])
    }

    fn started(&self, mut command: Command, socket: &Path, options: &[&str]) -> Agent {
        let child = command
            .arg("--socket")
            .arg(socket)
            .arg("--node-dir")
            .arg(self.node_dir())
            .arg("--net-conf-dir")
            .arg(self.dir.path().join("net.d"))
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent can be started");
        Agent { child }
    }
}

fn program() -> OsString {
    env::var_os("AUTOPORT_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_autoport-agent").into())
}

/// A running agent; it is killed with the test.
pub(crate) struct Agent {
    child: Child,
}

impl Agent {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) {
        let begun = Instant::now();
        while self.child.try_wait().expect("it can be waited for").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the agent does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end; gives its exit status and what it has logged.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        self.wait();
        let status = self.child.wait().expect("it has ended");
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().expect("it was piped");
        stderr.read_to_string(&mut log).expect("the log is UTF-8");
        (status.code(), log)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
