//! The keys of the plugin object that are ours, and the node's own files that are laid over them.
//!
//! On ADD and CHECK a key that cannot be served is an error: of another JSON type than it takes,
//! code 6; of the right type with a value that makes no sense, code 7; a key or value of portmap's
//! that is not served, or a misspelt key, code 2. Everywhere else it is a warning, and the next
//! layer or the default counts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::address;
use super::error::Error;
use super::json::{Field, Object};
use super::judge::Judge;
use super::node_files::NodeFiles;
use super::text::{escape, is_near};
use crate::model::{Ask, Dialect, Holder, Masquerade, Policy, PortPolicy, check_ifname};

mod ports;
mod settings;

pub use self::settings::Setting;

/// Where records are kept if no `stateDir` is given.
pub const DEFAULT_STATE_DIR: &str = "/run/autoport";

/// How long the lock is waited for if no `lockTimeout` is given.
pub const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// A runtime gives up after four minutes at the latest; nobody needs more than ten.
const LOCK_TIMEOUT_MAX_SECONDS: f64 = 600.0;

/// As in portmap, which took it from kubelet's 0x2000 and kept clear of its 0x4000.
pub const DEFAULT_MARK_BIT: u8 = 13;

/// Keys of portmap whose meaning is tied to its iptables rules.
const REFUSED: [(&str, &str); 3] = [
    (
        "externalSetMarkChain",
        "remove it; masquerading is marked with one bit, which markMasqBit chooses",
    ),
    ("conditionsV4", CONDITIONS),
    ("conditionsV6", CONDITIONS),
];

const CONDITIONS: &str = "name the clients that may connect in sourceRanges, and the node \
                          addresses that answer in hostAddresses, both lists of CIDRs";

/// Keys that the specification, libcni or a runtime put into a plugin's object.
const THEIRS: [&str; 14] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "args",
    "labels",
    "ipam",
    "ipMasq",
    "dns",
    "disableCheck",
    "disableGC",
];

/// Where the records are and how long to wait for them: all that DEL, GC and STATUS need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// `stateDir`: absolute, without `.` and `..`.
    pub state_dir: PathBuf,
    /// `lockTimeout`.
    pub lock_timeout: Duration,
}

impl StoreConfig {
    /// What holds on this node outside of any network, as far as its files are right: as DEL takes it, and
    /// for commands that look at a node where they may be wrong.
    pub fn of_node_in_part(node_files: &NodeFiles) -> Self {
        Self::in_part(node_files, &[])
    }

    /// The same for a network configuration.
    pub fn in_part(node_files: &NodeFiles, conf: &[u8]) -> Self {
        // A lenient judge lets everything pass.
        let judge = &mut Judge::lenient();
        let node = node_files.decode(judge).unwrap_or_default();
        let conf = Object::decode("", "", conf).ok();
        let layers: Vec<&Object<'_>> = node.iter().chain(&conf).collect();
        Self::from_layers(&layers, judge).unwrap_or_default()
    }

    pub(super) fn from_layers(layers: &[&Object<'_>], judge: &mut Judge) -> Result<Self, Error> {
        let state_dir = judge.value(layers, "stateDir", state_dir)?;
        let lock_timeout = judge.value(layers, "lockTimeout", lock_timeout)?;
        let default = Self::default();
        Ok(Self {
            state_dir: state_dir.unwrap_or(default.state_dir),
            lock_timeout: lock_timeout.unwrap_or(default.lock_timeout),
        })
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { state_dir: DEFAULT_STATE_DIR.into(), lock_timeout: DEFAULT_LOCK_TIMEOUT }
    }
}

/// What the operator decided, for one network on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How packets are treated.
    pub policy: Policy,
    /// Which host ports are given.
    pub ports: PortPolicy,
    /// `aliases`: whose annotations are read besides our own.
    pub aliases: BTreeSet<Dialect>,
    /// `advertiseAddresses`: what clients call this node, at most one address per family; empty means
    /// the node's own addresses.
    pub advertise_addresses: Vec<IpAddr>,
    /// `guardExcept`: interfaces that the guard against loopback addresses leaves alone, sorted.
    pub guard_except: Vec<String>,
    /// `offload`: the uplinks whose established connections are offloaded; empty means none.
    pub offload: Vec<String>,
    /// `agent`: whether pods that ask by annotation wait for the node agent.
    pub agent_required: bool,
    /// `guardRange`: whether the node agent refuses the ports of the ranges to pods that do not hold them.
    pub guard_range: bool,
    /// Where the records are.
    pub store: StoreConfig,
}

impl Config {
    /// Reads a plugin's object of a network configuration file, the node's own files, or both, as ADD does;
    /// with what ADD would pass over.
    ///
    /// # Errors
    /// When ADD would refuse it.
    pub fn read(
        plugin: Option<&[u8]>,
        node_files: &NodeFiles,
    ) -> Result<(Self, Vec<String>), Error> {
        let mut judge = Judge::strict();
        let node = node_files.decode(&mut judge)?;
        let decode = |plugin| Object::decode("the plugin's object", "", plugin);
        let plugin = plugin.map(decode).transpose()?;
        let layers: Vec<&Object<'_>> = node.iter().chain(&plugin).collect();
        Ok((Self::from_layers(&layers, &mut judge)?, judge.warnings))
    }

    /// A claim of `holder` by these rules, which asks for nothing yet.
    pub fn ask(self, holder: Holder) -> Ask {
        Ask {
            holder,
            pod: None,
            netns: None,
            fixed: Vec::new(),
            requested: Vec::new(),
            annotation: None,
            allocation: self.ports.allocation,
            dialects: BTreeSet::new(),
            pod_addresses: Vec::new(),
            host_interfaces: Vec::new(),
            ports: self.ports,
            policy: self.policy,
            advertise_addresses: self.advertise_addresses,
            guard_except: self.guard_except,
            offload: self.offload,
        }
    }

    /// Reads all keys; an earlier layer wins over a later one, key by key.
    ///
    /// Values that an earlier layer hides are checked all the same, so that an error does not
    /// depend on which node it is looked for.
    pub(super) fn from_layers(layers: &[&Object<'_>], judge: &mut Judge) -> Result<Self, Error> {
        judge.value(layers, "backend", backend)?;
        let snat = judge.value(layers, "snat", boolean)?.unwrap_or(true);
        let masq_all = judge.value(layers, "masqAll", boolean)?.unwrap_or(false);
        let policy = Policy {
            masquerade: match (snat, masq_all) {
                // As in portmap, where masqAll without snat has no effect.
                (false, _) => Masquerade::Nobody,
                (true, false) => Masquerade::Local,
                (true, true) => Masquerade::Everybody,
            },
            mark_bit: judge.value(layers, "markMasqBit", mark_bit)?.unwrap_or(DEFAULT_MARK_BIT),
            source_ranges: judge.value(layers, "sourceRanges", networks)?.unwrap_or_default(),
            host_addresses: judge.value(layers, "hostAddresses", networks)?.unwrap_or_default(),
        };
        let ports = ports::read(layers, judge)?;
        let aliases = judge.value(layers, "aliases", ports::aliases)?;
        let advertised = judge.value(layers, "advertiseAddresses", advertised)?;
        let guard_except = judge.value(layers, "guardExcept", interfaces)?;
        let offload = judge.value(layers, "offload", uplinks)?;
        let agent_required = judge.value(layers, "agent", required)?;
        let guard_range = judge.value(layers, "guardRange", boolean)?;
        let config = Self {
            policy,
            ports,
            aliases: aliases.unwrap_or_else(|| [Dialect::KubeWharf, Dialect::Bcs].into()),
            advertise_addresses: advertised.unwrap_or_default(),
            guard_except: guard_except.unwrap_or_default(),
            offload: offload.unwrap_or_default(),
            agent_required: agent_required.unwrap_or(false),
            guard_range: guard_range.unwrap_or(false),
            store: StoreConfig::from_layers(layers, judge)?,
        };
        for layer in layers {
            check_keys(layer, judge)?;
        }
        Ok(config)
    }
}

fn check_keys(layer: &Object<'_>, judge: &mut Judge) -> Result<(), Error> {
    for (key, field) in layer.fields() {
        if let Some((_, remedy)) = REFUSED.iter().find(|(refused, _)| key == *refused) {
            let harmless = matches!(field.raw().get(), "null" | "\"\"")
                || field.list().is_ok_and(|items| items.is_empty());
            if !harmless {
                judge.weigh(Err::<(), _>(field.unsupported(remedy)))?;
            }
        } else if let Some(ours) = near_miss(key, &judge.keys) {
            let remedy = format!("did you mean {ours}?");
            judge.weigh(Err::<(), _>(field.unsupported(&remedy)))?;
        } else if !is_known(key, &judge.keys) {
            judge.warnings.push(format!("unknown key is ignored: {}", escape(key)));
        }
    }
    Ok(())
}

fn is_known(key: &str, ours: &[&str]) -> bool {
    // Amazon's configurations have a text about each plugin.
    let is_text = key == "Documentation";
    ours.contains(&key) || THEIRS.contains(&key) || key.starts_with("cni.dev/") || is_text
}

/// The key of ours that `key` was probably meant to be: the same but for case, `_` and `-`, or two
/// slips of the finger away. Short words are two slips away from anything, so for them only the
/// first holds.
fn near_miss(key: &str, ours: &[&'static str]) -> Option<&'static str> {
    const SLIPS: usize = 2;
    const LONG: usize = 6;
    // Neither of these is worth a comparison, and comparing is quadratic.
    if is_known(key, ours) || key.len() > 64 {
        return None;
    }
    let refused = REFUSED.iter().map(|(refused, _)| *refused);
    ours.iter()
        .copied()
        .chain(refused)
        .find(|ours| is_near(key, ours, if ours.len().min(key.len()) >= LONG { SLIPS } else { 0 }))
}

fn backend(field: &Field<'_>) -> Result<(), Error> {
    match &*field.string()? {
        "nftables" | "" => Ok(()),
        "iptables" => Err(field.unsupported(
            "autoport works with nftables only; remove the key, or keep \
                                   using portmap on this node",
        )),
        _ => Err(field.invalid("it must be \"nftables\"")),
    }
}

fn required(field: &Field<'_>) -> Result<bool, Error> {
    match &*field.string()? {
        "required" => Ok(true),
        "optional" => Ok(false),
        _ => Err(field.invalid("it must be \"optional\" or \"required\"")),
    }
}

fn boolean(field: &Field<'_>) -> Result<bool, Error> {
    match field.raw().get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(field.wrong_type("true or false")),
    }
}

fn mark_bit(field: &Field<'_>) -> Result<u8, Error> {
    field.number(0..=31, "it must be a bit of the packet mark, an integer from 0 to 31")
}

fn networks(field: &Field<'_>) -> Result<Vec<IpNetwork>, Error> {
    let network = |item: Field<'_>| {
        address::network(&item.string()?)
            .ok_or_else(|| item.invalid("it must be a CIDR such as \"192.0.2.0/24\" or an address"))
    };
    Ok(address::normalise(field.list()?.into_iter().map(network).collect::<Result<_, _>>()?))
}

/// One address, or a list with one of each family.
fn advertised(field: &Field<'_>) -> Result<Vec<IpAddr>, Error> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for item in field.one_or_more()? {
        let outward = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
        let allowed = "it must be one address that clients can connect to, without prefix and zone";
        let address = address::address(&item.string()?).filter(outward);
        let address = address.ok_or_else(|| item.invalid(allowed))?;
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err(item.invalid("but the list already has an address of this family"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn interfaces(field: &Field<'_>) -> Result<Vec<String>, Error> {
    let names = field.list()?.iter().map(interface).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(names.into_iter().collect())
}

fn interface(item: &Field<'_>) -> Result<String, Error> {
    let name = item.string()?;
    check_ifname(&name).map_err(|wrong| item.invalid(wrong.rule))?;
    Ok(name)
}

/// Interfaces towards other machines, each once.
fn uplinks(field: &Field<'_>) -> Result<Vec<String>, Error> {
    let mut names = BTreeSet::new();
    for item in field.list()? {
        let name = interface(&item)?;
        if name == "lo" {
            return Err(item.invalid("it must be an interface towards other machines"));
        }
        if !names.insert(name) {
            return Err(item.invalid("but the list already has this interface"));
        }
    }
    Ok(names.into_iter().collect())
}

fn state_dir(field: &Field<'_>) -> Result<PathBuf, Error> {
    let text = field.string()?;
    let path: PathBuf = Path::new(&text).components().collect();
    let steps = |step: &str| step != "." && step != "..";
    let plain = path.is_absolute()
        && path.components().any(|part| matches!(part, Component::Normal(_)))
        && text.split('/').all(steps)
        && !text.contains(char::is_control);
    let allowed = "it must be an absolute path other than / without . and .. in it";
    if plain { Ok(path) } else { Err(field.invalid(allowed)) }
}

/// Seconds; a fraction is welcome.
fn lock_timeout(field: &Field<'_>) -> Result<Duration, Error> {
    let allowed = format!("it must be a number of seconds, 0 to {LOCK_TIMEOUT_MAX_SECONDS}");
    field.number(0.0..=LOCK_TIMEOUT_MAX_SECONDS, &allowed).map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests;
