//! What may be written on the command line.
//!
//! Names nothing of the executable: the program that makes completions and man pages includes this file.

#[path = "examples.rs"]
mod examples;
#[path = "values.rs"]
mod values;

use std::net::IpAddr;
use std::path::PathBuf;

use autoport::model::{PortRange, Protocol};
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use values::{Ports, Subject, Traced};
use values::{one_address, port, port_range, protocol, reservation, setting, subject, traced};

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
    /// Write an archive for a bug report
    ///
    /// It has what version, config, status, list and doctor print as JSON, and the table. It names pods, containers,
    /// addresses and ports of this node, and contains no secrets.
    #[command(after_help = examples::REPORT)]
    Report(Report),
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
pub(crate) struct Report {
    /// The archive; an existing file is not overwritten [default: autoport-report-TIME.tar.gz here]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) runtime: Runtime,
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

#[derive(Args, Default)]
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
    #[arg(value_parser = reservation)]
    pub(crate) name: String,
    /// The ports: 8080, 9000-9010, 53/udp, 443@192.0.2.1. The default protocol is tcp, the default address
    /// every address of the node
    #[arg(required = true, value_name = "PORT[-LAST][/PROTO][@ADDRESS]", value_parser = port)]
    pub(crate) ports: Vec<Ports>,
    /// Keep the reservation across reboots; one that is kept stays so when it is replaced
    #[arg(long)]
    pub(crate) persist: bool,
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
    /// The link to the plugin, by which operators run it without its directory; where its directory does not
    /// exist, as in a container, none is made
    #[arg(long, value_name = "FILE", default_value = "/usr/local/bin/autoport")]
    pub(crate) link: PathBuf,
    /// Leave the link alone
    #[arg(long, conflicts_with = "link")]
    pub(crate) no_link: bool,
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
