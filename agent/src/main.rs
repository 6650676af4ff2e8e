//! The executable: arguments, configuration, log, signals.

mod arguments;
mod supervisor;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use autoport_agent::cluster::Cluster;
use autoport_agent::config::{
    File, INDEX, LogFormat, LogLevel, MAX_ENDPOINT_SLICES, NET_CONF_DIR, Plugin, SOCKET,
    STANDBY_INDEX,
};
use autoport_agent::metrics::{self, Address, Doors, Probe};
use autoport_agent::nri::Identity;
use autoport_agent::service::{Service, Settings};

use self::arguments::Arguments;

/// Under this name the runtime knows the agent.
const NAME: &str = "autoport";

/// Wrong arguments or configuration, as clap has it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let file = match File::read(arguments.config.as_deref()) {
        Ok(file) => file,
        Err(error) => {
            log(LogFormat::default(), LogLevel::default());
            tracing::error!("{error}");
            return USAGE.into();
        }
    };
    log(
        arguments.log_format.or(file.log_format).unwrap_or_default(),
        arguments.log_level.or(file.log_level).unwrap_or_default(),
    );
    if let (Some(probe), Some(door)) = (arguments.probe, &arguments.probe_socket) {
        let socket = arguments.socket.or(file.socket).unwrap_or_else(|| SOCKET.into());
        return ask(door, probe, &socket);
    }
    if supervisor::is_wanted(arguments.supervise) {
        return supervisor::run().map_or_else(|error| failed(&error), ExitCode::from);
    }
    match settings(arguments, file) {
        Ok(settings) => run(settings).map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!("{}", autoport::error::in_one_line(&*error));
            USAGE.into()
        }
    }
}

fn failed(error: &io::Error) -> ExitCode {
    tracing::error!("the agent failed: {error}");
    ExitCode::FAILURE
}

fn settings(arguments: Arguments, file: File) -> Result<Settings, Box<dyn std::error::Error>> {
    let usual = if arguments.standby { STANDBY_INDEX } else { INDEX };
    // The file is that of both agents, so its index is not the standby's.
    let of_file = file.index.filter(|_| !arguments.standby);
    let index = arguments.index.or(of_file).unwrap_or(usual);
    let net_conf_dir = arguments.net_conf_dir.or(file.net_conf_dir);
    // Nor is its address.
    let of_file = file.metrics_address;
    let of_file = if arguments.standby { of_file.map(Address::next) } else { of_file };
    let address = arguments.metrics_address.or(of_file);
    let plugin = Plugin::new(net_conf_dir.unwrap_or_else(|| NET_CONF_DIR.into()));
    Ok(Settings {
        socket: arguments.socket.or(file.socket).unwrap_or_else(|| SOCKET.into()),
        identity: Identity::new(NAME, index)?,
        preferred: !arguments.standby,
        plugin: plugin.with_node_dir(arguments.node_dir),
        doors: Doors { address, socket: arguments.probe_socket },
        device_plugins: arguments.device_plugins.or(file.device_plugins),
        endpoint_slices: (arguments.discovery || file.discovery.unwrap_or_default()).then(|| {
            file.max_endpoint_slices.map_or(MAX_ENDPOINT_SLICES, |most| most.get().into())
        }),
        untaints: arguments.startup_taint,
        cluster: cluster(
            arguments.kubeconfig.or(file.kubeconfig),
            arguments.node_name.or(file.node_name),
        )?,
    })
}

/// Asks the agent at `door`. One that waits for a runtime without NRI is as ready as it can be on this node: an
/// update must not wait for it.
fn ask(door: &Path, probe: Probe, socket: &Path) -> ExitCode {
    match metrics::ask(door, probe) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(reason)) if probe == Probe::Ready && !socket.exists() => {
            tracing::info!("there is no runtime with NRI on this node: {reason}");
            ExitCode::SUCCESS
        }
        Ok(Err(reason)) => {
            tracing::error!("{reason}");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("cannot ask the agent at {}: {error}", door.display());
            ExitCode::FAILURE
        }
    }
}

/// The API server, if this node belongs to a cluster of Kubernetes as far as this process can tell.
fn cluster(
    kubeconfig: Option<PathBuf>,
    node: Option<String>,
) -> Result<Option<Cluster>, Box<dyn std::error::Error>> {
    let node = node.map_or_else(node_name, Ok)?;
    if let Some(path) = kubeconfig {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        return Ok(Some(runtime.block_on(Cluster::of_file(&path, node))?));
    }
    Ok(Cluster::of_pod(node).map_or_else(
        |reason| {
            tracing::info!(
                "not connected to Kubernetes, so Pods that need their spec are not served: {reason}"
            );
            None
        },
        Some,
    ))
}

/// As the `DaemonSet` says it, else as kubelet calls the node if nothing else is configured.
#[expect(clippy::disallowed_methods, reason = "this is the edge")]
fn node_name() -> io::Result<String> {
    match std::env::var("NODE_NAME") {
        Ok(name) if !name.is_empty() => Ok(name),
        _ => Ok(nix::unistd::gethostname()?.to_string_lossy().to_lowercase()),
    }
}

/// Serves the runtime until a signal comes.
fn run(settings: Settings) -> io::Result<()> {
    supervisor::leave()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let service = Service::start(settings)?;
        // The session ends with it, and is not to end before the lead is given up.
        let mut run = pin!(service.run());
        let ended = tokio::select! {
            () = &mut run => Err(io::Error::other("the thread that uses the store has ended")),
            () = ended(&mut terminate, &service) => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        service.give_up().await;
        ended
    })
}

/// Until SIGTERM has come and no sandbox needs this agent, or it has come again.
async fn ended(terminate: &mut Signal, service: &Service) {
    terminate.recv().await;
    tracing::info!("asked to end");
    tokio::select! {
        () = service.leave() => {}
        _ = terminate.recv() => {}
    }
}

fn log(format: LogFormat, level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr);
    let lines = lines.with_target(false).with_ansi(false);
    // It tells of each request that fails, which the agent does itself, once for the same reason.
    let ours = Targets::new().with_default(level).with_target("kube_client", LevelFilter::OFF);
    match format {
        LogFormat::Text => lines.finish().with(ours).init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().with(ours).init(),
    }
}
