//! Choosing from a range in which nothing is free, or hardly anything: autoport alone, an ADD each.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use autoport::store::REMEMBERED;
use serde_json::json;

use crate::Bench;
use crate::fill::{STATE, clear};
use crate::measure::{Call, TICK, micros};
use crate::node::Node;
use crate::plugins::{Choice, NUMBER, Plugin, Pod};
use crate::raw::Row;

const BENCH: &str = "choice";
const ROUNDS: usize = 100;

/// As many as the default range has.
const NUMBERS: u16 = 10_000;
const FIRST: u16 = 20_000;
const HELD: u16 = 9_990;

/// How the numbers stand before each ADD.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Range {
    Free,
    /// All were given back a moment ago.
    Released,
    /// All were given back at the end of the period before, so that it has to be read when.
    ReleasedBefore,
    /// All but the last ones are held by others.
    Held,
}

impl Range {
    const ALL: [Self; 4] = [Self::Free, Self::Released, Self::ReleasedBefore, Self::Held];

    const fn id(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Released => "released",
            Self::ReleasedBefore => "released-before",
            Self::Held => "held",
        }
    }

    /// How many ports are asked for.
    const fn widths(self) -> [u16; 2] {
        match self {
            Self::Free | Self::Released | Self::ReleasedBefore => [1, 20],
            Self::Held => [1, NUMBERS - HELD],
        }
    }

    /// Makes it so again, in the calling thread's mount namespace; the search begins at the start.
    fn restore(self) {
        clear("cursors");
        clear("released");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.expect("it is later than 1970").as_secs();
        match self {
            Self::Free | Self::Held => {}
            Self::Released => release(now),
            Self::ReleasedBefore => release(now / REMEMBERED * REMEMBERED - 1),
        }
    }
}

/// Lets all numbers have been given back at `at`, by another pod.
fn release(at: u64) {
    let file = Path::new(STATE).join("released/tcp");
    fs::create_dir_all(file.parent().expect("a folder")).expect("the folder can be made");
    let time = u32::try_from(at).expect("before 2106").to_le_bytes();
    fs::write(file, time.repeat(usize::from(FIRST + NUMBERS))).expect("the times can be written");
}

pub(crate) fn run(bench: &Bench) {
    bench.raw.begin(BENCH);
    for range in Range::ALL {
        let node = Node::new();
        if range == Range::Held {
            let holder = Pod::numbered(1, false, FIRST..FIRST + HELD);
            let call = Call::cni(&bench.executables, Plugin::Autoport, "ADD", &holder);
            node.space.run(|| call.time().success("ADD"));
        }
        for ports in range.widths() {
            eprintln!("bench: {} of a range that is {}", ports, range.id());
            measure(bench, &node, range, ports);
        }
    }
}

fn measure(bench: &Bench, node: &Node, range: Range, ports: u16) {
    let call = |command, round| {
        let pod = Pod::numbered(NUMBER + round as u16, false, 0..ports).choosing(Choice::Dynamic);
        let mut config = Plugin::Autoport.config(&pod);
        config["portRange"] = json!(format!("{FIRST}-{}", FIRST + NUMBERS - 1));
        Call::configured(&bench.executables, Plugin::Autoport, command, &pod, &config)
    };
    let prepared = || {
        range.restore();
        // What the round before had.
        thread::sleep(TICK);
    };
    let mut wall = Vec::new();
    node.space.run(|| {
        let rounds = bench.rounds(ROUNDS);
        for round in 0..=rounds {
            prepared();
            let sample = call("ADD", round).time().success("ADD");
            call("DEL", round).time().success("DEL");
            // The first round warms up.
            if round > 0 {
                wall.push(micros(sample.wall));
            }
        }
        prepared();
        let trace = call("ADD", rounds + 1).trace();
        call("DEL", rounds + 1).time().success("DEL");
        let row = Row::new(BENCH, Plugin::Autoport.id());
        let row = row.param("range", range.id()).param("ports", ports);
        let calls: u64 = trace.calls.values().sum();
        bench.raw.put(&row.samples("wall_us", wall).fact("calls", calls));
    });
}
