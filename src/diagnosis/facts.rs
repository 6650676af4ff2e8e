//! What is asked of the node. Nothing is changed, and whatever cannot be seen says so.

#![expect(
    clippy::disallowed_methods,
    reason = "sysctls, network configurations and installed plugins are read here only"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{child, legacy};
use crate::app::{self, Examined};
use crate::cni::NodeFiles;
use crate::error;
use crate::event::Silent;
use crate::install;
use crate::kernel::{self, Extent, Link, Listener, Listeners, Local, Nft, Others, Release, Table};
use crate::model::{Family, HostPort, Protocol, Record};
use crate::netns::Fate;
use crate::regular;
use crate::store::{Agent, Containers, Guarded, Store};

/// Why something was not seen.
#[derive(Clone, Debug)]
pub(super) enum Unseen {
    /// This user may not see it.
    Hidden,
    /// It could not be looked at, for this reason.
    Failed(String),
}

/// Something that was looked at.
pub(super) type Seen<T> = Result<T, Unseen>;

impl<E: StdError + 'static> From<E> for Unseen {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

impl Unseen {
    /// Why something was not seen, by the error of looking.
    pub(super) fn of(error: &(dyn StdError + 'static)) -> Self {
        if error::is_denied(error) { Self::Hidden } else { Self::Failed(error::in_one_line(error)) }
    }
}

/// The plugin where the runtime looks for it.
#[derive(Clone, Debug)]
pub(super) struct Binary {
    /// Whether it is the program that asks.
    pub(super) is_this: bool,
    /// What it says its version is; `None` where it cannot be run.
    pub(super) version: Option<String>,
}

/// The network configurations.
#[derive(Debug)]
pub(super) struct Configurations {
    /// The name of each file, and its content or why that is not known.
    pub(super) files: Vec<(String, Result<Vec<u8>, String>)>,
    /// How many files come behind these.
    pub(super) omitted: usize,
}

/// Where runtimes have their NRI socket, unless they are configured otherwise.
pub const NRI_SOCKET: &str = "/var/run/nri/nri.sock";

/// Runtimes use the first, and people do not read reports on so many.
const CONFIGURATIONS_MAX: usize = 256;

/// Sysctls, by their path below `/proc/sys`.
#[derive(Clone, Debug, Default)]
pub(super) struct Sysctls(BTreeMap<String, String>);

impl Sysctls {
    pub(super) fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// A setting of IPv4 on one interface, or on `all`.
    pub(super) fn of(&self, interface: &str, name: &str) -> Option<&str> {
        self.get(&of_interface(interface, name))
    }

    fn read(&mut self, path: String) {
        if let Ok(value) = std::fs::read_to_string(Path::new("/proc/sys").join(&path)) {
            self.0.insert(path, value.trim().to_owned());
        }
    }

    /// Reads what matters to host ports, on every interface there is.
    pub(super) fn gather() -> Self {
        let mut sysctls = Self::default();
        for path in [
            "kernel/osrelease",
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
            "net/ipv4/ip_local_port_range",
            "net/ipv4/ip_local_reserved_ports",
            "net/bridge/bridge-nf-call-iptables",
            "net/bridge/bridge-nf-call-ip6tables",
        ] {
            sysctls.read(path.to_owned());
        }
        for entry in std::fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten() {
            let Ok(interface) = entry.file_name().into_string() else { continue };
            for name in ["rp_filter", "forwarding", "route_localnet"] {
                sysctls.read(of_interface(&interface, name));
            }
        }
        sysctls
    }

    /// The interfaces towards others that have sysctls of IPv4.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &str> {
        let names = self.0.keys().filter_map(|name| name.strip_prefix("net/ipv4/conf/"));
        let names = names.filter_map(|name| name.strip_suffix("/rp_filter"));
        names.filter(|name| !matches!(*name, "all" | "default" | "lo"))
    }
}

/// The path of a setting of IPv4 on one interface.
pub(super) fn of_interface(interface: &str, name: &str) -> String {
    format!("net/ipv4/conf/{interface}/{name}")
}

/// What sysctl(8) calls the file at `path` below `/proc/sys`. It takes a dot for a slash, so the name
/// of an interface that has dots is written with slashes around it.
pub(super) fn sysctl_name(path: &str) -> String {
    if path.contains('.') { path.to_owned() } else { path.replace('/', ".") }
}

/// The command that sets the file at `path` below `/proc/sys`.
pub(super) fn set_sysctl(path: &str, value: u8) -> String {
    format!("sysctl -w {}={value}", sysctl_name(path))
}

/// All that is known of a node.
#[derive(Debug)]
pub struct Facts {
    /// Where runtimes read network configurations.
    pub(super) conf_dir: PathBuf,
    /// Where they look for our plugin.
    pub(super) plugin: PathBuf,
    /// Whether a table like ours can be built.
    pub(super) trial: Seen<Release>,
    /// The table in the kernel; `None` where it was not seen.
    pub(super) table: Option<Table>,
    /// The network configurations, in the order in which runtimes take them.
    pub(super) configurations: Seen<Configurations>,
    /// The node's own files.
    pub(super) node_files: NodeFiles,
    /// The names of the installed plugins; `None` where they are not seen.
    pub(super) plugins: Option<BTreeSet<String>>,
    /// Those in the directories where podman looks as well.
    pub(super) more_plugins: BTreeSet<String>,
    /// The installed plugin; `None` where there is none.
    pub(super) binary: Seen<Option<Binary>>,
    /// Where the records are looked for.
    pub(super) state_dir: PathBuf,
    /// The records and the kernel; `None` where nothing is recorded.
    pub(super) store: Seen<Option<Examined>>,
    /// Which of the records are provably of nobody.
    pub(super) stale: Vec<String>,
    /// What the node's agents tell; `None` where there is none.
    pub(super) agent: Option<Agent>,
    /// What they have written of the node's containers.
    pub(super) containers: Option<Containers>,
    /// What has become of the port guard.
    pub(super) guarded: Option<Guarded>,
    /// Whether the runtime has its NRI socket at the usual place, as far as this user may see.
    pub(super) has_nri_socket: bool,
    pub(super) sysctls: Sysctls,
    /// The interfaces of the default routes of IPv4.
    pub(super) uplinks: Vec<String>,
    pub(super) listeners: Seen<Vec<Listener>>,
    pub(super) others: Seen<OthersInPart>,
    /// Empty where they were not seen.
    pub(super) links: Vec<Link>,
    /// By which interface some of the pods are reached; `None` where there is no route.
    pub(super) towards: Vec<(IpAddr, Option<String>)>,
    pub(super) local: Vec<Local>,
}

impl Facts {
    /// Looks at this node, in the network namespace of this process.
    pub fn gather(
        conf_dir: PathBuf,
        plugin: PathBuf,
        store: &Store,
        node_files: NodeFiles,
    ) -> Self {
        let (state_dir, sysctls) = (store.dir().to_owned(), Sysctls::gather());
        let (agent, containers) = (store.agent(), store.containers());
        let guarded = store.guarded();
        let has_nri_socket = Path::new(NRI_SOCKET).try_exists().unwrap_or(true);
        let store: Seen<_> = app::examine(store, &mut Silent).map_err(Unseen::from);
        let records = records_of(&store);
        let stale = records.iter().filter(|record| Fate::of(&record.owner) == Fate::Gone);
        let stale = stale.map(|record| record.owner.to_string()).collect();
        let table = || Nft::open("").and_then(|mut nft| nft.look(Extent::Places(&[]))).ok();
        let listeners = Listeners::of(&Protocol::ALL);
        Self {
            trial: kernel::trial().map_err(Unseen::from).and_then(|trial| Ok(trial?)),
            table: table().map(|look| look.table),
            configurations: configurations(&conf_dir),
            plugins: plugin.parent().and_then(names),
            more_plugins: PODMANS
                .iter()
                .filter_map(|dir| names(Path::new(dir)))
                .flatten()
                .collect(),
            binary: binary(&plugin),
            node_files,
            state_dir,
            stale,
            agent,
            containers,
            guarded,
            has_nri_socket,
            sysctls,
            uplinks: uplinks(),
            listeners: listeners.map(|found| found.all().cloned().collect()).map_err(Unseen::from),
            others: others(),
            links: kernel::links().unwrap_or_default(),
            towards: towards(records),
            local: Family::ALL.into_iter().filter_map(|family| Local::of(family).ok()).collect(),
            store,
            conf_dir,
            plugin,
        }
    }

    /// What each attachment holds.
    pub(super) fn records(&self) -> &[Record] {
        records_of(&self.store)
    }

    /// Each host port that is held, and by which record.
    pub(super) fn held(&self) -> impl Iterator<Item = (&Record, &HostPort)> {
        let records = self.records().iter();
        records.flat_map(|record| record.mappings.iter().map(move |it| (record, &it.host)))
    }
}

fn records_of(store: &Seen<Option<Examined>>) -> &[Record] {
    store.as_ref().ok().and_then(Option::as_ref).map_or(&[], |examined| &examined.records)
}

/// The files in the order of their names, which is how containerd and CRI-O choose one.
fn configurations(dir: &Path) -> Seen<Configurations> {
    let paths = install::configurations(dir)?;
    let mut files = Vec::new();
    for path in paths.iter().take(CONFIGURATIONS_MAX) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(match regular::read(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(error.into());
            }
            read => (name, read.map_err(|error| error.to_string())),
        });
    }
    Ok(Configurations { omitted: paths.len() - files.len(), files })
}

/// Where podman looks for plugins, unless it is configured otherwise.
const PODMANS: [&str; 5] = [
    "/usr/local/libexec/cni",
    "/usr/libexec/cni",
    "/usr/local/lib/cni",
    "/usr/lib/cni",
    "/opt/cni/bin",
];

/// The names of what is in a directory.
fn names(dir: &Path) -> Option<BTreeSet<String>> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    Some(entries.filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn binary(path: &Path) -> Seen<Option<Binary>> {
    let failed =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = match regular::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let own = regular::open(Path::new("/proc/self/exe"));
    let is_this = own.and_then(|own| regular::are_equal(&file, &own)).map_err(failed)?;
    let version = || {
        let output = child::output(Command::new(path).arg("--version").env_clear()).ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim().strip_prefix("autoport ")?.to_owned())
    };
    Ok(Some(Binary { is_this, version: version() }))
}

/// The interfaces of the default routes of IPv4.
fn uplinks() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mut uplinks = Vec::new();
    for line in table.lines().skip(1) {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (interface, destination) = (words.next(), words.next());
        if destination.as_deref() == Some("00000000") {
            uplinks.extend(interface.filter(|interface| !uplinks.contains(interface)));
        }
    }
    uplinks
}

/// Asks for one pod of each subnet: the others of it are reached likewise.
fn towards(records: &[Record]) -> Vec<(IpAddr, Option<String>)> {
    const ASKED: usize = 64;
    let mut subnets = BTreeMap::new();
    for address in records.iter().flat_map(|record| &record.pod_addresses) {
        subnets.entry((address.network(), address.prefix())).or_insert(address.ip());
    }
    let pods = subnets.into_values().take(ASKED);
    pods.map(|pod| (pod, kernel::interface_towards(pod).ok().flatten())).collect()
}

/// Whether a program in the network namespace of this thread reads packets below IP.
pub(super) fn has_packet_sockets() -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/net/packet").unwrap_or_default();
    table.lines().nth(1).is_some()
}

/// The rules of other programs, and what could not be seen of iptables-legacy.
pub(super) type OthersInPart = (Others, Option<String>);

pub(super) fn others() -> Seen<OthersInPart> {
    let mut others = Others::list()?;
    let unseen = add_legacy(&mut others);
    Ok((others, unseen))
}

/// Adds the rules of iptables-legacy, if there are any. Says what could not be seen of them.
fn add_legacy(others: &mut Others) -> Option<String> {
    for (family, names, tool) in [
        (Family::V4, "/proc/thread-self/net/ip_tables_names", "iptables-legacy-save"),
        (Family::V6, "/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        let mut tables = String::new();
        // It is not there until somebody uses it.
        let Ok(mut file) = std::fs::File::open(names) else { continue };
        if file.read_to_string(&mut tables).is_err() {
            return Some(format!("{names} cannot be read"));
        }
        if tables.is_empty() {
            continue;
        }
        // What the tool changes is nothing: it lists tables that are there.
        match child::output(&mut Command::new(tool)) {
            Ok(output) if output.status.success() => {
                legacy::read(family, &String::from_utf8_lossy(&output.stdout), others);
            }
            Ok(output) => {
                let told = String::from_utf8_lossy(&output.stderr);
                return Some(format!("{tool} says: {}", told.lines().next().unwrap_or_default()));
            }
            Err(error) => {
                return Some(format!("iptables-legacy is in use, and {tool} says: {error}"));
            }
        }
    }
    None
}
