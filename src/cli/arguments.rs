//! What may be written on the command line.
//!
//! Names nothing of the executable: the program that makes completions and man pages includes this file.

#[path = "examples.rs"]
mod examples;

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use autoport::model::{PortRange, Protocol};
use autoport::plan::Spot;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Host ports for containers.
///
/// The container runtime runs this program as a CNI plugin. Run by hand, it shows which host ports are
/// assigned, finds out why one does not answer, and repairs the node's nftables table.
#[derive(Parser)]
#[command(name = "autoport", version, arg_required_else_help = true, after_long_help = EXIT_STATUS)]
#[command(next_help_heading = "For every command")]
pub(crate) struct Cli {
    /// The state directory [default: stateDir of the node's configuration, or /run/autoport]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Output format
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_STATUS: &str = "\
Exit status: 0 success; 1 the command failed; 2 wrong arguments; 3 the command found a problem.";

/// Output format.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people; it can change with every release
    Table,
    /// The same, with every host port and address in a row of its own
    Wide,
    /// One JSON object with the fields documented in docs/cli.md
    Json,
    /// The same object as YAML
    Yaml,
}

/// A shell whose completions can be extended.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the host ports in use, with the pod or reservation that holds each
    ///
    /// CHOICE: "static" if the pod named the number, "chosen" if the node chose it. STATE: "alive"; "stale"
    /// if the pod's network namespace no longer exists, so that the next pod that asks for the port gets it;
    /// "unknown" if that cannot be determined, for example from another mount namespace than the plugin's.
    /// Unknown holders keep their ports.
    #[command(after_help = examples::LIST)]
    List(List),
    /// Show the details of a host port, a pod, a container or a reservation
    ///
    /// Its record, and its elements, chains and connections in the kernel. Exit status 3: the kernel differs
    /// from the record.
    #[command(after_help = examples::SHOW)]
    Show {
        /// 8080, 53/udp, 20000-20010, NAMESPACE/NAME, the name or UID of a pod, the beginning of a container ID, or the
        /// name of a reservation
        #[arg(value_name = "PORT|POD", value_parser = subject)]
        what: Subject,
    },
    /// Show the port variables published for a pod's containers
    ///
    /// Prints the content of ports.env, which a shell can source.
    #[command(after_help = examples::ENV)]
    Env {
        /// NAMESPACE/NAME, the name or UID of a pod, or the beginning of a container ID
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        pod: String,
    },
    /// Show whether autoport can serve requests, and how much of each port range is used
    ///
    /// Exit status 3: the CNI command STATUS would fail.
    #[command(after_help = examples::STATUS)]
    Status,
    /// Show the configuration in force, and which file sets each value
    ///
    /// Of the network configuration that runtimes use, /etc/cni/autoport.cluster.json and /etc/cni/autoport.json.
    /// Exit status 1: it is not valid, so that every ADD with host ports is rejected.
    #[command(after_help = examples::CONFIG)]
    Config(Networks),
    /// Show what an ADD would do, without changing anything
    ///
    /// Reads from standard input what the runtime would pass to the plugin: the plugin's network
    /// configuration, with prevResult and runtimeConfig. CNI_* variables in the environment are used; for
    /// those that are not set a default is assumed and reported. With --annotation no request is needed. Exit
    /// status 3: ADD would be rejected.
    #[command(after_help = examples::EXPLAIN)]
    Explain(Explain),
    /// Release the ports of pods that no longer exist
    ///
    /// For containers of any network that were deleted without a CNI DEL. Prints each holder that was
    /// released, with the reason, and how many were kept. Holders whose state is unknown and records that cannot
    /// be read are kept; -o wide prints them as well.
    #[command(after_help = examples::GC)]
    Gc {
        /// Only print what would be released
        #[arg(long)]
        dry_run: bool,
    },
    /// Reserve ports for a program that is not a container
    ///
    /// No pod is assigned a reserved port. Replaces an existing reservation of the same name, and prints which of
    /// its ports are no longer reserved. A reservation ends with `autoport release` or, without --persist, at a
    /// reboot.
    #[command(after_help = examples::RESERVE)]
    Reserve(Reserve),
    /// Delete a reservation
    #[command(after_help = examples::RELEASE)]
    Release {
        /// The reservation's name
        name: String,
    },
    /// Install the plugin and add it to the runtime's network configuration
    ///
    /// Copies this program to the plugin directory. In the network configuration that runtimes use (the
    /// first by name), autoport replaces portmap, or is added after the other plugins; the original file is
    /// saved beside it. Running it again changes nothing. Running pods are not affected. Keys that were added to
    /// autoport's entry are kept when the main plugin rewrites the configuration.
    #[command(after_help = examples::INSTALL)]
    Install(Install),
    /// Remove autoport from the network configurations, and from the node once no pod uses it
    ///
    /// Restores portmap where it was replaced. Running pods keep their host ports. As long as there are
    /// any, or a runtime can still call the plugin, the program is kept: run this again later.
    #[command(after_help = examples::UNINSTALL)]
    Uninstall(Uninstall),
    /// Restore the nftables table from the records, and report what differed
    ///
    /// Writes nothing to the kernel if nothing differs. Removes damaged records and saves a copy of each.
    #[command(after_help = examples::REPAIR)]
    Repair(Repair),
    /// Find out why host ports do not work on this node, and what to do
    ///
    /// Changes nothing. Reports checks that need more privileges as not seen. Exit status 3: a check failed.
    #[command(after_help = examples::DOCTOR)]
    Doctor(Runtime),
    /// Follow a packet to a host port, and show where it would stop
    ///
    /// Needs root, to read the table and to look into the pod. Sends nothing without --probe. Exit status 3:
    /// the packet would not arrive, or that could not be determined.
    #[command(after_help = examples::TRACE)]
    Trace(Trace),
    /// Show the version, the commit, the layouts, and what the kernel supports
    #[command(after_help = examples::VERSION)]
    Version,
    /// Print the script that completes commands, options, pods and ports in a shell
    #[command(after_help = examples::COMPLETION)]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print what can come next in a command line: for the scripts of `completion`
    #[command(hide = true)]
    Complete {
        /// The words after the program's name; the last one is not finished
        #[arg(last = true)]
        words: Vec<String>,
    },
}

#[derive(Args)]
pub(crate) struct Explain {
    /// Print only the nft(8) script, as for `nft --check --file -`
    #[arg(long, conflicts_with = "output")]
    pub(crate) nft: bool,
    /// Do not read a request: show what a pod with this annotation autoport.cni/ports would get
    #[arg(long, value_name = "TEXT")]
    pub(crate) annotation: Option<String>,
    #[command(flatten)]
    pub(crate) networks: Networks,
}

#[derive(Args)]
pub(crate) struct Trace {
    /// The host port: 8080, 53/udp. The default protocol is tcp. Or a pod that has one host port
    #[arg(value_name = "PORT[/PROTO]|POD", value_parser = traced)]
    pub(crate) what: Traced,
    /// The client's address; it can be 127.0.0.1, an address of the node or of a pod [default: a client
    /// outside the node]
    #[arg(long, value_name = "ADDRESS", value_parser = one_address)]
    pub(crate) from: Option<IpAddr>,
    /// The destination address [default: the node's address on the network, or 127.0.0.1 if the client's
    /// address is a loopback address]
    #[arg(long, value_name = "ADDRESS", value_parser = one_address)]
    pub(crate) to: Option<IpAddr>,
    /// Also connect from this node, and report the result
    #[arg(long)]
    pub(crate) probe: bool,
}

/// The folders of the container runtime.
#[derive(Args)]
pub(crate) struct Runtime {
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/cni/bin")]
    pub(crate) bin_dir: PathBuf,
    #[command(flatten)]
    pub(crate) networks: Networks,
}

/// The network configurations.
#[derive(Args)]
pub(crate) struct Networks {
    /// Where the runtime reads network configurations
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/cni/net.d")]
    pub(crate) conf_dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct List {
    /// Only pods of this namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Only this pod or container: NAMESPACE/NAME, a name or UID, or the beginning of a container ID
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
    /// Only this number, or this range, on any address
    #[arg(long, value_name = "PORT[-LAST]", value_parser = port_range)]
    pub(crate) port: Option<PortRange>,
    /// Print the list again whenever it has changed, until SIGTERM
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Leave out the line with the names of the columns
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Only this protocol
    #[arg(long, value_name = "PROTO", ignore_case = true)]
    #[arg(value_parser = PossibleValuesParser::new(["tcp", "udp", "sctp"]).try_map(protocol))]
    pub(crate) protocol: Option<Protocol>,
}

#[derive(Args)]
pub(crate) struct Reserve {
    /// The reservation's name: letters, digits, '_', '.' and '-'
    pub(crate) name: String,
    /// The ports: 8080, 9000-9010, 53/udp, 443@192.0.2.1. The default protocol is tcp, the default address
    /// every address of the node
    #[arg(required = true, value_name = "PORT[-LAST][/PROTO][@ADDRESS]", value_parser = port)]
    pub(crate) ports: Vec<Ports>,
    /// Keep the reservation across reboots; one that is kept stays so when it is replaced
    #[arg(long)]
    pub(crate) persist: bool,
}

/// Ports in one protocol, on one address or on all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) protocol: Protocol,
    pub(crate) address: Option<IpAddr>,
    pub(crate) range: PortRange,
}

#[derive(Args)]
pub(crate) struct Repair {
    /// Take over a store of another network namespace, or a table of another store
    ///
    /// Attachments that the table has and the store has not are recorded first. This recovers from a deleted
    /// state directory.
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Keep running, and restore the table whenever another program damages it, until SIGTERM
    #[arg(long, conflicts_with = "adopt")]
    pub(crate) watch: bool,
}

#[derive(Args)]
pub(crate) struct Folders {
    #[command(flatten)]
    pub(crate) runtime: Runtime,
    /// Use this network configuration instead of the one that the runtime uses
    #[arg(long, value_name = "FILE")]
    pub(crate) conflist: Option<PathBuf>,
    /// Only print what would be changed, as diff(1) does
    ///
    /// Exit status 3: something would be changed.
    #[arg(long, conflicts_with = "stay")]
    pub(crate) dry_run: bool,
    /// Keep running, and do it again when a file in the directories changes, until SIGTERM
    ///
    /// Main plugins rewrite their configuration when they are started or upgraded. Meant for a container. Checks every
    /// ten seconds too.
    #[arg(long)]
    pub(crate) stay: bool,
}

#[derive(Args)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) folders: Folders,
    /// Make this file the configuration of the cluster on this node, /etc/cni/autoport.cluster.json
    ///
    /// A JSON object with the keys of docs/configuration.md, which override those of every network. It is
    /// rejected if ADD would be. Keys of /etc/cni/autoport.json override it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key of the configuration of the cluster; can be repeated
    ///
    /// VALUE is JSON or a bare word, as in minPort=1024 and agent=required. null removes the key. The other keys stay,
    /// or are those of --config.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,
}

#[derive(Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) folders: Folders,
    /// Work in the mount namespace of process 1
    ///
    /// For a container in the node's PID namespace: whether a pod still exists can be determined only in
    /// the mount namespace of the plugin.
    #[arg(long)]
    pub(crate) host: bool,
}

/// A key and its value.
fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, as in minPort=1024")?;
    if key.is_empty() {
        return Err("the key before = is missing".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Whom, or what, an operator asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Port(PortRange, Option<Protocol>),
    /// Whatever has this name.
    Name(String),
}

/// A number is a port, unless no port is written so: then it may begin a container ID.
fn subject(text: &str) -> Result<Subject, String> {
    if text.is_empty() {
        return Err("a name must not be empty".to_owned());
    }
    let (number, name) = text.split_once('/').map_or((text, None), |(n, p)| (n, Some(p)));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_range = number.split('-').all(is_number) && number.contains('-');
    let fits = number.parse::<u16>().is_ok_and(|port| port.to_string() == number);
    if !is_range && (!is_number(number) || !fits && name.is_none()) {
        return Ok(Subject::Name(text.to_owned()));
    }
    let protocol = name.map(protocol).transpose()?;
    Ok(Subject::Port(port_range(number)?, protocol))
}

/// `PORT` or `FIRST-LAST`.
fn port_range(text: &str) -> Result<PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange { first: port_number(first)?, last: port_number(last)? };
    if range.first > range.last {
        return Err(format!("range {text:?} is empty: write the lower port first"));
    }
    Ok(range)
}

/// `PORT[-LAST][/PROTO][@ADDRESS]`.
fn port(text: &str) -> Result<Ports, String> {
    let (rest, address) = match text.split_once('@') {
        Some((rest, address)) => (rest, Some(node_address(address)?)),
        None => (text, None),
    };
    let (number, protocol) = match rest.split_once('/') {
        Some((number, name)) => (number, protocol(name)?),
        None => (rest, Protocol::Tcp),
    };
    Ok(Ports { protocol, address, range: port_range(number)? })
}

/// What a packet is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Traced {
    Port(Spot),
    /// A pod's, by whatever names it.
    Pod(String),
}

/// What begins with digits alone is a port, otherwise it names a pod.
fn traced(text: &str) -> Result<Traced, String> {
    if text.contains('@') {
        return Err("give the destination address with --to".to_owned());
    }
    let number = text.split_once('/').map_or(text, |(number, _)| number);
    if number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return Ok(Traced::Port(one_port(text)?));
    }
    Ok(Traced::Pod(text.to_owned()))
}

fn one_port(text: &str) -> Result<Spot, String> {
    let Ports { protocol, address, range } = port(text)?;
    if range.first != range.last {
        return Err(format!("{text:?} is more than one port; a packet has one"));
    }
    Ok(Spot { protocol, address, port: range.first })
}

fn port_number(text: &str) -> Result<NonZeroU16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| format!("port {text:?} is not a number from 1 to 65535"))
}

fn protocol(text: impl AsRef<str>) -> Result<Protocol, String> {
    let text = text.as_ref();
    text.parse().map_err(|_| format!("protocol {text:?} is not one of tcp, udp, sctp"))
}

fn node_address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| address.to_canonical());
    match address {
        Ok(address) if !address.is_multicast() => Ok(address),
        Ok(_) => Err(format!("address {text:?} is a multicast address, which no node has")),
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
        return Err(format!("address {text:?} means every address; name one"));
    }
    Ok(address)
}
