//! The operator's command line: what was asked, who does it, and how it ended. Each command prints in
//! a file of its own.

mod arguments;
mod gc;
mod list;
mod output;
mod repair;
mod reserve;

use std::io::{self, BufWriter, IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use autoport::app;
use autoport::cni::StoreConfig;
use autoport::error::Error;
use autoport::store::Store;
use clap::Parser as _;
use serde::Serialize;

use self::arguments::{Cli, Command};
use self::output::{Answer, Screen, Text};
use super::note;

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Command(#[from] Error),
    #[error("there is no reservation {0}; `autoport list` shows those there are")]
    NoReservation(String),
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
}

/// How a command ended that worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Exit status 0.
    Well,
    /// Exit status 3: the command worked, what it looked at is not as it should be.
    #[expect(dead_code, reason = "for the commands that judge, which follow")]
    Unwell,
}

/// The exit status is 1 where the command did not work; 2, for wrong arguments, is clap's.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let stdout = io::stdout().lock();
    let colour = wants_colour(&stdout);
    let mut out = BufWriter::new(stdout);
    let mut screen = Screen { out: &mut out, format: cli.output, colour };
    let outcome = run(&cli, &mut screen).and_then(|verdict| {
        out.flush()?;
        Ok(verdict)
    });
    let (error, details) = match &outcome {
        Ok(Verdict::Well) => return ExitCode::SUCCESS,
        Ok(Verdict::Unwell) => return ExitCode::from(3),
        // Whoever reads has seen enough, as in `autoport list | head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(error @ Failure::Output(source)) => (error, source.to_string()),
        Err(error @ Failure::Command(source)) => (error, source.details()),
        Err(error @ (Failure::NoReservation(_) | Failure::Signals(_))) => (error, String::new()),
    };
    let separator = if details.is_empty() { "" } else { ": " };
    note(format_args!("{error}{separator}{details}"));
    ExitCode::FAILURE
}

/// The conventions of no-color.org and of terminals that cannot.
fn wants_colour(stdout: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    stdout.is_terminal()
        && set("NO_COLOR").is_none()
        && set("TERM").is_none_or(|term| term != "dumb")
}

fn run(cli: &Cli, screen: &mut Screen<'_>) -> Result<Verdict, Failure> {
    let node = || Node::of(cli.state_dir.clone());
    match &cli.command {
        Command::List => list::run(&node()?, screen),
        Command::Gc(asked) => gc::run(asked, &node()?, screen),
        Command::Reserve(asked) => reserve::reserve(asked, &node()?, screen),
        Command::Release(asked) => reserve::release(asked, &node()?, screen),
        Command::Repair(asked) => repair::run(asked, &node()?, screen),
    }
}

/// What a command on this node's store begins with.
struct Node {
    store: Store,
    /// How long to wait for the store's lock.
    patience: Duration,
}

impl Node {
    fn of(state_dir: Option<PathBuf>) -> Result<Self, Failure> {
        let node_file = super::read_node_file().unwrap_or_else(|error| {
            note(format_args!("cannot read {}: {error}", super::NODE_FILE));
            None
        });
        let mut config = StoreConfig::of_node(node_file.as_deref()).map_err(Error::from)?;
        if let Some(state_dir) = state_dir {
            config.state_dir = state_dir;
        }
        Ok(Self { store: app::store(&config), patience: config.lock_timeout })
    }

    /// What is said where no ADD has been.
    fn nothing_recorded(&self) -> String {
        format!("nothing has been recorded in {} yet", self.store.dir().display())
    }

    /// The answer where there was nothing to do it to.
    fn nothing_yet<A: Answer>(&self, empty: A) -> NothingYet<A> {
        NothingYet { told: self.nothing_recorded(), empty }
    }
}

/// For people a line, for programs an answer in which there is nothing.
#[derive(Serialize)]
struct NothingYet<A> {
    #[serde(skip)]
    told: String,
    #[serde(flatten)]
    empty: A,
}

impl<A: Serialize> Answer for NothingYet<A> {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        writeln!(out, "{}", self.told)
    }
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
