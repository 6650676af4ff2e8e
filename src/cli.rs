//! The operator's command line.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use autoport::app::{self, Ownership};
use autoport::cni::StoreConfig;
use autoport::error::Error;
use autoport::model::{Mapping, Record};
use autoport::store::Store;
use clap::{Parser, Subcommand};

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

/// Exit status: 0 when it worked, 1 when it did not, 2 when the arguments are wrong.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let details = error.details();
            let separator = if details.is_empty() { "" } else { ": " };
            eprintln!("autoport: {error}{separator}{details}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Error> {
    let node_file = super::read_node_file().unwrap_or_else(|error| {
        eprintln!("autoport: cannot read {}: {error}", super::NODE_FILE);
        None
    });
    let config = StoreConfig::of_node(node_file.as_deref())?;
    let store = Store::at(cli.state_dir.as_ref().unwrap_or(&config.state_dir));
    match cli.command {
        Command::List => list(&store, &config),
        Command::Repair { adopt: false } => repair(&store, &config, Ownership::Respect),
        Command::Repair { adopt: true } => repair(&store, &config, Ownership::Adopt),
    }
}

fn list(store: &Store, config: &StoreConfig) -> Result<(), Error> {
    let Some(shared) = store.read(config.lock_timeout, &mut io::stderr())? else {
        eprintln!("autoport: nothing has been recorded in {} yet", store.dir().display());
        return Ok(());
    };
    let mut rows = vec![["HOST PORT".into(), "TARGET".into(), "HOLDER".into()]];
    for read in shared.records()? {
        match read {
            Ok(record) => rows.extend(record.mappings.iter().map(|mapping| row(&record, mapping))),
            Err(unreadable) => eprintln!("autoport: {unreadable}"),
        }
    }
    let width = |column: usize| rows.iter().map(|row: &[String; 3]| row[column].len()).max();
    let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    for [host, target, holder] in &rows {
        println!("{host:first$}  {target:second$}  {holder}");
    }
    Ok(())
}

fn row(record: &Record, mapping: &Mapping) -> [String; 3] {
    let target = mapping.target.as_ref().map_or("-".to_owned(), SocketAddr::to_string);
    [mapping.host.to_string(), target, record.owner.to_string()]
}

fn repair(store: &Store, config: &StoreConfig, ownership: Ownership) -> Result<(), Error> {
    match app::repair(store, config.lock_timeout, ownership, &mut io::stderr())? {
        Some(count) => println!("built table inet autoport for {count} attachments"),
        None => println!("nothing has been recorded in {} yet", store.dir().display()),
    }
    Ok(())
}
