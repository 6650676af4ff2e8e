//! What may be written on the command line.
//!
//! Names nothing but clap: the program that makes completions and man pages includes this file.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Host ports for containers.
///
/// Installed as a CNI plugin, this program is run by the container runtime. Run by hand, it shows
/// and repairs what the plugin recorded.
#[derive(Parser)]
#[command(name = "autoport", version, arg_required_else_help = true, after_long_help = EXIT_STATUS)]
pub(crate) struct Cli {
    /// The state directory [default: stateDir of /etc/cni/autoport.json, or /run/autoport]
    #[arg(long, global = true, value_name = "DIRECTORY", help_heading = GLOBAL)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Print for people, or for programs
    #[arg(
        long,
        short,
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = GLOBAL
    )]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const GLOBAL: &str = "For every command";

const EXIT_STATUS: &str = "\
Exit status: 0 the command worked; 1 it did not; 2 the arguments are wrong; 3 it worked, and what it \
looked at is not as it should be.";

/// How the answer is printed.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// Text for people. It may change with every release
    Table,
    /// One JSON object with the fields that docs/cli.md promises
    Json,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the host ports that are held, and by whom
    ///
    /// "chosen" marks a port that the node chose. "stale" is whose network namespace is provably gone:
    /// whoever asks for the port gets it. "unknown" counts as alive; so says a command that runs in
    /// another mount namespace than the plugin.
    List(List),
    /// Show all that is known of a host port, a pod or a container
    ///
    /// Its record, and what the kernel has of it: elements, chains, connections. The exit status is 3
    /// when the kernel differs from the record.
    Show(Show),
    /// Show what the containers of a pod were told about their host ports
    ///
    /// As lines that a shell can source: those of ports.env.
    Env(Env),
    /// Say what STATUS would say, and how full the node is
    ///
    /// The exit status is 3 when STATUS would fail.
    Status,
    /// Say what an ADD would do, and change nothing
    ///
    /// Standard input is what the plugin would get: a network configuration with prevResult, and with
    /// runtimeConfig where ports are mapped. The variables of CNI in the environment count (container
    /// ID, network namespace, interface name, arguments); what is not set is assumed, and said. The exit
    /// status is 3 when ADD would be refused.
    Explain(Explain),
    /// Remove whoever is provably gone, and say who stays and why
    ///
    /// For containers whose DEL never came, in every network. Who cannot be judged stays; so does a
    /// record that cannot be read.
    Gc(Gc),
    /// Take ports out of the pool for something that is no container
    ///
    /// A reservation of the same name is replaced. It ends with `autoport release`, or with a reboot.
    Reserve(Reserve),
    /// End a reservation
    Release(Release),
    /// Put this program into the runtime's folder of plugins, and autoport into its network
    ///
    /// The network is the first configuration by name, as runtimes choose. autoport takes the place of
    /// portmap there, or goes behind the other plugins. What the file was is kept beside it. Done twice,
    /// it changes nothing. Pods that run are not touched.
    Install(Install),
    /// Take autoport out of the networks again, and of the node when no pod has host ports any more
    ///
    /// portmap returns to where it stood. Pods with host ports keep them; while there are any, or a
    /// runtime may still call it, the program stays. Run it again when they are gone.
    Uninstall(Uninstall),
    /// Make the nftables table equal to the records, and say what differed
    ///
    /// Nothing is written to the kernel where they are equal. A record that cannot be read is removed,
    /// and a copy of it is kept beside the others.
    Repair(Repair),
    /// Look for whatever keeps host ports from working on this node, and say what to do about it
    ///
    /// Changes nothing. What this user may not see is named. Exit status 3: something failed.
    Doctor(Doctor),
    /// Follow a packet to a host port, and say where it would stop
    ///
    /// Needs root: it reads the table, and looks into the pod. Nothing is sent, unless --probe says so.
    /// Exit status 3: it would not arrive, or that depends on something that could not be told.
    Trace(Trace),
}

#[derive(Args)]
pub(crate) struct Trace {
    /// The host port: 8080, 53/udp. Without protocol tcp is meant
    #[arg(value_name = "PORT[/PROTO]", value_parser = port_without_address)]
    pub(crate) port: Port,
    /// The client; 127.0.0.1, an address of the node or of a pod among others [default: somebody
    /// outside]
    #[arg(long, value_name = "ADDRESS", value_parser = one_address)]
    pub(crate) from: Option<IpAddr>,
    /// The address that it asks [default: what the node is known by outside, or 127.0.0.1 where the
    /// client is]
    #[arg(long, value_name = "ADDRESS", value_parser = one_address)]
    pub(crate) to: Option<IpAddr>,
    /// Connect from this node as well, and say what came of it
    #[arg(long)]
    pub(crate) probe: bool,
}

#[derive(Args)]
pub(crate) struct Doctor {
    /// Where runtimes read network configurations
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/cni/net.d")]
    pub(crate) conf_dir: PathBuf,
    /// Where runtimes look for plugins
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/cni/bin")]
    pub(crate) bin_dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct List {
    /// Only pods of this namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Only this pod or container: NAMESPACE/NAME, a name or UID, or the beginning of a container ID
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
    /// Only this number, on whatever address
    #[arg(long, value_name = "PORT", value_parser = port_number)]
    pub(crate) port: Option<NonZeroU16>,
    /// Only this protocol
    #[arg(long, value_name = "PROTO", ignore_case = true)]
    pub(crate) protocol: Option<Protocol>,
}

#[derive(Args)]
pub(crate) struct Show {
    /// 8080, 53/udp, NAMESPACE/NAME, the name or UID of a pod, the beginning of a container ID, or the
    /// name of a reservation
    #[arg(value_name = "PORT|POD", value_parser = subject)]
    pub(crate) what: Subject,
}

#[derive(Args)]
pub(crate) struct Env {
    /// NAMESPACE/NAME, the name or UID of a pod, or the beginning of a container ID
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) pod: String,
}

#[derive(Args)]
pub(crate) struct Explain {
    /// Print nothing but the nft(8) script, as for `nft --check --file -`
    #[arg(long, conflicts_with = "output")]
    pub(crate) nft: bool,
}

#[derive(Args)]
pub(crate) struct Gc {
    /// Only say what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args)]
pub(crate) struct Reserve {
    /// For whom: letters, digits, '_', '.' and '-'
    pub(crate) name: String,
    /// Which ports: 8080, 53/udp, 443@192.0.2.1. Without protocol tcp is meant, without address
    /// every address of the node
    #[arg(required = true, value_name = "PORT[/PROTO][@ADDRESS]", value_parser = port)]
    pub(crate) ports: Vec<Port>,
    /// Keep the reservation over reboots
    #[arg(long)]
    pub(crate) persist: bool,
}

#[derive(Args)]
pub(crate) struct Release {
    /// The name that it was made with
    pub(crate) name: String,
}

#[derive(Args)]
pub(crate) struct Repair {
    /// Take over a store of another network namespace, or a table of another store
    ///
    /// What the table says of attachments without record is recorded first: the way back after
    /// the state directory was deleted.
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Do not end: restore the table whenever another program damages it, until SIGTERM
    #[arg(long, conflicts_with = "adopt")]
    pub(crate) watch: bool,
}

#[derive(Args)]
pub(crate) struct Folders {
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/cni/bin")]
    pub(crate) bin_dir: PathBuf,
    /// Where the runtime looks for networks
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/cni/net.d")]
    pub(crate) conf_dir: PathBuf,
    /// This network, instead of what the runtime would choose
    #[arg(long, value_name = "FILE")]
    pub(crate) conflist: Option<PathBuf>,
    /// Only print what would be changed, as diff(1) does
    ///
    /// Exit status 3: there is something to do.
    #[arg(long, conflicts_with = "stay")]
    pub(crate) dry_run: bool,
    /// Do not end: look again every ten seconds, until SIGTERM
    ///
    /// Main plugins write their configuration anew when they are started or upgraded. For a container,
    /// which has to stay.
    #[arg(long)]
    pub(crate) stay: bool,
}

#[derive(Args)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) folders: Folders,
}

#[derive(Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) folders: Folders,
    /// Work in the mount namespace of process 1
    ///
    /// From a container in the node's PID namespace: whether a pod is gone can only be seen where the
    /// plugin saw it come.
    #[arg(long)]
    pub(crate) host: bool,
}

/// A transport protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// `PORT[/PROTO][@ADDRESS]`.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) number: NonZeroU16,
    pub(crate) protocol: Protocol,
    /// `None` is every address of the node.
    pub(crate) address: Option<IpAddr>,
}

/// Whom, or what, an operator asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Port(NonZeroU16, Option<Protocol>),
    /// Whatever has this name.
    Name(String),
}

/// A number is a port, unless no port is written so: then it may begin a container ID.
fn subject(text: &str) -> Result<Subject, String> {
    if text.is_empty() {
        return Err("nobody has an empty name".to_owned());
    }
    let (number, name) = text.split_once('/').map_or((text, None), |(n, p)| (n, Some(p)));
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let fits = number.parse::<u16>().is_ok_and(|port| port.to_string() == number);
    if !is_number || number.is_empty() || !fits && name.is_none() {
        return Ok(Subject::Name(text.to_owned()));
    }
    let protocol = name.map(protocol).transpose()?;
    Ok(Subject::Port(port_number(number)?, protocol))
}

fn port(text: &str) -> Result<Port, String> {
    let (rest, address) = match text.split_once('@') {
        Some((rest, address)) => (rest, Some(node_address(address)?)),
        None => (text, None),
    };
    let (number, protocol) = match rest.split_once('/') {
        Some((number, name)) => (number, protocol(name)?),
        None => (rest, Protocol::Tcp),
    };
    Ok(Port { number: port_number(number)?, protocol, address })
}

fn port_without_address(text: &str) -> Result<Port, String> {
    let port = port(text)?;
    if port.address.is_some() {
        return Err("the address that is asked is for --to".to_owned());
    }
    Ok(port)
}

fn port_number(text: &str) -> Result<NonZeroU16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| format!("port {text:?} is not a number from 1 to 65535"))
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::from_str(text, true)
        .map_err(|_| format!("protocol {text:?} is not one of tcp, udp, sctp"))
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

/// One that a packet can be from, or for.
fn one_address(text: &str) -> Result<IpAddr, String> {
    let address = node_address(text)?;
    if address.is_unspecified() {
        return Err(format!("address {text:?} stands for all of them; name one"));
    }
    Ok(address)
}
