//! How much memory and time one command takes at most, for the largest requests.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::stage::bare::{add, attachment, network, run, tcp};
use crate::stage::chain::Attachment;
use crate::stage::netns::in_one_transaction;
use crate::stage::node::Node;
use crate::stage::plugin::{Call, Outcome};
use crate::stage::view::snapshot;

/// Runs a program, waits for it, and writes down what it took; no shell tells the peak of memory.
const MEASURE: &str = "import os,sys\n\
    pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)\n\
    _, status, used = os.wait4(pid, 0)\n\
    with open('/run/usage', 'w') as file:\n    \
        print(used.ru_maxrss, int((used.ru_utime + used.ru_stime) * 1e6), file=file)\n\
    code = os.waitstatus_to_exitcode(status)\n\
    sys.exit(code if code >= 0 else 128 - code)";

/// What one command took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// The most memory it had at once (`ru_maxrss`), in KiB; no less than Python's, which starts it.
    peak: u64,
    /// Of the processor, its own and the kernel's.
    pub(crate) cpu: Duration,
}

/// Runs a call by `words`, a program with its first arguments, or by none.
pub(crate) fn measure(call: &Call, words: &[&str]) -> (Outcome, Usage) {
    let all: Vec<&str> = ["python3", "-c", MEASURE].iter().chain(words).copied().collect();
    let outcome = call.clone().under(&all).run();
    let text = fs::read_to_string("/run/usage").unwrap_or_else(|_| panic!("{outcome}"));
    let mut numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
    let mut next = || numbers.next().expect("two numbers");
    (outcome, Usage { peak: next(), cpu: Duration::from_micros(next()) })
}

fn web(node: &Node) -> Attachment {
    attachment(node, &network("blue"), "web", 5).mapping([tcp(8080)])
}

/// A quarter of a GiB of addresses is more than the plugin ever takes, so that is no less than its
/// peak of memory.
const MEMORY: &str = "--as=268435456";

/// What a command may have in memory at once, in KiB: the most that is read, once as it grows by
/// doubling, and what is made of it. Half as much again as was measured (docs/security.md).
const PEAK: u64 = 160 << 10;

fn refused_within_bounds(node: &Node, call: &Call, code: u64, words: &[&str]) {
    let (before, begun) = (snapshot(), Instant::now());
    let (outcome, usage) = measure(call, &["prlimit", MEMORY]);
    node.note(format!("{usage:?}: {outcome}"));
    assert!(usage.peak < PEAK, "{usage:?}");
    outcome.failure(code);
    let text = outcome.reply.clone().unwrap_or_default().to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    assert!(outcome.stdout.len() < 4096, "{outcome}");
    // Generous for an unoptimised build beside other tests.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(snapshot(), before);
}

#[test]
fn more_than_anybody_needs_is_refused_within_bounds() {
    let node = Node::new();
    let web = web(&node);
    // A claim that gets as far as to what is held makes the store.
    add(&node, &attachment(&node, &network("blue"), "holder", 9).mapping([tcp(9090)]));
    let known = json!(web.mappings).to_string();
    let with = |mappings: &str| {
        let config = web.config().to_string();
        let replaced = config.replace(&known, mappings);
        assert_ne!(replaced, config);
        web.plugin_call("ADD").stdin(replaced)
    };
    let many = |one: &str, count: usize| {
        let mut all = String::with_capacity((one.len() + 1) * count + 2);
        all.push('[');
        for number in 0..count {
            all.push_str(if number == 0 { "" } else { "," });
            all.push_str(one);
        }
        all + "]"
    };
    let one = "{\"hostPort\":8080,\"containerPort\":80}";
    let blanks = web.plugin_call("ADD").stdin(vec![b' '; 64 << 20]);
    refused_within_bounds(&node, &blanks, 5, &["16777216 bytes"]);
    refused_within_bounds(&node, &with(&many(one, 1_000_000)), 5, &["16777216 bytes"]);
    let most = ["65535", "portMappings"];
    refused_within_bounds(&node, &with(&many("{}", 1_000_000)), 7, &most);
    refused_within_bounds(&node, &with(&many(one, 400_000)), 7, &most);
    refused_within_bounds(&node, &with(&many(one, 65_536)), 7, &most);
    refused_within_bounds(&node, &with(&many("[]", 5_000_000)), 7, &most);
    // Annotations.
    let mut config = web.config();
    let annotate = |config: &mut Value, text: String| {
        config["runtimeConfig"] =
            json!({"io.kubernetes.cri.pod-annotations": {"autoport.cni/ports": text}});
    };
    annotate(&mut config, "http=80,".repeat(60_000));
    let call = web.plugin_call("ADD").stdin(config.to_string());
    refused_within_bounds(&node, &call, 104, &["maxPortsPerPod"]);
    annotate(&mut config, "p".repeat(15 << 20));
    let call = web.plugin_call("ADD").stdin(config.to_string());
    refused_within_bounds(&node, &call, 7, &["autoport.cni/ports"]);
    annotate(&mut config, "all=1-65535/tcp+udp+sctp".to_owned());
    let call = web.plugin_call("ADD").stdin(config.to_string());
    refused_within_bounds(&node, &call, 104, &["maxPortsPerPod"]);
}

/// As many as are taken, and no command that takes more than in proportion: with a look through all
/// of them for each of them, a GC or a second ADD took minutes.
#[test]
fn many_mappings_cost_in_proportion() {
    let node = Node::new();
    let count = in_one_transaction(20_000);
    let web = web(&node).mapping((0..count).map(|number| tcp(10_000 + number)));
    let mut config = web.config();
    config["cni.dev/valid-attachments"] = json!([{"containerID": "web", "ifname": "eth0"}]);
    let run = |command: &str| {
        let call = web.plugin_call(command).stdin(config.to_string());
        let (outcome, usage) = measure(&call, &[]);
        node.note(format!("{command}: {usage:?}"));
        outcome.success();
        assert!(usage.peak < 2 * PEAK, "{command}: {usage:?}");
        usage.cpu
    };
    let first = run("ADD");
    for command in ["CHECK", "ADD", "GC", "DEL", "ADD", "DEL"] {
        let cpu = run(command);
        // Time on the processor, not on the clock; each looks at a few lists of that length.
        assert!(cpu < first * 4 + Duration::from_millis(500), "{command}: {cpu:?}, {first:?}");
    }
    crate::stage::netns::settle();
    crate::stage::view::assert_nothing_held();
}

/// Makes 300 processes that have 200 files open each, and says when they are there.
const CROWD: &str = "import os, time\n\
    files = [os.dup(0) for _ in range(200)]\n\
    for _ in range(300):\n    \
        if os.fork() == 0: time.sleep(60); os._exit(0)\n\
    print(flush=True)\n\
    time.sleep(60)";

/// Listens on the kubelet's port, and says when it does.
const LISTENER: &str = "import socket, time\n\
    s = socket.socket(); s.bind(('0.0.0.0', 10250)); s.listen()\n\
    print(flush=True)\n\
    time.sleep(60)";

/// A process of its own process group, which ends with all its children.
struct Group(Child);

impl Group {
    fn start(script: &str) -> Self {
        let mut python = Command::new("python3");
        python.args(["-c", script]).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("python3 runs");
        let stdout = child.stdout.as_mut().expect("it was asked to be a pipe");
        assert_eq!(stdout.read(&mut [0]).expect("reading"), 1, "the script has ended");
        Self(child)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.0.id().try_into().expect("a process ID"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// An ADD that is rejected because a process listens on the port names that process. Finding it takes time
/// in proportion to the processes of the node.
#[test]
fn naming_a_listener_keeps_nobody_waiting() {
    let node = Node::new();
    let blue = network("blue");
    add(&node, &attachment(&node, &blue, "first", 1).mapping([tcp(8000)]));
    let _crowd = Group::start(CROWD);
    // After them, so that the search passes all of them first.
    let _listener = Group::start(LISTENER);
    let refused = |number: u16| {
        attachment(&node, &blue, &format!("refused{number}"), number).mapping([tcp(10250)])
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 10..14 {
            let (pod, stop) = (refused(number), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let outcome = run(&pod, "ADD");
                    outcome.failure(103);
                }
            });
        }
        let mut slowest = Duration::ZERO;
        for number in 20..30 {
            let pod = attachment(&node, &blue, &format!("pod{number}"), number);
            let begun = Instant::now();
            let outcome = run(&pod.mapping([tcp(8000 + number)]), "ADD");
            slowest = slowest.max(begun.elapsed());
            node.note(format!("{:?}: {outcome}", begun.elapsed()));
            if !outcome.status.success() {
                stop.store(true, Ordering::Relaxed);
            }
            outcome.success();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    });
}
