//! Nodes: a network and a mount namespace each, of which the machine sees nothing.

use std::fs::{self, File};
use std::io::Write as _;
use std::panic;
use std::process::{Command, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// An ordinary user's search path lacks the folders of `ip`, `nft` and `iptables`.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NONE: Option<&str> = None;

/// A network namespace as seen from a mount namespace.
#[derive(Debug)]
pub(crate) struct Space {
    net: File,
    mnt: File,
}

impl Space {
    /// Makes new namespaces in which nothing of a CNI node has happened yet. `/run`, CNI state and
    /// CNI configuration are covered up.
    fn isolate() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .expect("CAP_SYS_ADMIN is needed: root, or unshare --user --map-root-user");
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
                .expect("a mount namespace of one's own can be made private");
            cover("/run");
            for folder in ["/var/lib/cni", "/etc/cni"] {
                // Where it does not exist and must not be made, there is nothing to cover.
                if fs::create_dir_all(folder).is_ok() {
                    cover(folder);
                }
            }
            ip("link set lo up");
            Self { net: open("/proc/thread-self/ns/net"), mnt: open("/proc/thread-self/ns/mnt") }
        });
        made.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }

    /// Runs `work` on a thread of this space; the processes it starts are in it too.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            unshare(CloneFlags::CLONE_FS).expect("a thread may have a root directory of its own");
            setns(&self.net, CloneFlags::CLONE_NEWNET).expect("entering a network namespace");
            setns(&self.mnt, CloneFlags::CLONE_NEWNS).expect("entering a mount namespace");
            work()
        };
        let outcome = thread::scope(|scope| scope.spawn(inside).join());
        outcome.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }

    /// Makes a network namespace with `ip netns add`, its loopback interface up: of a pod, or of a
    /// client. Plugins know it as `/run/netns/<name>`.
    pub(crate) fn add(&self, name: &str) -> Self {
        let net = self.run(|| {
            ip(&format!("netns add {name}"));
            open(&format!("/run/netns/{name}"))
        });
        let mnt = self.mnt.try_clone().expect("a descriptor can be duplicated");
        let made = Self { net, mnt };
        made.run(|| ip("link set lo up"));
        made
    }
}

/// A node: forwarding, and with the bridge `cni0` that the bridge plugin would have made.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) space: Space,
}

impl Node {
    /// A node without any pod. The namespace `/run/netns/pod` stands for those whose packets nobody
    /// sends.
    pub(crate) fn new() -> Self {
        let space = Space::isolate();
        space.run(|| {
            sysctl("net/ipv6/conf/default/accept_dad", "0");
            sysctl("net/ipv4/ip_forward", "1");
            sysctl("net/ipv6/conf/all/forwarding", "1");
            ip("link add cni0 type bridge
                addr add 10.1.0.1/16 dev cni0
                addr add fd00:1::1/64 dev cni0 nodad
                link set cni0 up");
        });
        space.add("pod");
        Self { space }
    }
}

fn open(path: &str) -> File {
    File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn cover(folder: &str) {
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .unwrap_or_else(|error| panic!("mounting a tmpfs on {folder}: {error}"));
}

/// Writes a setting below `/proc/sys`, of the calling thread's namespace.
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("writing {value} to {path}: {error}"));
}

/// Runs `ip` commands, one per line, in the calling thread's namespace.
pub(crate) fn ip(lines: &str) {
    tool(Command::new("ip").args(["-batch", "-"]), lines);
}

/// Runs a tool with `input`, insists on its success, and gives what it printed.
pub(crate) fn tool(command: &mut Command, input: &str) -> String {
    let mut child = command
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; see integration/setup.sh bench"));
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    // A tool that fails early does not read everything; its status says so.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be waited for");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {complaint}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
