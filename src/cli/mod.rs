//! The operator's command line: what was asked, who does it, and how it ended. Each command prints in
//! a file of its own.

mod arguments;
mod completion;
mod config;
mod doctor;
mod env;
mod explain;
mod gc;
mod holders;
mod install;
mod list;
mod output;
mod repair;
mod report;
mod reserve;
mod rows;
mod show;
mod status;
mod trace;
mod version;
mod yaml;

use std::io::{self, BufWriter, IsTerminal, Write as _};
use std::path::PathBuf;

use autoport::app::{self, Ambiguous};
use autoport::cni::{Config, NodeFiles, StoreConfig};
use autoport::error::{self, Error, is_denied};
use autoport::kernel::{Extent, Nft, Table};
use autoport::store::{Presence, Store};
use clap::Parser as _;
use clap::error::ErrorKind;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::geteuid;

use self::arguments::{Cli, Command};
use self::output::Screen;
use super::{note, now};

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Command(#[from] Error),
    #[error(transparent)]
    Install(#[from] autoport::install::Error),
    #[error(transparent)]
    Several(#[from] Ambiguous),
    /// What was asked for is not there, or cannot be asked so.
    #[error("{0}")]
    Asked(String),
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

const SIGNALS: &str = "wait for signals";

impl Failure {
    fn nobody(name: &str) -> Self {
        Self::Asked(format!(
            "no pod, container or reservation {name} holds a host port; `autoport list` shows all holders"
        ))
    }

    fn no_store(store: &Store) -> Self {
        Self::Asked(format!(
            "{} is not a state directory of autoport: nothing was ever recorded there; `autoport config` \
             shows the stateDir in force",
            store.dir().display()
        ))
    }

    fn in_one_line(&self) -> String {
        if let Self::Command(error) = self { error.in_one_line() } else { error::in_one_line(self) }
    }
}

/// Has SIGTERM and SIGINT wait to be read, where they would end the process.
fn asked_to_end() -> Result<SignalFd, Failure> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Blocked first: a signal in between would end it all the same.
    let stop =
        signals.thread_block().and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC));
    stop.map_err(|errno| Failure::System(SIGNALS, errno.into()))
}

/// Gives the exit status: 0; 1 where the command did not work; 2, for wrong arguments, is clap's; 3 where what
/// it looked at is not as it should be.
pub(crate) fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let stdout = io::stdout().lock();
    let colour = wants_colour(&stdout);
    let mut out = BufWriter::new(stdout);
    let mut screen = Screen { out: &mut out, format: cli.output, colour, headers: true };
    let outcome = run(cli, &mut screen).and_then(|status| {
        out.flush()?;
        Ok(status)
    });
    let error = match outcome {
        Ok(status) => return status,
        // Whoever reads has seen enough, as in `autoport list | head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return 0,
        Err(error) => error,
    };
    if let Failure::Usage(_) = error {
        note(&error);
        return 2;
    }
    let hint = if is_denied(&error) && !geteuid().is_root() { "; run it as root" } else { "" };
    note(format_args!("{}{hint}", error.in_one_line()));
    1
}

/// Prints help where that was asked for, and what is wrong with the arguments in one line, as every error is.
/// Gives the exit status.
fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // A reader that went away has seen enough.
        let _ = error.print();
        return u8::from(error.use_stderr()) * 2;
    }
    note(in_one_line(&error.render().to_string()));
    2
}

/// What clap writes in several lines, without the synopsis.
fn in_one_line(rendered: &str) -> String {
    let text = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.take_while(|line| !line.starts_with("Usage:"));
    let mut line = String::new();
    for part in lines.filter(|line| !line.starts_with("For more information")) {
        let tip = part.strip_prefix("tip: ");
        let gap = if line.is_empty() {
            ""
        } else if tip.is_some() {
            "; "
        } else {
            " "
        };
        line += gap;
        line += tip.unwrap_or(part);
    }
    line
}

/// The conventions of no-color.org and of terminals that cannot.
fn wants_colour(stdout: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    stdout.is_terminal()
        && set("NO_COLOR").is_none()
        && set("TERM").is_none_or(|term| term != "dumb")
}

fn run(cli: Cli, screen: &mut Screen<'_>) -> Result<u8, Failure> {
    let state_dir = cli.state_dir;
    let store = || store_of(state_dir.clone()).map(|(store, _)| store);
    // A directory that was given by mistake must not look like a node without pods.
    let recorded = || match store()? {
        store if state_dir.is_some() && matches!(store.look_for(""), Ok(Presence::NoStore)) => {
            Err(Failure::no_store(&store))
        }
        store => Ok(store),
    };
    let status = match cli.command {
        Command::List(asked) => return list::run(&asked, &recorded()?, screen),
        Command::Show { what } => screen.show(&show::run(&what, &store()?)?),
        Command::Env { pod } => screen.show(&env::run(&pod, &store()?)?),
        Command::Status => {
            let (store, config) = store_of(state_dir)?;
            screen.show(&status::run(&store, &config)?)
        }
        Command::Config(asked) => screen.show(&config::run(&asked)?),
        Command::Explain(asked) => screen.show(&explain::run(&asked, state_dir)?),
        Command::Version => screen.show(&version::run()),
        Command::Report(asked) => {
            let (store, node_files) = store_in_part(state_dir);
            screen.show(&report::run(&asked, &store, node_files)?)
        }
        Command::Completion { shell } => completion::print(shell, screen),
        Command::Complete { words } => completion::complete(&words, store().ok().as_ref(), screen),
        Command::Gc { dry_run } => return gc::run(dry_run, &recorded()?, screen),
        Command::Reserve(asked) => screen.show(&reserve::reserve(&asked, &store()?)?),
        Command::Release { name } => screen.show(&reserve::release(&name, &store()?)?),
        Command::Install(asked) => return install::install(asked, screen),
        Command::Uninstall(asked) => return install::uninstall(asked, store, screen),
        Command::Repair(asked) if asked.watch => return repair::watch(&store()?),
        Command::Repair(asked) => return repair::run(asked.adopt, &store()?, screen),
        Command::Doctor(asked) => {
            let (store, node_files) = store_in_part(state_dir);
            screen.show(&doctor::run(&asked, &store, node_files))
        }
        Command::Trace(asked) => {
            let (store, node_files) = store_in_part(state_dir);
            if let Err(error) = Config::read(None, &node_files) {
                let (why, dir) = (error.in_one_line(), store.dir().display());
                note(format_args!("{why}; the records are read from {dir}"));
            }
            screen.show(&trace::run(&asked, &store)?)
        }
    };
    Ok(status?)
}

/// The node's store, and what else its own files say. One that cannot be read is left out.
fn store_of(state_dir: Option<PathBuf>) -> Result<(Store, Config), Failure> {
    let mut node_files = super::node_files();
    node_files.0.retain(|file| match &file.bytes {
        Ok(_) => true,
        Err(error) => {
            note(format_args!("cannot read {}: {error}", file.path.display()));
            false
        }
    });
    let (config, _) = Config::read(None, &node_files).map_err(Error::from)?;
    Ok((store_at(state_dir, config.store.clone()), config))
}

/// The node's store as far as its own files say where it is, and the files: for commands that look at what
/// is wrong with a node.
fn store_in_part(state_dir: Option<PathBuf>) -> (Store, NodeFiles) {
    let node_files = super::node_files();
    (store_at(state_dir, StoreConfig::of_node_in_part(&node_files)), node_files)
}

/// The store that is configured, unless the command line names another.
fn store_at(state_dir: Option<PathBuf>, mut config: StoreConfig) -> Store {
    config.state_dir = state_dir.unwrap_or(config.state_dir);
    app::store(&config)
}

/// That nothing is recorded, in words; an error where the table says otherwise or cannot be seen.
fn nothing_recorded(store: &Store) -> Result<String, Failure> {
    let dir = store.dir().display();
    let look = Nft::open("").and_then(|mut nft| nft.look(Extent::Places(&[])));
    let why = match look.map(|look| look.table) {
        Ok(Table::Absent) => return Ok(format!("nothing has been recorded in {dir} yet")),
        Ok(_) => "table inet autoport exists".to_owned(),
        Err(error) => {
            format!("whether table inet autoport exists could not be determined ({error})")
        }
    };
    Err(Failure::Asked(format!(
        "there are no records in {dir}, but {why}; run it as root on the node, or in a container that has \
         the node's {dir}"
    )))
}

#[cfg(test)]
mod tests;
