//! What may be written on the command line.

use std::path::PathBuf;

use clap::Parser;

use autoport_agent::config::{LogFormat, LogLevel};
use autoport_agent::metrics::{Address, Probe};

/// The node agent of autoport.
///
/// The container runtime asks it, by NRI, before it creates containers. It puts the host ports of each pod into
/// the environment of all its containers, and assigns host ports to pods on the host network. It needs root and
/// the capability CAP_NET_ADMIN, and runs in the node's network namespace.
#[derive(Debug, Parser)]
#[expect(clippy::doc_markdown, reason = "--help prints it as it is")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
#[command(name = "autoport-agent", version, after_long_help = FILES)]
pub(crate) struct Arguments {
    /// The agent's configuration file [default: /etc/cni/autoport-agent.json, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The runtime's NRI socket [default: /var/run/nri/nri.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Stand by for another agent of the node: NRI index 51, and answer only while that agent does not
    #[arg(long)]
    pub(crate) standby: bool,
    /// The NRI index, 0 to 99; the runtime calls plugins in ascending order [default: 50; 51 with --standby]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(0..=99))]
    pub(crate) index: Option<u8>,
    /// The runtime's network configurations [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) net_conf_dir: Option<PathBuf>,
    /// Where the plugin's configuration of the node and of the cluster are
    #[arg(long, value_name = "DIRECTORY", default_value = autoport::cni::NODE_DIR)]
    pub(crate) node_dir: PathBuf,
    /// How to reach the API server of Kubernetes [default: as a Pod of the cluster, if this is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The name of the node in Kubernetes [default: $NODE_NAME, else the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Tell kubelet how many host ports there are for Pods, by its directory of device plugins (usually
    /// /var/lib/kubelet/device-plugins); needs the API server [default: kubelet does not count them]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) device_plugins: Option<PathBuf>,
    /// Make EndpointSlices for Pods with the annotation autoport.cni/service, in Services that permit it; needs the
    /// API server [default: none are made]
    #[arg(long)]
    pub(crate) discovery: bool,
    /// Remove the taint autoport.cni/agent-not-ready from this node once both agents are connected to the runtime
    #[arg(long, requires = "standby")]
    pub(crate) startup_taint: bool,
    /// Serve /metrics, /healthz and /readyz at this IP address and port [default: nowhere; with --standby, the
    /// port after that of the configuration file]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics_address: Option<Address>,
    /// Serve the same on this Unix socket, for --probe
    #[arg(long, value_name = "PATH")]
    pub(crate) probe_socket: Option<PathBuf>,
    /// Ask the agent at --probe-socket whether it is well, and exit with 0 or 1
    #[arg(long, value_name = "QUESTION", requires = "probe_socket")]
    pub(crate) probe: Option<Probe>,
    /// Format of the log on standard error [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// The least severe lines that are logged [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,
    /// Start the agent as a child process, and start it again at once if it ends unexpectedly; implied if
    /// this is process 1
    #[arg(long)]
    pub(crate) supervise: bool,
}

const FILES: &str = "\
Options override the keys of the configuration file. Ranges, limits and aliases are those of the plugin: its
object in the network configuration, /etc/cni/autoport.json and autoport.cluster.json.

Exit status: 0 ended by a signal; 1 the agent failed; 2 wrong arguments or configuration. With --probe: 0 the
agent is well; 1 it is not, with the reason.";
