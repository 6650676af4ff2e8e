//! The control path: one command at a time, plugins taking turns run by run.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::fill::{clear, fill};
use crate::measure::{Call, Sample, TICK, micros};
use crate::node::Node;
use crate::plugins::{Choice, NUMBER, Plugin, Pod, ports};
use crate::raw::Row;

const BENCH: &str = "control";
pub(crate) const COMMANDS: [&str; 3] = ["ADD", "CHECK", "DEL"];
/// How many mappings other pods hold.
pub(crate) const HELD: [u16; 6] = [0, 100, 1_000, 5_000, 20_000, 50_000];
/// Peers are not asked beyond.
const HELD_BY_PEERS: u16 = 5_000;
pub(crate) const ROUNDS: usize = 200;
/// Those of the rounds, one to warm up, and one for each command that is looked at once.
const PODS: u16 = ROUNDS as u16 + 1 + COMMANDS.len() as u16;
/// A peer takes part in every so many rounds that its part of one situation takes about this long.
const PATIENCE: Duration = Duration::from_secs(3);
/// The situation of ten thousand ports has fewer rounds on a slow machine.
const LONGEST: Duration = Duration::from_secs(90);
const FEWEST: usize = 5;

/// Plugins with a node each, which all hold the same mappings.
struct Stage<'a> {
    bench: &'a Bench,
    dual: bool,
    held: u16,
    nodes: Vec<(Plugin, Node)>,
    /// How many situations came before.
    measured: u16,
}

/// What one plugin is asked to do again and again.
#[derive(Clone, Copy)]
struct Situation {
    ports: u16,
    choice: Choice,
}

/// What was seen of one plugin in one situation.
#[derive(Default)]
struct Seen {
    every: usize,
    samples: BTreeMap<&'static str, Vec<Sample>>,
}

pub(crate) fn run(bench: &Bench) {
    bench.raw.begin(BENCH);
    let levels = if bench.quick { &HELD[..2] } else { &HELD[..] };
    let widths: &[u16] = if bench.quick { &[1] } else { &[1, 20] };
    for dual in [false, true] {
        let nodes = nodes(bench, &Plugin::ALL);
        let mut stage = Stage { bench, dual, held: 0, nodes, measured: 0 };
        for held in levels {
            stage.hold(*held);
            for ports in widths {
                for choice in [Choice::Static, Choice::Dynamic] {
                    stage.forget();
                    stage.measure(Situation { ports: *ports, choice });
                }
            }
        }
    }
    many_ports(bench);
}

fn nodes(bench: &Bench, plugins: &[Plugin]) -> Vec<(Plugin, Node)> {
    bench.plugins(plugins).into_iter().map(|plugin| (plugin, Node::new())).collect()
}

/// One pod with very many ports, on an empty node.
fn many_ports(bench: &Bench) {
    let nodes = nodes(bench, &[Plugin::Autoport, Plugin::PortmapNftables]);
    let mut stage = Stage { bench, dual: false, held: 0, nodes, measured: 0 };
    let ports: &[u16] = if bench.quick { &[100] } else { &[1_000, 10_000] };
    for ports in ports {
        stage.measure(Situation { ports: *ports, choice: Choice::Static });
    }
}

impl Stage<'_> {
    fn hold(&mut self, held: u16) {
        for (plugin, node) in &self.nodes {
            if *plugin == Plugin::Autoport || held <= HELD_BY_PEERS {
                fill(&self.bench.executables, *plugin, node, self.dual, self.held, held);
            }
        }
        self.held = held;
    }

    /// Forgets what the situations before gave back, as twenty minutes would: a node has no such
    /// churn, and what it does to a range is measured apart ([`crate::choice`]).
    fn forget(&self) {
        for (_, node) in self.nodes.iter().filter(|(plugin, _)| *plugin == Plugin::Autoport) {
            node.space.run(|| clear("released"));
        }
    }

    fn takes_part(&self, plugin: Plugin, situation: Situation) -> bool {
        plugin == Plugin::Autoport
            || (self.held <= HELD_BY_PEERS && situation.choice == Choice::Static)
    }

    /// A pod of its own for every round: what a pod has given back is kept for it, and read.
    fn pod(&self, round: usize, situation: Situation) -> Pod {
        let number = NUMBER + self.measured * PODS + round as u16;
        Pod::numbered(number, self.dual, ports(round, situation.ports)).choosing(situation.choice)
    }

    fn measure(&mut self, situation: Situation) {
        let bench = self.bench;
        let wide = situation.ports > 20;
        let rounds = bench.rounds(ROUNDS);
        let players: Vec<_> =
            self.nodes.iter().filter(|(plugin, _)| self.takes_part(*plugin, situation)).collect();
        eprintln!(
            "bench: {} held, {} ports, {}, {}",
            self.held,
            situation.ports,
            self.stack(),
            situation.choice.id()
        );
        let mut seen: Vec<Seen> = players.iter().map(|_| Seen::default()).collect();
        let mut floor = Vec::new();
        let empty = Call::bare(&bench.executables.floor);
        // The first round only shows who is how slow, and warms up.
        let began = Instant::now();
        for round in 0..=rounds {
            if began.elapsed() > LONGEST {
                eprintln!("bench: {round} rounds must do");
                break;
            }
            for (turn, (plugin, node)) in players.iter().enumerate() {
                let one = &mut seen[turn];
                if round > 0 && (round - 1) % one.every != 0 {
                    continue;
                }
                let pod = self.pod(round, situation);
                if wide {
                    // It has the ports of the round before.
                    thread::sleep(TICK);
                }
                for command in COMMANDS {
                    let call = Call::cni(&bench.executables, *plugin, command, &pod);
                    let sample = node.space.run(|| call.time());
                    one.samples.entry(command).or_default().push(sample);
                }
                if round == 0 {
                    let took: Duration = one.samples.values().flatten().map(|s| s.wall).sum();
                    one.samples.clear();
                    let runs = (PATIENCE.as_secs_f64() / took.as_secs_f64()) as usize;
                    one.every = match plugin {
                        Plugin::Autoport => 1,
                        Plugin::PortmapNftables | Plugin::PortmapIptables | Plugin::PortmapOld => {
                            rounds.div_ceil(runs.max(FEWEST)).max(1)
                        }
                    };
                }
            }
            let (_, node) = players[0];
            floor.push(node.space.run(|| empty.time()));
        }
        for ((plugin, node), seen) in players.into_iter().zip(seen) {
            for (command, samples) in seen.samples {
                self.put(*plugin, node, situation, command, &samples);
            }
        }
        let row = self.row("floor", situation, "run");
        let wall = floor.iter().map(|sample| micros(sample.wall)).collect();
        let cpu = floor.iter().map(|sample| micros(sample.cpu)).collect();
        let peak = self.nodes[0].1.space.run(|| empty.peak());
        let row = row.samples("wall_us", wall).samples("cpu_us", cpu).fact("peak_kib", peak);
        let trace = self.nodes[0].1.space.run(|| empty.trace());
        bench.raw.put(&row.fact("calls", calls(&trace.calls)));
        self.measured += 1;
    }

    const fn stack(&self) -> &'static str {
        if self.dual { "dual" } else { "v4" }
    }

    fn row(&self, plugin: &str, situation: Situation, command: &str) -> Row {
        Row::new(BENCH, plugin)
            .param("held", self.held)
            .param("ports", situation.ports)
            .param("stack", self.stack())
            .param("choice", situation.choice.id())
            .param("command", command)
    }

    fn put(
        &self,
        plugin: Plugin,
        node: &Node,
        situation: Situation,
        command: &'static str,
        samples: &[Sample],
    ) {
        let mut row = self.row(plugin.id(), situation, command);
        if let Some(failed) = samples.iter().find(|sample| !sample.succeeded) {
            assert!(plugin != Plugin::Autoport, "{command}: {}", failed.output);
            self.bench.raw.put(&row.fact("fails", true));
            return;
        }
        let wall = samples.iter().map(|sample| micros(sample.wall)).collect();
        let cpu = samples.iter().map(|sample| micros(sample.cpu)).collect();
        row = row.samples("wall_us", wall).samples("cpu_us", cpu);
        // What does not vary, or not much, is looked at once.
        if plugin == Plugin::Autoport || (self.held == 0 && !self.dual) {
            let apart = COMMANDS.iter().position(|it| *it == command).unwrap_or_default();
            let pod = self.pod(ROUNDS + 1 + apart, situation);
            let call = |command: &str| Call::cni(&self.bench.executables, plugin, command, &pod);
            let (trace, peak, lock) = node.space.run(|| {
                (
                    once(call, command, Call::trace),
                    once(call, command, Call::peak),
                    (plugin == Plugin::Autoport).then(|| once(call, command, Call::lock)).flatten(),
                )
            });
            row = row.fact("peak_kib", peak);
            row = row.fact("children", trace.children).fact("calls", calls(&trace.calls));
            if let Some((_, held)) = lock {
                row = row.fact("lock_us", micros(held));
            }
        }
        self.bench.raw.put(&row);
    }
}

/// Runs one command in its place between ADD and DEL, and looks at that one.
fn once<T>(call: impl Fn(&str) -> Call, command: &str, look: impl Fn(&Call) -> T) -> T {
    thread::sleep(TICK);
    if command != "ADD" {
        call("ADD").time().success("ADD");
    }
    let seen = look(&call(command));
    if command != "DEL" {
        call("DEL").time().success("DEL");
    }
    seen
}

fn calls(calls: &BTreeMap<String, u64>) -> serde_json::Value {
    serde_json::to_value(calls).unwrap_or_default()
}
