//! `make bench-pair`: ADD and DEL of one port, by two builds of autoport that take turns.
//!
//! Each has a node of its own. In every round both attach and detach one pod, the first one first in
//! even rounds and second in odd ones, so what disturbs the machine disturbs both. Compared are the medians
//! of what a runtime waits and of the processor time, which a busy machine changes less.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::json;

use crate::Bench;
use crate::measure::{Call, TICK, micros};
use crate::node::Node;
use crate::plugins::{Executables, NUMBER, Plugin, Pod, ports};
use crate::stats::{median, p99};

const ROUNDS: usize = 500;

/// One of the two.
struct Build<'a> {
    executables: Executables,
    node: &'a Node,
    /// The state directory, where it is not the default.
    state: Option<PathBuf>,
}

/// What one build took for one command.
#[derive(Default)]
struct Taken {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

/// Measures and prints. State directories on a disk are made below `folder`.
pub(crate) fn run(bench: &Bench, against: &Path, folder: &Path) {
    let before = Executables { autoport: against.to_owned(), ..bench.executables.clone() };
    println!("microseconds; before: {}", against.display());
    println!(
        "{:8}{:6}{:5}{:>12}{:>8}{:>8}{:>12}{:>8}{:>12}{:>8}{:>8}",
        "state",
        "proto",
        "",
        "before p50",
        "now",
        "ratio",
        "before p99",
        "now",
        "before CPU",
        "now",
        "ratio"
    );
    for disk in [false, true] {
        for protocol in ["tcp", "udp"] {
            let nodes = [Node::new(), Node::new()];
            let builds = [("before", &before), ("now", &bench.executables)];
            let builds = builds.into_iter().zip(&nodes).map(|((name, executables), node)| {
                let state = disk.then(|| folder.join(format!("state-{name}")));
                Build { executables: executables.clone(), node, state }
            });
            let builds: Vec<_> = builds.collect();
            let taken = turns(&builds, protocol, bench.rounds(ROUNDS));
            for (at, command) in ["ADD", "DEL"].into_iter().enumerate() {
                let [before, now] = [&taken[0][at], &taken[1][at]];
                let ratio = |was: &[f64], is: &[f64]| median(is) / median(was);
                println!(
                    "{:8}{protocol:6}{command:5}{:>12.0}{:>8.0}{:>8.3}{:>12.0}{:>8.0}{:>12.0}{:>8.0}{:>8.3}",
                    if disk { "disk" } else { "tmpfs" },
                    median(&before.wall),
                    median(&now.wall),
                    ratio(&before.wall, &now.wall),
                    p99(&before.wall),
                    p99(&now.wall),
                    median(&before.cpu),
                    median(&now.cpu),
                    ratio(&before.cpu, &now.cpu),
                );
            }
            for build in &builds {
                build.forget();
            }
        }
    }
}

/// What each build took for ADD and for DEL.
fn turns(builds: &[Build], protocol: &str, rounds: usize) -> Vec<[Taken; 2]> {
    let mut taken: Vec<[Taken; 2]> = builds.iter().map(|_| Default::default()).collect();
    for build in builds {
        build.forget();
    }
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..builds.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for turn in order {
            let build = &builds[turn];
            let pod = Pod::numbered(NUMBER + round as u16, false, ports(round, 1));
            for (at, command) in ["ADD", "DEL"].into_iter().enumerate() {
                let call = build.call(command, &pod, protocol);
                let sample = build.node.space.run(|| call.time()).success(command);
                // The first round warms up: it makes the store and the table.
                if round > 0 {
                    taken[turn][at].wall.push(micros(sample.wall));
                    taken[turn][at].cpu.push(micros(sample.cpu));
                }
            }
        }
        thread::sleep(TICK / 10);
    }
    taken
}

impl Build<'_> {
    fn call(&self, command: &str, pod: &Pod, protocol: &str) -> Call {
        let mut config = Plugin::Autoport.config(pod);
        config["runtimeConfig"]["portMappings"][0]["protocol"] = json!(protocol);
        if let Some(state) = &self.state {
            config["stateDir"] = json!(state);
        }
        Call::configured(&self.executables, Plugin::Autoport, command, pod, &config)
    }

    /// Removes a state directory that an earlier run or situation left.
    fn forget(&self) {
        if let Some(state) = &self.state {
            let _ = fs::remove_dir_all(state);
        }
    }
}
