//! What is asked of the node. Nothing is changed, and whatever cannot be seen says so.

#![expect(
    clippy::disallowed_methods,
    reason = "sysctls, network configurations and installed plugins are read here only"
)]

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Finding, child, legacy};
use crate::app::{self, Examined};
use crate::error;
use crate::event::Silent;
use crate::kernel::{self, Extent, Link, Listener, Listeners, Local, Nft, Others, Release, Table};
use crate::model::{Family, Protocol, Record};
use crate::netns::Fate;
use crate::regular;
use crate::store::Store;

/// Where a node has what container runtimes read.
#[derive(Clone, Debug)]
pub struct Places {
    pub conf_dir: PathBuf,
    pub bin_dir: PathBuf,
}

/// Something that was looked at.
#[derive(Debug)]
pub(super) enum Seen<T> {
    /// It was seen.
    Known(T),
    /// This user may not see it.
    Hidden,
    /// It could not be looked at, for this reason.
    Failed(String),
}

impl<T> Seen<T> {
    pub(super) fn of<E: StdError + 'static>(result: Result<T, E>) -> Self {
        match result {
            Ok(seen) => Self::Known(seen),
            Err(error) if error::is_denied(&error) => Self::Hidden,
            Err(error) => Self::Failed(error::in_one_line(&error)),
        }
    }

    /// What was seen, or the finding that it was not.
    pub(super) fn or(
        &self,
        hidden: impl FnOnce() -> Finding,
        failed: impl FnOnce(String) -> Finding,
    ) -> Result<&T, Finding> {
        match self {
            Self::Known(seen) => Ok(seen),
            Self::Hidden => Err(hidden()),
            Self::Failed(why) => Err(failed(why.clone())),
        }
    }

    pub(super) fn map<U>(&self, of: impl FnOnce(&T) -> U) -> Seen<U> {
        match self {
            Self::Known(seen) => Seen::Known(of(seen)),
            Self::Hidden => Seen::Hidden,
            Self::Failed(why) => Seen::Failed(why.clone()),
        }
    }

    /// What was seen, if it was.
    pub(super) fn known(&self) -> Option<&T> {
        match self {
            Self::Known(seen) => Some(seen),
            Self::Hidden | Self::Failed(_) => None,
        }
    }
}

/// The plugin where the runtime looks for it.
#[derive(Clone, Debug)]
pub(super) struct Binary {
    pub(super) executable: bool,
    /// Whether it is the program that asks.
    pub(super) is_this: bool,
    /// What it says its version is.
    pub(super) version: Option<String>,
}

/// The network configurations.
#[derive(Debug, Default)]
pub(super) struct Configurations {
    /// The name of each file, and its content or why that is not known.
    pub(super) files: Vec<(String, Result<Vec<u8>, String>)>,
    /// How many files come behind these.
    pub(super) omitted: usize,
}

impl Configurations {
    /// Runtimes use the first, and people do not read reports on so many.
    const MOST: usize = 256;
}

/// Sysctls, by their path below `/proc/sys`.
#[derive(Clone, Debug, Default)]
pub(super) struct Sysctls(BTreeMap<String, String>);

impl Sysctls {
    /// The value of one.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn read(&mut self, name: &str) {
        if let Ok(value) = std::fs::read_to_string(Path::new("/proc/sys").join(name)) {
            self.0.insert(name.to_owned(), value.trim().to_owned());
        }
    }

    /// Reads what matters to host ports, on every interface there is.
    pub(super) fn gather() -> Self {
        let mut sysctls = Self::default();
        for name in [
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
            "net/ipv4/ip_local_port_range",
            "net/ipv4/ip_local_reserved_ports",
            "net/bridge/bridge-nf-call-iptables",
            "net/bridge/bridge-nf-call-ip6tables",
        ] {
            sysctls.read(name);
        }
        for entry in std::fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten() {
            let Ok(interface) = entry.file_name().into_string() else { continue };
            for name in ["rp_filter", "forwarding", "route_localnet"] {
                sysctls.read(&format!("net/ipv4/conf/{interface}/{name}"));
            }
        }
        sysctls
    }

    /// The interfaces that have sysctls of IPv4.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &str> {
        let names = self.0.keys().filter_map(|name| name.strip_prefix("net/ipv4/conf/"));
        let names = names.filter_map(|name| name.strip_suffix("/rp_filter"));
        names.filter(|name| !matches!(*name, "all" | "default"))
    }
}

/// What sysctl(8) calls the file at `path` below `/proc/sys`. It takes a dot for a slash, so the name
/// of an interface that has dots is written with slashes around it.
pub(super) fn sysctl_name(path: &str) -> String {
    if path.contains('.') { path.to_owned() } else { path.replace('/', ".") }
}

/// All that is known of a node.
#[derive(Debug)]
pub struct Facts {
    pub(super) places: Places,
    pub(super) release: String,
    /// Whether a table like ours can be built.
    pub(super) trial: Seen<Release>,
    pub(super) table: Seen<Table>,
    /// The network configurations, in the order in which runtimes take them.
    pub(super) configurations: Seen<Configurations>,
    /// The node's own file; `None` where there is none.
    pub(super) node_file: Seen<Option<Vec<u8>>>,
    /// The installed plugin; `None` where there is none.
    pub(super) binary: Seen<Option<Binary>>,
    /// Where the records are looked for.
    pub(super) state_dir: PathBuf,
    /// The records and the kernel; `None` where nothing is recorded.
    pub(super) store: Seen<Option<Examined>>,
    /// Which of the records are provably of nobody.
    pub(super) stale: Vec<String>,
    pub(super) sysctls: Sysctls,
    /// How many default routes of IPv4 lead to different interfaces.
    pub(super) uplinks: Vec<String>,
    pub(super) listeners: Seen<Vec<Listener>>,
    pub(super) others: Seen<Others>,
    /// What could not be seen of iptables-legacy.
    pub(super) unseen_legacy: Option<String>,
    pub(super) links: Seen<Vec<Link>>,
    /// By which interface some of the pods are reached; `None` where there is no route.
    pub(super) towards: Vec<(IpAddr, Option<String>)>,
    pub(super) local: Vec<Local>,
}

impl Facts {
    /// Looks at this node, in the network namespace of this process.
    #[must_use]
    pub fn gather(
        places: Places,
        store: &Store,
        patience: Duration,
        node_file: io::Result<Option<Vec<u8>>>,
    ) -> Self {
        let state_dir = store.dir().to_owned();
        let store = Seen::of(app::examine(store, patience, &mut Silent));
        let records = store.known().and_then(Option::as_ref);
        let records = records.map_or(&[][..], |examined| &examined.records);
        let stale = records.iter().filter(|record| Fate::of(&record.owner) == Fate::Gone);
        let stale = stale.map(|record| record.owner.to_string()).collect();
        let mut others = Seen::of(Others::list());
        let unseen_legacy = add_legacy(&mut others);
        Self {
            release: first_line("/proc/sys/kernel/osrelease"),
            trial: match kernel::trial() {
                Ok(trial) => Seen::of(trial),
                Err(error) => Seen::of(Err(error)),
            },
            table: Seen::of(
                Nft::open("").and_then(|mut nft| Ok(nft.look(Extent::Places(&[]))?.table)),
            ),
            configurations: Seen::of(configurations(&places.conf_dir)),
            binary: Seen::of(binary(&places.bin_dir.join("autoport"))),
            node_file: Seen::of(node_file),
            state_dir,
            stale,
            sysctls: Sysctls::gather(),
            uplinks: uplinks(),
            listeners: Seen::of(
                Listeners::of(&Protocol::ALL).map(|found| found.all().cloned().collect()),
            ),
            others,
            unseen_legacy,
            links: Seen::of(kernel::links()),
            towards: towards(records),
            local: Family::ALL.into_iter().filter_map(|family| Local::of(family).ok()).collect(),
            store,
            places,
        }
    }

    /// Whether an address is this node's.
    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        self.local.iter().any(|local| local.contains(address))
    }

    /// What each attachment holds.
    pub(super) fn records(&self) -> &[Record] {
        let examined = self.store.known().and_then(Option::as_ref);
        examined.map_or(&[], |examined| &examined.records)
    }
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The files in the order of their names, which is how containerd and CRI-O choose one.
fn configurations(dir: &Path) -> io::Result<Configurations> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Configurations::default());
        }
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let known = path.extension().and_then(|extension| extension.to_str());
        if matches!(known, Some("conf" | "conflist" | "json")) && !entry.file_type()?.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    let omitted = paths.len().saturating_sub(Configurations::MOST);
    let mut files = Vec::new();
    for path in paths.into_iter().take(Configurations::MOST) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(match regular::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            read => (name, read.map_err(|error| error.to_string())),
        });
    }
    Ok(Configurations { files, omitted })
}

fn binary(path: &Path) -> io::Result<Option<Binary>> {
    let file = match regular::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
    let is_this = regular::are_equal(&file, &regular::open(Path::new("/proc/self/exe"))?)?;
    let version = || {
        let output = child::output(Command::new(path).arg("--version").env_clear()).ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim().strip_prefix("autoport ")?.to_owned())
    };
    let version = if executable { version() } else { None };
    Ok(Some(Binary { executable, is_this, version }))
}

/// The interfaces of the default routes of IPv4.
fn uplinks() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mut uplinks: Vec<String> = Vec::new();
    for line in table.lines().skip(1) {
        let mut words = line.split_whitespace();
        let interface = words.next().unwrap_or_default();
        if words.next() == Some("00000000") && !uplinks.iter().any(|known| known == interface) {
            uplinks.push(interface.to_owned());
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

/// Adds the rules of iptables-legacy, if there are any. Says what could not be seen of them.
pub(super) fn add_legacy(others: &mut Seen<Others>) -> Option<String> {
    let Seen::Known(others) = others else { return None };
    for (family, names, tool) in [
        (Family::V4, "/proc/net/ip_tables_names", "iptables-legacy-save"),
        (Family::V6, "/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        let mut tables = String::new();
        // It is not there until somebody uses it.
        let Ok(mut file) = std::fs::File::open(names) else { continue };
        if file.read_to_string(&mut tables).is_err() {
            return Some(format!("{names} cannot be read"));
        }
        if !tables.lines().any(|table| matches!(table, "nat" | "filter")) {
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
