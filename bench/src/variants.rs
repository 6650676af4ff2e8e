//! Ways to build the plugin, each an executable in `dist/variants`, made by `scripts/variants.sh`.

use std::fs;

use crate::Bench;
use crate::measure::{Call, micros};
use crate::node::Node;
use crate::plugins::{Executables, NUMBER, Plugin, Pod, ports};
use crate::raw::Row;

const BENCH: &str = "variants";
const FOLDER: &str = "dist/variants";
const ROUNDS: usize = 200;

/// ADD and DEL of one port by each, in turn, on one node.
pub(crate) fn run(bench: &Bench) {
    let found = fs::read_dir(FOLDER).unwrap_or_else(|error| {
        panic!("{FOLDER}: {error}; scripts/variants.sh makes it");
    });
    let mut variants: Vec<_> = found.filter_map(|it| it.ok()?.path().canonicalize().ok()).collect();
    variants.sort();
    let node = Node::new();
    let mut seen = vec![(Vec::new(), Vec::new()); variants.len()];
    for round in 0..=bench.rounds(ROUNDS) {
        for (turn, (path, (wall, cpu))) in variants.iter().zip(&mut seen).enumerate() {
            let executables = Executables { autoport: path.clone(), ..bench.executables.clone() };
            // One that was never there before.
            let nth = round * variants.len() + turn;
            let pod = Pod::numbered(NUMBER + nth as u16, false, ports(nth, 1));
            let [add, del] = ["ADD", "DEL"].map(|command| {
                let call = Call::cni(&executables, Plugin::Autoport, command, &pod);
                node.space.run(|| call.time()).success(command)
            });
            // The first round warms up.
            if round > 0 {
                wall.push(micros(add.wall));
                cpu.push(micros(add.cpu + del.cpu));
            }
        }
    }
    bench.raw.begin(BENCH);
    for (path, (wall, cpu)) in variants.iter().zip(seen) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let size = fs::metadata(path).map_or(0, |found| found.len());
        let row = Row::new(BENCH, &name).fact("bytes", size);
        bench.raw.put(&row.samples("add_wall_us", wall).samples("cpu_us", cpu));
    }
}
