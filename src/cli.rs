//! The operator's command line.

use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use autoport::app::{self, Collected, Evidence, Judged, Ownership, Repaired};
use autoport::cni::StoreConfig;
use autoport::error::Error;
use autoport::kernel::{Applied, Counts};
use autoport::model::{HostPort, Protocol, Record};
use autoport::plan;
use autoport::store::{Reservation, Store};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

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
    ///
    /// "chosen" marks a port that the node chose. "stale" is whose network namespace is provably gone:
    /// whoever asks for the port gets it. "unknown" counts as alive; so says a command that runs in
    /// another mount namespace than the plugin.
    List,
    /// Remove whoever is provably gone, and say who stays and why
    ///
    /// For containers whose DEL never came, in every network. Who cannot be judged stays; so does a
    /// record that cannot be read.
    Gc {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Take ports out of the pool for something that is no container
    ///
    /// A reservation of the same name is replaced. It ends with `autoport release`, or with a reboot.
    Reserve {
        /// For whom: letters, digits, '_', '.' and '-'
        name: String,
        /// Which ports: 8080, 53/udp, 443@192.0.2.1. Without protocol tcp is meant, without address
        /// every address of the node
        #[arg(required = true, value_name = "PORT[/PROTO][@ADDRESS]", value_parser = port)]
        ports: Vec<Port>,
        /// Keep the reservation over reboots
        #[arg(long)]
        persist: bool,
    },
    /// End a reservation
    Release {
        /// The name that it was made with
        name: String,
    },
    /// Make the nftables table equal to the records, and say what differed
    ///
    /// Nothing is written to the kernel where they are equal. A record that cannot be read is removed,
    /// and a copy of it is kept beside the others.
    Repair {
        /// Take over a store of another network namespace, or a table of another store
        ///
        /// What the table says of attachments without record is recorded first: the way back after
        /// the state directory was deleted.
        #[arg(long)]
        adopt: bool,
        /// Do not end: restore the table whenever another program damages it, until SIGTERM
        #[arg(long, conflicts_with = "adopt")]
        watch: bool,
    },
}

/// What one number, as it is written on the command line, stands for.
#[derive(Clone, Debug)]
struct Port(Vec<HostPort>);

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
        Err(error @ (Failure::NoReservation(_) | Failure::Signals(_))) => (error, String::new()),
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
    let mut config = StoreConfig::of_node(node_file.as_deref()).map_err(Error::from)?;
    if let Some(state_dir) = &cli.state_dir {
        config.state_dir.clone_from(state_dir);
    }
    let store = app::store(&config);
    match &cli.command {
        Command::List => list(&store, &config, out),
        Command::Reserve { name, ports, persist } => {
            let reservation = Reservation {
                name: name.clone(),
                hosts: ports.iter().flat_map(|port| port.0.iter().copied()).collect(),
                created: now(),
                persistent: *persist,
            };
            app::reserve(&store, config.lock_timeout, &reservation, &mut io::stderr())?;
            Ok(())
        }
        Command::Release { name } => {
            let freed = app::release(&store, config.lock_timeout, name, &mut io::stderr())?;
            freed.map(drop).ok_or_else(|| Failure::NoReservation(name.clone()))
        }
        Command::Gc { dry_run } => collect(&store, &config, *dry_run, out),
        Command::Repair { watch: true, .. } => watch(&store, &config),
        Command::Repair { adopt: false, .. } => repair(&store, &config, Ownership::Respect, out),
        Command::Repair { adopt: true, .. } => repair(&store, &config, Ownership::Adopt, out),
    }
}

#[expect(clippy::disallowed_methods, reason = "a reservation says when it was made")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Reads `PORT[/PROTO][@ADDRESS]`.
fn port(text: &str) -> Result<Port, String> {
    let (rest, address) = match text.split_once('@') {
        Some((rest, address)) => (rest, Some(node_address(address)?)),
        None => (text, None),
    };
    let (number, protocol) = match rest.split_once('/') {
        Some((number, name)) => {
            (number, name.parse::<Protocol>().map_err(|error| error.to_string())?)
        }
        None => (rest, Protocol::Tcp),
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.then(|| number.parse::<NonZeroU16>().ok()).flatten();
    let port = port.ok_or_else(|| format!("port {number:?} is not a number from 1 to 65535"))?;
    Ok(Port(HostPort::each(protocol, address, port).collect()))
}

fn node_address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| address.to_canonical());
    match address {
        Ok(address) if !address.is_multicast() => Ok(address),
        Ok(_) => Err(format!("address {text:?} is a multicast address; no node has it")),
        Err(_) => Err(format!(
            "address {text:?} is not an IP address such as 192.0.2.1 or 2001:db8::1, without \
             brackets and zone"
        )),
    }
}

fn list(store: &Store, config: &StoreConfig, out: &mut impl Write) -> Result<(), Failure> {
    let shared = store.read(config.lock_timeout, &mut io::stderr()).map_err(Error::from)?;
    let Some(shared) = shared else {
        note(format_args!("nothing has been recorded in {} yet", store.dir().display()));
        return Ok(());
    };
    let mut rows = vec![["HOST PORT", "TARGET", "CHOICE", "STATE", "HOLDER"].map(str::to_owned)];
    for read in shared.records().map_err(Error::from)? {
        match read {
            Ok(record) => rows.extend(rows_of(&record)),
            Err(unreadable) => note(unreadable),
        }
    }
    for read in shared.reservations().map_err(Error::from)? {
        match read {
            Ok(reservation) => rows.extend(reservation.hosts.iter().map(|host| {
                let nothing = || "-".to_owned();
                [host.to_string(), nothing(), nothing(), nothing(), reservation.to_string()]
            })),
            Err(unreadable) => note(unreadable),
        }
    }
    // A reader that takes its time, such as a pager, holds up no command of the plugin.
    drop(shared);
    let width = |column: usize| {
        rows.iter().map(|row: &[String; 5]| row[column].len()).max().unwrap_or_default()
    };
    let [first, second, third, fourth] = [0, 1, 2, 3].map(width);
    for [host, target, choice, state, holder] in &rows {
        write!(out, "{host:first$}  {target:second$}  {choice:third$}  ")?;
        writeln!(out, "{state:fourth$}  {holder}")?;
    }
    Ok(())
}

fn rows_of(record: &Record) -> impl Iterator<Item = [String; 5]> {
    let state = match app::judge(&record.owner) {
        Evidence::Alive => "alive",
        Evidence::Stale => "stale",
        Evidence::Unknown(_) => "unknown",
    };
    let chosen = plan::expand(&record.grants, &record.pod_addresses);
    record.mappings.iter().map(move |mapping| {
        let target = mapping.target.as_ref().map_or("-".to_owned(), SocketAddr::to_string);
        // Sorted, and the host port counts first.
        let is_chosen = chosen.binary_search_by(|one| one.host.cmp(&mapping.host)).is_ok();
        let choice = if is_chosen { "chosen" } else { "-" };
        let holder = record.owner.to_string();
        [mapping.host.to_string(), target, choice.to_owned(), state.to_owned(), holder]
    })
}

fn nothing_recorded(store: &Store, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "nothing has been recorded in {} yet", store.dir().display())
}

fn collect(
    store: &Store,
    config: &StoreConfig,
    dry_run: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let stderr = &mut io::stderr();
    let collected = app::collect(store, config.lock_timeout, dry_run, now(), stderr)?;
    let Some(Collected { judged, mut failure }) = collected else {
        return Ok(nothing_recorded(store, out)?);
    };
    let (mut removed, mut kept) = (0_usize, 0_usize);
    for one in judged {
        match one {
            Judged::Removed(record) => {
                removed += 1;
                let verb = if dry_run { "would remove" } else { "removed" };
                writeln!(out, "{verb} {}: {}", held(&record), Evidence::Stale)?;
            }
            Judged::Kept(record, evidence) => {
                kept += 1;
                writeln!(out, "kept {}: {evidence}", held(&record))?;
            }
            Judged::Unreadable(unreadable) => {
                kept += 1;
                writeln!(out, "kept {}: {unreadable}", unreadable.key)?;
            }
            Judged::Failed(record, error) => {
                kept += 1;
                writeln!(out, "kept {}: it could not be removed", held(&record))?;
                failure.get_or_insert(error);
            }
        }
    }
    let verb = if dry_run { "would be removed" } else { "removed" };
    writeln!(out, "{removed} {verb}, {kept} kept")?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn held(record: &Record) -> String {
    format!("{} ({} host ports)", record.owner, record.mappings.len())
}

fn repair(
    store: &Store,
    config: &StoreConfig,
    ownership: Ownership,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let repaired = app::repair(store, config.lock_timeout, ownership, &mut io::stderr())?;
    let Some(Repaired { attachments, adopted, applied }) = repaired else {
        return Ok(nothing_recorded(store, out)?);
    };
    if adopted > 0 {
        writeln!(out, "made {adopted} records again from the table")?;
    }
    let whose = format!("the records of {attachments} attachments");
    let differed = applied.summary().map_or(String::new(), |text| format!(": {text}"));
    let Applied { rebuilt, counts, unfinished, stale_flows, .. } = applied;
    match (rebuilt, counts) {
        (Some(reason), _) => {
            writeln!(out, "built table inet autoport again from {whose}: {reason}")?;
        }
        (None, Counts { added: 0, removed: 0 }) => {
            writeln!(out, "table inet autoport equals {whose}")?;
        }
        (None, Counts { added, removed }) => writeln!(
            out,
            "made table inet autoport equal to {whose}, {added} elements added, {removed} removed\
             {differed}"
        )?,
    }
    unfinished.or(stale_flows).map_or(Ok(()), |error| Err(Error::from(error).into()))
}

fn watch(store: &Store, config: &StoreConfig) -> Result<(), Failure> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Blocked first: a signal in between would end the process instead of the watch.
    let stop =
        signals.thread_block().and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC));
    let stop = stop.map_err(|errno| Failure::Signals(errno.into()))?;
    Ok(app::watch(store, config.lock_timeout, stop.as_fd(), &mut io::stderr())?)
}
