//! The way of the packets: what a mapping costs who connects through it, and what the table costs
//! those who do not.
//!
//! All nodes are there at once and take turns, in an order that is reversed every time, so that what
//! disturbs one disturbs all.

mod bed;
mod load;
pub(crate) mod packets;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bed::{Bed, Path, Setup};
use load::Server;

use crate::Bench;
use crate::plugins::Plugin;
use crate::raw::Row;
use crate::stats::{median, p99};

/// How many mappings there are, by us.
const OURS: [u16; 5] = [1, 1_000, 5_000, 20_000, 60_000];
/// The same, by the others.
const PEERS: [u16; 3] = [1, 1_000, 5_000];

/// The spread of a figure between turns is a tenth; what is asked for is a twentieth, between medians.
const TURNS: usize = 120;
/// What needs no such care is measured in every so many of them: peers, and throughput. Odd, so that
/// they too take turns in both orders.
const SELDOM: usize = 9;
/// A slow machine has fewer turns.
const PATIENCE: Duration = Duration::from_mins(10);

/// How many connections are made at a time.
const CROWD: usize = 32;

/// One node on one way: what is measured in one turn.
struct Cell {
    bed: usize,
    path: Path,
    /// By the name of the figure, one of each turn.
    samples: BTreeMap<&'static str, Vec<f64>>,
}

pub(crate) fn run(bench: &Bench) {
    let setups = setups(bench.quick);
    let bed = |setup: &Setup| {
        eprintln!("bench: a node with {setup:?}");
        Bed::new(&bench.executables, *setup, Server::start)
    };
    let beds: Vec<Bed<Server>> = setups.iter().map(bed).collect();
    let mut cells: Vec<Cell> = cells(&setups);
    let began = Instant::now();
    for turn in 0..bench.rounds(TURNS) {
        if began.elapsed() > PATIENCE {
            eprintln!("bench: {turn} turns must do");
            break;
        }
        let seldom = turn % SELDOM == 0;
        let forward = turn % 2 == 0;
        let last = cells.len() - 1;
        for at in 0..cells.len() {
            let cell = &mut cells[if forward { at } else { last - at }];
            if seldom || !is_peers(setups[cell.bed]) {
                measure(&beds[cell.bed], cell, seldom, bench.quick);
            }
        }
    }
    bench.raw.begin("datapath");
    for cell in cells {
        let (plugin, mappings) = match setups[cell.bed] {
            Setup::Plain => ("plain", 0),
            Setup::Service => ("service", 0),
            Setup::Mapped(plugin, mappings) => (plugin.id(), mappings),
            Setup::Offloaded => ("offload", 1),
        };
        // The second node with one mapping shows what difference means nothing.
        let again = setups[..cell.bed].contains(&setups[cell.bed]);
        let row = Row::new("datapath", plugin)
            .param("mappings", mappings)
            .param("path", cell.path.id())
            .param("again", again);
        let row =
            cell.samples.into_iter().fold(row, |row, (name, values)| row.samples(name, values));
        bench.raw.put(&row);
    }
}

fn setups(quick: bool) -> Vec<Setup> {
    let ours = |mappings| Setup::Mapped(Plugin::Autoport, mappings);
    let few = |all: &'static [u16]| if quick { &all[..2] } else { all };
    let mut setups = vec![Setup::Plain, Setup::Service, ours(1)];
    setups.extend(few(&OURS).iter().copied().map(ours));
    for peer in [Plugin::PortmapNftables, Plugin::PortmapIptables] {
        setups.extend(few(&PEERS).iter().map(|mappings| Setup::Mapped(peer, *mappings)));
    }
    setups
}

/// What is compared stands together.
fn cells(setups: &[Setup]) -> Vec<Cell> {
    let most = |plugin| {
        let same = setups.iter().filter_map(move |setup| match setup {
            Setup::Mapped(of, mappings) if *of == plugin => Some(*mappings),
            Setup::Mapped(..) | Setup::Plain | Setup::Service | Setup::Offloaded => None,
        });
        same.max()
    };
    let goes = |path, setup| match setup {
        // What a mapping is held against.
        Setup::Offloaded => false,
        Setup::Plain => path == Path::Routed,
        Setup::Service => matches!(path, Path::Service | Path::Routed | Path::Neighbour),
        Setup::Mapped(plugin, mappings) => {
            let fewest_or_most = mappings == 1 || Some(mappings) == most(plugin);
            match path {
                Path::HostPort => true,
                Path::Hairpin | Path::Localhost => fewest_or_most,
                Path::Service | Path::Routed | Path::Neighbour => {
                    fewest_or_most && plugin == Plugin::Autoport
                }
            }
        }
    };
    let paths = [
        Path::HostPort,
        Path::Routed,
        Path::Service,
        Path::Neighbour,
        Path::Hairpin,
        Path::Localhost,
    ];
    let all = paths.into_iter().flat_map(|path| {
        setups.iter().enumerate().filter_map(move |(bed, setup)| {
            goes(path, *setup).then_some(Cell { bed, path, samples: BTreeMap::new() })
        })
    });
    all.collect()
}

fn is_peers(setup: Setup) -> bool {
    matches!(setup, Setup::Mapped(plugin, _) if plugin != Plugin::Autoport)
}

fn measure(bed: &Bed<Server>, cell: &mut Cell, seldom: bool, quick: bool) {
    let path = cell.path;
    let few = |count: usize| if quick { count / 10 } else { count };
    let during = Duration::from_millis(if quick { 50 } else { 200 });
    let mut put = |name, value| cell.samples.entry(name).or_default().push(value);

    let (one, _) = bed.from(path, |to| load::connect_all(to, few(1_000), 1));
    put("one_p50_us", median(&one));
    put("one_p99_us", p99(&one));
    let (crowd, per_second) = bed.from(path, |to| load::connect_all(to, few(3_200), CROWD));
    put("crowd_p50_us", median(&crowd));
    put("crowd_p99_us", p99(&crowd));
    put("crowd_per_s", per_second);
    // What comes from 127.0.0.1 is the node's own; its UDP is not what anybody waits for.
    if matches!(path, Path::HostPort | Path::Routed) {
        let datagrams = bed.from(path, |to| load::first_datagrams(to, few(500)));
        put("udp_p50_us", median(&datagrams));
        put("udp_p99_us", p99(&datagrams));
        if seldom {
            let rate = bed.from(path, |to| bed.server.throughput(to, during));
            put("gbit_per_s", rate);
        }
    }
    bed.forget_flows();
}
