//! Whether cost grows with the node: autoport alone, on nodes with ever more mappings that take turns.

use crate::Bench;
use crate::control::{COMMANDS, HELD, ROUNDS};
use crate::fill::fill;
use crate::measure::{Call, micros};
use crate::node::Node;
use crate::plugins::{NUMBER, Plugin, Pod, ports};
use crate::raw::Row;

const BENCH: &str = "flat";

pub(crate) fn run(bench: &Bench) {
    bench.raw.begin(BENCH);
    let levels = if bench.quick { &HELD[..2] } else { &HELD[..] };
    let mut stages = Vec::new();
    for held in levels {
        eprintln!("bench: a node with {held} held");
        let node = Node::new();
        fill(&bench.executables, Plugin::Autoport, &node, false, 0, *held);
        stages.push((*held, node, COMMANDS.map(|command| (command, Vec::new()))));
    }
    for round in 0..=bench.rounds(ROUNDS) {
        for (_, node, seen) in &mut stages {
            let pod = Pod::numbered(NUMBER + round as u16, false, ports(round, 1));
            for (command, wall) in seen {
                let call = Call::cni(&bench.executables, Plugin::Autoport, command, &pod);
                let sample = node.space.run(|| call.time()).success(command);
                // The first round warms up.
                if round > 0 {
                    wall.push(micros(sample.wall));
                }
            }
        }
    }
    for (held, _, seen) in stages {
        for (command, wall) in seen {
            let row = Row::new(BENCH, Plugin::Autoport.id());
            let row = row.param("held", held).param("command", command);
            bench.raw.put(&row.samples("wall_us", wall));
        }
    }
}
