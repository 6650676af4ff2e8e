//! What one pod can do to the commands of the others: each attack goes on while somebody who has nothing
//! to do with it gets a port and gives it back. `make bench-load` measures the same; here the limits
//! are generous, and what was slow took many times as long.

use std::io::{IoSlice, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::bare::{attachment, network, run, tcp};
use crate::chain::Attachment;
use crate::node::Node;
use crate::plugin::Outcome;

/// What an ADD or DEL may take beside an attack, of a plugin that is not optimised, on a busy machine.
const DELAY: Duration = Duration::from_secs(2);

/// kubelet's.
const DAEMON: u16 = 10_250;

fn pod(node: &Node, id: &str, number: u16) -> Attachment {
    attachment(node, &network("blue"), id, number).of_pod("shop", id, &format!("uid-{id}"))
}

/// Runs a command, and insists on success within [`DELAY`].
fn timely(what: &str, command: impl FnOnce() -> Outcome) {
    let begun = Instant::now();
    let outcome = command();
    let took = begun.elapsed();
    outcome.success();
    assert!(took < DELAY, "{what} took {took:?}");
}

/// Has an innocent pod get a port and give it back some times, while `attacks` go on.
fn beside(node: &Node, attacks: &[&(dyn Fn() + Sync)]) {
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
        let innocent = pod(node, "innocent", 7).mapping([tcp(8080)]);
        let loops = || {
            for round in 0..10 {
                thread::sleep(Duration::from_millis(50));
                timely(&format!("ADD {round}"), || innocent.plugin_call("ADD").run());
                timely(&format!("DEL {round}"), || innocent.plugin_call("DEL").run());
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
