//! The random operations of the workers, and the damage that is done to the table.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::process::Command;
use std::time::Duration;

use autoport::model::{HostPort, Protocol};
use fastrand::Rng;
use serde_json::json;

use super::{ATTACHMENTS, WORKERS};
use crate::stage::bare::network;
use crate::stage::chain::{Network, PortMapping};
use crate::stage::netns::{keep_tracking, run};
use crate::stage::node::{FIRST, address};
use crate::stage::probe::Transport;

/// What claims name: few enough that they collide.
pub(super) const STATIC: std::ops::Range<u16> = 8000..8160;
/// What the node chooses from: so few that it runs out at times.
pub(super) const CHOSEN: std::ops::RangeInclusive<u16> = 20000..=20024;
/// Host ports of foreign elements; no attachment asks for them.
pub(super) const FOREIGN: std::ops::Range<u16> = 9990..9999;

/// What an attachment asks for at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) mappings: Vec<PortMapping>,
}

impl Claim {
    pub(super) fn random(rng: &mut Rng) -> Self {
        let mut mappings: Vec<PortMapping> = Vec::new();
        for _ in 0..rng.usize(1..=3) {
            let transport = Transport::BOTH[usize::from(rng.bool())];
            let host_ip = if rng.u8(0..4) == 0 { FIRST[rng.usize(0..2)] } else { "" };
            let port = rng.u16(STATIC);
            let equal = |one: &PortMapping| one.host_port == port;
            if !mappings.iter().any(equal) {
                mappings.push(PortMapping::new(transport, port, 80).on(host_ip));
            }
        }
        if rng.u8(0..3) == 0 {
            mappings.push(PortMapping::new(Transport::Tcp, 0, 81));
        }
        Self { mappings }
    }

    /// The host ports that it names.
    pub(super) fn named(&self) -> BTreeSet<HostPort> {
        let named = self.mappings.iter().filter(|mapping| mapping.host_port != 0);
        named.flat_map(hosts_of).collect()
    }

    pub(super) fn requests(&self) -> usize {
        self.mappings.iter().filter(|mapping| mapping.host_port == 0).count()
    }
}

pub(super) fn hosts_of(mapping: &PortMapping) -> Vec<HostPort> {
    let protocol: Protocol = mapping.protocol.parse().expect("a protocol");
    let port = NonZeroU16::new(mapping.host_port).expect("it is named");
    let own = mapping.host_ip.as_deref().map(address);
    HostPort::each(protocol, own, port).collect()
}

/// One step of a worker. `attachment` is one of its own.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Add {
        attachment: usize,
        claim: Claim,
    },
    Del {
        attachment: usize,
    },
    Check {
        attachment: usize,
    },
    /// GC that names all attachments of the network but these, which are the worker's own.
    Gc {
        network: usize,
        without: Vec<usize>,
    },
    /// GC that names none, so that only evidence counts.
    Look {
        network: usize,
    },
    Repair,
    Status {
        attachment: usize,
    },
    Damage(Damage),
    /// Datagrams to host ports.
    Send {
        ports: Vec<u16>,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Damage {
    Everything,
    Table,
    Chain(&'static str),
    Element(usize),
    Rule(usize),
    Foreign(u16),
}

/// A step, and after how long its process is killed, if it is.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) step: Step,
    pub(super) kill: Option<Duration>,
}

impl fmt::Display for Order {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.step)?;
        self.kill.map_or(Ok(()), |after| write!(out, ", killed after {after:?}"))
    }
}

/// The networks by number; what is special about each makes chains of its own.
pub(super) fn networks() -> Vec<Network> {
    let range = format!("{}-{}", CHOSEN.start(), CHOSEN.end());
    let all = [
        network("blue"),
        network("green").with("masqAll", true).with("markMasqBit", 14),
        network("red").with("sourceRanges", json!(["192.0.2.0/24", "2001:db8::/32"])),
        network("grey").with("snat", false),
    ];
    let common = |one: Network| one.with("portRange", range.as_str()).with("lockTimeout", 60);
    all.into_iter().map(common).collect()
}

pub(super) const fn network_of(attachment: usize) -> usize {
    attachment / WORKERS % 4
}

pub(super) fn own_of(worker: usize) -> Vec<usize> {
    (0..ATTACHMENTS).filter(|one| one % WORKERS == worker).collect()
}

impl Order {
    pub(super) fn random(rng: &mut Rng, worker: usize) -> Self {
        let own = own_of(worker);
        let attachment = own[rng.usize(0..own.len())];
        let step = match rng.u8(0..100) {
            0..42 => Step::Add { attachment, claim: Claim::random(rng) },
            42..70 => Step::Del { attachment },
            70..80 => Step::Check { attachment },
            80..83 => {
                let network = rng.usize(0..4);
                let mut without = own;
                without.retain(|one| network_of(*one) == network && rng.bool());
                Step::Gc { network, without }
            }
            83..85 => Step::Look { network: rng.usize(0..4) },
            85..87 => Step::Repair,
            87..88 => Step::Status { attachment },
            88..91 => Step::Damage(Damage::random(rng)),
            _ => Step::Send { ports: (0..20).map(|_| rng.u16(STATIC)).collect() },
        };
        let killable = !matches!(step, Step::Damage(_) | Step::Send { .. });
        let after = Duration::from_micros(rng.u64(0..8000));
        let kill = (rng.u8(0..8) == 0 && killable).then_some(after);
        Self { step, kill }
    }
}

impl Damage {
    pub(super) fn random(rng: &mut Rng) -> Self {
        const CHAINS: [&str; 5] = ["prerouting", "output", "guard", "guard_input", "postrouting"];
        match rng.u8(0..6) {
            0 => Self::Everything,
            1 => Self::Table,
            2 => Self::Chain(CHAINS[rng.usize(0..CHAINS.len())]),
            3 => Self::Element(rng.usize(0..1000)),
            4 => Self::Rule(rng.usize(0..1000)),
            _ => Self::Foreign(rng.u16(FOREIGN)),
        }
    }

    /// Does it. Where there is nothing to damage, nothing happens.
    pub(super) fn run(&self) {
        match self {
            Self::Everything => {
                nft("flush ruleset");
                keep_tracking();
            }
            Self::Table => nft("delete table inet autoport"),
            Self::Chain(name) => nft(&format!("flush chain inet autoport {name}")),
            Self::Element(number) => {
                let listing = nft_lists("list map inet autoport ports4");
                // "tcp . 8080 : 10.1.0.5 . 80 comment …"
                let keys = listing.split(['{', ',', '}']).filter_map(|one| one.split_once(" : "));
                let keys: Vec<&str> =
                    keys.map(|(key, _)| key.trim()).filter(|key| key.contains(" . ")).collect();
                if let Some(key) = keys.get(number % keys.len().max(1)) {
                    let key = key.rsplit('\n').next().unwrap_or(key).trim();
                    let key = key.trim_start_matches("elements = ");
                    nft(&format!("delete element inet autoport ports4 {{ {key} }}"));
                }
            }
            Self::Rule(number) => {
                let listing = nft_lists("-a list table inet autoport");
                let (mut chain, mut rules) = ("", Vec::new());
                for line in listing.lines().map(str::trim) {
                    if let Some(rest) = line.strip_prefix("chain ") {
                        chain = rest.split(' ').next().unwrap_or_default();
                    } else if let Some((_, handle)) = line.split_once(" # handle ")
                        && !line.contains('{')
                        && !chain.is_empty()
                    {
                        rules.push(format!("{chain} handle {handle}"));
                    }
                }
                if let Some(rule) = rules.get(number % rules.len().max(1)) {
                    nft(&format!("delete rule inet autoport {rule}"));
                }
            }
            Self::Foreign(port) => {
                nft(&format!(
                    "add element inet autoport ports4 {{ tcp . {port} : 10.1.0.9 . 80 }}"
                ));
            }
        }
    }
}

/// Runs a command of nft that may come too late.
pub(super) fn nft(command: &str) {
    let _ = run(Command::new("nft").args(["-f", "-"]), command);
}

pub(super) fn nft_lists(command: &str) -> String {
    run(Command::new("nft").args(command.split(' ')), "").1
}
