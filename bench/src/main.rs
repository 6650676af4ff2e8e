//! `make bench`: what autoport costs, measured beside portmap in one run.
//!
//! Each plugin works on a node of its own, a network and a mount namespace ([`node`]); the machine's
//! own network is not touched. Measurements take turns run by run, so that what disturbs one disturbs
//! all. Each writes raw figures ([`raw`]) below `target/bench`, and only the report reads them: it
//! makes the tables of `docs/performance.md` and the pictures in `docs/img`.
//!
//! | module | does |
//! | --- | --- |
//! | [`node`] | namespaces, bridge, `ip` |
//! | [`plugins`] | who is compared; what a runtime says to them |
//! | [`measure`] | one call: time, CPU, memory, system calls |
//! | [`guard`] | what can be counted, against figures on record |
//! | [`raw`] | rows of figures on disk |
//! | [`fill`] | mappings held by other pods |
//! | [`control`], [`flat`], [`choice`], [`storm`], [`datapath`], [`budget`], [`variants`] | the measurements |
//! | [`load`] | one node attacked, one quiet: apart from the others, and without a report |
//! | [`pair`] | two builds of autoport that take turns; likewise |
//! | [`stats`], [`report`], [`plot`] | median, p99; tables; pictures |
//!
//! A new measurement is a module with `pub(crate) fn run(bench: &Bench)`, a subcommand here, and a
//! section in the report. With `bench.quick` it does everything a few times only.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a benchmark has files, children, a clock, a terminal and statistics"
)]

mod budget;
mod choice;
mod control;
mod datapath;
mod fill;
mod flat;
mod guard;
mod load;
mod machine;
mod measure;
mod node;
mod pair;
mod plot;
mod plugins;
mod raw;
mod report;
mod stats;
mod storm;
mod variants;

use std::env;
use std::fs;
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use plugins::{Executables, Plugin};
use raw::Raw;

/// What can be measured or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One command at a time, with ever more mappings on the node.
    Control,
    /// The same command on nodes that take turns.
    Flat,
    /// Choosing where hardly anything is free.
    Choice,
    /// Many commands at once.
    Storm,
    /// Connections and packets by ways that pass autoport's table, with ever more mappings, each node beside the others.
    Datapath,
    /// The same with one mapping, counted in instructions, in the emulated machine of scripts/kernels.sh; alone, and without a report.
    Packets,
    /// What every system call of an ADD is for, and takes.
    Budget,
    /// Ways to build the plugin, in dist/variants.
    Variants,
    /// What attackers can do to the commands of others; alone, and without a report.
    Load,
    /// ADD and DEL of one port by this build and by --against; alone, and without a report.
    Pair,
    /// Tables and pictures from the raw figures.
    Report,
}

/// Measures autoport beside portmap.
#[derive(Debug, Parser)]
struct Options {
    /// Everything a few times only: shows that it works, not what it costs.
    #[arg(long)]
    quick: bool,
    /// Only this plugin: to try something out. No report is made of it.
    #[arg(long)]
    only: Option<String>,
    /// The plugin, as it is installed [default: beside this program].
    #[arg(long)]
    autoport: Option<PathBuf>,
    /// Another build of the plugin, to compare with.
    #[arg(long)]
    against: Option<PathBuf>,
    /// The program that does nothing [default: beside this program].
    #[arg(long)]
    floor: Option<PathBuf>,
    /// The folder of the raw figures.
    #[arg(long, default_value = "target/bench")]
    raw: PathBuf,
    /// Only compares what can be counted with the figures on record.
    #[arg(long)]
    check: bool,
    /// Puts on record what is counted now.
    #[arg(long, requires = "check")]
    accept: bool,
    /// Where performance.md is, and the pictures below; with --quick a copy of it is written.
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
    /// What to measure, in this order, before the report is made [default: everything but variants, packets, load and pair].
    parts: Vec<Part>,
}

/// What every measurement is given.
struct Bench {
    executables: Executables,
    raw: Raw,
    quick: bool,
    only: Option<String>,
}

impl Bench {
    /// The plugins that take part, of these.
    fn plugins(&self, all: &[Plugin]) -> Vec<Plugin> {
        let wanted = |plugin: &Plugin| match &self.only {
            Some(only) => only == plugin.id(),
            // What the tests need is there, and no more.
            None => !(self.quick && *plugin == Plugin::PortmapOld),
        };
        all.iter().copied().filter(wanted).collect()
    }

    /// How often: `full` times, or a few.
    fn rounds(&self, full: usize) -> usize {
        if self.quick { full.min(2) } else { full }
    }
}

/// What this program does when it starts itself.
fn by_word() -> bool {
    let mut words = env::args().skip(1);
    let word = words.next().unwrap_or_default();
    let words: Vec<String> = words.collect();
    match word.as_str() {
        fill::ADD_MANY => fill::add_many(&words),
        storm::HOLD => storm::hold(&words),
        budget::TURNS => budget::take_turns(&words),
        measure::PEAK => measure::tell_peak(&words),
        load::CROWD => load::crowd(&words),
        load::LISTEN => load::listen(&words),
        _ => return false,
    }
    true
}

/// A path that does not depend on where a process is.
fn whole(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn main() -> ExitCode {
    if by_word() {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let apart = if options.quick { options.raw.join("quick") } else { options.raw };
    fs::create_dir_all(&apart).expect("the folder of the raw figures can be made");
    // Measuring is done in other mount namespaces, at their root.
    let apart = whole(&apart);
    let (raw, docs) = if options.quick {
        let report = "performance.md";
        fs::copy(options.docs.join(report), apart.join(report)).expect("the report can be copied");
        (apart.clone(), apart)
    } else {
        (apart, options.docs)
    };
    let beside =
        |name: &str| env::current_exe().expect("the path of this program").with_file_name(name);
    let bench = Bench {
        executables: Executables {
            autoport: whole(&options.autoport.unwrap_or_else(|| beside("autoport"))),
            // Not all parts need them.
            tools: path::absolute(plugins::default_tools(Path::new(".")))
                .expect("a working directory"),
            floor: whole(&options.floor.unwrap_or_else(|| beside("floor"))),
        },
        raw: Raw::at(&raw),
        quick: options.quick,
        only: options.only,
    };
    if options.check {
        let well = guard::run(&bench.executables, options.accept);
        return if well { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if options.parts == [Part::Load] {
        load::run(&bench.executables, bench.quick);
        return ExitCode::SUCCESS;
    }
    if options.parts == [Part::Pair] {
        let against = options.against.expect("--against names the other build");
        pair::run(&bench, &whole(&against), &raw);
        return ExitCode::SUCCESS;
    }
    if options.parts == [Part::Packets] {
        datapath::count(&bench);
        return ExitCode::SUCCESS;
    }
    if options.parts != [Part::Report] {
        machine::describe(&bench);
    }
    let every =
        [Part::Control, Part::Flat, Part::Choice, Part::Storm, Part::Datapath, Part::Budget];
    let parts = if options.parts.is_empty() { &every[..] } else { &options.parts };
    for part in parts {
        let measure: fn(&Bench) = match part {
            Part::Control => control::run,
            Part::Flat => flat::run,
            Part::Choice => choice::run,
            Part::Storm => storm::run,
            Part::Datapath => datapath::run,
            Part::Budget => budget::run,
            Part::Variants => variants::run,
            Part::Load | Part::Packets | Part::Pair | Part::Report => continue,
        };
        let name = format!("{part:?}").to_lowercase();
        eprintln!("bench: {name}");
        machine::during(&bench, &name, || measure(&bench));
    }
    if bench.only.is_none() {
        report::run(&bench, &docs);
    }
    ExitCode::SUCCESS
}
