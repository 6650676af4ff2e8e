//! How much one pod can delay the commands of other pods: during each attack, an unrelated pod gets
//! a port and releases it in a loop. `make bench-load` measures the same. The limits here are
//! generous; before the defence, the commands took many times as long.

use std::fs;
use std::io::{IoSlice, Read as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::json;

use super::bounds::measure;
use crate::stage::bare::{add, annotated, attachment, network, run, tcp, udp};
use crate::stage::chain::Attachment;
use crate::stage::netns::sysctl;
use crate::stage::node::Node;
use crate::stage::operator::told;
use crate::stage::plugin::Call;
use crate::stage::view::{self, snapshot};

/// What a command may take of the processor, of a plugin that is not optimised. What a busy machine does to
/// the time on the clock says nothing.
const EFFORT: Duration = Duration::from_secs(1);

/// How long an innocent ADD waits for the lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// kubelet's.
const DAEMON: u16 = 10_250;

pub(crate) fn pod(node: &Node, id: &str, number: u16) -> Attachment {
    attachment(node, &network("blue"), id, number).of_pod("shop", id, &format!("uid-{id}"))
}

/// Runs a command by `words`, and insists on success within [`EFFORT`].
pub(crate) fn cheap(what: &str, call: &Call, words: &[&str]) {
    let (outcome, usage) = measure(call, words);
    assert!(outcome.status.success(), "{what}: {outcome}");
    assert!(usage.cpu < EFFORT, "{what} took {usage:?}");
}

/// Has an innocent pod get a port and give it back some times, while `attacks` go on.
pub(crate) fn beside(node: &Node, attacks: &[&(dyn Fn() + Sync)]) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for attack in attacks {
            // Threads that a thread of the node starts are on the node.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    attack();
                }
            });
        }
        // It is the wait for the lock that others can make long.
        let network = network("blue").with("lockTimeout", PATIENCE.as_secs());
        let innocent = attachment(node, &network, "innocent", 7).mapping([tcp(8080)]);
        let loops = || {
            for _ in 0..10 {
                thread::sleep(Duration::from_millis(50));
                innocent.plugin_call("ADD").run().success();
                innocent.plugin_call("DEL").run().success();
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(loops));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked));
    });
}

/// Processes with open files, which end when their standard input does, and a socket that listens.
struct Crowd {
    processes: Child,
    _daemon: [UnixStream; 2],
}

impl Crowd {
    /// A thousand processes. The socket is on its way from one process to another, so a search for the
    /// one that listens comes to the end of all of them.
    fn gather() -> Self {
        const START: &str = "import os\n\
            for fd in range(10, 210):\n    \
                os.dup2(os.open('/dev/null', os.O_RDONLY), fd)\n\
            pids = [os.posix_spawnp('cat', ['cat'], os.environ) for _ in range(1000)]\n\
            print('ready', flush=True)\n\
            [os.waitpid(pid, 0) for pid in pids]";
        let mut processes = start(Command::new("python3").args(["-c", START]));
        let mut ready = [0; 5];
        let stdout = processes.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut ready).expect("a thousand processes");
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, DAEMON)).expect("a free port");
        let (from, to) = UnixStream::pair().expect("a pair of sockets");
        let sent = [listener.as_raw_fd()];
        sendmsg::<()>(
            from.as_raw_fd(),
            &[IoSlice::new(b"x")],
            &[ControlMessage::ScmRights(&sent)],
            MsgFlags::empty(),
            None,
        )
        .expect("a descriptor can be sent");
        Self { processes, _daemon: [from, to] }
    }
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.processes.stdin.take());
        let _ = self.processes.wait();
    }
}

/// The error names the process that listens, and to find it every open file of the machine is looked at.
#[test]
fn pods_that_are_refused_delay_nobody() {
    let node = Node::new();
    let _crowd = Crowd::gather();
    let one = |number: u16| pod(&node, &format!("r{number}"), 20 + number).mapping([tcp(DAEMON)]);
    let refused: Vec<_> = (0..10).map(one).collect();
    let outcome = run(&refused[0], "ADD");
    outcome.failure(103);
    assert!(outcome.message().contains("10250"), "{outcome}");
    let attacks: Vec<_> = refused
        .iter()
        .map(|one| {
            move || {
                one.plugin_call("ADD").run().failure(103);
            }
        })
        .collect();
    let attacks: Vec<&(dyn Fn() + Sync)> = attacks.iter().map(|attack| attack as _).collect();
    beside(&node, &attacks);
}

/// GC of another network, without effect on the pods of the test.
pub(crate) fn collection(node: &Node) -> Call {
    let other = attachment(node, &network("other"), "other", 99);
    let mut config = other.config();
    config["cni.dev/valid-attachments"] = json!([]);
    other.plugin_call("GC").stdin(config.to_string())
}
/// Pods and clients fill connection tracking; flows are looked for where UDP ports come and go.
#[test]
fn a_full_table_of_flows_delays_nobody() {
    let node = Node::new();
    // With the table come the hooks that track connections.
    add(&node, &pod(&node, "first", 30).mapping([udp(9000)]));
    sysctl("net/netfilter/nf_conntrack_udp_timeout", "600");
    let number = |name: &str| -> usize {
        let path = format!("/proc/sys/net/netfilter/{name}");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.trim().parse().expect("a number")
    };
    let wanted = number("nf_conntrack_max").min(262_144) * 9 / 10;
    'full: for last in 2..20 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        for port in 1..=u16::MAX {
            let _ = socket.send_to(b"x", (Ipv4Addr::new(127, 0, 0, last), port));
            if port % 1_024 == 0 && number("nf_conntrack_count") > wanted {
                break 'full;
            }
        }
    }
    assert!(number("nf_conntrack_count") > wanted / 2, "{}", number("nf_conntrack_count"));
    let come_and_go = |id: &str, first: u16| {
        let one = pod(&node, id, first).mapping((0..5).map(|port| udp(first + port)));
        one.plugin_call("ADD").run().success();
        one.plugin_call("DEL").run().success();
    };
    beside(
        &node,
        &[
            &|| come_and_go("u1", 1_100),
            &|| come_and_go("u2", 1_200),
            &|| come_and_go("u3", 1_300),
            &|| come_and_go("u4", 1_400),
            &|| drop(told(&["repair"])),
            &|| drop(collection(&node).run().success()),
        ],
    );
}

/// One line of annotation, and the node's whole range would be one pod's.
#[test]
fn nobody_gets_the_whole_range() {
    let node = Node::new();
    let greedy = pod(&node, "greedy", 30);
    let asking = |text: &str| annotated(&greedy, "ADD", &[("autoport.cni/ports", text)]);
    // The first one makes the store.
    asking("x=1-10000").run().failure(104);
    let before = snapshot();
    for text in ["x=1-10000/tcp+udp+sctp", "x=1-10000", "x=1-129", "a=1-100/tcp, b=201-229/udp"] {
        let (outcome, usage) = measure(&asking(text), &[]);
        outcome.failure(104);
        assert!(outcome.message().contains("maxPortsPerPod"), "{text}: {outcome}");
        assert!(usage.cpu < EFFORT, "{text}: {usage:?}");
        assert_eq!(snapshot(), before, "{text}");
    }
    // As many as are allowed, in two protocols; a number counts once.
    asking("x=1-128/tcp+udp").run().success();
    // Another interface of the same pod has what is left: nothing.
    let second = greedy.clone().named("eth1");
    let outcome = annotated(&second, "ADD", &[("autoport.cni/ports", "more=80")]).run();
    outcome.failure(104);
    run(&greedy, "DEL").success();
    annotated(&second, "ADD", &[("autoport.cni/ports", "more=80")]).run().success();
    run(&second, "DEL").success();
    view::assert_nothing_held();
}
