//! Storms: many plugins at once, ADD and then DEL, on one node.
//!
//! Every process is started beforehand and waits at a gate; the clock starts when it opens. So a
//! call's time is what its runtime would wait: from the moment it wanted to start the plugin.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::mkfifo;

use crate::Bench;
use crate::fill::fill;
use crate::measure::{Call, Sample, TICK, held, lock_tracer, micros};
use crate::node::{Node, tool};
use crate::plugins::{Plugin, Pod};
use crate::raw::Row;

const BENCH: &str = "storm";
const PORT: u16 = 2_000;
const NUMBER: u16 = 60_000;

/// portmap 1.1.1 is left out: it does what 1.9.1 does with iptables.
const PLUGINS: [Plugin; 3] = [Plugin::Autoport, Plugin::PortmapNftables, Plugin::PortmapIptables];

pub(crate) fn run(bench: &Bench) {
    bench.raw.begin(BENCH);
    let sizes: &[u16] = if bench.quick { &[10] } else { &[50, 250] };
    let levels: &[u16] = if bench.quick { &[0] } else { &[0, 5_000] };
    for held in levels {
        let players = bench.plugins(&PLUGINS).into_iter();
        let nodes: Vec<_> = players.map(|plugin| (plugin, Node::new())).collect();
        for (plugin, node) in &nodes {
            fill(&bench.executables, *plugin, node, false, 0, *held);
        }
        for size in sizes {
            for (plugin, node) in &nodes {
                // With iptables each call alone takes a quarter of a second there.
                if *plugin == Plugin::PortmapIptables && *held > 0 && *size > 50 {
                    continue;
                }
                eprintln!("bench: {size} at once, {held} held, {}", plugin.id());
                let storm = Storm { bench, plugin: *plugin, size: *size, held: *held };
                let rounds = match plugin {
                    Plugin::Autoport => 5,
                    Plugin::PortmapNftables | Plugin::PortmapIptables | Plugin::PortmapOld => {
                        if *held > 0 {
                            1
                        } else {
                            3
                        }
                    }
                };
                node.space.run(|| storm.rage(bench.rounds(rounds)));
            }
        }
    }
}

struct Storm<'a> {
    bench: &'a Bench,
    plugin: Plugin,
    size: u16,
    held: u16,
}

impl Storm<'_> {
    fn rage(&self, rounds: usize) {
        let commands = ["ADD", "DEL"];
        let mut rows = commands.map(|command| self.row(command));
        let mut lost = [0; 2];
        for _ in 0..rounds {
            for (at, command) in commands.into_iter().enumerate() {
                let samples = self.unleash(command, &|_| Vec::new());
                let failed = samples.iter().filter(|sample| !sample.succeeded).count();
                let calls: Vec<f64> = samples.iter().map(|sample| micros(sample.wall)).collect();
                let wall = calls.iter().copied().fold(0.0, f64::max);
                let each = &mut rows[at].samples;
                each.entry("wall_us".to_owned()).or_default().push(wall);
                each.entry("call_us".to_owned()).or_default().extend(calls);
                lost[at] += failed.max(self.wrong(command));
            }
        }
        for (row, lost) in rows.into_iter().zip(lost) {
            assert!(self.plugin != Plugin::Autoport || lost == 0, "{lost} were lost: {row:?}");
            self.bench.raw.put(&row.fact("lost", lost));
        }
        if self.plugin == Plugin::Autoport {
            self.watch_lock();
        }
    }

    fn row(&self, command: &str) -> Row {
        Row::new(BENCH, self.plugin.id())
            .param("held", self.held)
            .param("size", self.size)
            .param("command", command)
    }

    fn pods(&self) -> impl Iterator<Item = Pod> {
        (0..self.size).map(|pod| Pod::numbered(NUMBER + pod, false, [PORT + pod]))
    }

    /// Lets every pod's call go at once, each run by `words(number)` if those are not empty.
    fn unleash(&self, command: &str, words: &dyn Fn(u16) -> Vec<String>) -> Vec<Sample> {
        let gate = Gate::new();
        let mut waiting = Vec::new();
        for (pod, number) in self.pods().zip(0..) {
            let call = Call::cni(&self.bench.executables, self.plugin, command, &pod);
            let mut all = gate.words();
            all.extend(words(number));
            waiting.push(call.start(&all));
        }
        gate.open(self.size.into(), |opened| {
            let mut samples = Vec::new();
            while samples.len() < waiting.len() {
                let reaped = waitpid(None, None).expect("there are children");
                let wall = opened.elapsed();
                let (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) = reaped else {
                    continue;
                };
                let (_, output) = waiting
                    .iter_mut()
                    .find(|(child, _)| child.id().cast_signed() == pid.as_raw())
                    .expect("a child of this storm");
                samples.push(Sample {
                    wall,
                    cpu: Duration::ZERO,
                    succeeded: matches!(reaped, WaitStatus::Exited(_, 0)),
                    output: crate::measure::text(output),
                });
            }
            samples
        })
    }

    /// How many of the pods' mappings are not as they should be after `command`.
    fn wrong(&self, command: &str) -> usize {
        thread::sleep(TICK);
        let mapped = mapped(self.plugin);
        let wanted = command == "ADD";
        self.pods().filter(|pod| mapped.contains(&pod.ports[0].0) != wanted).count()
    }

    /// One more storm of each command, under a tracer: how long the lock is waited for, and held.
    fn watch_lock(&self) {
        for command in ["ADD", "DEL"] {
            let file = |number: u16| format!("/run/strace.{number}");
            self.unleash(command, &|number| lock_tracer(&file(number)));
            let traces = (0..self.size).map(file).map(fs::read_to_string);
            let all = traces.filter_map(|trace| held(&trace.expect("strace wrote it")));
            let (waited, held): (Vec<_>, Vec<_>) =
                all.map(|(waited, held)| (micros(waited), micros(held))).unzip();
            let row = Row { bench: "lock".to_owned(), ..self.row(command) };
            self.bench.raw.put(&row.samples("waited_us", waited).samples("held_us", held));
        }
    }
}

/// The host ports that are mapped on this node.
fn mapped(plugin: Plugin) -> BTreeSet<u16> {
    let (program, arguments, before): (_, &[&str], _) = match plugin {
        Plugin::Autoport => ("nft", &["list", "map", "inet", "autoport", "ports4"], "tcp . "),
        Plugin::PortmapNftables => {
            ("nft", &["list", "chain", "ip", "cni_hostport", "hostports"], "tcp dport ")
        }
        Plugin::PortmapIptables | Plugin::PortmapOld => {
            ("iptables-save", &["-t", "nat"], "--dports ")
        }
    };
    let text = tool(Command::new(program).args(arguments), "");
    let number = |rest: &str| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    text.split(before).skip(1).filter_map(number).collect()
}

/// Where the processes of a storm wait.
struct Gate {
    ready: &'static str,
    gate: &'static str,
}

/// The word by which this program asks itself for [`hold`].
pub(crate) const HOLD: &str = "hold";

/// Says that it is there, waits until the gate opens, and becomes another program.
pub(crate) fn hold(words: &[String]) {
    let [ready, gate, program, arguments @ ..] = words else {
        panic!("{HOLD} takes two FIFOs and a program");
    };
    let told = OpenOptions::new().write(true).open(ready).and_then(|mut file| file.write_all(b"."));
    told.expect("somebody counts who is ready");
    let _open = File::open(gate).expect("the gate");
    let error = Command::new(program).args(arguments).exec();
    panic!("{program}: {error}");
}

impl Gate {
    fn new() -> Self {
        let made = Self { ready: "/run/ready", gate: "/run/gate" };
        for path in [made.ready, made.gate] {
            let _ = fs::remove_file(path);
            mkfifo(path, Mode::S_IRWXU).expect("a FIFO can be made in /run");
        }
        made
    }

    fn words(&self) -> Vec<String> {
        let own = env::current_exe().expect("the path of this program");
        let own = own.to_str().expect("a path of ASCII");
        [own, HOLD, self.ready, self.gate].map(str::to_owned).into()
    }

    /// Waits for everybody, opens the gate, and keeps it open during `work`, which is told since when.
    fn open<T>(&self, size: usize, work: impl FnOnce(Instant) -> T) -> T {
        let mut ready = File::open(self.ready).expect("the FIFO of those who are ready");
        let mut arrived = 0;
        while arrived < size {
            arrived += ready.read(&mut [0; 256]).expect("those who are ready can be counted");
        }
        // From being ready to waiting is one system call.
        thread::sleep(Duration::from_millis(100));
        let opened = Instant::now();
        let _gate = OpenOptions::new().write(true).open(self.gate).expect("the gate opens");
        work(opened)
    }
}
