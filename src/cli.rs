//! The operator's command line.

use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use autoport::app::{self, Ownership};
use autoport::cni::StoreConfig;
use autoport::error::Error;
use autoport::model::{Mapping, Record};
use autoport::store::Store;
use clap::{Parser, Subcommand};

use super::note;

/// Host ports for containers.
///
/// Installed as a CNI plugin, this program is run by the container runtime. Run by hand, it shows
/// and repairs what the plugin recorded.
#[derive(Parser)]
#[command(name = "autoport", version, arg_required_else_help = true)]
struct Cli {
    /// The state directory [default: stateDir of /etc/cni/autoport.json, or /run/autoport]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the host ports that are held, and by whom
    List,
    /// Build the nftables table again from the records
    ///
    /// A record that cannot be read is removed, and a copy of it is kept beside the others.
    Repair {
        /// Take over a store of another network namespace, or a table of another store
        #[arg(long)]
        adopt: bool,
    },
}

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Command(#[from] Error),
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

/// Exit status: 0 when it worked, 1 when it did not, 2 when the arguments are wrong.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = run(&cli, &mut out).and_then(|()| Ok(out.flush()?));
    let (error, details) = match &outcome {
        Ok(()) => return ExitCode::SUCCESS,
        // Whoever reads has seen enough, as in `autoport list | head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(error @ Failure::Output(source)) => (error, source.to_string()),
        Err(error @ Failure::Command(source)) => (error, source.details()),
    };
    let separator = if details.is_empty() { "" } else { ": " };
    note(format_args!("{error}{separator}{details}"));
    ExitCode::FAILURE
}

fn run(cli: &Cli, out: &mut impl Write) -> Result<(), Failure> {
    let node_file = super::read_node_file().unwrap_or_else(|error| {
        note(format_args!("cannot read {}: {error}", super::NODE_FILE));
        None
    });
    let config = StoreConfig::of_node(node_file.as_deref()).map_err(Error::from)?;
    let store = Store::at(cli.state_dir.as_ref().unwrap_or(&config.state_dir));
    match cli.command {
        Command::List => list(&store, &config, out),
        Command::Repair { adopt: false } => repair(&store, &config, Ownership::Respect, out),
        Command::Repair { adopt: true } => repair(&store, &config, Ownership::Adopt, out),
    }
}

fn list(store: &Store, config: &StoreConfig, out: &mut impl Write) -> Result<(), Failure> {
    let shared = store.read(config.lock_timeout, &mut io::stderr()).map_err(Error::from)?;
    let Some(shared) = shared else {
        note(format_args!("nothing has been recorded in {} yet", store.dir().display()));
        return Ok(());
    };
    let mut rows = vec![["HOST PORT".into(), "TARGET".into(), "HOLDER".into()]];
    for read in shared.records().map_err(Error::from)? {
        match read {
            Ok(record) => rows.extend(record.mappings.iter().map(|mapping| row(&record, mapping))),
            Err(unreadable) => note(unreadable),
        }
    }
    // A reader that takes its time, such as a pager, holds up no command of the plugin.
    drop(shared);
    let width = |column: usize| rows.iter().map(|row: &[String; 3]| row[column].len()).max();
    let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    for [host, target, holder] in &rows {
        writeln!(out, "{host:first$}  {target:second$}  {holder}")?;
    }
    Ok(())
}

fn row(record: &Record, mapping: &Mapping) -> [String; 3] {
    let target = mapping.target.as_ref().map_or("-".to_owned(), SocketAddr::to_string);
    [mapping.host.to_string(), target, record.owner.to_string()]
}

fn repair(
    store: &Store,
    config: &StoreConfig,
    ownership: Ownership,
    out: &mut impl Write,
) -> Result<(), Failure> {
    match app::repair(store, config.lock_timeout, ownership, &mut io::stderr())? {
        Some(count) => writeln!(out, "built table inet autoport for {count} attachments")?,
        None => writeln!(out, "nothing has been recorded in {} yet", store.dir().display())?,
    }
    Ok(())
}
