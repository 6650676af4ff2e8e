//! The way of the packets: what a mapping costs who connects through it, and what the table costs
//! those who do not. In real time, and in the emulated machine of `scripts/kernels.sh`, whose clock counts
//! instructions.
//!
//! All nodes are there at once and take turns, in an order that is reversed every time, so that what
//! disturbs one disturbs all. The report divides figures of the same turn.

mod bed;
mod load;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bed::{Bed, Path, Setup, Way};

use crate::Bench;
use crate::plugins::Plugin;
use crate::raw::Row;

/// How many mappings there are, by us and by the others, on nodes that have more than one.
const OURS: [u16; 4] = [1_000, 5_000, 20_000, 60_000];
const PEERS: [u16; 2] = [1_000, 5_000];

/// How often each node has its turn, in real time and where instructions are counted.
const TURNS: usize = 300;
const COUNTED_TURNS: usize = 12;
/// A slow machine has fewer turns.
const PATIENCE: Duration = Duration::from_mins(10);

/// The nanoseconds of what figures are given in: the emulated machine's clock takes four for an instruction.
const MICROSECOND: f64 = 1000.0;
const INSTRUCTION: f64 = 4.0;

/// The ways of IPv4 that are timed, those that are counted, and the ways of IPv6.
const TIMED: [Path; 6] =
    [Path::HostPort, Path::Routed, Path::Service, Path::Neighbour, Path::Hairpin, Path::Localhost];
const COUNTED: [Path; 4] = [Path::HostPort, Path::Localhost, Path::Hairpin, Path::Routed];
const IPV6: [Path; 3] = [Path::HostPort, Path::Hairpin, Path::Routed];

/// One node on one way: what is measured in one turn.
struct Cell {
    bed: usize,
    way: Way,
    /// By the name of the figure, one of each turn.
    samples: BTreeMap<&'static str, Vec<f64>>,
}

/// Takes the time, on this machine, whose kernel may have no flowtables.
pub(crate) fn run(bench: &Bench) {
    let few = |all: &'static [u16]| if bench.quick { &all[..1] } else { all };
    let mapped = |plugin, all| few(all).iter().map(move |count| Setup::Mapped(plugin, *count));
    let between = [Setup::Plain, Setup::Mapped(Plugin::PortmapIptables, 1)]
        .into_iter()
        .chain(mapped(Plugin::PortmapIptables, &PEERS))
        .chain(mapped(Plugin::PortmapNftables, &PEERS))
        .chain(mapped(Plugin::Autoport, &OURS));
    let turns = bench.rounds(TURNS);
    take_turns(bench, "datapath", MICROSECOND, &mirrored(between), &TIMED, turns);
}

/// Counts instructions, in the emulated machine.
pub(crate) fn count(bench: &Bench) {
    let setups = mirrored([Setup::Offloaded, Setup::Offloaded]);
    let turns = bench.rounds(COUNTED_TURNS);
    take_turns(bench, "packets", INSTRUCTION, &setups, &COUNTED, turns);
}

/// What is compared most closely is there twice, since a later node has more to do than an earlier one, and two
/// equal nodes show what difference means nothing.
fn mirrored(between: impl IntoIterator<Item = Setup>) -> Vec<Setup> {
    let outer = [
        Setup::Service,
        Setup::Mapped(Plugin::PortmapNftables, 1),
        Setup::Mapped(Plugin::Autoport, 1),
    ];
    outer.into_iter().chain(between).chain(outer.into_iter().rev()).collect()
}

/// Puts the figures of all nodes, a number for each turn, into the file `name`.
fn take_turns(
    bench: &Bench,
    name: &str,
    unit: f64,
    setups: &[Setup],
    paths: &[Path],
    turns: usize,
) {
    let bed = |setup: &Setup| {
        eprintln!("bench: a node with {setup:?}");
        Bed::new(&bench.executables, *setup)
    };
    let beds: Vec<Bed> = setups.iter().map(bed).collect();
    let mut cells = cells(setups, paths);
    let began = Instant::now();
    for turn in 0..turns {
        if began.elapsed() > PATIENCE {
            eprintln!("bench: {turn} turns must do");
            break;
        }
        for cell in &mut cells {
            for (name, value) in beds[cell.bed].measure(cell.way) {
                cell.samples.entry(name).or_default().push(value / unit);
            }
        }
        cells.reverse();
    }
    cells.sort_by_key(|cell| cell.bed);
    bench.raw.begin(name);
    for cell in cells {
        let (plugin, mappings) = setups[cell.bed].id();
        let row = Row::new(name, plugin).param("mappings", mappings).param("path", cell.way.id());
        let put = |row: Row, (name, values)| row.samples(name, values);
        bench.raw.put(&cell.samples.into_iter().fold(row, put));
    }
}

/// What is compared stands together.
fn cells(setups: &[Setup], paths: &[Path]) -> Vec<Cell> {
    let has_most = |plugin, mappings| {
        let more = |setup: &Setup| matches!(*setup, Setup::Mapped(of, more) if of == plugin && more > mappings);
        !setups.iter().any(more)
    };
    let goes = |Way { path, v6 }, setup| match setup {
        Setup::Plain => path == Path::Routed && !v6,
        Setup::Service => matches!(path, Path::Service | Path::Routed | Path::Neighbour),
        Setup::Mapped(_, 1) | Setup::Offloaded => true,
        // The mappings of others are IPv4.
        Setup::Mapped(..) if v6 => false,
        Setup::Mapped(plugin, mappings) => match path {
            Path::HostPort => true,
            Path::Hairpin | Path::Localhost => has_most(plugin, mappings),
            Path::Service | Path::Routed | Path::Neighbour => {
                plugin == Plugin::Autoport && has_most(plugin, mappings)
            }
        },
    };
    let way = |v6| move |path: &Path| Way { path: *path, v6 };
    let ways = paths.iter().map(way(false)).chain(IPV6.iter().map(way(true)));
    let all = ways.flat_map(|way| {
        setups.iter().enumerate().filter_map(move |(bed, setup)| {
            goes(way, *setup).then_some(Cell { bed, way, samples: BTreeMap::new() })
        })
    });
    all.collect()
}
