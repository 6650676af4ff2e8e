//! Creates network namespaces, and runs code in them.

use std::fs::{self, File};
use std::io::Write;
use std::panic;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace under the name by which `ip netns` knows it.
pub(crate) struct Netns {
    path: String,
    file: File,
}

impl Netns {
    /// Moves the calling thread into new network and mount namespaces, in which nothing of a CNI
    /// node has happened yet, and returns that network namespace.
    ///
    /// The machine's own `/run`, CNI state and CNI configuration are covered up, so that the state
    /// of the plugins, the names of namespaces and libcni's cache are the test's own.
    pub(crate) fn isolate() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("the tests need CAP_SYS_ADMIN: root, or unshare --user --map-root-user");
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .expect("a mount namespace of one's own can be made private");
        cover("/run");
        for folder in ["/var/lib/cni", "/etc/cni"] {
            // Where it does not exist and must not be made, there is nothing to cover.
            if fs::create_dir_all(folder).is_ok() {
                cover(folder);
            }
        }
        let node = Self::open("/proc/thread-self/ns/net");
        ip("link set lo up");
        node
    }

    /// Makes a namespace with `ip netns add`, its loopback interface up.
    pub(crate) fn add(name: &str) -> Self {
        ip(&format!("netns add {name}"));
        let made = Self::open(&format!("/run/netns/{name}"));
        made.run(|| {
            without_dad();
            ip("link set lo up");
        });
        made
    }

    /// The namespace behind this file.
    pub(crate) fn open(path: &str) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), file }
    }

    /// What a runtime would put into `CNI_NETNS`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Runs `work` on a thread inside this namespace. A socket stays in the namespace in which it
    /// was made, so `work` may return one.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("entering a namespace of our own");
            work()
        };
        let outcome = thread::scope(|scope| scope.spawn(inside).join());
        outcome.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }
}

/// An ordinary user's search path lacks the folders of `ip`, `nft` and `iptables`.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NONE: Option<&str> = None;

fn cover(folder: &str) {
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .unwrap_or_else(|error| panic!("mounting a tmpfs on {folder}: {error}"));
}

/// Makes IPv6 addresses usable at once: these links have no other hosts.
pub(crate) fn without_dad() {
    sysctl("net/ipv6/conf/default/accept_dad", "0");
}

/// Writes a setting below `/proc/sys`, of the calling thread's namespace where it is per namespace.
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("writing {value} to {path}: {error}"));
}

/// Runs `ip` commands, one per line, in the calling thread's namespace.
pub(crate) fn ip(lines: &str) {
    let (ok, text) = run(Command::new("ip").args(["-batch", "-"]), lines);
    assert!(ok, "ip -batch failed on\n{lines}\n{text}");
}

/// Loads an nft script into the calling thread's namespace.
pub(crate) fn nft(script: &str) {
    let (ok, text) = run(Command::new("nft").args(["-f", "-"]), script);
    assert!(ok, "nft -f failed on\n{script}\n{text}");
}

/// What nft lists in the calling thread's namespace, without the counters.
pub(crate) fn ruleset() -> String {
    settle();
    run(Command::new("nft").args(["--stateless", "list", "ruleset"]), "").1
}

/// The same with the elements, without the numbers of their counters.
pub(crate) fn full_ruleset() -> String {
    let listing = settle();
    let mut parts = listing.split(" counter packets ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, after) = part.split_once(" bytes ").expect("bytes follow packets");
        text.push_str(" counter");
        text.push_str(after.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    text
}

/// How many mappings one transaction takes: `all`, or a twentieth in a user namespace. Nobody may
/// raise a socket's send buffer there beyond `net.core.wmem_max`, and so not even nft loads more.
pub(crate) fn in_one_transaction(all: u16) -> u16 {
    let map = fs::read_to_string("/proc/self/uid_map").expect("the map of users");
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if initial { all } else { all / 20 }
}

/// Runs a tool with `input`; says whether it succeeded and what it printed.
pub(crate) fn run(command: &mut Command, input: &str) -> (bool, String) {
    let mut child = command
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; see integration/setup.sh test"));
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    // A tool that does not care for its input may be gone already; its status says what matters.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be waited for");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Waits until no element is on its way out: one that was released lives for a timer tick more.
/// Gives what nft lists then.
pub(crate) fn settle() -> String {
    for _ in 0..200 {
        let listing = run(Command::new("nft").args(["list", "ruleset"]), "").1;
        if !listing.contains(" expires ") {
            return listing;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("elements expire and never go");
}

/// Runs `work` in namespaces of its own.
pub(crate) fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        let _own = Netns::isolate();
        work()
    };
    let outcome = thread::scope(|scope| scope.spawn(inside).join());
    outcome.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
}

/// Other tables keep connection tracking going while ours is gone.
pub(crate) fn keep_tracking() {
    nft(
        "table inet others {\n chain tracked {\n type filter hook prerouting priority 0\n ct state new\n }\n}",
    );
}
